"""Evidence of the claims of `matmul_derivatives`: y = xW in whole numbers, with y a scalar, a vector and a matrix.

The document's formulas are worked out as they are printed. What they say of derivatives is held against exact
differences, or torch's autograd.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers import claims
from backprop_rules.documents.answers.claim import Evidence, Said, Seen, cannot_be_checked, holds, holds_if, slip
from backprop_rules.documents.answers.drawn import Point, Statement, Value, as_code, counterexample, told, untrue
from backprop_rules.documents.answers.notation import holds_of, worked_out
from backprop_rules.documents.answers.tools import back, computed, defined, gradients, misprint, ran, shape, units

Names = dict[str, Any]
SCALAR = {"x": "1 4", "w": "4 1"}
VECTOR = {"x": "1 4", "w": "4 2", "grad_y": "1 2"}
MATRIX = {"x": "n d", "w": "d k", "grad_y": "n k"}
STEP = 2.0**-10  # a slight change; a power of two, so that nothing rounds
TRIED = range(1, 7)  # the sizes that are tried where the document prints one
WRITTEN = {claim.id: claim.formula or "" for claim in claims("matmul_derivatives")}  # the document's formulas


def given(formula: str, **names: Tensor) -> dict[str, Tensor]:
    """Return what a formula such as t = y + 1 gives to the name on its left."""
    name, _, value = formula.replace("δ", "∂").partition("=")
    found = worked_out(value, names)
    return {name.strip(): found if isinstance(found, Tensor) else torch.tensor(float(found), dtype=torch.float64)}


ARRIVES = given(WRITTEN["loss_in_the_scalar_picture"])["∂L/∂y"].reshape(1, 1)


def slopes(function: Value, at: Tensor, step: float = STEP) -> Tensor:
    """Return the changes of the function's number over the step of each element alone, laid out like the variable."""
    return ((function(at + step * units(at)) - function(at)) / step).reshape(at.shape)


def names(x: Tensor, w: Tensor, grad_y: Tensor) -> Names:
    """Return what the document's letters stand for, with an L that has this derivative with respect to y.

    The derivatives for whole variables are autograd's, those for single elements exact differences.
    """
    by_x, by_w = back(x, w, grad_y)
    one_x = slopes(lambda v: (grad_y * (v @ w)).sum((-2, -1)), x)
    one_w = slopes(lambda v: (grad_y * (x @ v)).sum((-2, -1)), w)
    single = {f"∂L/∂x_{i}": one for i, one in enumerate(one_x.flatten(), 1)}
    single |= {f"∂L/∂W_{i}{j}": one for i, row in enumerate(one_w, 1) for j, one in enumerate(row, 1)}
    return {"x": x, "W": w, "y": x @ w, "∂L/∂y": grad_y, "∂L/∂x": by_x, "∂L/∂W": by_w, **single}


def scalar(x: Tensor, w: Tensor) -> Names:
    """Return the letters of the scalar case, where the derivatives of y are laid out like the variables."""
    return {**names(x, w, ARRIVES), "∂y/∂x": slopes(lambda v: v @ w, x), "∂y/∂W": slopes(lambda v: x @ v, w)}


def true(of: Callable[..., Names], **shapes: str) -> Evidence:
    """Return the evidence that the printed formula is true, and all that the texts say."""

    def evidence(said: Said) -> Seen:
        every = [*filter(None, [said.printed]), *(said[name] for name in said.texts)]
        found = untrue(every, of, **shapes)
        return holds(bool(every) and found is None, f"{', '.join(every)}: {told(found)}")

    return evidence


of_a_scalar, of_a_vector = partial(true, scalar, **SCALAR), partial(true, names, **VECTOR)


def everywhere(statement: Statement, **shapes: str) -> Evidence:
    """Return the evidence that the statement is true at every point drawn."""

    def evidence(said: Said) -> Seen:
        found = counterexample(statement, **shapes)
        return holds(found is None, told(found))

    return evidence


def together(function: Value, x: Tensor, w: Tensor) -> Tensor:
    """Return what 1 more of both does beyond what each does alone, for each element of x, of W and of the value."""
    xs, ws = x + units(x), w + units(w)
    both = function(xs.unsqueeze(1), ws)
    alone = function(xs, w).unsqueeze(1) + function(x, ws) - function(x, w)
    return (both - alone).reshape(x.numel(), w.numel(), -1)


def example(case: str) -> tuple[Tensor, ...]:
    """Return x, W and ∂L/∂y of the document's program, in whole numbers."""
    return tuple(PROGRAMS[f"matmul_derivatives_{case}"].inputs().values())


# ---- Two ways, and the core idea


def by_both_ways(x: Tensor, w: Tensor, grad_y: Tensor) -> bool:
    """Say whether the program's step by its rules, and that by torch's graph, have equal gradients."""
    program, given = PROGRAMS["matmul_derivatives_matrix"], ({"x": x, "w": w}, {"grad_y": grad_y})
    ours, theirs = program.step(*given), program.by_autograd(*given)
    return all(ours[f"gradient of {name}"].equal(theirs[f"gradient of {name}"]) for name in ("x", "w"))


formulas_and_graph_agree = everywhere(by_both_ways, **MATRIX)


def effect_of_a_slight_change(said: Said) -> Seen:
    """Go a little to either side: from the clamp's bound, and from drawn points of a product."""
    bound = torch.zeros((), dtype=torch.float64)
    up, down = (float(slopes(lambda v: computed(said["bound"], x=v), bound, step)) for step in (STEP, -STEP))
    found = counterexample(
        lambda x, w: all(slopes(lambda v: v @ w, x, step).equal(w.T) for step in (STEP, -STEP)), **SCALAR
    )
    right = found is None and [up, down] == [said.number("up"), said.number("down")]
    return holds_if(right, up == down, f"{said['bound']}: «down» {down:g}, «up» {up:g}; {told(found)}")


# ---- y a scalar


def sizes_in_the_scalar_picture(said: Said) -> Seen:
    """Read y as a matrix and as a number without axes: −Wᵀ and −xᵀ come out both times."""
    x, w, _ = example("scalar")
    shapes, fits = [shape(x), shape(w)], holds_of(said.formula, {"x": x, "W": w, "y": x @ w})
    for y in (torch.matmul, lambda x, w: (x @ w).squeeze()):
        shapes.append(shape(y(x, w)))
        by_x, by_w = gradients(y, x, w, grad_y=ARRIVES.reshape(y(x, w).shape))
        at = {"x": x, "W": w, "∂L/∂x": by_x, "∂L/∂W": by_w}
        fits = fits and all(holds_of(WRITTEN[f"minus_{name}_transposed"], at) for name in "wx")
    right = shapes == [said[name] for name in ("x", "w", "matrix", "bare")]
    return cannot_be_checked(fits and right, ", ".join(shapes))


def agree(written: Sequence[str], *at: Tensor) -> bool:
    """Say whether these formulas of the document are true of x, W and ∂L/∂y."""
    return all(holds_of(WRITTEN[name], names(*at)) for name in written)


def numbered(d: int, h: int) -> tuple[Tensor, ...]:
    """Return x, W and ∂L/∂y of these sizes, counting up from 1, with no element twice in one of them."""
    shapes = ((1, d), (d, h), (1, h))
    return tuple(torch.arange(1.0, 1 + n * k, dtype=torch.float64).reshape(n, k) for n, k in shapes)


def sizes(*written: str, outputs: Sequence[int] = TRIED) -> Evidence:
    """Return the evidence that these formulas can be worked out, and are true, with the printed size alone."""

    def evidence(said: Said) -> Seen:
        fit = [size for size in product(TRIED, outputs) if defined(partial(agree, written, *numbered(*size)))]
        every = [said.formula, *(f"{name} = {said[name]}" for name in said.texts)]
        right = all(holds_of(formula, dict(zip("DH", size, strict=True))) for formula in every for size in fit)
        return holds(right and len(fit) == 1, f"W: {', '.join(map(str, fit))}")

    return evidence


size_d_of_the_scalar_case = sizes("layout_of_the_derivative_by_x", outputs=[1])
size_d_of_the_vector_case = sizes("row_of_four_sums", "row_times_matrix", "matrix_of_products")
size_h_of_the_vector_case = sizes("row_of_four_sums")
each_element_meets_its_own_weight = everywhere(  # a row for each element of x, a column for each of W
    lambda x, w: together(torch.matmul, x, w)[:, :, 0].equal(torch.eye(4, dtype=x.dtype)), **SCALAR
)
idea_applied_to_the_product = everywhere(  # whatever the step
    lambda x, w: all(
        slopes(lambda v: v @ w, x, step).equal(w.T) and slopes(lambda v: x @ v, w, step).equal(x.T)
        for step in (STEP, -8.0)
    ),
    **SCALAR,
)
ordinary_products = derivative_by_x1 = derivative_by_w1 = other_elements_of_the_scalar_case = of_a_scalar()


def derivative_by_x_is_w_transposed(said: Said) -> Seen:
    """Lay the derivative out like x, and as a Jacobian: a row for each output."""
    found, (x, w, _) = untrue(said["rule"], scalar, **SCALAR), example("scalar")
    matrix = jacobian(lambda v: v @ w, x[0])
    right = found is None and matrix.equal(w.T) and shape(matrix) == said["shape"] == shape(x)
    return holds(right, f"{said['rule']}: {told(found)}; jacobian: {as_code(matrix)}")


def derivative_by_w_is_x_transposed(said: Said) -> Seen:
    """Lay the derivative out like W, as .grad is, and as a Jacobian."""
    found, (x, w, grad_y) = untrue(said["rule"], scalar, **SCALAR), example("scalar")
    matrix, like_w = jacobian(lambda v: x @ v, w[:, 0]), back(x, w, torch.ones_like(grad_y))[1]
    shapes = [shape(like_w), shape(matrix)] == [said["column"], said["row"]]
    right = found is None and like_w.equal(x.T) and matrix.equal(x) and shapes
    return holds_if(right, matrix.equal(x.T), f".grad: {as_code(like_w)}; jacobian: {as_code(matrix)}")


def loss_in_the_scalar_picture(said: Said) -> Seen:
    """Take two losses with the printed derivative at y, and differentiate both after y has grown."""
    x, w, _ = example("scalar")
    y = x @ w
    t = given(said["target"], y=y)["t"]

    def slope(loss: str, y: Tensor) -> Tensor:
        return gradients(lambda v: given(loss, y=v, t=t)["L"], y)[0]

    here, there = (
        [slope(said[loss], at) for loss in ("plain", "square")] for at in (y, y + float(said.number("moved")))
    )
    printed = all(holds_of(said.formula, {"∂L/∂y": found}) for found in here)
    right = [float(found) for found in there] == [said.number("first"), said.number("second")]
    return cannot_be_checked(printed and right, f"∂L/∂y: {as_code(torch.cat(here))}; {as_code(torch.cat(there))}")


chain_rule_to_x = true(  # the square has not the same derivative everywhere
    lambda x, w: {
        **scalar(x, w),
        "∂L/∂y": gradients(torch.square, x @ w)[0],
        "∂L/∂x": gradients(lambda v: (v @ w) ** 2, x)[0],
    },
    **SCALAR,
)
minus_w_transposed = layout_of_the_derivative_by_x = minus_x_transposed = of_a_scalar()


def factor_of_the_wrong_variable(said: Said) -> Seen:
    """Work out the product with the printed factor, and with that of W."""
    found = [untrue(one, scalar, **SCALAR) for one in (said.formula, said["meant"], said["printed"])]
    return slip(found[0] is None, found[1:] == [None, None], f"{told(found[0])}; {said['meant']}: {told(found[1])}")


# ---- y a vector


def place(name: str, of: str) -> int:
    """Return the place of an element, such as W_21, among all of its variable."""
    rows, columns = {"x": (1, 4), "W": (4, 2), "y": (1, 2)}[of]
    return int(worked_out(name, {of: torch.arange(rows * columns).reshape(rows, columns)}))


def meets(element: str, weight: str, beyond: str = "") -> Point | None:
    """Return a point at which L, if both grow together, does not change by this beyond what each does alone."""
    i, j = place(element, "x"), place(weight, "W")

    def right(x: Tensor, w: Tensor, grad_y: Tensor) -> bool:
        found = together(lambda v, u: (grad_y * (v @ u)).sum((-2, -1)), x, w)[i, j]
        return holds_of(f"found = {beyond or f'∂L/∂y_{weight[-1]}'}", {"found": found, "∂L/∂y": grad_y})

    return counterexample(right, **VECTOR)


def x1_meets_w11_and_y1(said: Said) -> Seen:
    """Change the element and each of the weights together: L notices by what arrives at the output."""
    found = [meets(said["element"], said["weight"], said["arrives"]), meets(said["element"], said["other"])]
    return holds(found == [None, None] and said["weight"] != said["other"], "; ".join(map(told, found)))


def x2_does_not_meet_w12(said: Said) -> Seen:
    """Change the printed element with the printed weight, then the element that is meant."""
    printed, meant = (meets(said[name], said["weight"], said["arrives"]) for name in ("element", "meant"))
    own = [meets(said["element"], said[name]) for name in ("first", "second")]
    right = [meant, *own, meets(said["element"], said["weight"], "0")] == [None] * 4 and said["first"] != said["second"]
    shown = f"{said['element']}, {said['weight']}: {told(printed)}; {said['meant']}, {said['weight']}: {told(meant)}"
    return slip(printed is None, right, shown)


derivative_by_x1_over_two_outputs = other_elements_of_the_vector_case = row_of_four_sums = of_a_vector()
row_times_matrix = printed_matrix_is_w_transposed = vector_rule_for_x = of_a_vector()
derivative_by_w11 = derivative_by_w12 = matrix_of_products = of_a_vector()


def minus_w11_minus_w12(said: Said) -> Seen:
    """Work the formula out with any ∂L/∂y, and with the one that is said."""

    def where(x: Tensor, w: Tensor, grad_y: Tensor) -> Names:
        return names(x, w, given(said["given"])["∂L/∂y"])

    found, right = (untrue(said.formula, of, **VECTOR) for of in (names, where))
    return holds_if(right is None, found is None, f"{told(found)}; {said['given']}: {told(right)}")


def w11_meets_only_x1(said: Said) -> Seen:
    """Change the weight together with each element of x: one output notices, and one element alone."""
    element, weight, output = (
        place(said[name], of) for name, of in (("element", "x"), ("weight", "W"), ("output", "y"))
    )
    alone = torch.zeros(4, 2, dtype=torch.float64)  # a row for each element of x, a column for each of y
    alone[element, output] = 1
    found = counterexample(lambda x, w, grad_y: together(torch.matmul, x, w)[:, weight].equal(alone), **VECTOR)
    return holds(found is None, told(found))


w12_meets_only_x1 = w11_meets_only_x1


def vector_rule_for_w(said: Said) -> Seen:
    """Work the formula out, and look at the shapes of its factors."""
    found, (x, w, grad_y) = untrue(said.formula, names, **VECTOR), example("vector")
    shapes = [shape(v) for v in (x.T, grad_y, w)] == [said[name] for name in ("column", "row", "shape")]
    return holds(found is None and shapes, f"{said.formula}: {told(found)}")


def two_readings(*readings: tuple[Tensor, ...], written: Sequence[str]) -> Seen:
    """Speak for x, W and ∂L/∂y that agree with all that is written, and have different ∂L/∂W."""
    fits = all(agree(written, *at) for at in readings)
    first, second = (back(*at)[1] for at in readings)
    return cannot_be_checked(fits and not first.equal(second), f"∂L/∂W: {as_code(first)}; {as_code(second)}")


RULES = ["vector_rule_for_x", "vector_rule_for_w"]


def numbers_in_the_vector_picture(said: Said) -> Seen:
    """Take two rows for x, with the ∂L/∂y for which line 62 says what line 48 does."""
    (x, w, _), arrives = example("matrix"), -torch.ones(1, 2, dtype=torch.float64)
    written = ["minus_w11_minus_w12", "row_of_four_sums", "row_times_matrix", "matrix_of_products", *RULES]
    return two_readings(*((row, w, arrives) for row in x[:2].split(1)), written=written)


# ---- y a matrix


def numbers_in_the_matrix_picture(said: Said) -> Seen:
    """Take so many rows of the program's x, and fewer of them: y is a matrix both times."""
    (x, w, grad_y), counts = example("matrix"), [int(said[name]) for name in ("rows", "fewer")]
    readings = [(x[:rows], w, grad_y[:rows]) for rows in counts]
    seen = two_readings(*readings, written=RULES)
    return cannot_be_checked(
        seen.sound and [len(of) for of, _, _ in readings] == counts and min(counts) > 1, seen.shown
    )


def row_by_row(x: Tensor, w: Tensor, grad_y: Tensor) -> bool:
    """Say whether each row of x and y alone has a row of ∂L/∂x, and what adds up to ∂L/∂W."""
    by_x, by_w = back(x, w, grad_y)
    rows = [back(row, w, arrives) for row, arrives in zip(x.split(1), grad_y.split(1), strict=True)]
    return by_x.equal(torch.cat([row[0] for row in rows])) and by_w.equal(torch.stack([row[1] for row in rows]).sum(0))


each_row_is_a_vector_case = everywhere(row_by_row, **MATRIX)


def matrix_rule_for_x(said: Said) -> Seen:
    """Work the rule out with real matrices of every size, and with complex numbers, plain and conjugated."""
    found, point = untrue(said["rule"], names, **MATRIX), ran(said["point"], x=3j, W=3j)
    x, w = (torch.tensor([[point[name]]]) for name in ("x", "W"))
    by_x, by_w = back(x, w, torch.ones_like(x))
    at = {"x": x, "W": w, "∂L/∂y": torch.ones_like(x), "∂L/∂x": by_x, "∂L/∂W": by_w}
    theirs = at[said["rule"].partition(" =")[0]].item()
    conjugated = holds_of(said["rule"], {**at, "x": x.conj(), "W": w.conj()}) and not holds_of(said["rule"], at)
    right = found is None and conjugated and theirs == complex(said["conjugate"])
    return holds(right, f"{said['rule']}: {told(found)}; {said['point']}: {theirs}")


matrix_rule_for_w = matrix_rule_for_x
derivation_of_the_last_case = misprint
