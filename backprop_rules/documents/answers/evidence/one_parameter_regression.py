"""Evidence of the claims of `one_parameter_regression`.

The document's program is run as it stands, and what it shows is kept; what the document works out by hand is
worked out in exact fractions, with derivatives from central differences, which are exact for a quadratic.
"""

import ast
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from backprop_rules.catalogue.losses import half_squared_error
from backprop_rules.documents.answers.claim import Evidence, Said, Seen, holds, holds_if, slip
from backprop_rules.documents.answers.drawn import counterexample, told, untrue
from backprop_rules.documents.answers.notation import holds_of, worked_out
from backprop_rules.documents.answers.tools import computed, gradients, misprint, ran, refused, verified

POINTS = ((1, 3), (2, 5), (3, 7))  # line 34
RATE = Fraction(1, 10)  # line 46

CELLS = {  # the document's code, letter by letter, by the numbers of its cells
    2: "import torch",
    3: "def linreg(x,w):\n    return w*x + 1",
    4: "def squared_loss(h_hat,y):\n    return (h_hat-y)**2/2",
    5: (
        "true_w = torch.tensor(2)\n"
        "w = torch.tensor([1],dtype=float,requires_grad=True) # requires_grad=True 代表自动求导"
    ),
    6: "x_sample = torch.tensor(1)\ny_sample = torch.tensor(3)",
    7: "net = linreg\nloss = squared_loss\nlearn_rate = 0.1 #学习率",
    8: "h_hat = net(x_sample,w)\nh_hat",
    9: "l = loss(h_hat,y_sample)\nl",
    10: "l.backward()\nw.grad",
    11: "with torch.no_grad():\n    w -= learn_rate*w.grad\n    w.grad.zero_()\nw",
    12: "x_sample = torch.tensor(2)\ny_sample = torch.tensor(5)\nw",
    13: "h_hat = net(x_sample,w)\nh_hat",
    14: "l = loss(net(x_sample,w),y_sample)\nl",
    15: "l.backward()\nw.grad",
    16: 'with torch.no_grad():\n    print("w.grad",w.grad)\n    w -= learn_rate*w.grad\n    w.grad.zero_()\nw',
}


@dataclass(frozen=True)
class Run:
    """What the cells show of their last lines and print before, by their numbers, and the names that they leave."""

    shown: dict[int, str]
    printed: dict[int, str]
    names: dict[str, Any]


def run(change: tuple[str, str] = ("", ""), last: int = max(CELLS)) -> Run:
    """Run the document's cells up to this one, with this change of the code, and show values as a notebook does."""
    done = Run({}, {}, {})
    for number in (n for n in CELLS if n <= last):
        tree = ast.parse(CELLS[number].replace(*change))
        with redirect_stdout(StringIO()) as out:
            exec(compile(tree, f"In [{number}]", "exec"), done.names)
        done.printed[number] = out.getvalue()
        if isinstance(tree.body[-1], ast.Expr):
            done.shown[number] = repr(eval(ast.unparse(tree.body[-1]), done.names))
    return done


linreg, squared_loss = (run(last=4).names[name] for name in ("linreg", "squared_loss"))


def weight() -> Tensor:
    """Return the w that the document's program starts from."""
    w: Tensor = run(last=5).names["w"]
    return w


def number_in(printed: str) -> Fraction:
    """Return the number between the brackets of a printed tensor."""
    return Fraction(printed.partition("[")[2].partition("]")[0])


# ---- The same by hand


def slope(function: Callable[[Fraction], Any], at: Fraction) -> Fraction:
    """Return the derivative of a polynomial of degree 2 or less."""
    return Fraction(function(at + 1) - function(at - 1)) / 2


def loss_of(w: Any, x: Any, y: Any) -> Any:
    """Return the loss of one sample."""
    return squared_loss(linreg(x, w), y)


def at(w: Fraction, x: Any, y: Any, rate: Fraction = RATE) -> dict[str, Any]:
    """Return what the document's letters stand for in a step from w with this sample."""
    prediction, by_w = linreg(x, w), slope(lambda v: loss_of(v, x, y), w)
    return {
        "w": w, "x": Fraction(x), "y": Fraction(y), "y'": prediction, "l": squared_loss(prediction, Fraction(y)),
        "dl/dy'": slope(lambda p: squared_loss(p, y), prediction), "dy'/dw": slope(lambda v: linreg(x, v), w),
        "dl/dw": by_w, "lr": rate, "w_new": w - rate * by_w,
    }  # fmt: skip


@cache
def by_hand(step: int) -> dict[str, Any]:
    """Return what the letters stand for in a step of the program, counted from 0."""
    start = Fraction(weight().item()) if step == 0 else by_hand(step - 1)["w_new"]
    return at(start, *POINTS[step])


def worked(step: int) -> Evidence:
    """Return the evidence that the document's formula is true of the values of a step."""
    return lambda said: holds(holds_of(said.formula, by_hand(step)), said.formula)


def printed(cell: int, step: int, what: str) -> Evidence:
    """Return the evidence that the cell shows what the document prints, which is what comes out by hand, as is said."""

    def evidence(said: Said) -> Seen:
        value = by_hand(step)[what]
        right = run().shown[cell] == said.formula and number_in(said.formula) == value
        right &= "rule" not in said.texts or said.holds("rule", by_hand(step))
        return holds(right, f"In [{cell}]: {run().shown[cell]}; {value}")

    return evidence


def formula(said: Said) -> Seen:
    """Hold the document's formula against central differences, at points drawn, in fractions."""
    found = untrue(said.formula, lambda w, x, y: at(*(Fraction(int(v)) for v in (w, x, y))), w="1", x="1", y="1")
    return holds(found is None, f"{said.formula}: {told(found)}")


first_prediction, first_loss, first_gradient_printed = printed(8, 0, "y'"), printed(9, 0, "l"), printed(10, 0, "dl/dw")
first_updated_weight = printed(11, 0, "w_new")
new_sample_leaves_the_weight, second_prediction = printed(12, 0, "w_new"), printed(13, 1, "y'")
second_gradient_printed = printed(15, 1, "dl/dw")
first_derivative_of_the_loss = first_derivative_of_the_prediction = first_gradient = worked(0)
second_derivative_of_the_loss = second_derivative_of_the_prediction = second_gradient = worked(1)
chain_rule = derivative_of_the_loss = derivative_of_the_prediction = formula
word_for_linear = misprint


def second_loss(said: Said) -> Seen:
    """Compare the second loss with the first, too."""
    seen, before = printed(14, 1, "l")(said), by_hand(0)["l"]
    return holds(seen.sound and said.number("before") == before < by_hand(1)["l"], seen.shown)


def second_updated_weight(said: Said) -> Seen:
    """Compare the distances from the true weight, too."""
    seen, true = printed(16, 1, "w_new")(said), said.number("true")
    nearer = abs(by_hand(1)["w_new"] - true) < abs(by_hand(1)["w"] - true) and loss_of(true, *POINTS[2]) == 0
    return holds(seen.sound and nearer, seen.shown)


def a_point(said: Said) -> Seen:
    """Put the point's x into the equation of the line, and hold the sum that is said against it."""
    x, y = ast.literal_eval(said.formula)
    return holds(
        (x, y) in POINTS and linreg(x, 2) == y and said.holds("rule", {}) and said["rule"] == f"2·{x} + 1 = {y}",
        said["rule"],
    )


first_point = second_point = third_point = a_point


# ---- The line and the model


def equation_is_linear(said: Said) -> Seen:
    """Go three equal steps along x, and along w: the values lie on a line; at x = 0 there is the constant."""

    def straight(x: Tensor, w: Tensor) -> bool:
        over_x, over_w = ([linreg(x + k, w) for k in (-1, 0, 1)], [linreg(x, w + k) for k in (-1, 0, 1)])
        return all(bool((b - a).equal(c - b)) for a, b, c in (over_x, over_w))

    found, constants = counterexample(straight, x="3", w="3"), {linreg(0, w) for w in range(-3, 4)}
    return holds(found is None and constants == {said.number("constant")}, f"{told(found)}; x = 0: {constants}")


def my_prediction(said: Said) -> Seen:
    """Hold the line that is called the prediction, and the model, against what the program predicts."""
    the_line, model = (
        untrue(one, lambda x, w: {"y": linreg(x, w), "y'": linreg(x, w), "x": x, "w": w}, x="1", w="1")
        for one in (said.formula, said["meant"])
    )
    return slip(the_line is None, model is None, f"{said.formula}: {told(the_line)}; {said['meant']}: {told(model)}")


def model_contains_the_line(said: Said) -> Seen:
    """Give the model the weight that is said, and hold both formulas against each other."""
    w = Fraction(ran(said["weight"])["w"])
    line, model = said.formula.split(" … ")
    found = untrue(model, lambda x: {"y'": linreg(x, 2.0), "x": x, "w": w}, x="1") or untrue(
        line, lambda x: {"y": linreg(x, float(w)), "x": x}, x="1"
    )
    return holds(found is None, f"{said['weight']}: {told(found)}")


def code_of_the_model(said: Said) -> Seen:
    """Compute the program's expression, and hold it against linreg and the model."""

    def right(x: Tensor, w: Tensor) -> bool:
        found = computed(said.formula, w=w, x=x)
        return found.equal(linreg(x, w)) and holds_of(said["model"], {"y'": found, "w": w, "x": x})

    found = counterexample(right, x="1", w="1")
    return holds(found is None, told(found))


def half_the_squared_error(said: Said) -> Seen:
    """Hold the formula and the code against squared_loss, and verify the catalogue's rule."""

    def right(p: Tensor, t: Tensor) -> bool:
        found = squared_loss(p, t)
        code = computed(said["code"], h_hat=p, y=t)
        return found.equal(code) and holds_of(said.formula, {"L": found, "y'": p, "y": t})

    found, (agrees, shown) = counterexample(right, p="1", t="1"), verified(half_squared_error)
    return holds(found is None and agrees, f"{told(found)}; {shown}")


def two_names_of_the_loss(said: Said) -> Seen:
    """Work out the formula of line 17, and hold it against the program's loss."""

    def both(p: Tensor, t: Tensor) -> dict[str, Any]:
        return {"L": worked_out("½(y' − y)²", {"y'": p, "y": t}), "l": squared_loss(p, t)}

    found = untrue(said["same"], both, p="1", t="1")
    return holds(found is None, f"{said['same']}: {told(found)}")


def least_squares(said: Said) -> Seen:
    """Find the w that makes one sample's loss least, and that for the sum: on the line, and off it."""

    def best(*samples: tuple[int, int]) -> Fraction:
        there = [slope(lambda w: sum(loss_of(w, x, y) for x, y in samples), Fraction(k)) for k in (0, 1)]
        return there[0] / (there[0] - there[1])  # where the slope, a straight line, is zero

    off = tuple(ast.literal_eval(said[name]) for name in ("one", "other"))
    alone = {samples: [best(sample) for sample in samples] for samples in (POINTS, off)}
    on_the_line, elsewhere = ({*alone[samples]} == {best(*samples)} for samples in (POINTS, off))
    figures = alone[off] == [said.number("of_one"), said.number("of_other")] and best(*off) == said.number("of_both")
    shown = f"{off}: «alone» {', '.join(map(str, alone[off]))}, «sum» {best(*off)}"
    return holds_if(on_the_line and figures, elsewhere, shown)


# ---- The training


def true_weight(said: Said) -> Seen:
    """Compute the loss of the three samples with this weight."""
    losses = [loss_of(said.number("weight"), x, y) for x, y in POINTS]
    return holds(losses == [said.number("loss")] * 3, f"w = {said['weight']}: {', '.join(map(str, losses))}")


def any_initial_weight(said: Said) -> Seen:
    """Step from several weights, with the x of each sample and with another, and compare the distances from 2."""
    far, rate = said.number("far"), said.number("rate")
    steps = {x: [at(Fraction(n, 2), x, linreg(x, 2), rate) for n in range(-20, 21) if n != 4] for x in (1, 2, 3, far)}
    factors = {x: {(2 - one["w_new"]) / (2 - one["w"]) for one in every} for x, every in steps.items()}
    rule = all(said.holds("rule", one) for every in steps.values() for one in every)
    figures = [{said.number(name)} for name in ("first", "second", "third", "away")] == list(factors.values())
    nearer = [x for x, found in factors.items() if all(abs(factor) < 1 for factor in found)] == [1, 2, 3]
    shown = ", ".join(f"x = {x}: {', '.join(map(str, found))}" for x, found in factors.items())
    return holds(rule and figures and nearer and rate == RATE, f"(2 − w_new) / (2 − w): {shown}")


def initial_weight(said: Said) -> Seen:
    """Print the program's weight before the first step, and work out by hand where it leads."""
    shown, found = repr(weight()), [by_hand(step)["w_new"] for step in (0, 1)]
    right = number_in(shown) == said.number("start") and found == [said.number("first"), said.number("second")]
    return holds(right and by_hand(0)["w"] == said.number("start"), f"{shown}; {', '.join(map(str, found))}")


def requires_grad_means_automatic(said: Said) -> Seen:
    """Go back with the flag and without it."""
    w, plain = weight(), weight().detach()
    before, refusal = w.grad, refused(lambda: loss_of(plain, *POINTS[0]).backward())
    loss_of(w, *POINTS[0]).backward()
    works = before is None and w.grad is not None and w.grad.item() == by_hand(0)["dl/dw"]
    return holds(works and refusal is not None, f"w.grad: {before}, {w.grad}; requires_grad=False: {refusal}")


def float_is_float64(said: Said) -> Seen:
    """Look at the dtype of the weight, and of one made with torch.float."""
    dtypes = [str(weight().dtype), str(torch.tensor([1], dtype=torch.float).dtype)]
    return holds(dtypes == [said["python"], said["torchs"]], f"float: {dtypes[0]}, torch.float: {dtypes[1]}")


def any_points_of_the_line(said: Said) -> Seen:
    """Look at the slope of the loss for several weights, at x = 0 and at other points of the line."""
    starts, best = [Fraction(n, 2) for n in range(-10, 11)], said.number("best")
    flat = {
        x: [w for w in starts if at(w, x, linreg(x, 2))["dl/dw"] == said.number("derivative")]
        for x in (Fraction(n, 4) for n in range(-10, 11))
    }
    learns = {x: found == [best] for x, found in flat.items()}
    as_said = all(learns[x] == said.holds("condition", {"x": x}) for x in flat)
    return holds_if(as_said and any(learns.values()), all(learns.values()), f"x = 0: {len(flat[Fraction(0)])} w")


def learning_rate(said: Said) -> Seen:
    """Run the program with this learning rate and compare both printed weights."""
    shown = run(("learn_rate = 0.1", said.formula)).shown
    after = [shown[11], shown[16]]
    return holds([number_in(text) for text in after] == [said.number("first"), said.number("second")], ", ".join(after))


def integer_samples_become_float64(said: Said) -> Seen:
    """Multiply the whole-number sample by the weight."""
    x = computed(said["sample"])
    dtypes = [f"{x.dtype}", f"dtype={linreg(x, weight()).dtype}"]
    return holds(dtypes == [said["whole"], said.formula] and x.item() == POINTS[0][0], ", ".join(dtypes))


def prediction_ends_in_an_addition(said: Said) -> Seen:
    """Look at the end of the graph of the prediction, and of the product alone."""
    product = type(computed(said["product"], w=weight(), x=2).grad_fn).__name__
    ends = all(run().shown[cell].endswith(f"{said.formula})") for cell in (8, 13))
    whole = computed(said["product"], w=Fraction(5), x=3) + 1 == linreg(3, 5)
    return holds(ends and whole and product == said["other"], f"{run().shown[8]}; {said['product']}: {product}")


def loss_ends_in_a_division(said: Said) -> Seen:
    """Look at the end of the graph of the loss, and of the square alone."""
    h_hat = linreg(POINTS[0][0], weight())
    square = computed(said["square"], h_hat=h_hat, y_sample=POINTS[0][1])
    ends = all(run().shown[cell].endswith(f"{said.formula})") for cell in (9, 14))
    whole = (square / 2).equal(squared_loss(h_hat, POINTS[0][1])) and type(square.grad_fn).__name__ == said["other"]
    return holds(ends and whole, f"{run().shown[9]}; {said['square']}: {type(square.grad_fn).__name__}")


def update_rule(said: Said) -> Seen:
    """Take a step with torch's SGD, and with the formula; the learning rate is 1/8, so that nothing rounds."""

    def stepped(x: Tensor, w: Tensor, y: Tensor) -> dict[str, Any]:
        leaf = w.clone().requires_grad_()
        loss_of(leaf, x, y).backward()
        torch.optim.SGD([leaf], lr=0.125).step()
        slope_of = gradients(lambda v: loss_of(v, x, y), w)[0]
        return {"w_{k+1}": leaf.detach(), "w_k": w, "lr": Fraction(1, 8), "dl/dw": slope_of}

    found = untrue(said.formula, stepped, x="1", w="1", y="1")
    return holds(found is None, f"torch.optim.SGD: {told(found)}")


def update_under_no_grad(said: Said) -> Seen:
    """Run the line inside no_grad and outside, and outside through w.detach() and w.data."""

    def updated(code: str, recording: bool = True) -> tuple[str | None, float]:
        w = run(last=10).names["w"]
        with torch.set_grad_enabled(recording):
            return refused(lambda: ran(code, w=w, learn_rate=0.1)), w.item()

    inside, outside = updated(said.formula, recording=False), updated(said.formula)
    others = [updated("w.data -= learn_rate*w.grad"), updated("w.detach().sub_(learn_rate*w.grad)")]
    right = inside == (None, float(by_hand(0)["w_new"])) and outside[0] is not None and others == [inside, inside]
    return holds(right, f"no_grad: {inside[1]}; {outside[0]}")


def gradients_accumulate(said: Said) -> Seen:
    """Run the two steps with the line and without it."""
    cleared, kept = (number_in(run(change).shown[15]) for change in (("", ""), (f"    {said.formula}\n", "")))
    right = cleared == said.number("cleared") == by_hand(1)["dl/dw"] and said.holds("kept", {"w.grad": kept})
    return holds(right, f"w.grad: {cleared}, «without it»: {kept}")


def weight_still_requires_grad(said: Said) -> Seen:
    """Look at the weight after the updates in place inside no_grad, and after one that makes a new tensor there."""
    shown, w, before = run().shown[11], run().names["w"], run(last=10).names["w"]
    with torch.no_grad():
        new = ran(said["code"], w=before, learn_rate=0.1)["w"]
    kept = shown.endswith(f"{said.formula})") and w.requires_grad and w.is_leaf
    right = kept and not new.requires_grad and new.item() == float(by_hand(0)["w_new"])
    return holds(right, f"{shown}; {said['code']}: requires_grad={new.requires_grad}")


def weight_before_the_second_step(said: Said) -> Seen:
    """Read the weight as printed, as worked out by hand, and as stored, without rounding."""
    stored, number = Fraction(run(last=12).names["w"].item()), said.number("weight")
    right = number_in(run().shown[11]) == by_hand(0)["w_new"] == number and stored == Fraction(float(number))
    right &= stored == said.number("stored") and said.rounds("more", stored - number)
    return holds(right, f"{stored} − {number} = {float(stored - number)!r}")


def gradient_before_it_is_zeroed(said: Said) -> Seen:
    """Read what the program prints of w.grad before the update, and w.grad after the whole step."""
    after = run()
    before, grad = after.printed[16].strip(), after.names["w"].grad
    right = before == said.formula and number_in(before) == by_hand(1)["dl/dw"] and grad.item() == said.number("after")
    return holds(right, f"{before}; {grad}")
