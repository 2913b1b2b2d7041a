"""How far the backward error of what is solved takes a sum of the results: by the sensitivity to the matrix.

In that much cancels that the sizes of the results, and of the matrix's inverse, do not show.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


def behind(func: Any, args: Any, named: Any, result: Any, u: float) -> Behind | None:
    """Return how far what is solved in the place of A takes a sum of the results; None of another operation."""
    packet = func.overloadpacket
    if packet not in _SOLVED or not args[0].numel():
        return None
    find, place = _SOLVED[packet]
    solved = find(u, result[place] if isinstance(result, tuple) else result, *args, **named)

    def by(sensitivities: Sequence[Any]) -> Tensor:
        nothing, s = torch.zeros((), dtype=torch.float64, device=args[0].device), sensitivities[place]
        return nothing if s is None else sum((one.moved(s) for one in solved), start=nothing)

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


def _of_factors(a: Tensor, u: float) -> Tensor:
    """Return by how much L U is off from A: of 3 n roundings an element."""
    permutation, low, up = torch.linalg.lu(a)
    squares = magnitude(permutation @ low).square() @ magnitude(up).square()
    return _in_order(magnitude(a).square(), squares, roundings(a, 3), u)


def _of_either_factors(a: Tensor, u: float) -> Tensor:
    """Return the same, of A or of its transpose, as a determinant is taken."""
    return torch.maximum(_of_factors(a, u), _of_factors(a.mT, u).mT)


@dataclass(frozen=True, eq=False)
class _Solved:
    """What a result is a function of, how far that is off, and the function: torch knows the sensitivity through it.

    Of a matrix that cannot be solved, as one of a batch whose results are not used, the sensitivity is not finite.
    """

    given: Tensor
    off: Tensor
    function: Callable[[Tensor], Tensor]

    def moved(self, s: Tensor) -> Tensor:
        """Return how far a sum of the results is moved, by the sensitivities to them."""
        with torch.enable_grad():
            given = self.given.detach().requires_grad_()
            (through,) = torch.autograd.grad(self.function(given), given, s)
        return (through.abs() * self.off).sum()


def _systems(u: float, x: Tensor, a: Tensor, b: Tensor, *, left: bool = True, **_: Any) -> list[_Solved]:
    """The X of A X = B, or X A = B."""
    return [_Solved(a, _of_factors(a, u), lambda a: torch.linalg.solve_ex(a, b, left=left)[0])]


def _with_factors(
    u: float, x: Tensor, lu: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False
) -> list[_Solved]:
    a = matrix_of(lu, pivots)
    return [_Solved(a, _of_factors(a, u), lambda a: torch.linalg.solve_ex(a.mH if adjoint else a, b, left=left)[0])]


def _inverses(u: float, x: Tensor, a: Tensor, **_: Any) -> list[_Solved]:
    return [_Solved(a, _of_factors(a, u), lambda a: torch.linalg.inv_ex(a)[0])]


def _logarithms(u: float, x: Tensor, a: Tensor) -> list[_Solved]:
    return [_Solved(a, _of_either_factors(a, u), lambda a: torch.linalg.slogdet(a).logabsdet)]


def _determinants(u: float, x: Tensor, a: Tensor) -> list[_Solved]:
    return [_Solved(a, _of_either_factors(a, u), torch.linalg.det)]


def _triangles(u: float, x: Tensor, a: Tensor, b: Tensor, *, left: bool = True, **how: bool) -> list[_Solved]:
    """The X of A X = B, or X A = B, of a triangular A: of n + 1 roundings an element of B."""
    low = (torch.triu if how["upper"] else torch.tril)(a)
    if how.get("unitriangular"):
        low = low - torch.diag_embed(low.diagonal(dim1=-2, dim2=-1) - 1)
    sizes = [magnitude(low).square(), magnitude(x).square()]
    squares = sizes[0] @ sizes[1] if left else sizes[1] @ sizes[0]
    off = _in_order(magnitude(b).square(), squares, roundings(a, 1) + 1, u)
    return [_Solved(b.expand_as(x), off, lambda b: torch.linalg.solve_triangular(a, b, left=left, **how))]


def _cholesky(u: float, x: Tensor, a: Tensor, *, upper: bool = False, **_: Any) -> list[_Solved]:
    """The L of A = L L^T: of n + 1 roundings an element of A."""
    low = x.mH if upper else x
    whole, squares = low @ low.mH, magnitude(low).square() @ magnitude(low).square().mT
    off = _in_order(magnitude(whole).square(), squares, roundings(a, 1) + 1, u)
    return [_Solved(whole, off, lambda a: torch.linalg.cholesky_ex(a, upper=upper)[0])]


def _by_cholesky(u: float, x: Tensor, b: Tensor, factor: Tensor, upper: bool = False) -> list[_Solved]:
    """The X of L L^T X = B, by two triangles in turn."""
    low = factor.mH if upper else factor
    half = torch.linalg.solve_triangular(low, b, upper=False)
    (first,), (second,) = _triangles(u, half, low, b, upper=False), _triangles(u, x, low.mH, half, upper=True)
    return [replace(first, function=lambda b: second.function(first.function(b))), second]


def _inverse_by_cholesky(u: float, x: Tensor, factor: Tensor, upper: bool = False) -> list[_Solved]:
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return _by_cholesky(u, x, eye.expand_as(factor), factor, upper)


def _either_triangle(
    u: float, x: Tensor, b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, ones: bool = False
) -> list[_Solved]:
    return _triangles(u, x, b=b, a=a.mH if transpose else a, upper=upper != transpose, unitriangular=ones)


# What is solved, and the place of the result that counts.
_SOLVED: dict[Any, tuple[Callable[..., list[_Solved]], int]] = {
    aten._linalg_solve_ex: (_systems, 0), aten.linalg_lu_solve: (_with_factors, 0),
    aten.linalg_inv_ex: (_inverses, 0), aten._linalg_slogdet: (_logarithms, 1),
    aten._linalg_det: (_determinants, 0), aten.linalg_solve_triangular: (_triangles, 0),
    aten.linalg_cholesky_ex: (_cholesky, 0), aten.cholesky_solve: (_by_cholesky, 0),
    aten.cholesky_inverse: (_inverse_by_cholesky, 0), aten.triangular_solve: (_either_triangle, 0),
}  # fmt: skip
