"""Systems of equations, inverses, determinants and factors of matrices, whose errors an inverse makes larger."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, Radius, plus
from backprop_rules.evidence.allowance.sums import COMPLEX
from backprop_rules.evidence.allowance.units import FEW, gamma, magnitude, wide

aten = torch.ops.aten
U = 2.0**-53  # of float64, in which all of this is computed


class Nearby:
    """What holds for every A' with |A' - A| <= off: X A' = I - G with |G| <= M, where X is about the inverse of A.

    So |A'^-1| <= (I - M)^-1 |X|, if the largest sum of a row of M is below 1; elsewhere nothing is known.
    """

    def __init__(self, a: Tensor, off: Radius) -> None:
        n = a.shape[-1]
        self.terms, eye = n, torch.eye(n, dtype=torch.float64, device=a.device)
        inverse = torch.linalg.inv_ex(wide(a)).inverse
        self.inverse, computed = magnitude(inverse), gamma(4 * n + 8, U)
        self.moved = (inverse @ wide(a) - eye).abs() + computed * (self.inverse @ magnitude(a) + eye)
        if off is not None:
            self.moved = self.moved + self.inverse @ off
        self.norm = self.moved.sum(-1).amax(-1)[..., None, None]
        self.left = 1 - self.norm - 8 * n * U
        self.known = self.left > 0  # nor is NaN, of what has no inverse

    def applied(self, size: Tensor) -> Tensor:
        """Return no less than |A'^-1| times a matrix without signs: two terms of a series, and what is left of it."""
        first = self.inverse @ size
        second = self.moved @ first
        rest = (self.moved @ second).amax(-2, keepdim=True) / self.left
        return torch.where(self.known, (first + second + rest) * (FEW + 8 * self.terms * U), math.inf)

    def logarithm(self) -> Tensor:
        """Return how far log |det A'| may lie from log |det A|: both from -tr(G + G^2 / 2 + ...) of their own G."""
        n, m = self.terms, self.norm[..., 0, 0]
        trace = self.moved.diagonal(dim1=-2, dim2=-1).sum(-1)
        squares = (self.moved * self.moved.mT).sum((-1, -2)) / 2
        series = 2 * (trace + squares + n * m**3 / 3 / self.left[..., 0, 0]) * (FEW + 8 * n * U)
        return torch.where(self.known[..., 0, 0], series, math.inf)


def roundings(a: Tensor, each: int) -> int:
    """Return how many roundings follow one another for each of as many as A has rows: more of complex numbers."""
    return each * a.shape[-1] * (COMPLEX if a.is_complex() else 1)


def _backward_error(op: Operation, a: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far A is from what is solved in its place, and what underflows on the way of a right side.

    The L and U computed give (A + D) x = b with |D| <= gamma_3n |L| |U| (Higham, theorem 9.4), in whatever order the
    rows are; the numbers of L are at most 1.
    """
    n = a.shape[-1]
    _, low, up = torch.linalg.lu(wide(a))
    product = (low.abs() @ up.abs()).amax(-2, keepdim=True)
    vanish = 3 * n * op.unit.tiny * (n + product.amax(-1, keepdim=True))
    lost = product * (0 if op.met_behind else gamma(roundings(a, 3), op.unit.u)) * (1 + 4 * n * U) + vanish
    return lost.expand(a.shape), vanish


def _solved(op: Operation, a: Tensor, off: Radius, x: Tensor, b_off: Radius, left: bool = True) -> Tensor:
    """Return the radius of the X of A X = B, or X A = B: A' (X' - X) = B' - B - (A' - A + D) X."""
    lost, vanish = _backward_error(op, a)
    if not left:
        a, x, lost = a.mT, x.mT, lost.mT
        off, b_off = (None if r is None else r.mT for r in (off, b_off))
    near, size = Nearby(a, plus(off, lost)), magnitude(x)
    error = near.applied(lost @ size + vanish)
    moves = plus(None if off is None else off @ size, b_off)
    varies = None if moves is None else near.applied(moves.expand_as(error))
    count = roundings(a, 3)
    radius = replace(op, result=x).total(varies, error, gamma(count, op.unit.u), count, 4 * a.shape[-1])
    return op.stored(radius if left else radius.mT)


def matrix_of(lu: Tensor, pivots: Tensor) -> Tensor:
    """Return the matrix that factors are of."""
    permutation, low, up = torch.lu_unpack(wide(lu), pivots)
    found: Tensor = permutation @ low @ up
    return found


def _remember(op: Operation, a: Tensor, lu: Tensor, pivots: Tensor, off: Radius) -> None:
    """Remember how far the matrix may be off that these factors are of: who solves with them asks for it.

    Of a matrix in order torch factorises the transpose, to take a determinant; of a symmetric one nobody can tell.
    """
    if off is not None:
        own, turned = (float((matrix_of(lu, pivots) - x).abs().sum()) for x in (wide(a), wide(a).mT))
        both = torch.maximum(off, off.mT) if own == turned else off.mT if turned < own else off
        op.choices.factored.append((lu, both))


def _recalled(op: Operation, lu: Tensor) -> Radius:
    """Return how far the matrix of these factors may be off: None of what was given. A copy has the same numbers."""
    for known, off in reversed(op.choices.factored):
        if known.shape == lu.shape and bool((same := (known == lu).all(-1).all(-1)[..., None, None]).any()):
            return off if bool(same.all()) else torch.where(same, off, math.inf)
    return None


def solve(op: Operation, a: Tensor, b: Tensor, *, left: bool = True, **_: Any) -> Any:
    """The X of A X = B, or X A = B, and the factors of A, of which others say how far they are off."""
    x, lu, pivots, _ = op.result
    own = replace(op, result=x)
    off, b_off = own.operand(a).radius, own.operand(b).radius
    _remember(op, a, lu, pivots, off)
    if b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]):  # vectors
        b_off = None if b_off is None else b_off[..., None]
        return [_solved(own, a, off, x[..., None], b_off)[..., 0], None, None, None]
    return [_solved(own, a, off, x, b_off, left), None, None, None]


def solve_with_factors(
    op: Operation, lu: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False
) -> Any:
    """The X of A X = B, of the factors of A."""
    a, off = matrix_of(lu, pivots), _recalled(op, lu)
    if adjoint:
        a, off = a.mH, None if off is None else off.mT
    return _solved(op, a, off, op.result, op.operand(b).radius, left)


def inverse(op: Operation, a: Tensor, **_: Any) -> Any:
    """The inverse: the X of A X = I."""
    own = replace(op, result=op.result[0])
    return [_solved(own, a, own.operand(a).radius, own.result, None), None]


def triangular(
    op: Operation, a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """The X of A X = B, or X A = B, of a triangular A: as (A + D) X = B with |D| <= gamma_n |A| (Higham, theorem 8.5).

    Of another A' and B' it is X', and A' (X' - X) = B' - B - (A' - A) X. The inverse of A' is no larger than that of
    the matrix with the least of A's diagonal, and minus the most of what is beside it; nor than `Nearby` says.
    """
    x, y, n = op.operand(a), op.operand(b), a.shape[-1]
    part = partial(torch.triu if upper else torch.tril, diagonal=(1 if upper else -1) * unitriangular)
    eye = torch.eye(n, dtype=torch.float64, device=a.device)
    size, off = part(x.size) + eye * unitriangular, part(x.size * 0 if x.radius is None else x.radius)
    lost = (size + off) * (0 if op.met_behind else gamma(n + 1, op.unit.u))
    least = torch.where(eye > 0, size - off - lost, -(size + off + lost))
    known = (least.diagonal(dim1=-2, dim2=-1) > 0).all(-1)[..., None, None]
    own = part(wide(a)) + eye * unitriangular
    near = Nearby(own if left else own.mT, off + lost if left else (off + lost).mT)

    def spread(each: Tensor, besides: Any = 0.0) -> Tensor:
        moved = (each @ op.size if left else op.size @ each) + besides
        found = torch.where(known, op.func(least, moved, upper=upper, left=left), math.inf)
        return torch.minimum(found, near.applied(moved) if left else near.applied(moved.mT).mT)

    # Products and quotients may underflow, of which a quotient comes back times the diagonal.
    diagonal = size.diagonal(dim1=-2, dim2=-1).unsqueeze(-1 if left else -2)
    error = spread(lost, op.unit.tiny * (n + diagonal))
    varies = None if x.radius is None and y.radius is None else spread(off, 0.0 if y.radius is None else y.radius)
    return op.stored(op.total(varies, error, gamma(n + 1, op.unit.u), n, 2 * n))


def _logarithm(op: Operation, a: Tensor, lu: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the logarithm of a determinant may be off by what A is, and where its sign is known."""
    off = op.operand(a, a.dtype).radius
    _remember(op, a, lu, pivots, off)
    # Of A or its transpose.
    lost = torch.maximum(_backward_error(op, a)[0], _backward_error(op, a.mT)[0].mT)
    near = Nearby(a, plus(off, lost))
    return near.logarithm(), near.known[..., 0, 0]


def sign_and_logarithm(op: Operation, a: Tensor) -> Any:
    """The sign of the determinant and the logarithm of its size: a sum of the logarithms of what is on U's diagonal."""
    sign, logarithm, lu, pivots = op.result
    own, n = replace(op, result=logarithm), a.shape[-1]
    varies, known = _logarithm(own, a, lu, pivots)
    diagonal = magnitude(lu).diagonal(dim1=-2, dim2=-1)
    error = gamma(n + 2 * own.ulps("log"), own.unit.u) * diagonal.log().abs().sum(-1)
    error = error + n * gamma(4 * a.is_complex(), own.unit.u)  # by the moduli
    besides = own.besides("log", diagonal)
    error = error if besides is None else error + n * torch.as_tensor(besides).amax()
    radius = own.total(varies, error, gamma(n, own.unit.u), n, 2 * n)
    turned = varies + gamma(roundings(a, 2), own.unit.u) if sign.is_complex() else varies * 0
    return [torch.where(known, turned, 2.0).clamp_max(2), own.stored(radius), None, None]


def determinant(op: Operation, a: Tensor) -> Any:
    """The determinant: the product of what is on U's diagonal."""
    found, lu, pivots = op.result
    own, n = replace(op, result=found), a.shape[-1]
    varies, _ = _logarithm(own, a, lu, pivots)
    factor = gamma(roundings(a, 1), own.unit.u)
    # What a product of some underflows to is multiplied with the others.
    others = magnitude(lu).diagonal(dim1=-2, dim2=-1).clamp_min(1).prod(-1)
    error = own.size * torch.expm1(varies + factor) * FEW + 2 * n * own.unit.tiny * others * (1 + factor) * FEW
    return [own.stored(own.total(None, error, factor, n)), None, None]


def cholesky(op: Operation, a: Tensor, *, upper: bool = False, **_: Any) -> Any:
    """The L of A = L L^T: of A + D, |D| <= gamma_n+1 |L| |L^T| (Higham, theorem 10.3), it is L (I + K).

    With N = |L^-1| |D| |L^-T| of size e < 1/2, K + K^T + K K^T is no larger than N, and so the size of K no more than
    k = sqrt(2) e / (1 + sqrt(1 - 2 e)) (Sun, 1991), and K itself than N's triangle, half of its diagonal, plus k^2.
    """
    low = op.result[0].mH if upper else op.result[0]
    own, n = replace(op, result=low), a.shape[-1]
    size, off = magnitude(low), own.operand(a).radius
    if off is not None:
        off = off.mT if upper else off  # of what is read, mirrored
        off = off.tril() + off.tril(-1).mT
    near, product = Nearby(low, None), size @ size.mT
    factor = gamma(roundings(a, 1) + 1, own.unit.u)
    lost = (0 if own.met_behind else factor) * product + 2 * n * own.unit.tiny * (1 + size.amax((-1, -2), keepdim=True))

    def changed(by: Tensor) -> Tensor:
        inside = near.applied(near.applied(by).mT)
        e = torch.linalg.matrix_norm(inside) * (FEW + 8 * n * n * U)
        k = math.sqrt(2) * e / (1 + (1 - 2 * e).sqrt())
        half = inside.tril(-1) + torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1)) / 2
        moves = (half + (k * k)[..., None, None]).tril() * (FEW + 8 * n * U)
        there = (e < 1 / 2) & (op.result[1] == 0)  # and the factor is one
        return torch.where(there[..., None, None], (size @ moves).tril(), math.inf)

    radius = own.stored(own.total(None, changed(plus(lost, off)), factor, n, 4 * n))
    return [radius.mT if upper else radius, None]


def _cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    low = factor.mH if upper else factor
    half = torch.linalg.solve_triangular(low, b, upper=False)
    found: Tensor = torch.linalg.solve_triangular(low.mH, half, upper=True)
    return found


def _cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return _cholesky_solve(eye.expand_as(factor), factor, upper)


def _unless_empty(formula: Callable[..., Any], op: Operation, a: Tensor, *args: Any, **named: Any) -> Any:
    return formula(op, a, *args, **named) if a.numel() else None


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten._linalg_solve_ex: partial(_unless_empty, solve),
    aten.linalg_lu_solve: partial(_unless_empty, solve_with_factors),
    aten.linalg_inv_ex: partial(_unless_empty, inverse),
    aten._linalg_slogdet: partial(_unless_empty, sign_and_logarithm),
    aten._linalg_det: partial(_unless_empty, determinant),
    aten.linalg_cholesky_ex: partial(_unless_empty, cholesky),
    aten.linalg_solve_triangular: partial(_unless_empty, triangular),
}


def _triangular(b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, ones: bool = False) -> Any:
    a = a.mH if transpose else a
    return torch.linalg.solve_triangular(a, b, upper=upper != transpose, unitriangular=ones), None


# What torch computes as these do.
REFERENCES: dict[Any, Callable[..., Any]] = {
    aten.triangular_solve: _triangular, aten.cholesky_solve: _cholesky_solve, aten.cholesky_inverse: _cholesky_inverse,
    aten.cholesky: lambda a, upper=False: torch.linalg.cholesky(a, upper=upper),
}  # fmt: skip
