"""The formulas of sums, means, inner products and products: gamma_k times the sum of the terms' sizes."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.choices import contested, ends, extreme_at, in_doubt, moved, put_otherwise
from backprop_rules.evidence.allowance.operation import Operand, Operation, plus, spread
from backprop_rules.evidence.allowance.units import FEW, NARROW, gamma, unit, wide, widens
from backprop_rules.subject.ambient import inexact

aten = torch.ops.aten

# A complex term is four real products and two sums more: |fl - exact| <= sqrt(2) gamma_(k+1) |A| |B| (Higham,
# problem 3.7); by three real multiplications, as some libraries do, within 4 times that.
COMPLEX = 6
# Ulps, of 2 u each, of one complex product, in modulus (Higham, lemma 3.5: sqrt(2) gamma_2).
COMPLEX_PRODUCT = math.sqrt(2)


def sum(op: Operation, a: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor | None:
    """Sum, in any order: gamma_(n-1) times the sum of the sizes, u of the result for one addition."""
    count = a.numel() // max(1, op.result.numel())
    x = op.operand(a)
    varies = None if x.radius is None else x.radius.sum(dim, keepdim)
    if count <= 1 or not (op.result.is_floating_point() or op.result.is_complex()):
        return None if varies is None else op.up(varies)  # whole numbers, too, such as the count of a mask
    if count == 2 and widens(op.unit_dtype, op.accumulator()):
        return op.rounded(varies, underflows=2.0 * op.flushes)
    return op.summed(varies, x.size.sum(dim, keepdim), count - 1)


def mean(op: Operation, a: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor | None:
    """The sum, divided by the count; on CUDA multiplied by its reciprocal."""
    count = a.numel() // max(1, op.result.numel())
    size, varies = op.operand(a).through(lambda x: x.mean(dim, keepdim))
    if count <= 1:
        return None if varies is None else op.up(varies)
    whole = count & (count - 1) == 0
    # A complex number, too, is multiplied by the reciprocal, and either part may underflow.
    extra = 0 if whole else 1 + (op.result.is_cuda or op.result.is_complex())
    terms = count - 1 + extra
    return op.summed(varies, size, terms, 1 + op.result.is_complex(), divisor=count)


def _cumsum(op: Operation, a: Tensor, dim: int, dtype: Any = None) -> Tensor | None:
    if not inexact(op.result):
        return None  # a count
    size, varies = op.operand(a).through(lambda x: x.cumsum(dim))
    return op.summed(varies, size, a.size(dim) - 1 if a.ndim else 0)


def log_of_sums(op: Operation, a: Tensor, dim: int) -> Any:
    """log(sum(exp(a))) so far: of two numbers the larger plus log1p(exp(-|a - b|)), whose slopes are at most 1.

    The difference is off by u |a - b|, of which u / e is left, and the logarithm is at most log(2). What is off by u
    |c| in a sum c of some of the numbers counts as exp(c - y), and so no more than u max(|y|, 1) of all of them.
    """
    x = op.operand(a)
    steps = torch.ones_like(op.size).cumsum(dim) - 1
    ulps = 2 * (op.ulps("exp") + op.ulps("log1p"))
    used = unit(op.dtype, op.flushes)  # in which some kernels keep what they have so far
    error = op.up(steps * ((op.size.clamp_min(1) + 1) * used.u + ulps * op.unit.u))
    varies = None
    if x.radius is not None:  # it grows with each number
        varies = (
            moved(op, op.result, *(op.func(end, dim) for end in ends(a, x.radius))) + steps * (op.size + 2) * 2.0**-49
        )
    return op.total(varies, error, used.u, a.shape[dim] if a.ndim else 1)


def _products(op: Operation, a: Tensor, count: int, multiply: Callable[[Tensor], Tensor]) -> Tensor | None:
    x = op.operand(a)
    size = multiply(x.size)
    varies = None
    if x.radius is not None:
        # prod(|a| + r) - prod(|a|) <= prod(|a|) (prod(1 + r / |a|) - 1), but for zeros.
        grown = multiply(x.grown())
        near = size * (multiply(1 + x.radius / x.size) - 1)
        slack = (count + 4) * 2.0**-52
        varies = torch.fmin((grown - size).clamp_min(0) + grown * slack, near + size * slack)
    # Some kernels keep the product in the narrow dtype, and round it every time; a partial product may underflow
    # before large factors come.
    used = unit(op.dtype, op.flushes)
    factor = gamma(count * (1 + 2.0**-15), used.u) if op.dtype in NARROW else gamma(max(count - 1, 0), used.u)
    lost = 2 * count * used.tiny * multiply(x.grown().clamp_min(1))
    exact = x.size == 0 if x.radius is None else x.grown() == 0
    error = torch.where(multiply((~exact).double()) == 0, 0.0, op.up(size * factor + lost, count))
    error = error + op.size * 0  # NaN where the product is not finite
    return op.total(varies, error, factor) if count > 1 or varies is not None else None


def _prod(op: Operation, a: Tensor, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor | None:
    count = a.numel() // max(1, op.result.numel())
    return _products(op, a, count, lambda x: x.prod() if dim is None else x.prod(dim, keepdim))


def _cumprod(op: Operation, a: Tensor, dim: int, dtype: Any = None) -> Tensor | None:
    return _products(op, a, a.size(dim) if a.ndim else 1, lambda x: x.cumprod(dim))


def added_at(op: Operation, a: Tensor, index: Any, source: Any, add: Callable[[Any, Any], Tensor], narrow: bool) -> Any:
    """Return the radius of `a` with a source's elements added at places that may repeat."""
    op.settled(index)
    x, y = op.operand(a), op.operand(source)
    zeros = torch.zeros(a.shape, dtype=torch.float64, device=a.device)
    varies = None
    if x.radius is not None or y.radius is not None:
        varies = add(zeros if x.radius is None else x.radius, 0.0 if y.radius is None else y.radius)
    elif op.exact_sum(add(x.size, y.size), narrow=narrow):
        return op.stored_exactly()
    counts = add(zeros, 1.0)
    kept = op.accumulator(narrow)
    used = unit(kept, op.flushes)
    factor = torch.where(counts * used.u < 1, counts * used.u / (1 - counts * used.u), math.inf)
    error = op.up(add(x.size, y.size) * torch.where(counts == 0, 0.0, factor), int(counts.max()) if a.numel() else 0)
    error = error + counts * (used.tiny * op.flushes) + op.size * 0  # NaN where the result is not finite
    if not widens(kept, op.dtype):
        storage = unit(op.dtype, op.flushes)
        error = torch.where(counts == 0, 0.0, error + (op.size * storage.u).clamp_min(storage.tiny))
    return op.total(varies, error, factor)


def _like(value: Any, source: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=source.device).expand(source.shape)


def added(op: Operation, a: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Any:
    """A, with source added along a dimension; on the CPU scatter_add keeps its sums in the wider dtype."""
    if alpha != 1:
        raise op.refuse("with an alpha")
    narrow = op.result.is_cuda or op.func.overloadpacket == aten.index_add
    size = op.operand(source).grown()

    def put(index: Tensor) -> Tensor:
        return op.func(torch.zeros_like(op.size), dim, index, size)  # type: ignore[no-any-return]

    found = added_at(op, a, index, source, lambda x, y: op.func(x, dim, index, _like(y, source)), narrow)
    return plus(found, contested(op, index, dim, source) if index.ndim == a.ndim else put_otherwise(op, put, index))


def index_put(op: Operation, a: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Any:
    """A, with values put or added at indices."""
    if accumulate:
        at, zeros = a[tuple(slice(None) if index is None else index for index in indices)], torch.zeros_like(op.size)
        found = added_at(op, a, indices, values, lambda x, y: aten.index_put(x, indices, _like(y, at), True), True)
        size = op.operand(values).grown().expand(at.shape)
        moved = put_otherwise(op, lambda *those: aten.index_put(zeros, those, size, True), *indices)
        return plus(found, moved, in_doubt(op, indices))
    op.settled(indices)
    radii, found = op.radii(a, values), in_doubt(op, indices)
    found = found if radii is None else plus(aten.index_put(radii[0], indices, radii[1]), found)
    return plus(found, put_otherwise(op, lambda *those: aten.index_put(wide(a), those, wide(values)), *indices))


def looked_up(op: Operation, grad: Tensor, indices: Tensor, count: int, padding: int, by_frequency: bool) -> Any:
    """The gradient of an embedding: to each row the cotangents where it was looked up, but for the padding."""
    if by_frequency:
        raise op.refuse("by frequency")
    a = grad.new_zeros(count, grad.shape[-1])

    def add(x: Tensor, y: Any, index: Tensor = indices) -> Tensor:
        rows = _like(y, grad) * (index != padding).unsqueeze(-1)
        return x.index_add(0, index.reshape(-1), rows.reshape(-1, grad.shape[-1]))

    size = op.operand(grad).grown()
    moved = put_otherwise(op, lambda index: add(torch.zeros_like(op.size), size, index), indices)
    return plus(added_at(op, a, indices, grad, add, True), moved)


def put(op: Operation, a: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Any:
    """A, with a source put or added at places that are counted through."""
    if accumulate:
        return added_at(op, a, index, source, lambda x, y: torch.put(x, index, _like(y, source), True), True)
    op.settled(index)
    radii = op.radii(a, source)
    return None if radii is None else torch.put(radii[0], index, radii[1])


def gathered(
    op: Operation, a: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """The sum, the mean or an extreme of what comes to each place."""
    op.settled(index)
    if op.func.overloadpacket == aten.index_reduce:
        index = index.reshape([-1 if k == dim % a.ndim else 1 for k in range(a.ndim)]).expand(source.shape)
    if reduce in ("amax", "amin"):
        return extreme_at(op, a, dim, index, source, reduce, include_self)
    if reduce not in ("sum", "mean"):
        raise op.refuse(f"by {reduce}")
    times = torch.zeros(a.shape, dtype=torch.float64, device=a.device)
    times = times.scatter_add(dim, index, torch.ones_like(source, dtype=torch.float64))

    def add(x: Tensor, y: Any) -> Tensor:
        x = x if include_self else torch.where(times > 0, 0.0, x)
        return x.scatter_add(dim, index, _like(y, source))

    if reduce == "sum":
        return added_at(op, a, index, source, add, True)
    count = (times + include_self).clamp_min(1)
    radius = added_at(replace(op, result=(op.result * count).to(op.dtype)), a, index, source, add, True)
    return plus(None if radius is None else radius / count * FEW, op.rounded(None))


def fourier(op: Operation, a: Tensor, dims: Any, normalization: int, *how: Any) -> Any:
    """Sums of numbers times roots of unity, axis by axis, by the definition or faster."""
    x, lengths = op.operand(a, a.dtype), [max(a.shape[d], op.result.shape[d]) for d in dims]
    half = a.is_complex() and not op.result.is_complex()  # of real sums half of the terms are given
    scale = math.prod(lengths) ** (0, -0.5, -1)[normalization]

    def of(sizes: Tensor, weight: float) -> Tensor:
        return (sizes.sum(list(dims), keepdim=True) * weight).expand(op.result.shape)

    varies = None if x.radius is None else of(x.radius, (1 + half) * scale)
    roundings = COMPLEX * (math.fsum(lengths) + 2 * len(lengths) + (normalization > 0))
    size = of(x.size, op.weight(1 + half) * scale)
    return op.summed(varies, size, int(roundings), 2 * roundings, divisor=1 / scale)


def inner(op: Operation, a: Tensor, b: Tensor, added: Operand | None = None, beta: float = 1, alpha: float = 1) -> Any:
    """alpha (a @ b), of matrices, of stacks of them, or with vectors, to which beta times a result may be added."""
    x, y, length = op.factor(a), op.factor(b), a.shape[-1]
    size = torch.matmul(x.size, y.size)
    varies = _spread_of(op, x, y, size, length)
    lost = op.loses
    if lost:
        varies = plus(varies, size * (2 * lost + lost * lost))
    if alpha != 1:
        size, varies = size * op.weight(alpha), None if varies is None else varies * abs(alpha)
    if added is not None and beta != 0:
        size = size + added.size * op.weight(beta)
        varies = plus(varies, None if added.radius is None else added.radius * abs(beta))
    length += (added is not None) + 2 * (alpha != 1 or beta != 1)
    return products_summed(op, size, varies, length, lost)


def _spread_of(op: Operation, x: Operand, y: Operand, size: Tensor, length: int) -> Any:
    """Return how far the exact operands' inner products may lie from these.

    Where both have radii r and s, (|a| + r)(|b| + s) - |a| |b| is one product less than `spread`; each of these sums is
    off by 2^-53 in proportion for each of its terms, which is next to nothing if the operation has fewer bits.
    """
    if x.radius is None or y.radius is None or not op.wider:
        return spread(x, y, torch.matmul)
    grown = torch.matmul(x.grown(), y.grown())
    return torch.sub(grown, size).add_(grown, alpha=(length + 2) * 2.0**-52)


def products_summed(op: Operation, size: Tensor, varies: Any, length: int, lost: float = 0.0) -> Tensor:
    """Return the radius of a sum of that many products, whose sizes add up to `size`."""
    count, narrow = roundings(op, length, lost)
    if op.flushes_products:
        if varies is None and op.exact_sum(size, narrow=narrow):
            return op.stored_exactly()  # type: ignore[no-any-return]
        varies = plus(varies, op.of_any(size, varies, length * unit(op.dtype).normal))
    # Four products to a complex term: twice for either part.
    underflows = float(length) * (3 if op.result.is_complex() else 1)
    return op.summed(varies, size, count, underflows, narrow)


def added_product(op: Operation, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """C + a @ b."""
    return inner(op, a, b, op.operand(c), beta, alpha)


def roundings(op: Operation, length: int, lost: float) -> tuple[int, bool]:
    """Return the number of roundings, of u each, and whether they are in the narrow dtype."""
    if op.result.is_complex():
        return COMPLEX * (length + 1), False
    if not op.truncates and not (lost and op.result.is_cuda):
        return length, False
    # A tensor core aligns what it has and the products of a group of four, or more, to the largest of them, cuts off
    # all others and then the sum, each by 2 u in proportion (Fasi, Higham, Mikaitis & Pranesh, Numerical behavior of
    # NVIDIA tensor cores, 2021; Xie et al., Bit-accurate modeling of GPU matrix multiply-accumulate units, 2025). One
    # with fewer products, and zeros, loses 2 u for each in all: the sum has the largest one's exponent, or is twice it.
    # In random order that is at first above what it has: 4 sum(a^2) / n more in the mean square, as by 24 more.
    modes = torch.backends.cuda.matmul
    reduced = {
        torch.float16: modes.allow_fp16_reduced_precision_reduction,
        torch.bfloat16: modes.allow_bf16_reduced_precision_reduction,
    }
    return min(4 * length, 2 * (length - length // -4) + 24), bool(reduced.get(op.dtype))


def sum_of_two(op: Operation, a: Any, b: Any, *, alpha: complex = 1) -> Any:
    """a + alpha b, fused or not, the product kept wide or not: an addition rounds nothing where it underflows."""
    x, y = op.operand(a), op.operand(b)
    underflows = 2.0 * op.flushes  # of either part
    if alpha in (1, -1):
        nothing, varies = op.adds_nothing(a, b), plus(x.radius, y.radius)
        if nothing is not None and bool(nothing.all()):
            return varies  # of which one is 0 where the other is not
        several = op.several(a, b) if alpha == 1 else None
        if several is not None:
            return op.in_any_order(varies, *several)
        by_steps = op.flushes or op.dtype != op.unit_dtype  # and else in proportion: 0 by nothing
        zero = (op.size == 0) & (x.size == 0) & (y.size == 0) if by_steps and op.may_vanish else None
        exact = [mask for mask in (zero, nothing) if mask is not None]
        return op.rounded(varies, underflows=underflows, exact=reduce(or_, exact) if exact else None)
    factor = op.operand(alpha)
    product, used = y.size * factor.size, unit(op.dtype, op.flushes)
    error = op.up(product * gamma(2 * COMPLEX_PRODUCT if op.result.is_complex() else 1, used.u) + 6 * used.tiny)
    return op.rounded(plus(x.radius, spread(y, factor), error), underflows=underflows)


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.add: sum_of_two, aten.sub: sum_of_two,
    aten.rsub: lambda op, a, b, alpha=1: sum_of_two(op, b, a, alpha=alpha),
    aten.sum: sum, aten.mean: mean, aten.cumsum: _cumsum, aten.prod: _prod, aten.cumprod: _cumprod,
    aten.scatter_add: added, aten.index_add: added, aten.index_put: index_put, aten.put: put,
    aten.embedding_dense_backward: looked_up, aten.scatter_reduce: gathered, aten.index_reduce: gathered,
    **dict.fromkeys((aten._fft_r2c, aten._fft_c2c, aten._fft_c2r), fourier),
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot, aten.vdot), inner),
    aten.logcumsumexp: log_of_sums,
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), added_product),
}  # fmt: skip
