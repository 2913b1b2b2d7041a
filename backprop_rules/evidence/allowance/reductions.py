"""The formulas of reductions: sums, means, products, and what is added at an index."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, plus
from backprop_rules.evidence.allowance.units import NARROW, gamma, unit, widens

aten = torch.ops.aten


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
    x = op.operand(a)
    varies = None if x.radius is None else x.radius.mean(dim, keepdim)
    if count <= 1:
        return None if varies is None else op.up(varies)
    whole = count & (count - 1) == 0
    # A complex number, too, is multiplied by the reciprocal, and either part may underflow.
    extra = 0 if whole else 1 + (op.result.is_cuda or op.result.is_complex())
    terms = count - 1 + extra
    return op.summed(varies, x.size.mean(dim, keepdim), terms, 1 + op.result.is_complex(), divisor=count)


def cumsum(op: Operation, a: Tensor, dim: int, dtype: Any = None) -> Tensor | None:
    """The sums of the first 1, 2, ... elements."""
    x = op.operand(a)
    varies = None if x.radius is None else x.radius.cumsum(dim)
    return op.summed(varies, x.size.cumsum(dim), a.size(dim) - 1 if a.ndim else 0)


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


def prod(op: Operation, a: Tensor, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor | None:
    """Product of all elements, or along one dimension."""
    count = a.numel() // max(1, op.result.numel())
    return _products(op, a, count, lambda x: x.prod() if dim is None else x.prod(dim, keepdim))


def cumprod(op: Operation, a: Tensor, dim: int, dtype: Any = None) -> Tensor | None:
    """The products of the first 1, 2, ... elements."""
    return _products(op, a, a.size(dim) if a.ndim else 1, lambda x: x.cumprod(dim))


def _added(
    op: Operation, a: Tensor, index: Any, source: Any, add: Callable[[Any, Any], Tensor], narrow: bool
) -> Tensor:
    """Return the radius of `a` with a source's elements added at places that may repeat."""
    op.settled(index)
    x, y = op.operand(a), op.operand(source)
    known = plus(x.radius, y.radius)
    zeros, none = torch.zeros(a.shape, dtype=torch.float64, device=a.device), 0.0
    y_radius = none if y.radius is None else y.radius
    varies = None if known is None else add(zeros if x.radius is None else x.radius, y_radius)
    counts = add(zeros, 1.0)
    kept = op.accumulator(narrow)
    used = unit(kept, op.flushes)
    factor = torch.where(counts * used.u < 1, counts * used.u / (1 - counts * used.u), math.inf)
    error = op.up(add(x.size, y.size) * torch.where(counts == 0, 0.0, factor), int(counts.max()) if a.numel() else 0)
    error = error + counts * (used.tiny * op.flushes) + op.size * 0  # NaN where the result is not finite
    if not widens(kept, op.dtype):
        storage = unit(op.dtype, op.flushes)
        error = torch.where(counts == 0, 0.0, error + (op.size * storage.u).clamp_min(storage.tiny))
    return op.total(varies, error, float(factor.max()) if a.numel() else 0)


def _like(value: Any, source: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.expand(source.shape)
    return torch.full(source.shape, value, dtype=torch.float64, device=source.device)


def scatter_add(op: Operation, a: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A, with source added along a dimension."""
    return _added(op, a, index, source, lambda x, y: x.scatter_add(dim, index, _like(y, source)), op.result.is_cuda)


def index_add(op: Operation, a: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """A, with the slices of source added along a dimension, in the dtype of the result."""
    if alpha != 1:
        raise op.refuse("with an alpha")
    return _added(op, a, index, source, lambda x, y: x.index_add(dim, index, _like(y, source)), True)


def index_put(op: Operation, a: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor | None:
    """A, with values put or added at indices."""
    place = tuple(slice(None) if index is None else index for index in indices)
    at = a[place]
    if accumulate:
        return _added(op, a, indices, values, lambda x, y: aten.index_put(x, indices, _like(y, at), True), True)
    op.settled(indices)
    x, y = op.operand(a), op.operand(values)
    if x.radius is None and y.radius is None:
        return None
    zeros = torch.zeros(a.shape, dtype=torch.float64, device=a.device)
    put = _like(0.0 if y.radius is None else y.radius, at)
    return aten.index_put(zeros if x.radius is None else x.radius, indices, put)  # type: ignore[no-any-return]


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.sum: sum, aten.mean: mean, aten.cumsum: cumsum, aten.prod: prod, aten.cumprod: cumprod,
    aten.scatter_add: scatter_add, aten.index_add: index_add, aten.index_put: index_put,
}  # fmt: skip
