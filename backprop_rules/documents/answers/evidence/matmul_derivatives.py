"""Evidence of the claims of `matmul_derivatives`: y = xW in whole numbers, with y a scalar, a vector and a matrix.

Derivatives come from exact differences, or from torch's autograd; the document's formulas are held against them.
"""

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers.claim import Seen
from backprop_rules.documents.answers.tools import as_code, counterexample, gradients, told, verified

Value = Callable[[Tensor, Tensor, Tensor], Tensor]  # of x, W and ∂L/∂y

CASES = {
    "scalar": {"x": "1 4", "w": "4 1", "grad_y": "1 1"},
    "vector": {"x": "1 4", "w": "4 2", "grad_y": "1 2"},
    "matrix": {"x": "n d", "w": "d k", "grad_y": "n k"},
}
ONE = torch.ones(1, 1, dtype=torch.float64)
STEP = 2.0**-10  # a slight change; a power of two, so that nothing rounds
LISTED = (1, 2, 3, 4)  # the indices of line 30
PRINTED = (("11", "21", "31", "41"), ("12", "22", "32", "42"))  # the indices of line 60
TRIED = range(1, 7)  # the sizes among which those of the document are looked for


def example(case: str) -> dict[str, Tensor]:
    """Return x, W and ∂L/∂y of the document's program in whole numbers."""
    return dict(PROGRAMS[f"matmul_derivatives_{case}"].inputs())


def disagreement(case: str, computed: Value, said: Value) -> dict[str, Tensor] | None:
    """Return the smallest point at which what is computed is not what is said, None if there is none."""

    def same(x: Tensor, w: Tensor, grad_y: Tensor) -> bool:
        return computed(x, w, grad_y).equal(said(x, w, grad_y))

    return counterexample(same, **CASES[case])


def agree(case: str, computed: Value, said: Value) -> Seen:
    """Hold what is computed against what is said at every point drawn, and show both at one point."""
    found = disagreement(case, computed, said)
    if found is not None:
        return Seen(
            False, None, f"{told(found)}: {as_code(computed(*found.values()))} ≠ {as_code(said(*found.values()))}"
        )
    at = example(case)
    return Seen(True, None, f"{told(at)}: {as_code(computed(*at.values()))}; {told(None)}")


def units(at: Tensor) -> Tensor:
    """Return a tensor of this shape for each of its elements, with a 1 there and 0 elsewhere."""
    return torch.eye(at.numel(), dtype=at.dtype).reshape(at.numel(), *at.shape)


def quotients(function: Callable[[Tensor], Tensor], at: Tensor, step: float) -> Tensor:
    """Return the change of the function's number over the step, for a step of each element alone."""
    return ((function(at + step * units(at)) - function(at)) / step).reshape(at.shape)


def slopes(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the central differences, exact for a polynomial of degree 2 or less, laid out like the variable."""
    return (quotients(function, at, STEP) + quotients(function, at, -STEP)) / 2


def loss(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return an L that has this derivative with respect to y."""
    return (grad_y * (x @ w)).sum((-2, -1))


def by_x(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return ∂L/∂x, from slight changes of the elements of x."""
    return slopes(lambda v: loss(v, w, grad_y), x)


def by_w(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return ∂L/∂W, from slight changes of the elements of W."""
    return slopes(lambda v: loss(x, v, grad_y), w)


def back(x: Tensor, w: Tensor, grad_y: Tensor) -> tuple[Tensor, ...]:
    """Return ∂L/∂x and ∂L/∂W, as torch's autograd finds them."""
    return gradients(torch.matmul, x, w, grad_y=grad_y)


def together(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return what 1 more of both does to L beyond what each does alone, for each element of x and each of W."""
    xs, ws = x + units(x), w + units(w)
    both = loss(xs.unsqueeze(1), ws, grad_y)
    alone = loss(xs, w, grad_y).unsqueeze(1) + loss(x, ws, grad_y) - loss(x, w, grad_y)
    return (both - alone).reshape(x.numel(), *w.shape)


def together_in_y(x: Tensor, w: Tensor) -> Tensor:
    """Return what 1 more of both does to y beyond what each does alone, for each element of x, of W and of y."""
    xs, ws = x + units(x), w + units(w)
    both = xs.unsqueeze(1) @ ws
    alone = (xs @ w).unsqueeze(1) + x @ ws - x @ w
    return (both - alone).reshape(x.numel(), *w.shape, -1)


def row_of_sums(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return the four sums of line 57, by the indices printed there."""
    return torch.stack([grad_y[0, 0] * w[i - 1, 0] + grad_y[0, 1] * w[i - 1, 1] for i in LISTED]).unsqueeze(0)


def products(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
    """Return the matrix of lines 69 to 74, by the indices printed there."""
    return torch.stack([torch.stack([grad_y[0, j] * x[0, i - 1] for j in (0, 1)]) for i in LISTED])


def printed_matrix(w: Tensor) -> Tensor:
    """Return the matrix of line 60, element by element."""
    return torch.stack([torch.stack([w[int(ij[0]) - 1, int(ij[1]) - 1] for ij in row]) for row in PRINTED])


def numbered(d: int, h: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, W and ∂L/∂y of these sizes, counting up from 1, with no element twice in one of them."""
    shapes = ((1, d), (d, h), (1, h))
    x, w, grad_y = (torch.arange(1.0, 1 + n * k, dtype=torch.float64).reshape(n, k) for n, k in shapes)
    return x, w, grad_y


def sizes_that_fit(formulas: Callable[..., bool], letters: int) -> list[tuple[int, ...]]:
    """Return the sizes, out of those tried, with which the formulas can be computed and are true."""
    found = []
    for sizes in product(TRIED, repeat=letters):
        with suppress(IndexError, RuntimeError):
            if formulas(*sizes):
                found.append(sizes)
    return found


# ---- Two ways, and the core idea


def formulas_and_graph_agree() -> Seen:
    """Go back through the same program by the formulas of the rules, and by torch's graph."""
    program = PROGRAMS["matmul_derivatives_matrix"]

    def both(found: dict[str, Tensor]) -> Tensor:
        return torch.cat([found["x"].flatten(), found["w"].flatten()])

    def by_formulas(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return both(program.step({"x": x, "w": w}, {"grad_y": grad_y}).gradients)

    def by_graph(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return both(program.by_autograd({"x": x, "w": w}, {"grad_y": grad_y}).gradients)

    return agree("matrix", by_formulas, by_graph)


def effect_of_a_slight_change() -> Seen:
    """Go a little to either side: from clamp's bound, and from drawn points of y = xW."""
    bound = torch.zeros(1, dtype=torch.float64)
    down, up = (quotients(lambda v: v.clamp(min=0), bound, step).item() for step in (-STEP, STEP))

    def either_side(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return torch.cat([quotients(lambda v: v @ w, x, step) for step in (-STEP, STEP)])

    found = disagreement("scalar", either_side, lambda x, w, _: back(x, w, ONE)[0].repeat(2, 1))
    return Seen(down == up, found is None, f"clamp(0, min=0): {as_code(down)}, {as_code(up)}; x @ w: {told(found)}")


# ---- y a scalar


def sizes_in_the_scalar_picture() -> Seen:
    """Read y as a matrix of size (1, 1) and as a number without axes: −Wᵀ and −xᵀ come out both times."""
    x, w, _ = example("scalar").values()
    readings: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul, lambda x, w: (x @ w).squeeze()]
    values = [y(x, w) for y in readings]
    found = [gradients(y, x, w, grad_y=-torch.ones_like(value)) for y, value in zip(readings, values, strict=True)]
    fits = all(grad_x.equal(-w.T) and grad_w.equal(-x.T) for grad_x, grad_w in found)
    shapes = [tuple(value.shape) for value in values]
    return Seen(None, fits and shapes == [(1, 1), ()], f"y.shape: {shapes[0]}, {shapes[1]}; {told({'x': x, 'w': w})}")


def size_d_of_the_scalar_case(number: Fraction) -> Seen:
    """Look for the D with which the row of line 30, its elements found one by one, is the gradient."""

    def is_the_gradient(d: int) -> bool:
        x, w, grad_y = numbered(d, 1)
        row = torch.stack([by_x(x, w, grad_y)[0, i - 1] for i in LISTED]).unsqueeze(0)
        return row.equal(back(x, w, grad_y)[0])

    found = [d for (d,) in sizes_that_fit(is_the_gradient, 1)]
    return Seen(found == [number], None, f"D = {found}")


def each_element_meets_its_own_weight() -> Seen:
    """Change an element of x and one of W together: L notices only where they have the same index."""
    return agree("scalar", lambda x, w, g: together(x, w, ONE)[:, :, 0], lambda x, w, _: torch.eye(4, dtype=x.dtype))


def ordinary_products() -> Seen:
    """Multiply number by number and add."""
    return agree(
        "scalar",
        lambda x, w, _: x @ w,
        lambda x, w, _: torch.stack([x[0, i] * w[i] for i in range(4)]).sum(0, keepdim=True),
    )


def idea_applied_to_the_product() -> Seen:
    """Change one element of x or of W by any of several amounts: y changes by the derivative times the amount."""
    amounts = (STEP, -8.0)

    def changes(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        by_each = [(quotients(lambda v: v @ w, x, a), quotients(lambda v: x @ v, w, a).T) for a in amounts]
        return torch.cat([torch.cat(pair) for pair in by_each])

    def derivatives(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        grad_x, grad_w = back(x, w, ONE)
        return torch.cat([grad_x, grad_w.T]).repeat(len(amounts), 1)

    return agree("scalar", changes, derivatives)


def derivative_by_x1() -> Seen:
    """Change x_1 slightly."""
    return agree("scalar", lambda x, w, _: by_x(x, w, ONE)[0, 0], lambda x, w, _: w[0, 0])


def derivative_by_w1() -> Seen:
    """Change W_1 slightly."""
    return agree("scalar", lambda x, w, _: by_w(x, w, ONE)[0, 0], lambda x, w, _: x[0, 0])


def other_elements_of_the_scalar_case() -> Seen:
    """Change x_2 to x_4, and W_2 to W_4."""
    return agree(
        "scalar",
        lambda x, w, _: torch.stack([by_x(x, w, ONE)[0, 1:], by_w(x, w, ONE)[1:, 0]]),
        lambda x, w, _: torch.stack([w[1:, 0], x[0, 1:]]),
    )


def derivative_by_x_is_w_transposed() -> Seen:
    """Lay the derivative out like x, and as a Jacobian: both are 1 by 4."""

    def both(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return torch.cat([by_x(x, w, ONE), jacobian(lambda v: v @ w, x[0])])

    return agree("scalar", both, lambda x, w, _: w.T.repeat(2, 1))


def derivative_by_w_is_x_transposed() -> Seen:
    """Lay the derivative out as a Jacobian, 1 by 4, and like W, 4 by 1."""
    x, w, _ = example("scalar").values()
    matrix, like_w = jacobian(lambda v: x @ v, w[:, 0]), back(x, w, ONE)[1]
    found = disagreement("scalar", lambda x, w, _: by_w(x, w, ONE), lambda x, w, _: x.T)
    shown = f"jacobian: {as_code(matrix)}; .grad: {as_code(like_w)}; {told(found)}"
    return Seen(matrix.equal(x.T), like_w.equal(x.T) and found is None and matrix.equal(x), shown)


def delta_for_the_partial_derivative() -> Seen:
    """Read δ as a slight change, for L = y², and as the sign of the derivative."""

    def square(y: Tensor) -> Tensor:
        return y**2

    def differentiated(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return gradients(square, x @ w)[0]

    def quotient(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return quotients(square, x @ w, STEP)

    found = disagreement("scalar", quotient, differentiated)
    off_by_the_step = disagreement("scalar", quotient, lambda x, w, _: 2 * (x @ w) + STEP)
    derivative = disagreement("scalar", differentiated, lambda x, w, _: 2 * (x @ w))
    shown = f"δy = {STEP}, {told(found)}; 2y + δy: {told(off_by_the_step)}; ∂L/∂y = 2y: {told(derivative)}"
    return Seen(found is None, off_by_the_step is None and derivative is None, shown)


def loss_in_the_scalar_picture(number: Fraction) -> Seen:
    """Take two losses with the printed derivative at y, and differentiate both at y + 1."""
    y = example("scalar")["x"] @ example("scalar")["w"]
    losses: list[Callable[[Tensor], Tensor]] = [lambda v: -v, lambda v: (v - (y + 1)) ** 2 / 2]
    here, there = ([gradients(of, at)[0].item() for of in losses] for at in (y, y + 1))
    return Seen(None, here == [number, number] and there[0] != there[1], f"∂L/∂y: {here}; {there}")


def chain_rule_to_x() -> Seen:
    """Take L = y², whose derivative is not the same everywhere."""

    def chained(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        return slopes(lambda v: v**2, x @ w) * by_x(x, w, ONE)

    return agree("scalar", lambda x, w, _: gradients(lambda v: (v @ w) ** 2, x)[0], chained)


def minus_w_transposed() -> Seen:
    """Go back from y with the derivative −1."""
    return agree("scalar", lambda x, w, _: back(x, w, -ONE)[0], lambda x, w, _: -w.T)


def layout_of_the_derivative_by_x() -> Seen:
    """Change the four elements of x one after the other, and set the results side by side."""
    return agree("scalar", lambda x, w, g: back(x, w, g)[0], by_x)


def factor_of_the_wrong_variable() -> Seen:
    """Multiply ∂L/∂y by the derivative of y with respect to x, then to W; compare the elements in their order."""
    found = disagreement(
        "scalar", lambda x, w, _: back(x, w, -ONE)[1].flatten(), lambda x, w, _: -by_x(x, w, ONE).flatten()
    )
    other = disagreement("scalar", lambda x, w, _: back(x, w, -ONE)[1], lambda x, w, _: -by_w(x, w, ONE))
    return Seen(found is None, other is None, f"∂y/∂x: {told(found)}; ∂y/∂W: {told(other)}")


def minus_x_transposed() -> Seen:
    """Go back from y with the derivative −1."""
    return agree("scalar", lambda x, w, _: back(x, w, -ONE)[1], lambda x, w, _: -x.T)


# ---- y a vector


def printed_formulas_fit(d: int, h: int) -> bool:
    """Say whether lines 57 to 60 and 69 to 74, as printed, give the gradients with these sizes."""
    x, w, grad_y = numbered(d, h)
    grad_x, grad_w = back(x, w, grad_y)
    row, multiplied = row_of_sums(x, w, grad_y), grad_y @ printed_matrix(w)
    return row.equal(grad_x) and multiplied.equal(grad_x) and products(x, w, grad_y).equal(grad_w)


def size_d_of_the_vector_case(number: Fraction) -> Seen:
    """Look for the sizes with which the printed formulas can be computed and give the gradients: D."""
    sizes = sizes_that_fit(printed_formulas_fit, 2)
    return Seen([d for d, _ in sizes] == [number], None, f"(D, H) = {sizes}")


def size_h_of_the_vector_case(number: Fraction) -> Seen:
    """Look for the sizes with which the printed formulas can be computed and give the gradients: H."""
    sizes = sizes_that_fit(printed_formulas_fit, 2)
    return Seen([h for _, h in sizes] == [number], None, f"(D, H) = {sizes}")


def x1_meets_w11_and_y1() -> Seen:
    """Change x_1 and W_11 together: L notices by ∂L/∂y_1."""
    return agree("vector", lambda x, w, g: together(x, w, g)[0, 0, 0], lambda x, w, g: g[0, 0])


def more_w12(w: Tensor) -> Tensor:
    """Return W with 1 more in the place of W_12."""
    return w + units(w)[1]


def x2_does_not_meet_w12() -> Seen:
    """Change W_12 together with x_2, then with x_1: L is to notice by ∂L/∂y_2. Change W_12, and look at ∂L/∂x_2."""
    found = disagreement("vector", lambda x, w, g: together(x, w, g)[1, 0, 1], lambda x, w, g: g[0, 1])
    other = disagreement("vector", lambda x, w, g: together(x, w, g)[0, 0, 1], lambda x, w, g: g[0, 1])
    without = disagreement("vector", lambda *at: back(*at)[0][0, 1], lambda x, w, g: back(x, more_w12(w), g)[0][0, 1])
    shown = f"x_2, W_12: {told(found)}; x_1, W_12: {told(other)}; ∂L/∂x_2, W_12 + 1: {told(without)}"
    return Seen(found is None, other is None and without is None, shown)


def derivative_by_x1_over_two_outputs() -> Seen:
    """Change x_1 slightly."""
    return agree("vector", lambda *at: by_x(*at)[0, 0], lambda x, w, g: g[0, 0] * w[0, 0] + g[0, 1] * w[0, 1])


def minus_w11_minus_w12() -> Seen:
    """Change x_1 slightly, with any ∂L/∂y and with ∂L/∂y = (−1, −1)."""
    found = disagreement("vector", lambda *at: by_x(*at)[0, 0], lambda x, w, _: -w[0, 0] - w[0, 1])
    minus_one = -torch.ones(1, 2, dtype=torch.float64)
    given = disagreement("vector", lambda x, w, _: by_x(x, w, minus_one)[0, 0], lambda x, w, _: -w[0, 0] - w[0, 1])
    return Seen(found is None, given is None, f"{told(found)}; grad_y = {as_code(minus_one)}: {told(given)}")


def other_elements_of_the_vector_case() -> Seen:
    """Change x_2, x_3 and x_4 slightly."""
    return agree("vector", lambda *at: by_x(*at)[:, 1:], lambda *at: row_of_sums(*at)[:, 1:])


def row_of_four_sums() -> Seen:
    """Write the four sums into a row."""
    return agree("vector", lambda *at: back(*at)[0], row_of_sums)


def row_times_matrix() -> Seen:
    """Multiply the row of ∂L/∂y by the printed matrix."""
    return agree("vector", row_of_sums, lambda x, w, g: g @ printed_matrix(w))


def printed_matrix_is_w_transposed() -> Seen:
    """Write the printed matrix out and transpose W."""
    return agree("vector", lambda x, w, _: printed_matrix(w), lambda x, w, _: w.T)


def vector_rule_for_x() -> Seen:
    """Change the elements of x slightly."""
    return agree("vector", by_x, lambda x, w, g: g @ w.T)


def only_x1(x: Tensor, w: Tensor, j: int) -> Tensor:
    """Return 1 for x_1 and y_j, and 0 for every other element of x and of y."""
    expected = torch.zeros(x.numel(), w.size(1), dtype=x.dtype)
    expected[0, j - 1] = 1
    return expected


def w11_meets_only_x1() -> Seen:
    """Change W_11 together with each element of x, and look at y."""
    return agree("vector", lambda x, w, _: together_in_y(x, w)[:, 0, 0], lambda x, w, _: only_x1(x, w, 1))


def w12_meets_only_x1() -> Seen:
    """Change W_12 together with each element of x, and look at y."""
    return agree("vector", lambda x, w, _: together_in_y(x, w)[:, 0, 1], lambda x, w, _: only_x1(x, w, 2))


def derivative_by_w11() -> Seen:
    """Change W_11 slightly."""
    return agree("vector", lambda *at: by_w(*at)[0, 0], lambda x, w, g: g[0, 0] * x[0, 0])


def derivative_by_w12() -> Seen:
    """Change W_12 slightly."""
    return agree("vector", lambda *at: by_w(*at)[0, 1], lambda x, w, g: g[0, 1] * x[0, 0])


def matrix_of_products() -> Seen:
    """Write the eight products into a matrix, row by row."""
    return agree("vector", lambda *at: back(*at)[1], products)


def vector_rule_for_w() -> Seen:
    """Change the elements of W slightly."""
    return agree("vector", by_w, lambda x, w, g: x.T @ g)


def numbers_in_the_vector_picture() -> Seen:
    """Take two rows for x, with ∂L/∂y = (−1, −1): lines 48, 62 and 75 hold for both."""
    w, grad_y = example("vector")["w"], -torch.ones(1, 2, dtype=torch.float64)
    rows = [example("matrix")["x"][i : i + 1] for i in range(2)]
    found = [back(x, w, grad_y) for x in rows]
    fits = all(
        grad_x[0, 0] == -w[0, 0] - w[0, 1] and grad_x.equal(grad_y @ w.T) and grad_w.equal(x.T @ grad_y)
        for x, (grad_x, grad_w) in zip(rows, found, strict=True)
    )
    grads_w = [grad_w for _, grad_w in found]
    return Seen(None, fits and not grads_w[0].equal(grads_w[1]), f"∂L/∂W: {as_code(grads_w[0])}; {as_code(grads_w[1])}")


# ---- y a matrix


def conjugate_is_needed() -> tuple[bool, str]:
    """Say whether torch's gradients of a complex product are those of line 86 only with conjugates, and show one."""
    x, w, grad_y = torch.tensor([[1j]]), torch.tensor([[2j]]), torch.tensor([[1 + 0j]])
    found = back(x, w, grad_y)
    plain, conjugate = (grad_y @ w.mT, x.mT @ grad_y), (grad_y @ w.mH, x.mH @ grad_y)
    different = not any(a.equal(b) for a, b in zip(found, plain, strict=True))
    same = all(a.equal(b) for a, b in zip(found, conjugate, strict=True))
    return different and same, f"x = [[1j]], w = [[2j]], grad_y = [[1]]: {found[0].tolist()}, {found[1].tolist()}"


def each_row_is_a_vector_case() -> Seen:
    """Differentiate for each row of x and y alone: the rows make ∂L/∂x, and their ∂L/∂W add up."""

    def row_by_row(x: Tensor, w: Tensor, grad_y: Tensor) -> Tensor:
        rows = [back(x[i : i + 1], w, grad_y[i : i + 1]) for i in range(len(x))]
        grad_w = torch.stack([for_w for _, for_w in rows]).sum(0)
        return torch.cat([*(for_x.flatten() for for_x, _ in rows), grad_w.flatten()])

    return agree("matrix", lambda *at: torch.cat([g.flatten() for g in back(*at)]), row_by_row)


def matrix_rule_for_x() -> Seen:
    """Change the elements of x slightly; hold the catalogue's rule against every oracle; take one complex point."""
    real = agree("matrix", by_x, lambda x, w, g: g @ w.T)
    rule_holds, outcome = verified(matmul)
    conjugate, at = conjugate_is_needed()
    return Seen(real.stated and rule_holds and conjugate, None, f"{real.shown}; {outcome}; {at}")


def matrix_rule_for_w() -> Seen:
    """Change the elements of W slightly; take one complex point."""
    real = agree("matrix", by_w, lambda x, w, g: x.T @ g)
    conjugate, at = conjugate_is_needed()
    return Seen(real.stated and conjugate, None, f"{real.shown}; {at}")


def numbers_in_the_matrix_picture() -> Seen:
    """Take the three rows of the program, and two of them: y is a matrix both times."""
    x, w, grad_y = example("matrix").values()
    readings = [(x, w, grad_y), (x[:2], w, grad_y[:2])]
    found = [back(*at) for at in readings]
    fits = all(
        at[0].size(1) == 4 and grad_x.equal(at[2] @ at[1].T) and grad_w.equal(at[0].T @ at[2])
        for at, (grad_x, grad_w) in zip(readings, found, strict=True)
    )
    grads_w = [grad_w for _, grad_w in found]
    return Seen(None, fits and not grads_w[0].equal(grads_w[1]), f"∂L/∂W: {as_code(grads_w[0])}; {as_code(grads_w[1])}")
