"""Evidence of the claims of `two_layer_network`.

The gradient in front of the clamp is the cotangent where the hidden layer is positive and nothing where it is
negative; where it is zero there are two one-sided derivatives, and torch's choice depends on its version. `t` is
the target.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.tools import counterexample, gradients, refused, told, verified
from backprop_rules.documents.certified import true_run
from backprop_rules.documents.program import Program
from backprop_rules.documents.two_layer_network import PROGRAMS, forward, inputs
from backprop_rules.rule import installed
from backprop_rules.teaching.trace import traced

ONE = {"x": "1 d", "w1": "d h", "w2": "h k", "t": "1 k"}
TWO = {"x": "2 d", "w1": "d h", "w2": "h k", "t": "2 k"}
RIGHT, PRINTED = PROGRAMS
AT_A_BOUND = clamp.conventions[0]  # the choice that `by_the_mask` makes at 0, and the versions of torch that make it


def loss(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what the document's program prints."""
    return (((x @ w1).clamp(min=0) @ w2 - t) ** 2).sum()


def cotangent(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what arrives at the hidden layer behind the clamp."""
    return 2 * ((x @ w1).clamp(min=0) @ w2 - t) @ w2.T


def by_the_mask(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return the gradient of w1."""
    return x.T @ (cotangent(x, w1, w2, t) * (x @ w1 >= 0))


def by_what_is_left(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return the gradient of w1 by lines 29 to 42, with a mask by the overwritten h1 in the place of line 41."""
    h1 = x.mm(w1)
    h1 = h1.clamp(min=0)
    grad_h = (2 * (h1.mm(w2) - t)).mm(w2.t())
    grad_h[h1 == 0] = 0
    return x.t().mm(grad_h)


def as_printed(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return the document's gradient of w1, by its lines 40 to 42."""
    return x.T @ cotangent(x, w1, w2, t).clamp(min=0)


def no_tie(x: Tensor, w1: Tensor) -> bool:
    """Say whether no hidden unit stands on the kink."""
    return bool((x @ w1 != 0).all())


def one_unit(*numbers: float) -> dict[str, Tensor]:
    """Return x, w1, w2 and t as 1 × 1 matrices."""
    return dict(zip(ONE, torch.tensor(numbers, dtype=torch.float64).reshape(4, 1, 1), strict=True))


def where_it_differs(found: Callable[..., Tensor], shapes: dict[str, str]) -> dict[str, Tensor] | None:
    """Return the smallest point, off the kink, where this is not the gradient of w1."""

    def agrees(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w, w2, t), w1)
        return not no_tie(x, w1) or found(x, w1, w2, t).equal(true)

    return counterexample(agrees, **shapes)


def shapes_fit() -> Seen:
    """Run every line of the program with the shapes that it has."""
    x, t, w1, w2 = torch.ones(1, 2), torch.ones(1, 3), torch.ones(2, 4), torch.ones(4, 3)
    error = x.mm(w1).clamp(min=0).mm(w2) - t
    grad_w2 = x.mm(w1).clamp(min=0).t().mm(2 * error)
    shapes = [tuple(g.shape) for g in (grad_w2, as_printed(x, w1, w2, t), loss(x, w1, w2, t))]
    return Seen(shapes == [tuple(w2.shape), tuple(w1.shape), ()], None, f"grad_w2, grad_w1, loss: {shapes}")


def forward_code() -> Seen:
    """Compare lines 29 to 31 with a sum over the hidden units, an element at a time."""

    def holds(x: Tensor, w1: Tensor, w2: Tensor) -> bool:
        code: list[list[float]] = x.mm(w1).clamp(min=0).mm(w2).tolist()
        hidden = [[max(0, sum(a * b for a, b in zip(row, column, strict=True))) for column in w1.T] for row in x]
        sums = [[sum(h * v for h, v in zip(row, column, strict=True)) for column in w2.T] for row in hidden]
        return bool(code == [[float(number) for number in row] for row in sums])

    found = counterexample(holds, **{name: TWO[name] for name in ("x", "w1", "w2")})
    return Seen(found is None, None, f"Σ_j max(0, Σ_i x_i w1_ij) w2_jk: {told(found)}")


def loss_code() -> Seen:
    """Compare line 33 with the sum of the squares, an element at a time."""

    def holds(p: Tensor, t: Tensor) -> bool:
        pairs = zip(p.flatten().tolist(), t.flatten().tolist(), strict=True)
        return bool((p - t).pow(2).sum() == sum((a - b) ** 2 for a, b in pairs))

    found = counterexample(holds, p="n k", t="n k")
    return Seen(found is None, None, f"Σ (ŷ_k − y_k)²: {told(found)}")


def graph_of_two_products() -> Seen:
    """Trace the program, and list the rules on the way."""
    given = inputs()
    nodes = traced(forward, given).nodes.values()
    way = [str(node.made_by.rule) for node in nodes if node.made_by]
    products = [name for name in way if name != "sum_of_squared_errors"]
    return Seen(products == ["matmul", "matmul"], products == ["matmul", "clamp", "matmul"], " → ".join(way))


def prediction_without_the_clamp() -> Seen:
    """Compare the printed formula of the prediction with the program's own."""

    def program(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return x.mm(w1).clamp(min=0).mm(w2)

    shapes = {name: ONE[name] for name in ("x", "w1", "w2")}
    linear = counterexample(lambda x, w1, w2: (x @ w1 @ w2).equal(program(x, w1, w2)), **shapes)
    positive = counterexample(
        lambda x, w1, w2: (torch.maximum(x @ w1, torch.zeros(())) @ w2).equal(program(x, w1, w2)), **shapes
    )
    return Seen(linear is None, positive is None, f"x·w1·w2: {told(linear)}; max(x·w1, 0)·w2: {told(positive)}")


def argmin_in_the_loss() -> Seen:
    """Find the argument of the minimum among whole numbers, and hold it and the sum against what the program prints."""

    def least(t: Tensor) -> Tensor:
        every = itertools.product(range(-4, 5), repeat=t.numel())
        return min((torch.tensor(p, dtype=t.dtype) for p in every), key=lambda p: float(((p - t) ** 2).sum()))

    def is_the_argmin(p: Tensor, t: Tensor) -> bool:
        return bool((least(t) == ((p - t) ** 2).sum()).all())

    def is_the_sum(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        found: Tensor = sum_of_squared_errors((x @ w1).clamp(min=0) @ w2, t)
        return found.equal(loss(x, w1, w2, t))

    argmin, total = counterexample(is_the_argmin, p="1", t="1"), counterexample(is_the_sum, **ONE)
    where = counterexample(lambda t: least(t).equal(t), t="2")
    shown = f"argmin = Σ: {told(argmin)}; argmin = y: {told(where)}; loss = Σ: {told(total)}"
    return Seen(argmin is None, total is None and where is None, shown)


def gradient_of_the_squared_errors() -> Seen:
    """Verify the rule of the catalogue, and compare the formula with it."""
    right, shown = verified(sum_of_squared_errors)

    def holds(p: Tensor, t: Tensor) -> bool:
        ones = torch.ones((), dtype=p.dtype)
        true = sum_of_squared_errors.gradients(ones, ones, p, t)[0]
        return true is not None and (2 * (p - t)).equal(true)

    found = counterexample(holds, p="n k", t="n k")
    return Seen(right and found is None, None, f"{shown}; 2(ŷ − y): {told(found)}")


def jacobian_for_w2(h: Tensor, w2: Tensor) -> Tensor:
    """Return the Jacobian of h·w2 with respect to w2, as torch has it, a row for each output."""
    found: Tensor = torch.func.jacrev(lambda w: h @ w)(w2)
    return found.reshape(w2.shape[1], w2.numel())


def chain_rule_for_w2() -> Seen:
    """Multiply what the next line puts for the two factors, and then the cotangent and the Jacobian."""
    error, h = torch.ones(1, 3), torch.ones(1, 4)
    refusal = refused(lambda: error @ h.T)

    def holds(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: ((h @ w - t) ** 2).sum(), w2)
        return (2 * (h @ w2 - t) @ jacobian_for_w2(h, w2)).reshape(w2.shape).equal(true)

    found = counterexample(holds, h="1 d", w2="d k", t="1 k")
    return Seen(refusal is None, found is None, f"{refusal}; (1, 3) @ (3, 12): {told(found)}")


def derivative_of_the_product_for_w2() -> Seen:
    """Compare h1ᵀ with the Jacobian, and use it as a factor on the left."""
    h, w2 = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(4, 3)
    jacobian = jacobian_for_w2(h, w2)

    def holds(h: Tensor, w2: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda w: h @ w, w2, grad_y=g)
        return (h.T @ g).equal(true)

    found = counterexample(holds, h="1 d", w2="d k", g="1 k")
    shown = f"Jacobian {tuple(jacobian.shape)}, h1ᵀ {tuple(h.T.shape)}; h1ᵀ @ ∂loss/∂ŷ: {told(found)}"
    return Seen(jacobian.equal(h.T), found is None, shown)


def order_of_the_factors_for_w2() -> Seen:
    """Multiply in the printed order, and in the other one."""

    def holds(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: ((h @ w - t) ** 2).sum(), w2)
        return (h.T @ (2 * (h @ w2 - t))).equal(true)

    refusal = refused(lambda: torch.ones(1, 3) @ torch.ones(1, 4).T)
    found = counterexample(holds, h="1 d", w2="d k", t="1 k")
    return Seen(refusal is None, found is None, f"{refusal}; h1ᵀ @ 2(ŷ − y): {told(found)}")


def formula_for_w2_is_the_code() -> Seen:
    """Run the formula's product and the code's, each as it is written."""
    error, h = torch.ones(1, 3), torch.ones(1, 4)
    formula, code = refused(lambda: error.mm(h.t())), refused(lambda: h.t().mm(error))
    shown = f"grad.mm(h1.t()): {formula}; h1.t().mm(grad): {code or 'multiplies'}; {code_for_w2().shown}"
    return Seen(formula == code, code is None and bool(code_for_w2().stated), shown)


def code_for_w2() -> Seen:
    """Compare the code's line with autograd."""

    def holds(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w1, w, t), w2)
        h = (x @ w1).clamp(min=0)
        return (h.T @ (2 * (h @ w2 - t))).equal(true)

    found = counterexample(holds, **TWO)
    return Seen(found is None, None, f"h1.t().mm(grad_y_pred): {told(found)}")


def gradient_of_the_hidden_layer() -> Seen:
    """Take h1 for the layer in front of the clamp, as the graph has it, and for the one behind it."""

    def behind(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda h: ((h @ w2 - t) ** 2).sum(), h)
        return (2 * (h @ w2 - t) @ w2.T).equal(true)

    def in_front(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda h: ((h.clamp(min=0) @ w2 - t) ** 2).sum(), h)
        return bool((h == 0).any()) or (2 * (h.clamp(min=0) @ w2 - t) @ w2.T).equal(true)

    shapes = {"h": "1 d", "w2": "d k", "t": "1 k"}
    front, back = counterexample(in_front, **shapes), counterexample(behind, **shapes)
    return Seen(front is None, back is None, f"h1 = x·w1: {told(front)}; h1 = max(x·w1, 0): {told(back)}")


def chain_rule_for_the_hidden_layer() -> Seen:
    """Multiply the cotangent by the Jacobian of h1·w2 with respect to h1, which is w2ᵀ."""

    def holds(h: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda h: ((h @ w2 - t) ** 2).sum(), h)
        jacobian: Tensor = torch.func.jacrev(lambda h: h @ w2)(h).reshape(w2.shape[1], w2.shape[0])
        return jacobian.equal(w2.T) and (2 * (h @ w2 - t) @ jacobian).equal(true)

    found = counterexample(holds, h="1 d", w2="d k", t="1 k")
    return Seen(found is None, None, f"(1, 3) @ (3, 4): {told(found)}")


def cotangent_clamped() -> Seen:
    """Find the smallest network whose gradient is another one, and try the masks in its place, on the kink too."""

    def as_torch_chooses(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w, w2, t), w1)
        return (by_the_mask if installed(AT_A_BOUND.torch) else by_what_is_left)(x, w1, w2, t).equal(true)

    found, masked = where_it_differs(as_printed, ONE), where_it_differs(by_what_is_left, TWO)
    chosen = counterexample(as_torch_chooses, **TWO)
    units, zero = [one_unit(1, 1, 1, 2), one_unit(1, -1, 1, -1)], one_unit(1, 0, 1, 2)
    pairs = [(float(as_printed(**unit)), float(by_what_is_left(**unit))) for unit in units]
    at_zero = [float(by_what_is_left(**zero)), float(by_the_mask(**zero))]
    as_told = pairs == [(0, -2), (2, 0)] and at_zero == [0, -4] and sorted(one_sided(**zero)) == sorted(at_zero)
    shown = [f"{told(unit)}: printed {a:g}, gradient {b:g}" for unit, (a, b) in zip(units, pairs, strict=True)]
    shown += [
        f"grad_h[h1 == 0] = 0, x·w1 ≠ 0: {told(masked)}",
        f"{told(zero)}: {at_zero[0]:g}, [x·w1 ≥ 0]: {at_zero[1]:g}",
    ]
    shown.append(f"torch {AT_A_BOUND.torch} = [x·w1 ≥ 0]: {told(chosen)}")
    return Seen(found is None, masked is None and chosen is None and as_told, "; ".join(shown))


def one_sided(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> list[float]:
    """Return both one-sided derivatives of a single unit's loss: exact, as it is a quadratic on each side."""
    step = 2.0**-10

    def slope(h: float) -> float:
        at = [float(loss(x, w1 + k * h, w2, t)) for k in range(3)]
        return (4 * at[1] - 3 * at[0] - at[2]) / (2 * h)

    return [slope(step), slope(-step)]


def code_for_w1() -> Seen:
    """Ask whether the code agrees exactly where each unit's sign is that of what arrives, and what it gives at 0."""

    def signs_agree(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        h, g = x @ w1, cotangent(x, w1, w2, t)
        return bool((x == 0).all() or ((g == 0) | ((h > 0) == (g > 0))).all())

    def exactly_there(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w, w2, t), w1)
        agrees = as_printed(x, w1, w2, t).equal(true)
        return not no_tie(x, w1) or agrees == signs_agree(x, w1, w2, t)

    def at_zero(x: Tensor, w2: Tensor, t: Tensor) -> bool:
        w1 = torch.zeros_like(x)
        return float(as_printed(x, w1, w2, t)) in one_sided(x, w1, w2, t)

    anywhere, there = where_it_differs(as_printed, ONE), counterexample(exactly_there, **ONE)
    zero = counterexample(at_zero, x="1 1", w2="1 1", t="1 1")
    shown = f"{told(anywhere)}; equal ⟺ [h > 0] = [g > 0]: {told(there)}; h = 0, one-sided: {told(zero)}"
    return Seen(anywhere is None, there is None and zero is None, shown)


def loss_falls() -> Seen:
    """Follow the printed program in ball arithmetic, with all hidden units negative, and as it is recorded."""

    def falls(given: dict[str, Tensor]) -> tuple[bool, str]:
        run = [step["loss"] for step in true_run(PRINTED, given)]
        down = all(bool((after.hi < before.lo).all()) for before, after in itertools.pairwise(run))
        return down, f"{float(run[0].lo):.6f} → {float(run[-1].lo):.6f}"

    dead, recorded = {**inputs(), "x": torch.ones(1, 2), "w1": -torch.ones(2, 4)}, inputs()
    (moves, still), (down, ends) = falls(dead), falls(recorded)
    return Seen(moves, down, f"x·w1 < 0: {still}; as recorded: {ends}")


def fall(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> float:
    """Return how much the loss falls along the printed updates for each unit of the learning rate, to first order."""
    for_w1, for_w2 = gradients(lambda w, v: loss(x, w, v, t), w1, w2)
    return float((for_w1 * as_printed(x, w1, w2, t)).sum() + (for_w2**2).sum())


def downhill(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
    """Say whether the printed updates do not raise the loss, to first order."""
    return not no_tie(x, w1) or fall(x, w1, w2, t) >= 0


def step_goes_downhill() -> Seen:
    """Look for an update that raises the loss, with one sample and with two; with one, by the sums of the proof."""

    def by_the_proof(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        active = (x @ w1 > 0) * cotangent(x, w1, w2, t).clamp(min=0)
        (for_w2,) = gradients(lambda v: loss(x, w1, v, t), w2)
        return not no_tie(x, w1) or fall(x, w1, w2, t) == (x**2).sum() * (active**2).sum() + (for_w2**2).sum()

    as_told = one_unit(0, 1, -1, 0)
    as_told |= {name: torch.tensor(x, dtype=torch.float64) for name, x in (("x", [[1], [-1]]), ("t", [[0], [3]]))}
    two = counterexample(downhill, **TWO)
    one, proof = counterexample(downhill, **ONE), counterexample(by_the_proof, **ONE)
    shown = f"two samples: {told(two)}; {told(as_told)}: {fall(**as_told):g}; one sample: {told(one)}, {told(proof)}"
    return Seen(two is None, one is None and proof is None and fall(**as_told) == -4, shown)


def learning_rate_learns() -> Seen:
    """Follow both rules over the document's 20 epochs, and over 2,000 at a rate a hundred times as high."""

    def followed(program: Program, rate: float, epochs: int) -> tuple[float, float]:
        given = {name: x.double() for name, x in inputs().items()}
        longer = replace(program, learning_rate=rate, dtype=torch.float64)
        parameters = {name: given[name] for name in program.parameters}
        losses = []
        for _ in range(epochs):
            step = longer.step(parameters, given)
            losses.append(float(step.loss))
            parameters = step.parameters
        return losses[0], losses[-1]

    runs = {rate: [followed(p, rate, epochs) for p in (PRINTED, RIGHT)] for rate, epochs in ((1e-6, 20), (1e-4, 2000))}
    told_as = {rate: [(f"{first:.2f}", f"{last:.2g}") for first, last in pairs] for rate, pairs in runs.items()}
    lost = [f"{100 * (1 - last / first):.2f}" for first, last in runs[1e-6]]
    right = lost == ["0.26", "0.26"] and told_as[1e-4] == [("24.17", "1.3e-06"), ("24.17", "5.1e-07")]
    shown = "; ".join(
        f"{epochs} epochs at {rate}: as printed {a[0]:.6g} → {a[1]:.6g}, with the gradient {b[0]:.6g} → {b[1]:.6g}"
        for (rate, (a, b)), epochs in zip(runs.items(), (20, 2000), strict=True)
    )
    return Seen(all(last < first / 2 for first, last in runs[1e-6]), right, shown)


def chain_rule_for_w1_in_this_order() -> Seen:
    """Multiply the three factors in the printed order, and with xᵀ in front."""
    error, w2, x = torch.ones(1, 3), torch.ones(4, 3), torch.ones(1, 2)
    refusal = refused(lambda: error @ w2.T @ x.T)

    def holds(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: ((x @ w @ w2 - t) ** 2).sum(), w1)
        return (x.T @ (2 * (x @ w1 @ w2 - t) @ w2.T)).equal(true)

    found = counterexample(holds, **TWO)
    return Seen(refusal is None, found is None, f"{refusal}; xᵀ @ 2(ŷ − y) @ w2ᵀ without the clamp: {told(found)}")


def chain_rule_for_w1() -> Seen:
    """Multiply what the line puts for the two factors, and then the cotangent and the Jacobian."""
    error, w2, x = torch.ones(1, 3), torch.ones(4, 3), torch.ones(1, 2)
    refusal = refused(lambda: error @ (w2.T @ x.T))

    def holds(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w, w2, t), w1)
        jacobian: Tensor = torch.func.jacrev(lambda w: (x @ w).clamp(min=0) @ w2)(w1).reshape(t.numel(), w1.numel())
        return (2 * ((x @ w1).clamp(min=0) @ w2 - t) @ jacobian).reshape(w1.shape).equal(true)

    found = counterexample(holds, **ONE)
    return Seen(refusal is None, found is None, f"{refusal}; (1, 3) @ (3, 8): {told(found)}")


def formula_for_w1_without_the_clamp() -> Seen:
    """Compare the formula, in the right order, with the program's gradient, and with the mask put in."""
    bare = where_it_differs(lambda x, w1, w2, t: x.T @ cotangent(x, w1, w2, t), ONE)
    masked = where_it_differs(by_the_mask, TWO)
    return Seen(bare is None, masked is None, f"without: {told(bare)}; with [x·w1 ≥ 0]: {told(masked)}")


def derivation_explains_the_code() -> Seen:
    """Ask whether the derived formula is what the code computes, and whether either is the gradient."""

    def the_same(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        return (x.T @ cotangent(x, w1, w2, t)).equal(as_printed(x, w1, w2, t))

    def two_alike(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        formula, code, true = x.T @ cotangent(x, w1, w2, t), as_printed(x, w1, w2, t), by_the_mask(x, w1, w2, t)
        return not no_tie(x, w1) or formula.equal(code) or code.equal(true) or true.equal(formula)

    same, three = counterexample(the_same, **ONE), counterexample(two_alike, **ONE)
    return Seen(same is None, three is not None, f"formula ≠ code: {told(same)}; three different: {told(three)}")


def updates_are_gradient_descent() -> Seen:
    """Change the weights in both orders of the lines, and by torch's own gradient descent, at a rate of 1/8."""

    def holds(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        given = as_printed(x, w1, w2, t), gradients(lambda v: loss(x, w1, v, t), w2)[0]
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

    found = counterexample(holds, **TWO)
    return Seen(found is None, None, f"torch.optim.SGD: {told(found)}")


def derivative_of_wx() -> Seen:
    """Compare wᵀ with the Jacobian of w·x, a row for each output, and with a row for each element of x."""

    def jacobian(w: Tensor, x: Tensor) -> Tensor:
        found: Tensor = torch.func.jacrev(lambda x: w @ x)(x)
        return found.reshape(w.shape)

    def carries_back(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda x: w @ x, x, grad_y=g)
        return jacobian(w, x).T.equal(w.T) and (w.T @ g).equal(true)

    rows = counterexample(lambda w, x: jacobian(w, x).equal(w.T), w="n d", x="d 1")
    columns = counterexample(carries_back, w="n d", x="d 1", g="n 1")
    shown = f"∂y_i/∂x_j in row i: {told(rows)}; in row j, wᵀ @ grad: {told(columns)}"
    return Seen(rows is None, columns is None, shown)


def this_formula_alone() -> Seen:
    """Try the formula on the other factor and on the square, and then the ones that are needed besides."""

    def alone(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda w: w @ x, w, grad_y=g)
        return x.shape[0] == g.shape[0] and (x.T @ g).shape == true.shape and (x.T @ g).equal(true)

    def on_the_right(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda w: w @ x, w, grad_y=g)
        return (g @ x.T).equal(true)

    def linear(e: Tensor, f: Tensor) -> bool:  # a product with a constant would be, whatever the constant
        slope = [gradients(lambda e: (e**2).sum(), v)[0] for v in (e, f, torch.zeros_like(e))]
        return slope[0].equal(slope[1]) and slope[2].equal(slope[0])

    shapes = {"w": "n d", "x": "d m", "g": "n m"}
    left, right = counterexample(alone, **shapes), counterexample(on_the_right, **shapes)
    square, masked = counterexample(linear, e="1", f="1"), where_it_differs(by_the_mask, TWO)
    shown = f"xᵀ on the left: {told(left)}; grad @ xᵀ: {told(right)}; e²: {told(square)}; the mask: {told(masked)}"
    return Seen(left is None and square is None, right is None and masked is None, shown)
