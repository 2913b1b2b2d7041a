"""How far the backward error of what is solved takes a sum of the results: by the sensitivity to the matrix.

In that much cancels that the sizes of the results, and of the matrix's inverse, do not show.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.factored import matrix_of, roundings
from backprop_rules.evidence.allowance.mode import REFERENCES
from backprop_rules.evidence.allowance.units import magnitude

aten = torch.ops.aten

# Norms, whose backward takes the mean and the factor that forward saved.
NORMS = {aten.native_layer_norm_backward, aten.native_batch_norm_backward, aten.native_group_norm_backward}
# How far results are off, by the sensitivities to them.
Behind = Callable[[Sequence[Any]], Tensor]
# The same of the one result that counts.
Of = Callable[[Tensor], Tensor]


def behind(func: Any, args: Any, named: Any, result: Any, u: float) -> Behind | None:
    """Return how far what is solved in the place of A takes a sum of the results; None of another operation."""
    packet = func.overloadpacket
    if packet not in _SOLVED or not args[0].numel():
        return None
    solved, place = _SOLVED[packet]
    of = solved(u, result[place] if isinstance(result, tuple) else result, *args, **named)

    def by(sensitivities: Sequence[Any]) -> Tensor:
        s = sensitivities[place]
        return torch.zeros((), dtype=torch.float64, device=args[0].device) if s is None else of(s)

    return by


def behind_operands(func: Any, args: Any, named: Any, off: Mapping[int, Tensor]) -> Behind:
    """Return how far operands in some places, off by so much and hidden from autograd, take a sum of the results.

    Such is the mean of a norm, which it saves for its backward: by the sensitivity to it, through what that is made of.
    """
    from torch._decomp import decomposition_table

    made_of = REFERENCES.get(func.overloadpacket) or decomposition_table[func]

    def by(sensitivities: Sequence[Any]) -> Tensor:
        nothing = torch.zeros((), dtype=torch.float64, device=args[0].device)
        with torch.enable_grad():
            live = {k: args[k].detach().requires_grad_() for k in off}
            made = made_of(*(live.get(k, x) for k, x in enumerate(args)), **named)
            made = made if isinstance(made, tuple) else (made,)
            pairs = [(y, s) for y, s in zip(made, sensitivities, strict=True) if y is not None and s is not None]
            pairs = [(y, s) for y, s in pairs if y.requires_grad]
            found = _through(pairs, list(live.values()))
        lost = (s.abs() * off[k] for k, s in zip(live, found, strict=True) if s is not None)
        return sum((x.sum() for x in lost), start=nothing)

    return by


def _through(pairs: Sequence[tuple[Tensor, Tensor]], live: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not pairs:
        return [None] * len(live)
    ys, along = zip(*pairs, strict=True)
    return torch.autograd.grad(ys, live, along, allow_unused=True)


def _in_order(square: Tensor, squares: Tensor, times: int, u: float) -> Tensor:
    """Return by how much a sum of n terms in random order is off, whatever n is, by its own square and theirs.

    The mean of their squared partial sums is a third of the sum's square, and (n + 1) / 6 n <= 1 / 3 of the terms'.
    """
    return ((square + squares) / 3).sqrt() * (times * u)


def _moved(through: Tensor, lost: Tensor) -> Tensor:
    return (through.abs() * lost).sum()


def _of_factors(a: Tensor, u: float) -> Tensor:
    """Return by how much L U is off from A: of 3 n roundings an element."""
    permutation, low, up = torch.linalg.lu(a)
    squares = magnitude(permutation @ low).square() @ magnitude(up).square()
    return _in_order(magnitude(a).square(), squares, roundings(a, 3), u)


def _of_systems(u: float, x: Tensor, a: Tensor, b: Tensor, *, left: bool = True, **_: Any) -> Of:
    """The X of A X = B, or X A = B: the sensitivity to A is -A^-H s X^H."""
    lost = _of_factors(a, u)

    def of(s: Tensor) -> Tensor:
        one, s = (x[..., None], s[..., None]) if x.ndim < a.ndim else (x, s)
        through = torch.linalg.solve(a.mH, s, left=left)
        return _moved(through @ one.mH if left else one.mH @ through, lost)

    return of


def _with_factors(
    u: float, x: Tensor, lu: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False
) -> Of:
    a = matrix_of(lu, pivots)
    lost = _of_factors(a, u)
    a, lost = (a.mH, lost.mT) if adjoint else (a, lost)

    def of(s: Tensor) -> Tensor:
        through = torch.linalg.solve(a.mH, s, left=left)
        return _moved(through @ x.mH if left else x.mH @ through, lost)

    return of


def _of_inverses(u: float, x: Tensor, a: Tensor, **_: Any) -> Of:
    lost = _of_factors(a, u)
    return lambda s: _moved(x.mH @ s @ x.mH, lost)


def _of_logarithms(u: float, x: Tensor, a: Tensor) -> Of:
    """The logarithm of a determinant, of A or of its transpose: the sensitivity to A is s A^-H."""
    lost = torch.maximum(_of_factors(a, u), _of_factors(a.mT, u).mT)
    return lambda s: _moved(torch.linalg.inv(a).mH * s[..., None, None], lost)


def _of_determinants(u: float, x: Tensor, a: Tensor) -> Of:
    logarithm = _of_logarithms(u, x, a)
    return lambda s: logarithm(s * x)


def _of_triangles(
    u: float, x: Tensor, a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Of:
    """The X of A X = B, or X A = B, of a triangular A: of n + 1 roundings an element of B."""
    if not left:
        of = _of_triangles(u, x.mT, a.mT, b.mT, upper=not upper, unitriangular=unitriangular)
        return lambda s: of(s.mT)
    a = (torch.triu if upper else torch.tril)(a)
    if unitriangular:
        a = a - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1) - 1)
    squares = magnitude(a).square() @ magnitude(x).square()
    lost = _in_order(magnitude(b).square(), squares, roundings(a, 1) + 1, u)
    return lambda s: _moved(torch.linalg.solve_triangular(a.mH, s, upper=not upper), lost)


def _of_cholesky(u: float, x: Tensor, a: Tensor, *, upper: bool = False, **_: Any) -> Of:
    """The L of A = L L^T: of n + 1 roundings an element of A, whose sensitivity torch knows."""
    low = x.mH if upper else x
    whole, squares = low @ low.mH, magnitude(low).square() @ magnitude(low).square().mT
    lost = _in_order(magnitude(whole).square(), squares, roundings(a, 1) + 1, u)

    def of(s: Tensor) -> Tensor:
        with torch.enable_grad():
            given = whole.detach().requires_grad_()
            (through,) = torch.autograd.grad(torch.linalg.cholesky(given), given, s.mH if upper else s)
        return _moved(through, lost)

    return of


def _by_cholesky(u: float, x: Tensor, b: Tensor, factor: Tensor, upper: bool = False) -> Of:
    """The X of L L^T X = B, by two triangles in turn."""
    low = factor.mH if upper else factor
    half = torch.linalg.solve_triangular(low, b, upper=False)
    first = _of_triangles(u, half, low, b, upper=False)
    second = _of_triangles(u, x, low.mH, half, upper=True)
    return lambda s: second(s) + first(torch.linalg.solve_triangular(low, s, upper=False))


def _inverse_by_cholesky(u: float, x: Tensor, factor: Tensor, upper: bool = False) -> Of:
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return _by_cholesky(u, x, eye.expand_as(factor), factor, upper)


def _of_either_triangle(
    u: float, x: Tensor, b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, ones: bool = False
) -> Of:
    return _of_triangles(u, x, a.mH if transpose else a, b, upper=upper != transpose, unitriangular=ones)


# What is solved, and the place of the result that counts.
_SOLVED: dict[Any, tuple[Callable[..., Of], int]] = {
    aten._linalg_solve_ex: (_of_systems, 0), aten.linalg_lu_solve: (_with_factors, 0),
    aten.linalg_inv_ex: (_of_inverses, 0), aten._linalg_slogdet: (_of_logarithms, 1),
    aten._linalg_det: (_of_determinants, 0), aten.linalg_solve_triangular: (_of_triangles, 0),
    aten.linalg_cholesky_ex: (_of_cholesky, 0), aten.cholesky_solve: (_by_cholesky, 0),
    aten.cholesky_inverse: (_inverse_by_cholesky, 0), aten.triangular_solve: (_of_either_triangle, 0),
}  # fmt: skip
