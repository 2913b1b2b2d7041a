"""Evidence of the claims of `two_layer_network`.

The gradient in front of the clamp is the cotangent where the hidden layer is positive and 0 where it is negative;
where it is 0 there are two one-sided derivatives, and torch's choice depends on its version. `t` is the target.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, jacrev

from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.documents.answers.claim import Evidence, Seen
from backprop_rules.documents.answers.drawn import Point, Value, counterexample, difference, everywhere, same, told
from backprop_rules.documents.answers.tools import back, every, gradients, rather, refused, verified, works
from backprop_rules.documents.certified import true_run
from backprop_rules.documents.program import Program
from backprop_rules.documents.programs import AS_PRINTED, TWO_LAYER_NETWORK
from backprop_rules.rule import installed
from backprop_rules.teaching.trace import traced

WEIGHTS = {"x": "1 d", "w1": "d h", "w2": "h k"}
ONE = {**WEIGHTS, "t": "1 k"}
TWO = {"x": "2 d", "w1": "d h", "w2": "h k", "t": "2 k"}
SECOND_LAYER = {"h": "1 d", "w2": "d k", "t": "1 k"}
X, W1, W2, H, ERROR = (torch.ones(shape) for shape in ((1, 2), (2, 4), (4, 3), (1, 4), (1, 3)))  # of line 19 to 23
AT_A_BOUND = clamp.conventions[0]  # the choice that `by_the_mask` makes at 0, and the versions of torch that make it


def squared_error(prediction: Value) -> Value:
    """Return the loss of a prediction: the sum of the squares of its errors from t, the last argument."""
    return lambda *given: ((prediction(*given[:-1]) - given[-1]) ** 2).sum()


def predicted(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Return what the document's program predicts."""
    return x.mm(w1).clamp(min=0).mm(w2)


loss = squared_error(predicted)  # what the document's program prints
behind_the_clamp = squared_error(torch.matmul)  # the same, of the second layer alone
for_w1, for_w2 = grad(loss, 1), grad(loss, 2)
by_the_rule = partial(sum_of_squared_errors.backward, *torch.ones(2, dtype=torch.float64))


def cotangent(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what arrives at the hidden layer behind the clamp."""
    return 2 * (predicted(x, w1, w2) - t) @ w2.T


def for_w1_with(masked: Callable[[Tensor, Tensor], Tensor]) -> Value:
    """Return the gradient of w1 with this in place of the clamp's derivative: of the hidden layer, and what arrives."""
    return lambda x, w1, w2, t: x.T @ masked(x @ w1, cotangent(x, w1, w2, t))


as_printed = for_w1_with(lambda h, g: g.clamp(min=0))  # lines 40 to 42
by_the_mask = for_w1_with(lambda h, g: g * (h >= 0))
by_what_is_left = for_w1_with(lambda h, g: g.where(h.clamp(min=0) != 0, 0))  # a mask by the overwritten h1 of line 30
without_the_clamp = for_w1_with(lambda h, g: g)  # the formula derived, with its factors in the order in which they fit


def tie(x: Tensor, w1: Tensor) -> bool:
    """Say whether a hidden unit stands on the kink."""
    return bool((x @ w1 == 0).any())


def off_the_kink(before: str, found: Value, shapes: dict[str, str]) -> Evidence:
    """Return the evidence that this is the gradient of w1 wherever no hidden unit stands on the kink."""
    return everywhere(before, **shapes)(
        lambda x, w1, w2, t: tie(x, w1) or found(x, w1, w2, t).equal(for_w1(x, w1, w2, t))
    )


def for_w2_by_the_code(h: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return the gradient of w2 by the document's line, from what the clamp makes of the hidden layer."""
    return h.T @ (2 * (h @ w2 - t))


def one_unit(*columns: list[float]) -> Point:
    """Return x, w1, w2 and t of a single unit, a row for each sample."""
    return {name: torch.tensor([column], dtype=torch.float64).T for name, column in zip(ONE, columns, strict=True)}


def shapes_fit() -> Seen:
    """Run every line of the program with the shapes that it has."""
    error = X.mm(W1).clamp(min=0).mm(W2) - ERROR
    grad_w2 = X.mm(W1).clamp(min=0).t().mm(2 * error)
    shapes = [tuple(g.shape) for g in (grad_w2, as_printed(X, W1, W2, ERROR), loss(X, W1, W2, ERROR))]
    return Seen(shapes == [tuple(W2.shape), tuple(W1.shape), ()], None, f"grad_w2, grad_w1, loss: {shapes}")


@everywhere("Σ_j max(0, Σ_i x_i w1_ij) w2_jk: ", x="2 d", w1="d h", w2="h k")
def forward_code(x: Tensor, w1: Tensor, w2: Tensor) -> bool:
    """Compare lines 29 to 31 with a sum over the hidden units, an element at a time."""
    hidden = [[max(0, sum(a * b for a, b in zip(row, column, strict=True))) for column in w1.T] for row in x]
    sums = [[float(sum(h * v for h, v in zip(row, column, strict=True))) for column in w2.T] for row in hidden]
    return predicted(x, w1, w2).tolist() == sums


@everywhere("Σ (ŷ_k − y_k)²: ", p="n k", t="n k")
def loss_code(p: Tensor, t: Tensor) -> bool:
    """Compare line 33 with the sum of the squares, an element at a time."""
    pairs = zip(p.flatten().tolist(), t.flatten().tolist(), strict=True)
    return bool((p - t).pow(2).sum() == sum((a - b) ** 2 for a, b in pairs))


def graph_of_two_products() -> Seen:
    """Trace the program, and list the rules on the way."""
    nodes = traced(TWO_LAYER_NETWORK.forward, TWO_LAYER_NETWORK.inputs()).nodes.values()
    way = [str(node.made_by.rule) for node in nodes if node.made_by]
    products = [name for name in way if name != "sum_of_squared_errors"]
    return Seen(products == ["matmul", "matmul"], products == ["matmul", "clamp", "matmul"], " → ".join(way))


prediction_without_the_clamp = rather(
    same("x·w1·w2: ", lambda x, w1, w2: x @ w1 @ w2, predicted, **WEIGHTS),
    same("max(x·w1, 0)·w2: ", lambda x, w1, w2: torch.maximum(x @ w1, torch.zeros(())) @ w2, predicted, **WEIGHTS),
)


def argmin_in_the_loss() -> Seen:
    """Find the argument of the minimum among whole numbers, and hold it and the sum against what the program prints."""

    def least(t: Tensor) -> Tensor:
        every_p = itertools.product(range(-4, 5), repeat=t.numel())
        return min((torch.tensor(p, dtype=t.dtype) for p in every_p), key=lambda p: float(((p - t) ** 2).sum()))

    argmin = everywhere("argmin = Σ: ", p="1", t="1")(lambda p, t: bool((least(t) == ((p - t) ** 2).sum()).all()))
    where = same("argmin = y: ", least, torch.positive, t="2")
    printed = same("loss = Σ: ", lambda *at: sum_of_squared_errors(predicted(*at[:3]), at[3]), loss, **ONE)
    return rather(argmin, every(where, printed))()


gradient_of_the_squared_errors = every(
    verified(sum_of_squared_errors),
    same("2(ŷ − y): ", lambda p, t: 2 * (p - t), lambda p, t: by_the_rule(p, t)[0], p="n k", t="n k"),
)


def by_the_jacobian(prediction: Value, k: int) -> Value:
    """Return the gradient of the loss for an argument: what arrives, times a row of derivatives for each output."""

    def multiplied(*given: Tensor) -> Tensor:
        *arguments, t = given
        jacobian: Tensor = jacrev(prediction, k)(*arguments)
        found = 2 * (prediction(*arguments) - t) @ jacobian.reshape(t.numel(), -1)
        return found.reshape(arguments[k].shape)

    return multiplied


chain_rule_for_w2 = rather(
    works(lambda: ERROR @ H.T),
    same("(1, 3) @ (3, 12): ", by_the_jacobian(torch.matmul, 1), grad(behind_the_clamp, 1), **SECOND_LAYER),
)


def derivative_of_the_product_for_w2() -> Seen:
    """Compare h1ᵀ with the Jacobian, and use it as a factor on the left."""
    h = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    jacobian = jacrev(torch.matmul, 1)(h, W2).reshape(3, 12)
    found = difference(lambda h, w2, g: h.T @ g, lambda *at: back(*at)[1], h="1 d", w2="d k", g="1 k")
    shown = f"Jacobian {tuple(jacobian.shape)}, h1ᵀ {tuple(h.T.shape)}; h1ᵀ @ ∂loss/∂ŷ: {told(found)}"
    return Seen(jacobian.equal(h.T), found is None, shown)


order_of_the_factors_for_w2 = rather(
    works(lambda: ERROR @ H.T),
    same("h1ᵀ @ 2(ŷ − y): ", for_w2_by_the_code, grad(behind_the_clamp, 1), **SECOND_LAYER),
)


def formula_for_w2_is_the_code() -> Seen:
    """Run the formula's product and the code's, each as it is written."""
    formula, code, right = refused(lambda: ERROR.mm(H.t())), refused(lambda: H.t().mm(ERROR)), code_for_w2()
    shown = f"grad.mm(h1.t()): {formula}; h1.t().mm(grad): {code or 'multiplies'}; {right.shown}"
    return Seen(formula == code, code is None and bool(right.stated), shown)


code_for_w2 = same(
    "h1.t().mm(grad_y_pred): ", lambda x, w1, w2, t: for_w2_by_the_code((x @ w1).clamp(min=0), w2, t), for_w2, **TWO
)


def gradient_of_the_hidden_layer() -> Seen:
    """Take h1 for the layer in front of the clamp, as the graph has it, and for the one behind it."""

    @everywhere("h1 = x·w1: ", **SECOND_LAYER)
    def in_front(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        true = grad(squared_error(lambda h, w2: h.clamp(min=0) @ w2))(h, w2, t)
        return bool((h == 0).any()) or (2 * (h.clamp(min=0) @ w2 - t) @ w2.T).equal(true)

    behind = same(
        "h1 = max(x·w1, 0): ", lambda h, w2, t: 2 * (h @ w2 - t) @ w2.T, grad(behind_the_clamp), **SECOND_LAYER
    )
    return rather(in_front, behind)()


@everywhere("(1, 3) @ (3, 4): ", **SECOND_LAYER)
def chain_rule_for_the_hidden_layer(h: Tensor, w2: Tensor, t: Tensor) -> bool:
    """Multiply the cotangent by the Jacobian of h1·w2 with respect to h1, which is w2ᵀ."""
    is_transposed = jacrev(torch.matmul)(h, w2).reshape(w2.T.shape).equal(w2.T)
    return is_transposed and by_the_jacobian(torch.matmul, 0)(h, w2, t).equal(grad(behind_the_clamp)(h, w2, t))


def one_sided(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> list[float]:
    """Return both one-sided derivatives of a single unit's loss: exact, as it is a quadratic on each side."""
    found = []
    for step in (2.0**-10, -(2.0**-10)):
        here, there, beyond = (float(loss(x, w1 + k * step, w2, t)) for k in range(3))
        found.append((4 * there - 3 * here - beyond) / (2 * step))
    return found


def cotangent_clamped() -> Seen:
    """Find the smallest network whose gradient is another one, and try the masks in its place, on the kink too."""
    as_torch_chooses = by_the_mask if installed(AT_A_BOUND.torch) else by_what_is_left
    found = off_the_kink("", as_printed, ONE)()
    masked = off_the_kink("grad_h[h1 == 0] = 0, x·w1 ≠ 0: ", by_what_is_left, TWO)()
    chosen = same(f"torch {AT_A_BOUND.torch} = [x·w1 ≥ 0]: ", as_torch_chooses, for_w1, **TWO)()
    units, zero = [one_unit([1], [w1], [1], [t]) for w1, t in ((1, 2), (-1, -1))], one_unit([1], [0], [1], [2])
    pairs = [(float(as_printed(**unit)), float(by_what_is_left(**unit))) for unit in units]
    at_zero = [float(by_what_is_left(**zero)), float(by_the_mask(**zero))]
    as_told = pairs == [(0, -2), (2, 0)] and at_zero == [0, -4] and sorted(one_sided(**zero)) == sorted(at_zero)
    shown = [
        *(f"{told(unit)}: printed {a:g}, gradient {b:g}" for unit, (a, b) in zip(units, pairs, strict=True)),
        masked.shown,
        f"{told(zero)}: {at_zero[0]:g}, [x·w1 ≥ 0]: {at_zero[1]:g}",
        chosen.shown,
    ]
    return Seen(found.stated, bool(masked.stated and chosen.stated and as_told), "; ".join(shown))


def code_for_w1() -> Seen:
    """Ask whether the code agrees exactly where each unit's sign is that of what arrives, and what it gives at 0."""

    @everywhere("equal ⟺ [h > 0] = [g > 0]: ", **ONE)
    def exactly_where_signs_agree(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        h, g = x @ w1, cotangent(x, w1, w2, t)
        signs_agree = bool((x == 0).all() or ((g == 0) | ((h > 0) == (g > 0))).all())
        return tie(x, w1) or as_printed(x, w1, w2, t).equal(for_w1(x, w1, w2, t)) == signs_agree

    @everywhere("h = 0, one-sided: ", x="1 1", w2="1 1", t="1 1")
    def at_zero(x: Tensor, w2: Tensor, t: Tensor) -> bool:
        return float(as_printed(x, 0 * x, w2, t)) in one_sided(x, 0 * x, w2, t)

    return rather(off_the_kink("", as_printed, ONE), every(exactly_where_signs_agree, at_zero))()


chain_rule_for_w1_in_this_order = rather(
    works(lambda: ERROR @ W2.T @ X.T),
    same(
        "xᵀ @ 2(ŷ − y) @ w2ᵀ without the clamp: ",
        lambda x, w1, w2, t: x.T @ (2 * (x @ w1 @ w2 - t) @ w2.T),
        grad(squared_error(lambda x, w1, w2: x @ w1 @ w2), 1),
        **TWO,
    ),
)
chain_rule_for_w1 = rather(
    works(lambda: ERROR @ (W2.T @ X.T)), same("(1, 3) @ (3, 8): ", by_the_jacobian(predicted, 1), for_w1, **ONE)
)
formula_for_w1_without_the_clamp = rather(
    off_the_kink("without: ", without_the_clamp, ONE), off_the_kink("with [x·w1 ≥ 0]: ", by_the_mask, TWO)
)


def derivation_explains_the_code() -> Seen:
    """Ask whether the derived formula is what the code computes, and whether either is the gradient."""

    def two_alike(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        formula, code, true = (found(x, w1, w2, t) for found in (without_the_clamp, as_printed, by_the_mask))
        return tie(x, w1) or formula.equal(code) or code.equal(true) or true.equal(formula)

    same, three = difference(without_the_clamp, as_printed, **ONE), counterexample(two_alike, **ONE)
    return Seen(same is None, three is not None, f"formula ≠ code: {told(same)}; three different: {told(three)}")


def loss_falls() -> Seen:
    """Follow the printed program in ball arithmetic, with all hidden units negative, and as it is recorded."""
    given = AS_PRINTED.inputs()

    def falls(given: Point) -> tuple[bool, str]:
        run = [step["loss"] for step in true_run(AS_PRINTED, given)]
        down = all(bool((after.hi < before.lo).all()) for before, after in itertools.pairwise(run))
        return down, f"{float(run[0].lo):.6f} → {float(run[-1].lo):.6f}"

    (moves, still), (down, ends) = falls({**given, "x": X, "w1": -W1}), falls(given)
    return Seen(moves, down, f"x·w1 < 0: {still}; as recorded: {ends}")


def step_goes_downhill() -> Seen:
    """Look for an update that raises the loss, with one sample and with two; with one, by the sums of the proof."""

    def fall(*at: Tensor) -> float:  # along the printed updates, for each unit of the learning rate
        return float((for_w1(*at) * as_printed(*at)).sum() + (for_w2(*at) ** 2).sum())

    def downhill(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        return tie(x, w1) or fall(x, w1, w2, t) >= 0

    def by_the_proof(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        active = (x @ w1 > 0) * cotangent(x, w1, w2, t).clamp(min=0)
        squares = (x**2).sum() * (active**2).sum() + (for_w2(x, w1, w2, t) ** 2).sum()
        return tie(x, w1) or fall(x, w1, w2, t) == squares

    as_told = one_unit([1, -1], [1], [-1], [0, 3])
    rise, two = fall(*as_told.values()), counterexample(downhill, **TWO)
    one, proof = counterexample(downhill, **ONE), counterexample(by_the_proof, **ONE)
    shown = f"two samples: {told(two)}; {told(as_told)}: {rise:g}; one sample: {told(one)}, {told(proof)}"
    return Seen(two is None, one is None and proof is None and rise == -4, shown)


def learning_rate_learns() -> Seen:
    """Follow both rules over the document's 20 epochs, and over 2,000 at a rate a hundred times as high."""
    given = {name: x.double() for name, x in AS_PRINTED.inputs().items()}

    def followed(program: Program, rate: float, epochs: int) -> tuple[float, float]:
        longer = replace(program, learning_rate=rate, dtype=torch.float64, samples=lambda given: [given] * epochs)
        losses = [float(step.loss) for step in longer.run(given)]
        return losses[0], losses[-1]

    epochs = {1e-6: 20, 1e-4: 2000}
    runs = {
        rate: [followed(program, rate, n) for program in (AS_PRINTED, TWO_LAYER_NETWORK)] for rate, n in epochs.items()
    }
    lost = [f"{100 * (1 - last / first):.2f}" for first, last in runs[1e-6]]
    far = [(f"{first:.2f}", f"{last:.2g}") for first, last in runs[1e-4]]
    right = lost == ["0.26", "0.26"] and far == [("24.17", "1.3e-06"), ("24.17", "5.1e-07")]
    shown = "; ".join(
        f"{n} epochs at {rate}: as printed {a[0]:.6g} → {a[1]:.6g}, with the gradient {b[0]:.6g} → {b[1]:.6g}"
        for (rate, n), (a, b) in zip(epochs.items(), runs.values(), strict=True)
    )
    return Seen(all(last < first / 2 for first, last in runs[1e-6]), right, shown)


@everywhere("torch.optim.SGD: ", **TWO)
def updates_are_gradient_descent(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
    """Change the weights in both orders of the lines, and by torch's own gradient descent, at a rate of 1/8."""
    given = as_printed(x, w1, w2, t), for_w2(x, w1, w2, t)
    weights = [w.clone().requires_grad_() for w in (w1, w2)]
    for w, g in zip(weights, given, strict=True):
        w.grad = g.clone()
    torch.optim.SGD(weights, lr=0.125).step()
    changed = []
    for order in ((0, 1), (1, 0)):
        pair = [w1.clone(), w2.clone()]
        for k in order:
            pair[k] -= 0.125 * given[k]
        changed.append(pair)
    return all(a.equal(w.detach()) for pair in changed for a, w in zip(pair, weights, strict=True))


def derivative_of_wx() -> Seen:
    """Compare wᵀ with the Jacobian of w·x, a row for each output, and with a row for each element of x."""
    jacobian = jacrev(torch.matmul, 1)

    def carries_back(w: Tensor, x: Tensor, g: Tensor) -> bool:
        return jacobian(w, x).reshape(w.shape).T.equal(w.T) and (w.T @ g).equal(back(w, x, g)[1])

    rows = same(
        "∂y_i/∂x_j in row i: ", lambda w, x: jacobian(w, x).reshape(w.shape), lambda w, x: w.T, w="n d", x="d 1"
    )
    return rather(rows, everywhere("in row j, wᵀ @ grad: ", w="n d", x="d 1", g="n 1")(carries_back))()


def this_formula_alone() -> Seen:
    """Try the formula on the other factor and on the square, and then the ones that are needed besides."""
    shapes = {"w": "n d", "x": "d m", "g": "n m"}

    @everywhere("xᵀ on the left: ", **shapes)
    def alone(w: Tensor, x: Tensor, g: Tensor) -> bool:
        return x.shape[0] == g.shape[0] and (x.T @ g).equal(back(w, x, g)[0])

    @everywhere("e²: ", e="1", f="1")
    def linear(e: Tensor, f: Tensor) -> bool:  # a product with a constant would be, whatever the constant
        slope = [gradients(torch.square, v)[0] for v in (e, f, torch.zeros_like(e))]
        return slope[0].equal(slope[1]) and slope[2].equal(slope[0])

    right = same("grad @ xᵀ: ", lambda w, x, g: g @ x.T, lambda *at: back(*at)[0], **shapes)
    return every(rather(alone, right), rather(linear, off_the_kink("the mask: ", by_the_mask, TWO)))()
