"""Evidence of the claims of `one_parameter_regression`.

The document's program is run as it stands, and what it shows is kept; what the document works out by hand is
worked out in exact fractions, with derivatives from central differences, which are exact for a quadratic.
"""

import ast
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from io import StringIO
from typing import Any

import torch
from torch import Tensor

from backprop_rules.catalogue.losses import half_squared_error
from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.drawn import counterexample, everywhere, same, told
from backprop_rules.documents.answers.tools import comes_to, every, gradients, refused, verified

POINTS = ((1, 3), (2, 5), (3, 7))  # line 34
PRINTED_WEIGHTS = ("1.1000", "1.4600")  # lines 100 and 167
TENTH = Fraction(1, 10)


# ---- The document's program, as torch runs and prints it

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


DEFINED = run(last=4).names
linreg: Callable[..., Any] = DEFINED["linreg"]
squared_loss: Callable[..., Any] = DEFINED["squared_loss"]


def weight() -> Tensor:
    """Return the w that the document's program starts from."""
    w: Tensor = run(last=5).names["w"]
    return w


def number_in(printed: str) -> Fraction:
    """Return the number between the brackets of a printed tensor."""
    return Fraction(printed.partition("[")[2].partition("]")[0])


def shows(shown: str, found: Fraction, number: Fraction) -> Seen:
    """Say whether the printed tensor, and the same value worked out by hand, are this number."""
    return Seen(number_in(shown) == found == number, None, f"{shown}; {found}")


def slope(function: Callable[[Fraction], Any], at: Fraction) -> Fraction:
    """Return the derivative of a polynomial of degree 2 or less."""
    return Fraction(function(at + 1) - function(at - 1)) / 2


def loss_of(w: Any, x: Any, y: Any) -> Any:
    """Return the loss of one sample."""
    return squared_loss(linreg(x, w), y)


def stepped(w: Fraction, x: Any) -> Fraction:
    """Return the weight after a step of gradient descent with the sample of y = 2x + 1 at x."""
    return w - TENTH * slope(lambda v: loss_of(v, x, linreg(x, 2)), w)


def weights(first: Fraction) -> list[Fraction]:
    """Return the weight before the first step, after it, and after the second."""
    second = stepped(first, POINTS[0][0])
    return [first, second, stepped(second, POINTS[1][0])]


def by_hand(step: int) -> dict[str, Fraction]:
    """Return what the document works out in a step, counted from 0, by the document's own names."""
    (x, y), found = POINTS[step], weights(Fraction(weight().item()))
    w, prediction = found[step], linreg(x, found[step])
    return {
        "y'": prediction,
        "l": squared_loss(prediction, y),
        "dl/dy'": slope(lambda p: squared_loss(p, y), prediction),
        "dy'/dw": slope(lambda v: linreg(x, v), w),
        "dl/dw": slope(lambda v: loss_of(v, x, y), w),
        "new w": found[step + 1],
    }


# ---- The numbers of the document, in its order: those that it works out, and those that a cell prints


def printed(cell: int, step: int, name: str) -> Callable[[Fraction], Seen]:
    """Return the evidence that the cell prints the document's number, and that it comes out by hand."""

    def evidence(number: Fraction) -> Seen:
        return shows(run().shown[cell], by_hand(step)[name], number)

    return evidence


first_point = comes_to(lambda: linreg(POINTS[0][0], 2))
second_point = comes_to(lambda: linreg(POINTS[1][0], 2))
third_point = comes_to(lambda: linreg(POINTS[2][0], 2))

first_prediction = printed(8, 0, "y'")
first_loss = printed(9, 0, "l")
first_derivative_of_the_loss = comes_to(lambda: by_hand(0)["dl/dy'"])
first_derivative_of_the_prediction = comes_to(lambda: by_hand(0)["dy'/dw"])
first_gradient = comes_to(lambda: by_hand(0)["dl/dw"])
first_gradient_printed = printed(10, 0, "dl/dw")
first_updated_weight = printed(11, 0, "new w")

new_sample_leaves_the_weight = printed(12, 0, "new w")
second_prediction = printed(13, 1, "y'")
second_loss = printed(14, 1, "l")
second_derivative_of_the_loss = comes_to(lambda: by_hand(1)["dl/dy'"])
second_derivative_of_the_prediction = comes_to(lambda: by_hand(1)["dy'/dw"])
second_gradient = comes_to(lambda: by_hand(1)["dl/dw"])
second_gradient_printed = printed(15, 1, "dl/dw")
second_updated_weight = printed(16, 1, "new w")


# ---- The line, the model and the training


def equation_is_linear() -> Seen:
    """Go three equal steps along x, and along w: the values lie on a line; at x = 0 the value is not 0."""

    def straight(x: Tensor, w: Tensor) -> bool:
        over_x, over_w = ([linreg(x + k, w) for k in (-1, 0, 1)], [linreg(x, w + k) for k in (-1, 0, 1)])
        return all(bool((b - a).equal(c - b)) for a, b, c in (over_x, over_w))

    found, constants = counterexample(straight, x="3", w="3"), {linreg(0, w) for w in range(-3, 4)}
    return Seen(found is None and constants == {1}, None, f"{told(found)}; x = 0: {', '.join(map(str, constants))}")


model_contains_the_line = same("w = 2: ", lambda x: linreg(x, 2), lambda x: 2 * x + 1, x="3")


@everywhere(f"w = 0: {linreg(5, 0)}; ", x="3", w="3")
def code_of_the_model(x: Tensor, w: Tensor) -> bool:
    """Compute the value for w = 0, and what another w adds to it."""
    constant = linreg(x, 0 * w)
    return bool(constant.equal(torch.ones_like(x)) and (linreg(x, w) - constant).equal(x * w))


half_the_squared_error = every(
    same("", squared_loss, lambda p, t: 0.5 * (p - t) * (p - t), p="3", t="3"), verified(half_squared_error)
)


def least_squares() -> Seen:
    """Find the w that makes one sample's loss least, and that for the sum: on the line, and off it."""

    def best(*samples: tuple[int, int]) -> Fraction:
        at = [slope(lambda w: sum(loss_of(w, x, y) for x, y in samples), Fraction(k)) for k in (0, 1)]
        return at[0] / (at[0] - at[1])  # where the slope, a straight line, is zero

    on, off = POINTS, ((1, 3), (2, 6))
    alone = {samples: [best(sample) for sample in samples] for samples in (on, off)}
    stated, amended = ({*alone[samples]} == {best(*samples)} for samples in (off, on))
    shown = "; ".join(f"{samples}: {', '.join(map(str, alone[samples]))}, Σ: {best(*samples)}" for samples in (on, off))
    return Seen(stated, amended, shown)


def true_weight(number: Fraction) -> Seen:
    """Compute the loss of the three samples with this weight."""
    losses = [loss_of(number, x, y) for x, y in POINTS]
    return Seen(losses == [0, 0, 0], None, f"w = {number}: {', '.join(map(str, losses))}")


def any_initial_weight() -> Seen:
    """Step from several weights, with the x of each sample and with x = 5, and compare the distances from 2."""
    starts = [Fraction(n, 2) for n in range(-20, 21) if n != 4]
    factors = {x: {(2 - stepped(w, x)) / (2 - w) for w in starts} for x in (1, 2, 3, 5)}
    nearer = [x for x, found in factors.items() if all(abs(factor) < 1 for factor in found)]
    as_computed = all(found == {1 - TENTH * x**2} for x, found in factors.items())
    stays = all(stepped(Fraction(2), x) == 2 for x in factors)
    shown = ", ".join(f"x = {x}: {', '.join(map(str, found))}" for x, found in factors.items())
    return Seen(nearer == [x for x, _ in POINTS] and as_computed and stays, None, f"(2 − w′) / (2 − w): {shown}")


def initial_weight(number: Fraction) -> Seen:
    """Print the program's weight before the first step, and work out by hand where this number leads."""
    shown, found = repr(weight()), weights(number)
    right = number_in(shown) == number and found[1:] == [*map(Fraction, PRINTED_WEIGHTS)]
    return Seen(right, None, f"{shown}; {', '.join(map(str, found))}")


def requires_grad_means_automatic() -> Seen:
    """Go back with the flag and without it."""
    w, plain = weight(), weight().detach()
    before, refusal = w.grad, refused(lambda: loss_of(plain, *POINTS[0]).backward())
    loss_of(w, *POINTS[0]).backward()
    works = before is None and w.grad is not None and w.grad.item() == by_hand(0)["dl/dw"]
    return Seen(works and refusal is not None, None, f"w.grad: {before}, {w.grad}; requires_grad=False: {refusal}")


def float_is_float64() -> Seen:
    """Look at the dtype of the weight, and of one made with torch.float."""
    python, torchs = weight().dtype, torch.tensor([1], dtype=torch.float).dtype
    return Seen(python is torch.float64 and torchs is torch.float32, None, f"float: {python}, torch.float: {torchs}")


def any_points_of_the_line() -> Seen:
    """Look at the slope of the loss for several weights, at x = 0 and at other points of the line."""
    starts = [Fraction(n, 2) for n in range(-10, 11)]

    def settled_at(x: Fraction) -> list[Fraction]:
        return [w for w in starts if slope(lambda v: loss_of(v, x, linreg(x, 2)), w) == 0]

    flat = {x: settled_at(x) for x in (Fraction(n, 4) for n in range(-10, 11))}
    away_from_zero = all(found == [2] for x, found in flat.items() if x != 0)
    shown = f"x = 0: dl/dw = 0 at {len(flat[Fraction(0)])} of {len(starts)} w"
    return Seen(all(found == [2] for found in flat.values()), away_from_zero, shown)


def learning_rate(number: Fraction) -> Seen:
    """Run the program with this learning rate and compare both printed weights."""
    shown = run(("learn_rate = 0.1", f"learn_rate = {float(number)!r}")).shown
    after = [shown[11], shown[16]]
    return Seen([number_in(text) for text in after] == [*map(Fraction, PRINTED_WEIGHTS)], None, ", ".join(after))


def integer_samples_become_float64() -> Seen:
    """Multiply the whole-number sample by the weight."""
    x_sample = torch.tensor(POINTS[0][0])
    dtypes = [x_sample.dtype, linreg(x_sample, weight()).dtype]
    return Seen(dtypes == [torch.int64, torch.float64], None, f"x: {dtypes[0]}, w*x + 1: {dtypes[1]}")


def prediction_ends_in_an_addition() -> Seen:
    """Look at the end of the graph of w·x + 1, and of w·x."""
    predictions = [run().shown[cell] for cell in (8, 13)]
    added = all(text.endswith("grad_fn=<AddBackward0>)") for text in predictions)
    product = type((weight() * 1).grad_fn).__name__
    return Seen(added and product == "MulBackward0", None, f"w*x + 1: {'; '.join(predictions)}; w*x: {product}")


def loss_ends_in_a_division() -> Seen:
    """Look at the end of the graph of the loss, and of the square alone."""
    losses = [run().shown[cell] for cell in (9, 14)]
    divided = all(text.endswith("grad_fn=<DivBackward0>)") for text in losses)
    square = type((weight() ** 2).grad_fn).__name__
    return Seen(divided and square == "PowBackward0", None, f"(…)**2/2: {'; '.join(losses)}; (…)**2: {square}")


@everywhere(x="1", w="1", y="1")
def chain_rule(x: Tensor, w: Tensor, y: Tensor) -> bool:
    """Multiply the derivatives of the two functions, and take the exact central difference of the whole."""
    (by_prediction,) = gradients(lambda p: squared_loss(p, y), linreg(x, w))
    (by_weight,) = gradients(lambda v: linreg(x, v), w)
    whole = (loss_of(w + 1, x, y) - loss_of(w - 1, x, y)) / 2
    return bool(whole.equal(by_prediction * by_weight))


derivative_of_the_loss = same(
    "", lambda p, y: gradients(lambda v: squared_loss(v, y), p)[0], lambda p, y: p - y, p="1", y="1"
)
derivative_of_the_prediction = same(
    "", lambda x, w: gradients(lambda v: linreg(x, v), w)[0], lambda x, w: x, x="1", w="1"
)


@everywhere("torch.optim.SGD: ", x="1", w="1", y="1")
def update_rule(x: Tensor, w: Tensor, y: Tensor) -> bool:
    """Take a step with torch's SGD, and with the formula; the learning rate is 1/8, so that nothing rounds."""
    leaf = w.clone().requires_grad_()
    loss_of(leaf, x, y).backward()
    torch.optim.SGD([leaf], lr=0.125).step()
    return leaf.detach().equal(w - 0.125 * gradients(lambda v: loss_of(v, x, y), w)[0])


def update_under_no_grad() -> Seen:
    """Change the weight in place, inside no_grad and outside, and outside through w.detach() and w.data."""
    w, v = weight(), weight()
    with torch.no_grad():
        inside = refused(lambda: weight().sub_(1))
    outside = refused(lambda: weight().sub_(1))
    others = [refused(lambda: w.detach().sub_(1)), refused(lambda: v.data.sub_(1))]
    changed = [w.item() + 1 == weight().item(), v.item() + 1 == weight().item()]
    stated = inside is None and outside is not None and others == [None, None] and all(changed)
    return Seen(stated, None, f"no_grad: {inside}; {outside}; w.detach(), w.data: {others[0]}, {others[1]}")


def gradients_accumulate() -> Seen:
    """Run the two steps with zero_() and without it."""
    zeroed, kept = (number_in(run(change).shown[15]) for change in (("", ""), ("    w.grad.zero_()\n", "")))
    first, second = (by_hand(step)["dl/dw"] for step in (0, 1))
    return Seen(zeroed == second and kept == first + second, None, f"w.grad: {zeroed}, {kept}")


def weight_still_requires_grad() -> Seen:
    """Look at the weight after the updates in place inside no_grad, and after one that makes a new tensor there."""
    shown, w = [run().shown[cell] for cell in (11, 16)], run().names["w"]
    with torch.no_grad():
        new = w - 1
    kept = all(text.endswith("requires_grad=True)") for text in shown) and w.requires_grad and w.is_leaf
    told_of = f"w -= …: {', '.join(shown)}; w − 1: requires_grad={new.requires_grad}"
    return Seen(kept and not new.requires_grad, None, told_of)


def weight_before_the_second_step(number: Fraction) -> Seen:
    """Read the weight as printed, as worked out by hand, and as stored, without rounding."""
    stored = Fraction(run(last=12).names["w"].item())
    seen = shows(run().shown[11], by_hand(0)["new w"], number)
    nearest = stored == Fraction(float(number)) != number
    return Seen(seen.stated and nearest, None, f"{seen.shown}; {stored} − {number} = {float(stored - number)!r}")


def gradient_before_it_is_zeroed(number: Fraction) -> Seen:
    """Read what the program prints of w.grad before the update, and w.grad after the whole step."""
    after = run()
    before, grad = after.printed[16].strip(), after.names["w"].grad
    seen = shows(before, by_hand(1)["dl/dw"], number)
    return Seen(seen.stated and number_in(repr(grad)) == 0, None, f"{before}; {grad}")
