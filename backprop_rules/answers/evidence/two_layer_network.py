"""Evidence of the claims of `two_layer_network`.

The gradient in front of the clamp is the cotangent where the hidden layer is positive and nothing where it is
negative; where it is zero there are two derivatives, and nothing is asked. `t` is the target.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from backprop_rules.answers.claim import Seen
from backprop_rules.answers.tools import as_code, counterexample, gradients, refused, told, verified
from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.documents.certified import true_run
from backprop_rules.documents.two_layer_network import PROGRAMS, forward, inputs
from backprop_rules.tracing import traced

ONE = {"x": "1 d", "w1": "d h", "w2": "h k", "t": "1 k"}
TWO = {"x": "2 d", "w1": "d h", "w2": "h k", "t": "2 k"}
RIGHT, PRINTED = PROGRAMS


def loss(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what the document's program prints."""
    return (((x @ w1).clamp(min=0) @ w2 - t) ** 2).sum()


def cotangent(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what arrives at the hidden layer behind the clamp."""
    return 2 * ((x @ w1).clamp(min=0) @ w2 - t) @ w2.T


def by_the_mask(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return the gradient of w1."""
    return x.T @ (cotangent(x, w1, w2, t) * (x @ w1 > 0))


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
    """Form every product of the program with the shapes that it has."""
    x, t, w1, w2 = torch.ones(1, 2), torch.ones(1, 3), torch.ones(2, 4), torch.ones(4, 3)
    error = x.mm(w1).mm(w2) - t
    made = [x.mm(w1).t().mm(error), x.t().mm(error.mm(w2.t()))]
    shapes = [tuple(g.shape) for g in made]
    return Seen(shapes == [tuple(w2.shape), tuple(w1.shape)], None, f"grad_w2 {shapes[0]}, grad_w1 {shapes[1]}")


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
    """Find the argument of the minimum, and hold it and the sum against what the program prints."""

    def least(t: Tensor) -> Tensor:  # a sum of squares is zero at the target and nowhere else
        return t.clone()

    def is_the_argmin(p: Tensor, t: Tensor) -> bool:
        return bool((least(t) == ((p - t) ** 2).sum()).all())

    def is_the_sum(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        found: Tensor = sum_of_squared_errors((x @ w1).clamp(min=0) @ w2, t)
        return found.equal(loss(x, w1, w2, t))

    argmin, total = counterexample(is_the_argmin, p="k", t="k"), counterexample(is_the_sum, **ONE)
    assert argmin is not None
    printed = ((argmin["p"] - argmin["t"]) ** 2).sum()
    shown = f"{told(argmin)}: Σ = {as_code(printed)}, argmin = {as_code(least(argmin['t']))}; Σ: {told(total)}"
    return Seen(argmin is None, total is None, shown)


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
    swapped = counterexample(lambda e, h: (e.T @ h).T.equal(h.T @ e), e="1 k", h="1 d")
    shown = f"grad.mm(h1.t()): {formula}; h1.t().mm(grad): {code or 'multiplies'}"
    return Seen(formula == code, code is None and swapped is None, shown)


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


def cotangent_clamped() -> Seen:
    """Find the smallest network whose gradient is another one, and try the mask in its place."""
    found, masked = where_it_differs(as_printed, ONE), where_it_differs(by_the_mask, TWO)
    units = [one_unit(1, 1, 1, 2), one_unit(1, -1, 1, -1)]
    pairs = [(float(as_printed(**unit)), float(by_the_mask(**unit))) for unit in units]
    as_told = pairs == [(0, -2), (2, 0)]
    shown = "; ".join(f"{told(unit)}: printed {a:g}, gradient {b:g}" for unit, (a, b) in zip(units, pairs, strict=True))
    return Seen(found is None, masked is None and as_told, f"{shown}; mask: {told(masked)}")


def code_for_w1() -> Seen:
    """Ask whether the code's line agrees exactly where each unit's sign is that of what arrives."""

    def signs_agree(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        h, g = x @ w1, cotangent(x, w1, w2, t)
        return bool((x == 0).all() or ((g == 0) | ((h > 0) == (g > 0))).all())

    def exactly_there(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: loss(x, w, w2, t), w1)
        agrees = as_printed(x, w1, w2, t).equal(true)
        return not no_tie(x, w1) or agrees == signs_agree(x, w1, w2, t)

    anywhere, there = where_it_differs(as_printed, ONE), counterexample(exactly_there, **ONE)
    return Seen(anywhere is None, there is None, f"{told(anywhere)}; equal ⟺ [h > 0] = [g > 0]: {told(there)}")


def loss_falls() -> Seen:
    """Follow the printed program over its 20 epochs in ball arithmetic, and the right one beside it."""
    printed, right = ([step["loss"] for step in true_run(p, inputs())] for p in (PRINTED, RIGHT))
    falls = all(bool((after.hi < before.lo).all()) for before, after in pairwise(printed))
    ends = [f"{float(run[0].lo):.6f} → {float(run[-1].lo):.6f}" for run in (printed, right)]
    return Seen(falls, None, f"20 epochs, learning rate 1e-6: as printed {ends[0]}, with the gradient {ends[1]}")


def downhill(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
    """Say whether the printed step does not go uphill, to first order, in w1 and w2 together."""
    if not no_tie(x, w1):
        return True
    for_w1, for_w2 = gradients(lambda w, v: loss(x, w, v, t), w1, w2)
    return float((for_w1 * as_printed(x, w1, w2, t)).sum() + (for_w2**2).sum()) >= 0


def step_goes_downhill() -> Seen:
    """Look for an uphill step, with one sample and with two; with one, by the sum of squares of the proof."""

    def by_the_proof(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        active = (x @ w1 > 0) * cotangent(x, w1, w2, t).clamp(min=0)
        slope = (by_the_mask(x, w1, w2, t) * as_printed(x, w1, w2, t)).sum()
        return slope.equal((x**2).sum() * (active**2).sum())

    as_told = one_unit(0, 1, -1, 0)
    as_told |= {name: torch.tensor(x, dtype=torch.float64) for name, x in (("x", [[1], [-1]]), ("t", [[0], [3]]))}
    two = counterexample(downhill, **TWO)
    one, proof = counterexample(downhill, **ONE), counterexample(by_the_proof, **ONE)
    shown = f"two samples: {told(two)}; one: {told(one)}; ⟨∇, step⟩ = |x|² Σ_h>0 max(g, 0)²: {told(proof)}"
    return Seen(two is None, one is None and proof is None and not downhill(**as_told), shown)


def learning_rate_learns() -> Seen:
    """Follow both rules over the document's 20 epochs, and over 2,000 at a rate a thousand times as high."""

    def last(program: Any, rate: float, epochs: int) -> tuple[float, float]:
        given = {name: x.double() for name, x in inputs().items()}
        longer = replace(program, learning_rate=rate, dtype=torch.float64)
        parameters = {name: given[name] for name in program.parameters}
        losses = []
        for _ in range(epochs):
            step = longer.step(parameters, given)
            losses.append(float(step.loss))
            parameters = step.parameters
        return losses[0], losses[-1]

    short = [last(program, 1e-6, 20) for program in (PRINTED, RIGHT)]
    long = [last(program, 1e-4, 2000) for program in (PRINTED, RIGHT)]
    halves, learns = all(end < first / 2 for first, end in short), all(end < first / 2 for first, end in long)
    slower = short[0][1] > short[1][1] and long[0][1] > long[1][1]
    shown = "; ".join(
        f"{epochs} epochs at {rate}: as printed {a[0]:.6g} → {a[1]:.6g}, with the gradient {b[0]:.6g} → {b[1]:.6g}"
        for epochs, rate, (a, b) in ((20, 1e-6, short), (2000, 1e-4, long))
    )
    return Seen(halves, learns and slower, shown)


def chain_rule_for_w1_in_this_order() -> Seen:
    """Multiply the three factors in the printed order, and with xᵀ in front."""
    error, w2, x = torch.ones(1, 3), torch.ones(4, 3), torch.ones(1, 2)
    refusal = refused(lambda: error @ w2.T @ x.T)

    def holds(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        (true,) = gradients(lambda w: ((x @ w @ w2 - t) ** 2).sum(), w1)
        return (x.T @ (2 * (x @ w1 @ w2 - t) @ w2.T)).equal(true)

    found = counterexample(holds, **TWO)
    return Seen(refusal is None, found is None, f"{refusal}; xᵀ @ 2(ŷ − y) @ w2ᵀ without the clamp: {told(found)}")


def formula_for_w1_without_the_clamp() -> Seen:
    """Compare the formula, in the right order, with the program's gradient, and with the mask put in."""
    bare = where_it_differs(lambda x, w1, w2, t: x.T @ cotangent(x, w1, w2, t), ONE)
    masked = where_it_differs(by_the_mask, TWO)
    return Seen(bare is None, masked is None, f"without: {told(bare)}; with [x·w1 > 0]: {told(masked)}")


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
    """Change the weights in either order, with the gradients of the old ones, and then with one formed between."""

    def steps(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor, between: bool) -> tuple[Tensor, Tensor]:
        g1, g2 = gradients(lambda w, v: loss(x, w, v, t), w1, w2)
        first = w1 - g1
        (late,) = gradients(lambda v: loss(x, first, v, t), w2)
        return first, w2 - (late if between else g2)

    def at_once(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        g1, g2 = gradients(lambda w, v: loss(x, w, v, t), w1, w2)
        after = steps(x, w1, w2, t, between=False)
        return after[0].equal(w1 - g1) and after[1].equal(w2 - g2)

    def order_is_nothing(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> bool:
        return all(map(torch.equal, steps(x, w1, w2, t, between=True), steps(x, w1, w2, t, between=False)))

    right, late = counterexample(at_once, **TWO), counterexample(order_is_nothing, **TWO)
    shown = f"the old gradients: {told(right)}; grad_w2 formed after w1 has changed: {told(late)}"
    return Seen(right is None and late is not None, None, shown)


def derivative_of_wx() -> Seen:
    """Compare wᵀ with the Jacobian of w·x, and use it as a factor on the left of what arrives."""

    def is_the_jacobian(w: Tensor, x: Tensor) -> bool:
        found: Tensor = torch.func.jacrev(lambda x: w @ x)(x)
        return bool(found.reshape(w.shape).equal(w.T))

    def carries_back(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda x: w @ x, x, grad_y=g)
        return (w.T @ g).equal(true)

    jacobian = counterexample(is_the_jacobian, w="n d", x="d 1")
    factor = counterexample(carries_back, w="n d", x="d m", g="n m")
    return Seen(jacobian is None, factor is None, f"Jacobian = wᵀ: {told(jacobian)}; wᵀ @ grad: {told(factor)}")


def this_formula_alone() -> Seen:
    """Try the formula on the other factor, and then the ones that are needed besides."""

    def alone(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda w: w @ x, w, grad_y=g)
        return x.shape[0] == g.shape[0] and (x.T @ g).shape == true.shape and (x.T @ g).equal(true)

    def on_the_right(w: Tensor, x: Tensor, g: Tensor) -> bool:
        (true,) = gradients(lambda w: w @ x, w, grad_y=g)
        return (g @ x.T).equal(true)

    shapes = {"w": "n d", "x": "d m", "g": "n m"}
    left, right = counterexample(alone, **shapes), counterexample(on_the_right, **shapes)
    masked = where_it_differs(by_the_mask, TWO)
    shown = f"xᵀ on the left: {told(left)}; grad @ xᵀ: {told(right)}; and the mask: {told(masked)}"
    return Seen(left is None, right is None and masked is None, shown)
