"""Evidence of the claims of `matmul_derivatives`: y = xW in whole numbers, with y a scalar, a vector and a matrix.

Derivatives come from exact differences, or from torch's autograd; the document's formulas are held against them.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers.claim import Evidence, Seen
from backprop_rules.documents.answers.drawn import Value, as_code, difference, same, told
from backprop_rules.documents.answers.tools import back, every, gradients, rather, verified

CASES = {  # the shapes of x, W and ∂L/∂y
    "scalar": {"x": "1 4", "w": "4 1", "grad_y": "1 1"},
    "vector": {"x": "1 4", "w": "4 2", "grad_y": "1 2"},
    "matrix": {"x": "n d", "w": "d k", "grad_y": "n k"},
}
SCALAR, VECTOR = CASES["scalar"], CASES["vector"]
ONE = torch.ones(1, 1, dtype=torch.float64)
MINUS_ONES = -torch.ones(1, 2, dtype=torch.float64)
STEP = 2.0**-10  # a slight change; a power of two, so that nothing rounds
LISTED = torch.tensor([1, 2, 3, 4]) - 1  # the indices of line 30
PRINTED = torch.tensor([[11, 21, 31, 41], [12, 22, 32, 42]])  # the indices of line 60


def example(case: str) -> dict[str, Tensor]:
    """Return x, W and ∂L/∂y of the document's program in whole numbers."""
    return dict(PROGRAMS[f"matmul_derivatives_{case}"].inputs())


def equation(case: str, computed: Value, said: Value) -> Evidence:
    """Return the evidence of an equation: its sides are equal at every point drawn, and shown at one."""

    def evidence() -> Seen:
        found = difference(computed, said, **CASES[case])
        at = found or example(case)
        left, right = (as_code(side(*at.values())) for side in (computed, said))
        outcome = f"{left}; {told(None)}" if found is None else f"{left} ≠ {right}"
        return Seen(found is None, None, f"{told(at)}: {outcome}")

    return evidence


scalar, vector, matrix = (partial(equation, case) for case in CASES)


def units(at: Tensor) -> Tensor:
    """Return a tensor of this shape for each of its elements, with a 1 there and 0 elsewhere."""
    return torch.eye(at.numel(), dtype=at.dtype).reshape(at.numel(), *at.shape)


def quotients(function: Value, at: Tensor, step: float) -> Tensor:
    """Return the change of the function's number over the step, for a step of each element alone."""
    return ((function(at + step * units(at)) - function(at)) / step).reshape(at.shape)


def slopes(function: Value, at: Tensor) -> Tensor:
    """Return the central differences, exact for a polynomial of degree 2 or less, laid out like the variable."""
    return (quotients(function, at, STEP) + quotients(function, at, -STEP)) / 2


def together(function: Value, x: Tensor, w: Tensor) -> Tensor:
    """Return what 1 more of both does beyond what each does alone, for each element of x, of W and of the value."""
    xs, ws = x + units(x), w + units(w)
    both = function(xs.unsqueeze(1), ws)
    alone = function(xs, w).unsqueeze(1) + function(x, ws) - function(x, w)
    return (both - alone).reshape(x.numel(), *w.shape, -1)


def loss(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return an L that has this derivative with respect to y."""
    return (grad_y * (x @ w)).sum((-2, -1))


def together_in_loss(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return what 1 more of both does to L beyond what each does alone, for each element of x and each of W."""
    return together(lambda x, w: loss(x, w, grad_y), x, w).squeeze(-1)


def by_x(x: Tensor, w: Tensor, grad_y: Tensor = ONE) -> Tensor:
    """Return ∂L/∂x, from slight changes of its elements."""
    return slopes(lambda v: loss(v, w, grad_y), x)


def by_w(x: Tensor, w: Tensor, grad_y: Tensor = ONE) -> Tensor:
    """Return ∂L/∂W, from slight changes of the elements of W."""
    return slopes(lambda v: loss(x, v, grad_y), w)


def side_by_side(parts: Iterable[Tensor]) -> Tensor:
    """Return the elements of all of them in one row."""
    return torch.cat([part.flatten() for part in parts])


# ---- Two ways, and the core idea

MATRIX = PROGRAMS["matmul_derivatives_matrix"]
formulas_and_graph_agree = matrix(
    lambda x, w, g: side_by_side(MATRIX.step({"x": x, "w": w}, {"grad_y": g}).gradients.values()),
    lambda x, w, g: side_by_side(MATRIX.by_autograd({"x": x, "w": w}, {"grad_y": g}).gradients.values()),
)


def effect_of_a_slight_change() -> Seen:
    """Go a little to either side: from clamp's bound, and from drawn points of y = xW."""
    bound = torch.zeros(1, dtype=torch.float64)
    down, up = (quotients(lambda v: v.clamp(min=0), bound, step).item() for step in (-STEP, STEP))
    found = difference(
        lambda x, w, _: torch.cat([quotients(lambda v: v @ w, x, step) for step in (-STEP, STEP)]),
        lambda x, w, _: back(x, w, ONE)[0].repeat(2, 1),
        **SCALAR,
    )
    return Seen(down == up, found is None, f"clamp(0, min=0): {as_code(down)}, {as_code(up)}; x @ w: {told(found)}")


# ---- y a scalar


def sizes_in_the_scalar_picture() -> Seen:
    """Read y as a matrix of size (1, 1) and as a number without axes: −Wᵀ and −xᵀ come out both times."""
    x, w, _ = example("scalar").values()
    shapes, fits = [], True
    for y in (torch.matmul, lambda x, w: (x @ w).squeeze()):
        shapes.append(tuple(y(x, w).shape))
        grad_x, grad_w = gradients(y, x, w, grad_y=-torch.ones(shapes[-1], dtype=x.dtype))
        fits = fits and grad_x.equal(-w.T) and grad_w.equal(-x.T)
    return Seen(None, fits and shapes == [(1, 1), ()], f"y.shape: {shapes[0]}, {shapes[1]}; {told({'x': x, 'w': w})}")


def numbered(d: int, h: int) -> tuple[Tensor, ...]:
    """Return x, W and ∂L/∂y of these sizes, counting up from 1, with no element twice in one of them."""
    shapes = ((1, d), (d, h), (1, h))
    return tuple(torch.arange(1.0, 1 + n * k, dtype=torch.float64).reshape(n, k) for n, k in shapes)


def sizes_that_fit(formulas: Callable[..., bool], letters: int) -> list[tuple[int, ...]]:
    """Return the sizes, out of those tried, with which the formulas can be computed and are true."""
    found = []
    for sizes in product(range(1, 7), repeat=letters):
        with suppress(IndexError, RuntimeError):
            if formulas(*sizes):
                found.append(sizes)
    return found


def size_d_of_the_scalar_case(number: Fraction) -> Seen:
    """Look for the D with which the row of line 30, its elements found one by one, is the gradient."""

    def is_the_gradient(d: int) -> bool:
        at = numbered(d, 1)
        return by_x(*at)[:, LISTED].equal(back(*at)[0])

    found = [d for (d,) in sizes_that_fit(is_the_gradient, 1)]
    return Seen(found == [number], None, f"D = {found}")


each_element_meets_its_own_weight = scalar(
    lambda x, w, _: together_in_loss(x, w, ONE)[:, :, 0], lambda x, w, _: torch.eye(4, dtype=x.dtype)
)
ordinary_products = scalar(
    lambda x, w, _: x @ w,
    lambda x, w, _: torch.stack([x[0, i] * w[i] for i in range(4)]).sum(0, keepdim=True),
)


def changes_by(amount: float, x: Tensor, w: Tensor) -> Tensor:
    """Return the changes of y over this change of one element, for each of x and each of W."""
    return torch.cat([quotients(lambda v: v @ w, x, amount), quotients(lambda v: x @ v, w, amount).T])


# y is a straight line in each element, whatever the amount of the change
idea_applied_to_the_product = scalar(
    lambda x, w, _: torch.cat([changes_by(STEP, x, w), changes_by(-8.0, x, w)]),
    lambda x, w, _: torch.cat([back(x, w, ONE)[0], back(x, w, ONE)[1].T]).repeat(2, 1),
)
derivative_by_x1 = scalar(lambda x, w, _: by_x(x, w)[0, 0], lambda x, w, _: w[0, 0])
derivative_by_w1 = scalar(lambda x, w, _: by_w(x, w)[0, 0], lambda x, w, _: x[0, 0])
other_elements_of_the_scalar_case = scalar(
    lambda x, w, _: torch.stack([by_x(x, w)[0, 1:], by_w(x, w)[1:, 0]]),
    lambda x, w, _: torch.stack([w[1:, 0], x[0, 1:]]),
)
derivative_by_x_is_w_transposed = scalar(  # laid out like x, and as a Jacobian: both are 1 by 4
    lambda x, w, _: torch.cat([by_x(x, w), jacobian(lambda v: v @ w, x[0])]),
    lambda x, w, _: w.T.repeat(2, 1),
)


def derivative_by_w_is_x_transposed() -> Seen:
    """Lay the derivative out as a Jacobian, 1 by 4, and like W, 4 by 1."""
    x, w, _ = example("scalar").values()
    matrix, like_w = jacobian(lambda v: x @ v, w[:, 0]), back(x, w, ONE)[1]
    found = difference(lambda x, w, _: by_w(x, w), lambda x, w, _: x.T, **SCALAR)
    shown = f"jacobian: {as_code(matrix)}; .grad: {as_code(like_w)}; {told(found)}"
    return Seen(matrix.equal(x.T), like_w.equal(x.T) and found is None and matrix.equal(x), shown)


def delta_for_the_partial_derivative() -> Seen:
    """Read δ as a slight change, for L = y², and as the sign of the derivative."""

    def quotient(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return quotients(torch.square, x @ w, STEP)

    def differentiated(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return gradients(torch.square, x @ w)[0]

    found = same(f"δy = {STEP}, ", quotient, differentiated, **SCALAR)
    off_by_the_step = same("2y + δy: ", quotient, lambda x, w, _: 2 * (x @ w) + STEP, **SCALAR)
    derivative = same("∂L/∂y = 2y: ", differentiated, lambda x, w, _: 2 * (x @ w), **SCALAR)
    return rather(found, every(off_by_the_step, derivative))()


def loss_in_the_scalar_picture(number: Fraction) -> Seen:
    """Take two losses with the printed derivative at y, and differentiate both at y + 1."""
    y = example("scalar")["x"] @ example("scalar")["w"]
    losses: list[Value] = [lambda v: -v, lambda v: (v - (y + 1)) ** 2 / 2]
    here, there = ([gradients(of, at)[0].item() for of in losses] for at in (y, y + 1))
    return Seen(None, here == [number, number] and there[0] != there[1], f"∂L/∂y: {here}; {there}")


chain_rule_to_x = scalar(  # of L = y², whose derivative is not the same everywhere
    lambda x, w, _: gradients(lambda v: (v @ w) ** 2, x)[0],
    lambda x, w, _: slopes(torch.square, x @ w) * by_x(x, w),
)
minus_w_transposed = scalar(lambda x, w, _: back(x, w, -ONE)[0], lambda x, w, _: -w.T)
layout_of_the_derivative_by_x = scalar(lambda *at: back(*at)[0], by_x)
factor_of_the_wrong_variable = rather(  # the elements are compared in their order
    same("∂y/∂x: ", lambda x, w, _: back(x, w, -ONE)[1].flatten(), lambda x, w, _: -by_x(x, w).flatten(), **SCALAR),
    same("∂y/∂W: ", lambda x, w, _: back(x, w, -ONE)[1], lambda x, w, _: -by_w(x, w), **SCALAR),
)
minus_x_transposed = scalar(lambda x, w, _: back(x, w, -ONE)[1], lambda x, w, _: -x.T)


# ---- y a vector: the document's formulas, by the indices that it prints


def row_of_sums(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return the four sums of line 57."""
    return (grad_y[0, 0] * w[LISTED, 0] + grad_y[0, 1] * w[LISTED, 1]).unsqueeze(0)


def second_of_x(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return ∂L/∂x_2."""
    return back(x, w, grad_y)[0][0, 1]


def printed_matrix(w: Tensor) -> Tensor:
    """Return the matrix of line 60."""
    return w[PRINTED // 10 - 1, PRINTED % 10 - 1]


def products(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return the matrix of lines 69 to 74."""
    return torch.stack([grad_y[0, 0] * x[0, LISTED], grad_y[0, 1] * x[0, LISTED]], dim=1)


def printed_formulas_fit(d: int, h: int) -> bool:
    """Say whether lines 57 to 60 and 69 to 74, as printed, give the gradients with these sizes."""
    x, w, grad_y = numbered(d, h)
    grad_x, grad_w = back(x, w, grad_y)
    row, multiplied = row_of_sums(x, w, grad_y), grad_y @ printed_matrix(w)
    return row.equal(grad_x) and multiplied.equal(grad_x) and products(x, w, grad_y).equal(grad_w)


def sizes_of_the_vector_case(which: int) -> Callable[[Fraction], Seen]:
    """Return the evidence that the printed formulas give the gradients with this number alone for D, or for H."""

    def evidence(number: Fraction) -> Seen:
        sizes = sizes_that_fit(printed_formulas_fit, 2)
        return Seen([both[which] for both in sizes] == [number], None, f"(D, H) = {sizes}")

    return evidence


size_d_of_the_vector_case, size_h_of_the_vector_case = map(sizes_of_the_vector_case, range(2))
x1_meets_w11_and_y1 = vector(lambda *at: together_in_loss(*at)[0, 0, 0], lambda x, w, g: g[0, 0])
x2_does_not_meet_w12 = rather(  # x_2 changes together with W_12, then x_1 does: L is to notice by ∂L/∂y_2
    same("x_2, W_12: ", lambda *at: together_in_loss(*at)[1, 0, 1], lambda x, w, g: g[0, 1], **VECTOR),
    every(
        same("x_1, W_12: ", lambda *at: together_in_loss(*at)[0, 0, 1], lambda x, w, g: g[0, 1], **VECTOR),
        same("∂L/∂x_2, W_12 + 1: ", second_of_x, lambda x, w, g: second_of_x(x, w + units(w)[1], g), **VECTOR),
    ),
)
derivative_by_x1_over_two_outputs = vector(
    lambda *at: by_x(*at)[0, 0], lambda x, w, g: g[0, 0] * w[0, 0] + g[0, 1] * w[0, 1]
)


def minus_w11_minus_w12() -> Seen:
    """Change x_1 slightly, with any ∂L/∂y and with ∂L/∂y = (−1, −1)."""
    found = difference(lambda *at: by_x(*at)[0, 0], lambda x, w, _: -w[0, 0] - w[0, 1], **VECTOR)
    given = difference(lambda x, w, _: by_x(x, w, MINUS_ONES)[0, 0], lambda x, w, _: -w[0, 0] - w[0, 1], **VECTOR)
    return Seen(found is None, given is None, f"{told(found)}; grad_y = {as_code(MINUS_ONES)}: {told(given)}")


other_elements_of_the_vector_case = vector(lambda *at: by_x(*at)[:, 1:], lambda *at: row_of_sums(*at)[:, 1:])
row_of_four_sums = vector(lambda *at: back(*at)[0], row_of_sums)
row_times_matrix = vector(row_of_sums, lambda x, w, g: g @ printed_matrix(w))
printed_matrix_is_w_transposed = vector(lambda x, w, _: printed_matrix(w), lambda x, w, _: w.T)
vector_rule_for_x = vector(by_x, lambda x, w, g: g @ w.T)
# a row for each element of x and a column for each of y, with 1 for x_1 alone
w11_meets_only_x1 = vector(lambda x, w, _: together(torch.matmul, x, w)[:, 0, 0], lambda x, w, _: units(w)[0])
w12_meets_only_x1 = vector(lambda x, w, _: together(torch.matmul, x, w)[:, 0, 1], lambda x, w, _: units(w)[1])
derivative_by_w11 = vector(lambda *at: by_w(*at)[0, 0], lambda x, w, g: g[0, 0] * x[0, 0])
derivative_by_w12 = vector(lambda *at: by_w(*at)[0, 1], lambda x, w, g: g[0, 1] * x[0, 0])
matrix_of_products = vector(lambda *at: back(*at)[1], products)
vector_rule_for_w = vector(by_w, lambda x, w, g: x.T @ g)


def two_readings(*readings: tuple[Tensor, Tensor, Tensor]) -> Seen:
    """Take x, W and ∂L/∂y that agree with all that is written: the rules give their gradients, and ∂L/∂W differs."""
    found = [back(*at) for at in readings]
    fits = all(
        x.size(1) == 4 and grad_x.equal(grad_y @ w.T) and grad_w.equal(x.T @ grad_y)
        for (x, w, grad_y), (grad_x, grad_w) in zip(readings, found, strict=True)
    )
    (_, first), (_, second) = found
    return Seen(None, fits and not first.equal(second), f"∂L/∂W: {as_code(first)}; {as_code(second)}")


def numbers_in_the_vector_picture() -> Seen:
    """Take two rows for x, with ∂L/∂y = (−1, −1), for which line 62 says what line 48 does."""
    x, w, _ = example("matrix").values()
    return two_readings((x[:1], w, MINUS_ONES), (x[1:2], w, MINUS_ONES))


# ---- y a matrix


def only_with_conjugates(x: Tensor, w: Tensor, grad_y: Tensor) -> Seen:
    """Say whether torch's gradients of a complex product are those of line 86 only with conjugates."""
    found = back(x, w, grad_y)
    plain, conjugate = (grad_y @ w.mT, x.mT @ grad_y), (grad_y @ w.mH, x.mH @ grad_y)
    different = not any(a.equal(b) for a, b in zip(found, plain, strict=True))
    equal = all(a.equal(b) for a, b in zip(found, conjugate, strict=True))
    shown = f"x = [[1j]], w = [[2j]], grad_y = [[1]]: {found[0].tolist()}, {found[1].tolist()}"
    return Seen(different and equal, None, shown)


complex_point = partial(only_with_conjugates, torch.tensor([[1j]]), torch.tensor([[2j]]), torch.tensor([[1 + 0j]]))


def row_by_row(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return ∂L/∂x and ∂L/∂W from each row of x and y alone: ∂L/∂x has a row of each, and their ∂L/∂W add up."""
    rows = [back(x[i : i + 1], w, grad_y[i : i + 1]) for i in range(len(x))]
    return side_by_side([*(for_x for for_x, _ in rows), torch.stack([for_w for _, for_w in rows]).sum(0)])


each_row_is_a_vector_case = matrix(lambda *at: side_by_side(back(*at)), row_by_row)
matrix_rule_for_x = every(matrix(by_x, lambda x, w, g: g @ w.T), verified(matmul), complex_point)
matrix_rule_for_w = every(matrix(by_w, lambda x, w, g: x.T @ g), complex_point)


def numbers_in_the_matrix_picture() -> Seen:
    """Take the three rows of the program, and two of them: y is a matrix both times."""
    x, w, grad_y = example("matrix").values()
    return two_readings((x, w, grad_y), (x[:2], w, grad_y[:2]))
