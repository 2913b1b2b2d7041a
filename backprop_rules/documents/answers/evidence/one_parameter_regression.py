"""Evidence of the claims of `one_parameter_regression`.

The document's program is run as it stands, and what it shows is kept; what the document works out by hand is
worked out in exact fractions, with derivatives from central differences, which are exact for a quadratic.
"""

from ast import literal_eval
from collections.abc import Callable
from contextlib import redirect_stdout
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
from backprop_rules.documents.answers.tools import computed, misprint, ran, refused, verified

Names = dict[str, Any]
POINTS = ((1, 3), (2, 5), (3, 7))  # line 34

CELLS = {  # the document's code, letter by letter but for its comments, by the numbers of its cells
    2: "import torch",
    3: "def linreg(x,w):\n    return w*x + 1",
    4: "def squared_loss(h_hat,y):\n    return (h_hat-y)**2/2",
    5: "true_w = torch.tensor(2)\nw = torch.tensor([1],dtype=float,requires_grad=True)",
    6: "x_sample = torch.tensor(1)\ny_sample = torch.tensor(3)",
    7: "net = linreg\nloss = squared_loss\nlearn_rate = 0.1",
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


def run(change: tuple[str, str] = ("", ""), last: int = max(CELLS)) -> Names:
    """Run the cells up to this one, with this change of the code; Out has what each shows, as in a notebook."""
    names: Names = {"Out": {}}
    for number in (n for n in CELLS if n <= last):
        code = CELLS[number].replace(*change)
        with redirect_stdout(StringIO()) as printed:
            exec(code, names)
        if number >= 8:  # from there on each cell ends in a value
            names["Out"][number] = printed.getvalue() + repr(eval(code.splitlines()[-1], names))
    return names


linreg, squared_loss = (run(last=7)[name] for name in ("linreg", "squared_loss"))
RATE = Fraction(str(run(last=7)["learn_rate"]))
SAMPLES = [tuple(run(last=last)[name].item() for name in ("x_sample", "y_sample")) for last in (7, 12)]


def number_in(shown: str) -> Fraction:
    """Return the number between the last brackets of what is shown."""
    return Fraction(shown.rpartition("[")[2].partition("]")[0])


def slope(function: Any, at: Any) -> Any:
    """Return the derivative of a polynomial of degree 2 or less."""
    return (function(at + 1) - function(at - 1)) / 2


def loss_of(w: Any, x: Any, y: Any) -> Any:
    """Return the loss of one sample."""
    return squared_loss(linreg(x, w), y)


def at(w: Any, x: Any, y: Any) -> Names:
    """Return what the document's letters stand for in a step from w with this sample."""
    w, x, y = (Fraction(int(v)) if isinstance(v, Tensor) else Fraction(v) for v in (w, x, y))
    by_w = slope(lambda v: loss_of(v, x, y), w)
    return {
        "w": w, "x": x, "y": y, "y'": linreg(x, w), "l": loss_of(w, x, y), "lr": RATE, "w_k": w,
        "dl/dy'": slope(lambda p: squared_loss(p, y), linreg(x, w)), "dy'/dw": slope(lambda v: linreg(x, v), w),
        "dl/dw": by_w, "w_{k+1}": w - RATE * by_w,
    }  # fmt: skip


@cache
def by_hand(step: int) -> Names:
    """Return what the letters stand for in a step of the program, counted from 1."""
    start = by_hand(step - 1)["w_{k+1}"] if step > 1 else run(last=7)["w"].item()
    return at(start, *SAMPLES[step - 1])


def worked(step: int) -> Evidence:
    """Return the evidence that the document's formula is true of the values of a step."""
    return lambda said: holds(holds_of(said.formula, by_hand(step)), said.formula)


def printed(cell: int, step: int, what: str) -> Evidence:
    """Return the evidence that the cell shows what the document prints, which is what comes out by hand, as is said."""

    def evidence(said: Said) -> Seen:
        after = run()
        names = {**by_hand(step), "w.grad": Fraction(after["w"].grad.item())}
        right = said.formula in after["Out"][cell].splitlines() and number_in(said.formula) == names[what]
        right &= all(said.holds(name, names) for name, text in said.texts.items() if "=" in text)
        return holds(right, f"In [{cell}]: {said.formula}; {names[what]}")

    return evidence


def formula_holds(said: Said) -> Seen:
    """Hold the document's formula against central differences, at points drawn, in fractions."""
    found = untrue(said.formula, at, w="1", x="1", y="1")
    return holds(found is None, f"{said.formula}: {told(found)}")


def of_the_line(*steps: int) -> Evidence:
    """Return the evidence that the line passes through the point, and that these steps of the program train with it."""

    def evidence(said: Said) -> Seen:
        x, y = literal_eval(said.formula)
        right = (x, y) in POINTS and said.holds("rule", {"x": x, "y": y}) and linreg(x, 2) == y
        used = [n for n in (1, 2) if SAMPLES[n - 1] == (x, y)]
        return holds(right and used == [*steps], f"{said['rule']}; {SAMPLES}")

    return evidence


first_point, second_point, third_point = of_the_line(1), of_the_line(2), of_the_line()
first_prediction, first_loss = printed(8, 1, "y'"), printed(9, 1, "l")
first_gradient_printed, first_updated_weight = printed(10, 1, "dl/dw"), printed(11, 1, "w_{k+1}")
new_sample_leaves_the_weight, second_prediction = printed(12, 1, "w_{k+1}"), printed(13, 2, "y'")
second_gradient_printed, second_updated_weight = printed(15, 2, "dl/dw"), printed(16, 2, "w_{k+1}")
gradient_before_it_is_zeroed = printed(16, 2, "dl/dw")
first_derivative_of_the_loss = first_derivative_of_the_prediction = first_gradient = worked(1)
second_derivative_of_the_loss = second_derivative_of_the_prediction = second_gradient = worked(2)
chain_rule = derivative_of_the_loss = derivative_of_the_prediction = formula_holds
word_for_linear = a_character_too_many = misprint


def second_loss(said: Said) -> Seen:
    """Hold the loss of the first step beside it, too."""
    seen, first = printed(14, 2, "l")(said), by_hand(1)["l"]
    return holds(seen.sound and said.number("before") == first < by_hand(2)["l"], seen.shown)


def prediction(x: Tensor, w: Tensor) -> Names:
    """Return what the letters of the line and of the model stand for, if both are what the program predicts."""
    return {"x": x, "w": w, "y": linreg(x, w), "y'": linreg(x, w)}


def equation_is_linear(said: Said) -> Seen:
    """Step to either side along x, and along w: the value is the mean of those two; at x = 0 there is the constant."""

    def straight(x: Tensor, w: Tensor) -> bool:
        pairs = (linreg(x - 1, w) + linreg(x + 1, w), linreg(x, w - 1) + linreg(x, w + 1))
        return all(pair.equal(2 * linreg(x, w)) for pair in pairs)

    found, constants = counterexample(straight, x="3", w="3"), {linreg(0, w) for w in range(-3, 4)}
    return holds(found is None and constants == {said.number("constant")}, f"{told(found)}; x = 0: {constants}")


def my_prediction(said: Said) -> Seen:
    """Hold the line that is called the prediction, and the model, against what the program predicts."""
    line, model = (untrue(one, prediction, x="1", w="1") for one in (said.formula, said["meant"]))
    true = all(holds_of(said.formula, at(1, x, y)) for x, y in POINTS)
    return slip(line is None, model is None and true, f"{said.formula}: {told(line)}; {said['meant']}: {told(model)}")


def model_contains_the_line(said: Said) -> Seen:
    """Give the model the weight that is said, and hold both formulas against what it predicts."""
    w = torch.tensor([float(ran(said["weight"])["w"])], dtype=torch.float64)
    formulas = said.formula.split(" … ")
    found = untrue(formulas, lambda x: prediction(x, w), x="1")
    return holds(found is None and len(formulas) == 2, f"{said['weight']}: {told(found)}")


def code_of_the_model(said: Said) -> Seen:
    """Compute the program's expression, and hold it against the model and linreg."""
    chain = f"{said['model']} = y"  # y is what linreg comes to
    found = untrue(chain, lambda x, w: prediction(x, w) | {"y'": computed(said.formula, w=w, x=x)}, x="1", w="1")
    return holds(found is None, told(found))


def half_the_squared_error(said: Said) -> Seen:
    """Hold the formula and the code against squared_loss, and verify the catalogue's rule."""

    def loss(p: Tensor, t: Tensor) -> Names:
        return {"y'": p, "y": t, "L": squared_loss(p, t), "code": computed(said["code"], h_hat=p, y=t)}

    found, (agrees, shown) = untrue(f"{said.formula} = code", loss, p="1", t="1"), verified(half_squared_error)
    return holds(found is None and agrees, f"{told(found)}; {shown}")


def two_names_of_the_loss(said: Said) -> Seen:
    """Work the formula of line 17 out, and hold it and its derivative against those of the program's loss."""

    def both(w: Tensor, x: Tensor, y: Tensor) -> Names:
        names, right_side = at(w, x, y), said.formula.removeprefix("L = ")
        by_p = slope(lambda p: worked_out(right_side, {"y'": p, "y": names["y"]}), names["y'"])
        return {**names, "L": worked_out(right_side, names), "dL/dy'": by_p}

    found = untrue([said["same"], said["slopes"]], both, w="1", x="1", y="1")
    return holds(found is None, f"{said['same']}, {said['slopes']}: {told(found)}")


def least_squares(said: Said) -> Seen:
    """Find the w that makes one sample's loss least, and that for the sum: on the line, and off it."""

    def best(*samples: tuple[int, int]) -> Any:
        there = [slope(lambda w: sum(loss_of(w, x, y) for x, y in samples), Fraction(k)) for k in (0, 1)]
        return there[0] / (there[0] - there[1])  # where the slope, a straight line, is zero

    off = tuple(literal_eval(said[name]) for name in ("one", "other"))
    alone, both = [best(sample) for sample in off], best(*off)
    on_the_line = all(best(point) == best(*POINTS) for point in POINTS)
    figures = [*alone, both] == [said.number(name) for name in ("of_one", "of_other", "of_both")]
    shown = f"{off}: «alone» {', '.join(map(str, alone))}, «sum» {both}"
    return holds_if(on_the_line and figures, {*alone} == {both}, shown)


def true_weight(said: Said) -> Seen:
    """Compute the loss of the three samples with the program's true_w, and run the program without it."""
    losses, unread = [loss_of(said.number("weight"), x, y) for x, y in POINTS], ("true_w = torch.tensor(2)\n", "")
    right = run()["true_w"].item() == said.number("weight") and losses == [said.number("loss")] * len(POINTS)
    shown = f"w = {said['weight']}: {', '.join(map(str, losses))}"
    return holds(right and "true_w" not in run(unread) and run(unread)["Out"] == run()["Out"], shown)


def any_initial_weight(said: Said) -> Seen:
    """Step from several weights, with the x of each sample and with another, and compare the distances from 2."""
    places, starts = (1, 2, 3, said.number("far")), [Fraction(n, 2) for n in range(-20, 21) if n != 4]
    steps = {x: [at(w, x, linreg(x, 2)) for w in starts] for x in places}
    factors = {x: {(2 - one["w_{k+1}"]) / (2 - one["w_k"]) for one in every} for x, every in steps.items()}
    rule = all(said.holds("rule", one) for every in steps.values() for one in every)
    figures = [{said.number(name)} for name in ("first", "second", "third", "away")] == list(factors.values())
    nearer = [max(map(abs, found)) < 1 for found in factors.values()] == [True, True, True, False]
    shown = ", ".join(f"x = {x}: {', '.join(map(str, found))}" for x, found in factors.items())
    return holds(rule and figures and nearer and said.number("rate") == RATE, f"(2 − w_{{k+1}}) / (2 − w_k): {shown}")


def leads_to_the_weights(code: str, changed: Callable[[Said], str]) -> Evidence:
    """Return the evidence that the program, with this for its code, prints the weights that are said, as by hand."""

    def evidence(said: Said) -> Seen:
        found = [number_in(run((code, changed(said)))["Out"][cell]) for cell in (11, 16)]
        right = found == [said.number(name) for name in ("first", "second")] == [by_hand(k)["w_{k+1}"] for k in (1, 2)]
        return holds(right, ", ".join(map(str, found)))

    return evidence


initial_weight = leads_to_the_weights("tensor([1]", lambda said: f"tensor([{said['start']}]")
learning_rate = leads_to_the_weights("learn_rate = 0.1", lambda said: said.formula)


def requires_grad_means_automatic(said: Said) -> Seen:
    """Go back with the flag and without it."""
    w, plain = (computed(f"torch.tensor([1], dtype=float, {flag})") for flag in (said.formula, ""))
    before, refusal = w.grad, refused(lambda: loss_of(plain, *SAMPLES[0]).backward())
    loss_of(w, *SAMPLES[0]).backward()
    right = before is None and w.grad.item() == by_hand(1)["dl/dw"] and refusal is not None
    return holds(right, f"w.grad: {before}, {w.grad}; requires_grad=False: {refusal}")


def float_is_float64(said: Said) -> Seen:
    """Look at the dtype of the weight, and of one made with torch.float."""
    weights = run(last=7)["w"], computed(f"torch.tensor([1], {said.formula})"), torch.tensor([1], dtype=torch.float)
    dtypes = [str(w.dtype) for w in weights]
    return holds(dtypes == [said["python"], said["python"], said["torchs"]], ", ".join(dtypes))


def any_points_of_the_line(said: Said) -> Seen:
    """Look at the slope of the loss for several weights, at x = 0 and at other points of the line."""
    starts, places = [Fraction(n, 2) for n in range(-10, 11)], [Fraction(n, 4) for n in range(-10, 11)]
    flat = {x: [w for w in starts if at(w, x, linreg(x, 2))["dl/dw"] == said.number("derivative")] for x in places}
    learns = {x: found == [said.number("best")] for x, found in flat.items()}
    as_said = all(learns[x] == said.holds("condition", {"x": x}) for x in flat)
    return holds_if(as_said and any(learns.values()), all(learns.values()), f"x = 0: {len(flat[Fraction(0)])} w")


def integer_samples_become_float64(said: Said) -> Seen:
    """Multiply the whole-number sample by the weight."""
    x = computed(said["sample"])
    dtypes = [f"{x.dtype}", f"dtype={linreg(x, run(last=7)['w']).dtype}"]
    return holds(dtypes == [said["whole"], said.formula] and x.equal(run(last=7)["x_sample"]), ", ".join(dtypes))


def ends_in(*cells: int, last: str) -> Evidence:
    """Return the evidence that these cells end in the printed operation, and without it in the one that is said."""

    def evidence(said: Said) -> Seen:
        names, shown = run(last=8), [run()["Out"][cell] for cell in cells]
        before, whole = (computed(c, **names, x=names["x_sample"]) for c in (said["before"], said["before"] + last))
        ends = repr(whole) == shown[0] and all(text.endswith(f"{said.formula})") for text in shown)
        other = type(before.grad_fn).__name__
        return holds(ends and other == said["other"], f"{shown[0]}; {said['before']}: {other}")

    return evidence


prediction_ends_in_an_addition, loss_ends_in_a_division = ends_in(8, 13, last=" + 1"), ends_in(9, 14, last="/2")


def update_rule(said: Said) -> Seen:
    """Take a step with torch's SGD, and with the formula; the learning rate is 1/8, so that nothing rounds."""

    def stepped(x: Tensor, w: Tensor, y: Tensor) -> Names:
        leaf = w.clone().requires_grad_()
        loss_of(leaf, x, y).backward()
        torch.optim.SGD([leaf], lr=0.125).step()
        return {"w_{k+1}": leaf.detach(), "w_k": w, "lr": Fraction(1, 8), "dl/dw": leaf.grad}

    found = untrue(said.formula, stepped, x="1", w="1", y="1")
    return holds(found is None, f"torch.optim.SGD: {told(found)}")


def update_under_no_grad(said: Said) -> Seen:
    """Run the line inside no_grad and outside, and outside through w.detach() and w.data."""

    def updated(code: str, recording: bool = True) -> tuple[str | None, float]:
        w = run(last=10)["w"]
        with torch.set_grad_enabled(recording):
            return refused(lambda: ran(code, w=w, learn_rate=0.1)), w.item()

    inside, outside = updated(said.formula, recording=False), updated(said.formula)
    others = [updated("w.data -= learn_rate*w.grad"), updated("w.detach().sub_(learn_rate*w.grad)")]
    right = inside == (None, float(by_hand(1)["w_{k+1}"])) and outside[0] is not None and others == [inside, inside]
    return holds(right, f"no_grad: {inside[1]}; {outside[0]}")


def gradients_accumulate(said: Said) -> Seen:
    """Run the two steps with the line and without it."""
    cleared, kept = (number_in(run(change)["Out"][15]) for change in (("", ""), (f"    {said.formula}\n", "")))
    right = cleared == said.number("cleared") == by_hand(2)["dl/dw"] and said.holds("kept", {"w.grad": kept})
    return holds(right, f"w.grad: {cleared}, «without it»: {kept}")


def weight_still_requires_grad(said: Said) -> Seen:
    """Look at the weight after the updates in place inside no_grad, and after one that makes a new tensor there."""
    shown, before = [run()["Out"][cell] for cell in (11, 16)], run(last=10)["w"]
    with torch.no_grad():
        new = ran(said["code"], w=before, learn_rate=0.1)["w"]
    kept = all(text.endswith(f"{said.formula})") for text in shown) and run()["w"].is_leaf
    right = kept and not new.requires_grad and new.item() == float(by_hand(1)["w_{k+1}"])
    return holds(right, f"{shown[0]}; {said['code']}: requires_grad={new.requires_grad}")


def weight_before_the_second_step(said: Said) -> Seen:
    """Read the weight as printed, as worked out by hand, and as stored, without rounding."""
    stored, w = Fraction(run(last=12)["w"].item()), said.number("weight")
    right = number_in(run()["Out"][12]) == by_hand(2)["w"] == w and said.number("stored") == stored == float(w)
    return holds(right and said.rounds("more", stored - w), f"{stored} − {w} = {float(stored - w)!r}")
