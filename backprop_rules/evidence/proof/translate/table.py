"""The table: torch's operations in NumPy notation, for arrays of exact numbers.

What is not here torch expresses in operations that are, by its own decompositions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flint import arb

from backprop_rules.evidence.proof.balls import Undecided, as_balls, ball, head
from backprop_rules.evidence.proof.translate import numbers
from backprop_rules.evidence.proof.translate.numbers import Function, compared, each, middle, pieces

aten = torch.ops.aten

LEAST: Any = arb(-math.inf)

Dims = int | Sequence[int] | None


def times(a: Any, factor: Any) -> Any:
    """A factor times a."""
    return a if isinstance(factor, int | float) and factor == 1 else a * factor


def axes(dim: Dims, ndim: int) -> tuple[int, ...]:
    """Return the axes that `dim` names: all if it names none; a 0-d tensor has none."""
    named = range(ndim) if dim is None or dim in ([], ()) else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(axis % ndim for axis in named)) if ndim else ()


def size_along(a: Any, dim: Dims) -> int:
    """Return how many elements are reduced into one."""
    return math.prod(a.shape[axis] for axis in axes(dim, a.ndim))


# ---- arithmetic


def divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """A / b, or the whole number below it or nearer to zero."""
    return {None: lambda q: q, "floor": numbers.floor, "trunc": numbers.trunc}[rounding_mode](a / b)


def clamp(a: Any, min: Any = None, max: Any = None) -> Any:
    """Return a, no less than min and no more than max."""
    above = a if min is None else np.maximum(a, min)
    return above if max is None else np.minimum(above, max)


def to(a: Any, *, dtype: Any = None, **_: Any) -> Any:
    """Return the same numbers, whatever the precision; truth, or whole numbers, if the dtype has only these."""
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return a
    return COMPARISONS[aten.ne](a, 0) if dtype == torch.bool else numbers.trunc(a)


ARITHMETIC: dict[Any, Function] = {
    aten.add: lambda a, b, *, alpha=1: a + times(b, alpha),
    aten.sub: lambda a, b, *, alpha=1: a - times(b, alpha),
    aten.rsub: lambda a, b, alpha=1: b - times(a, alpha),
    aten.mul: lambda a, b: a * b,
    aten.div: divide,
    aten.floor_divide: lambda a, b: numbers.floor(a / b),
    aten.remainder: lambda a, b: a - b * numbers.floor(a / b),
    aten.fmod: lambda a, b: a - b * numbers.trunc(a / b),
    aten.neg: lambda a: -a,
    aten.reciprocal: lambda a: 1 / a,
    aten.pow: numbers.power,
    aten.sqrt: np.sqrt,
    aten.rsqrt: lambda a: 1 / np.sqrt(a),
    aten.lerp: lambda a, b, weight: a + weight * (b - a),
    aten.addcmul: lambda a, b, c, *, value=1: a + times(b * c, value),
    aten.addcdiv: lambda a, b, c, *, value=1: a + times(b / c, value),
    aten.abs: np.abs,
    aten.maximum: np.maximum,
    aten.minimum: np.minimum,
    aten.clamp: clamp,
    aten.clamp_min: clamp,
    aten.clamp_max: np.minimum,
    aten.floor: numbers.floor,
    aten.ceil: numbers.ceil,
    aten.trunc: numbers.trunc,
    aten.round: numbers.round,
    aten.sign: numbers.sign,
    aten.sgn: numbers.sign,
    aten.clone: lambda a, **_: a,
    aten._to_copy: to,
    aten.fill: lambda a, value: np.broadcast_to(value, a.shape),
}

# ---- functions of one number


def gelu(a: Any, *, approximate: str = "none") -> Any:
    """A Phi(a), or with a tanh in the place of the error function."""
    if approximate == "none":
        return a * numbers.ndtr(a)
    # (1 + tanh(x)) / 2 is the sigmoid of 2 x
    return a * numbers.sigmoid((a + a * a * a * 0.044715) * (8 / arb.pi()).sqrt())


def elu(a: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """Scale times a, or alpha (exp(input_scale a) - 1) where it is negative."""
    return pieces(0, lambda v: (v * input_scale).expm1() * alpha * scale, lambda v: v * scale)(a)


def celu(a: Any, alpha: float = 1) -> Any:
    """Return a, or alpha (exp(a / alpha) - 1) where it is negative."""
    return pieces(0, lambda v: (v / alpha).expm1() * alpha, lambda v: v)(a)


def softplus(a: Any, beta: float = 1, threshold: float = 20) -> Any:
    """log(1 + exp(beta a)) / beta, or a where beta a is above the threshold, as torch defines it."""
    z = times(a, beta)
    return pieces(threshold, numbers._softplus, lambda v: v)(z) / beta


def hardshrink(a: Any, lambd: float = 0.5) -> Any:
    """Return a, or 0 between -lambd and lambd."""
    return middle(-lambd, lambd, lambda v: v, lambda v: 0, lambda v: v)(a)


def softshrink(a: Any, lambd: float = 0.5) -> Any:
    """Return a moved by lambd towards 0, no farther."""
    return middle(-lambd, lambd, lambda v: v + lambd, lambda v: 0, lambda v: v - lambd)(a)


def square(a: Any) -> Any:
    """A a."""
    return a * a


def logit(a: Any, eps: float | None = None) -> Any:
    """log(a / (1 - a))."""
    inside = a if eps is None else clamp(a, eps, 1 - arb(eps))
    return np.log(inside) - np.log1p(-inside)


def logarithm(base: int) -> Function:
    """Return the logarithm to a base."""
    return lambda a: np.log(a) / arb(base).log()


CURVES: dict[Any, Function] = {
    aten.exp: np.exp, aten.expm1: np.expm1, aten.exp2: lambda a: np.exp(a * arb(2).log()), aten.log: np.log,
    aten.log1p: np.log1p, aten.log2: logarithm(2), aten.log10: logarithm(10), aten.sin: np.sin, aten.cos: np.cos,
    aten.tan: numbers.tan, aten.asin: numbers.asin, aten.acos: numbers.acos, aten.atan: numbers.atan,
    aten.sinh: numbers.sinh, aten.cosh: numbers.cosh, aten.tanh: np.tanh, aten.asinh: numbers.asinh,
    aten.acosh: numbers.acosh, aten.atanh: numbers.atanh, aten.atan2: numbers.atan2, aten.erf: numbers.erf,
    aten.erfc: numbers.erfc, aten.erfinv: numbers.erfinv, aten.lgamma: numbers.lgamma,
    aten.special_ndtr: numbers.ndtr, aten.sigmoid: numbers.sigmoid, aten.logaddexp: numbers.logaddexp,
    aten.xlogy: numbers.xlogy, aten.logit: logit, aten.deg2rad: lambda a: a * (arb.pi() / 180),
    aten.rad2deg: lambda a: a * (180 / arb.pi()), aten.hypot: lambda a, b: (a * a + b * b) ** 0.5,
    aten.relu: lambda a: np.maximum(a, 0), aten.hardtanh: lambda a, min=-1, max=1: clamp(a, min, max),
    aten.hardsigmoid: lambda a: clamp(a + 3, 0, 6) / 6, aten.hardswish: lambda a: a * clamp(a + 3, 0, 6) / 6,
    aten.leaky_relu: lambda a, slope=0.01: pieces(0, lambda v: v * slope, lambda v: v)(a),
    aten.elu: elu, aten.celu: celu, aten.gelu: gelu, aten.silu: lambda a: a * numbers.sigmoid(a),
    aten.mish: lambda a: a * np.tanh(numbers.softplus(a)), aten.softplus: softplus,
    aten.log_sigmoid_forward: lambda a: (-numbers.softplus(-a), None),
    aten.hardshrink: hardshrink, aten.softshrink: softshrink,
    aten.threshold: lambda a, at, value: pieces(at, lambda v: value, lambda v: v)(a),
}  # fmt: skip

# ---- reductions


def total(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum."""
    found = np.sum(a, axis=axes(dim, a.ndim), keepdims=keepdim)
    return found if a.size else found + arb(0)  # NumPy's own zero has no logarithm


def mean(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum, divided by the number of its terms."""
    return total(a, dim, keepdim) / size_along(a, dim)


def product(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product."""
    return np.prod(a, axis=axes(dim, a.ndim), keepdims=keepdim)


def variance(a: Any, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """The sum of the squares about the mean, over n less the correction."""
    squares = square(a - mean(a, dim, True))
    return total(squares, dim, keepdim) / (size_along(a, dim) - (1 if correction is None else correction))


def deviation(a: Any, dim: Dims = None, **named: Any) -> Any:
    """The root of the variance."""
    return variance(a, dim, **named) ** 0.5


def largest(a: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """The largest."""
    return np.max(a, axis=axes(dim, a.ndim), keepdims=keepdim)


def smallest(a: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """The smallest."""
    return np.min(a, axis=axes(dim, a.ndim), keepdims=keepdim)


def norm(a: Any, p: float | None = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The p-norm."""
    if p is None or p == 2:
        return total(square(a), dim, keepdim) ** 0.5
    if p == 0:
        raise NotImplementedError("of order 0")
    if abs(p) == math.inf:
        return (largest if p > 0 else smallest)(np.abs(a), dim, keepdim)
    return total(np.abs(a), dim, keepdim) if p == 1 else total(np.abs(a) ** p, dim, keepdim) ** (1 / arb(p))


def _shift(a: Any, dim: Dims) -> Any:
    """Return a constant near the largest along an axis: what it is taken off of depends on it no longer."""
    middles = np.empty(a.shape, dtype=object)
    middles.reshape(-1)[:] = [head(ball(v)).mid() for v in a.flat]
    found: Any = np.max(middles, axis=axes(dim, a.ndim), keepdims=True, initial=LEAST)
    return each(lambda v: v if v.is_finite() else arb(0))(found)


def logsumexp(a: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """m + log(sum(exp(a - m))), for any m."""
    m = _shift(a, dim)
    found = np.log(total(np.exp(a - m), dim, True)) + m
    return found if keepdim else np.squeeze(found, axes(dim, a.ndim))


def softmax(a: Any, dim: int, half_to_float: bool = False) -> Any:
    """exp(a - m) over its sum, for any m."""
    powers = np.exp(a - _shift(a, dim))
    return powers / total(powers, dim, True)


def running(ufunc: Any) -> Function:
    """Return the running sums, or products, along an axis."""
    return lambda a, dim, *, dtype=None: ufunc.accumulate(a, dim) if a.ndim else a


REDUCTIONS: dict[Any, Function] = {
    aten.sum: total, aten.mean: mean, aten.prod: product, aten.var: variance, aten.std: deviation,
    aten.var_mean: lambda a, dim=None, **named: (
        variance(a, dim, **named), mean(a, dim, named.get("keepdim", False))
    ),
    aten.std_mean: lambda a, dim=None, **named: (
        deviation(a, dim, **named), mean(a, dim, named.get("keepdim", False))
    ),
    aten.amax: largest, aten.amin: smallest,
    aten.aminmax: lambda a, *, dim=None, keepdim=False: (smallest(a, dim, keepdim), largest(a, dim, keepdim)),
    aten.linalg_vector_norm: norm, aten.norm: norm, aten.logsumexp: logsumexp, aten._softmax: softmax,
    aten._log_softmax: lambda a, dim, half_to_float=False: a - logsumexp(a, dim, True),
    aten.cumsum: running(np.add), aten.cumprod: running(np.multiply),
    aten.logcumsumexp: lambda a, dim: np.log(running(np.add)(np.exp(a), dim)),
    aten._cdist_forward: lambda a, b, p, mode: norm(a[..., :, None, :] - b[..., None, :, :], p, -1),
}  # fmt: skip

# ---- the order of numbers: an index that is not certain is a TIE, and of no use


def _along(function: Function, a: Any, dim: int) -> Any:
    """Return a function of rows, along an axis."""
    rows = np.moveaxis(np.atleast_1d(a), dim, -1)
    found = [function(row) for row in rows.reshape(-1, rows.shape[-1])]
    made = np.empty((len(found), np.size(found[0]) if found else 0), dtype=object)
    for i, row in enumerate(found):
        made[i] = row
    return np.moveaxis(made.reshape(*rows.shape[:-1], made.shape[-1]), -1, dim)


def _sorted(row: Any) -> list[int]:
    """Return the positions of the elements in ascending order, of which each is certain."""
    order = sorted(range(len(row)), key=lambda i: float(head(row[i].value).mid()))
    if not all(COMPARISONS[aten.lt](row[i], row[j]) for i, j in itertools.pairwise(order)):
        raise Undecided("the order of equal numbers is not certain")
    return order


def _place(row: Any, sign: int) -> Any:
    """Return the position of the largest element times the sign, or TIE."""
    best = max(range(len(row)), key=lambda i: sign * float(head(row[i].value).mid()))
    top = head(row[best].value) * sign
    return best if all(i == best or head(v.value) * sign < top for i, v in enumerate(row)) else numbers.TIE


def place(sign: int) -> Function:
    """Return where the largest is, or the smallest."""

    def found(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            return np.array(_place(a.ravel(), sign), dtype=object).reshape([1] * a.ndim if keepdim else ())
        places = _along(lambda row: _place(row, sign), a, dim)
        return places.reshape(np.sum(a, axis=axes(dim, a.ndim), keepdims=keepdim).shape)

    return found


def extreme(pair: Any, reduce: Function, sign: int) -> Function:
    """Return the larger of two, the largest, or that along an axis and where it is."""

    def found(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, np.ndarray):
            return pair(a, dim)
        values = reduce(a, dim, keepdim)
        return values if dim is None else (values, place(sign)(a, dim, keepdim))

    return found


def sort(a: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> tuple[Any, Any]:
    """The numbers in ascending order, and where they were."""
    order = _along(lambda row: _sorted(row)[:: -1 if descending else 1], a, dim).astype(int)
    return np.take_along_axis(np.atleast_1d(a), order, dim).reshape(a.shape), order.reshape(a.shape)


def topk(a: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:
    """The k largest, and where they were."""
    values, order = sort(np.atleast_1d(a), dim, largest)
    shape = () if a.ndim == 0 else np.take(a, range(k), dim).shape
    return np.take(values, range(k), dim).reshape(shape), np.take(order, range(k), dim).reshape(shape)


ORDERS: dict[Any, Function] = {
    aten.max: extreme(np.maximum, largest, 1), aten.min: extreme(np.minimum, smallest, -1),
    aten.argmax: place(1), aten.argmin: place(-1), aten.sort: sort, aten.topk: topk,
    aten.median: lambda a: sort(a.ravel())[0][(a.size - 1) // 2],
    aten.cummax: lambda a, dim: (np.maximum.accumulate(a, dim), np.full(a.shape, numbers.TIE)),
    aten.cummin: lambda a, dim: (np.minimum.accumulate(a, dim), np.full(a.shape, numbers.TIE)),
}  # fmt: skip

# ---- products


def plus_product(c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Beta c + alpha a b; c does not count if beta is 0."""
    found = times(np.matmul(a, b), alpha)
    return found if beta == 0 else times(c, beta) + found


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0, is_causal: bool = False, *, scale: Any = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q k^T / sqrt(d)) v."""
    if dropout_p or enable_gqa:
        raise NotImplementedError("with dropout, or groups")
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / arb(q.shape[-1]).sqrt() if scale is None else scale)
    if is_causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is not None:
        scores = numbers.choose(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    return np.matmul(softmax(scores, -1), v)


def _padded(a: Any, padding: Sequence[int], value: float = 0) -> Any:
    before = a.ndim - len(padding)
    width = [(0, 0)] * before + [(p, p) for p in padding]
    return as_balls(np.pad(a.view(np.ndarray), width, constant_values=value))


def _windows(a: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """Return the array with the windows' axes last."""
    n = len(kernel)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    seen: Any = np.lib.stride_tricks.sliding_window_view(a.view(np.ndarray), extent, tuple(range(a.ndim - n, a.ndim)))
    steps: Any = (..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))
    return as_balls(seen[steps])


def convolution(
    x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int,
) -> Any:  # fmt: skip
    """Cross-correlation, in groups of channels."""
    if transposed:
        raise NotImplementedError("transposed")
    n, batch = w.ndim - 2, x.shape[0]
    seen = _windows(_padded(x, padding), w.shape[2:], stride, dilation)
    out = seen.shape[2 : 2 + n]
    # (batch, group, places, channels and window) times (group, channels and window, channels out)
    seen = np.moveaxis(seen.reshape(batch, groups, -1, *seen.shape[2:]), 2, 2 + n)
    seen = seen.reshape(batch, groups, math.prod(out), -1)
    kernels = np.swapaxes(w.reshape(groups, w.shape[0] // groups, -1), 1, 2)
    found = np.swapaxes(np.matmul(seen, kernels), 2, 3).reshape(batch, w.shape[0], *out)
    return found if bias is None else found + bias.reshape(-1, *[1] * n)


def _every(value: Sequence[int] | int, n: int) -> Sequence[int]:
    named = [value] if isinstance(value, int) else list(value)
    return named * n if len(named) == 1 else named


def max_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Any, Any]:
    """The largest of each window; which one that is, is not said."""
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")
    n = len(kernel)
    padded = _padded(a, _every(padding, n), -math.inf)
    seen = _windows(padded, kernel, _every(stride or kernel, n), _every(dilation, n))
    values = np.max(seen, axis=tuple(range(-n, 0)))
    return values, np.full(values.shape, numbers.TIE)


def avg_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of each window."""
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")
    n = len(kernel)

    def sums(x: Any) -> Any:
        seen = _windows(_padded(x, _every(padding, n)), kernel, _every(stride or kernel, n), [1] * n)
        return np.sum(seen, axis=tuple(range(-n, 0)))

    if divisor_override:
        return sums(a) / divisor_override
    return sums(a) / (math.prod(kernel) if count_include_pad else sums(np.ones(a.shape, dtype=int)))


PRODUCTS: dict[Any, Function] = {
    aten.mm: np.matmul, aten.bmm: np.matmul, aten.mv: np.matmul, aten.dot: np.matmul,
    aten.addmm: plus_product, aten.addmv: plus_product, aten.baddbmm: plus_product,
    aten.addr: lambda c, a, b, **named: plus_product(c, a[:, None], b[None], **named),
    aten.scaled_dot_product_attention: attention,
    aten.convolution: convolution, aten.max_pool2d_with_indices: max_pool, aten.max_pool3d_with_indices: max_pool,
    aten.avg_pool1d: avg_pool, aten.avg_pool2d: avg_pool, aten.avg_pool3d: avg_pool,
}  # fmt: skip

# ---- losses: the mean, the sum, or neither


def reduced(losses: Any, reduction: int) -> Any:
    """Return the losses, their mean or their sum."""
    return losses if reduction == 0 else mean(losses) if reduction == 1 else total(losses)


def huber(a: Any, b: Any, reduction: int = 1, delta: float = 1) -> Any:
    """Half the squared difference, or delta (|d| - delta / 2) beyond delta."""
    least = arb(delta) / 2
    pieced = middle(-delta, delta, lambda d: (-d - least) * delta, lambda d: d * d / 2, lambda d: (d - least) * delta)
    return reduced(pieced(a - b), reduction)


def smooth_l1(a: Any, b: Any, reduction: int = 1, beta: float = 1) -> Any:
    """d^2 / (2 beta), or |d| - beta / 2 beyond beta."""
    if beta == 0:
        return reduced(np.abs(a - b), reduction)
    least = arb(beta) / 2
    pieced = middle(-beta, beta, lambda d: -d - least, lambda d: d * d / 2 / beta, lambda d: d - least)
    return reduced(pieced(a - b), reduction)


def soft_margin(a: Any, target: Any, reduction: int = 1) -> Any:
    """log(1 + exp(-target a))."""
    return reduced(numbers.softplus(-a * target), reduction)


LOSSES: dict[Any, Function] = {
    aten.mse_loss: lambda a, b, reduction=1: reduced(square(a - b), reduction),
    aten.huber_loss: huber, aten.smooth_l1_loss: smooth_l1, aten.soft_margin_loss: soft_margin,
}  # fmt: skip

NUMERIC = {**ARITHMETIC, **CURVES, **REDUCTIONS, **ORDERS, **PRODUCTS, **LOSSES}

# ---- comparisons and logic, on arrays of True, False and TIE

COMPARISONS: dict[Any, Function] = {
    aten.lt: compared(lambda order: order == -1), aten.gt: compared(lambda order: order == 1),
    aten.le: compared(lambda order: order in (-1, 0)), aten.ge: compared(lambda order: order in (0, 1)),
    aten.eq: compared(lambda order: order == 0), aten.ne: compared(lambda order: order != 0),
    aten.isnan: numbers.isnan, aten.isinf: numbers.isinf, aten.isfinite: numbers.isfinite,
}  # fmt: skip


def anywhere(combine: Any) -> Function:
    """Return whether any, or all, are true along axes."""

    def combined(a: Any, dim: Dims = None, keepdim: bool = False) -> Any:
        found, kept = a, axes(dim, a.ndim)
        for axis in kept:
            parts = [found.take([i], axis) for i in range(found.shape[axis])]
            first = np.full([1 if i == axis else n for i, n in enumerate(found.shape)], combine is numbers.both)
            found = list(itertools.accumulate(parts, combine, initial=first))[-1]
        return found if keepdim else np.squeeze(found, kept)

    return combined


LOGIC: dict[Any, Function] = {
    aten.logical_not: numbers.negation, aten.bitwise_not: numbers.negation, aten.logical_and: numbers.both,
    aten.bitwise_and: numbers.both, aten.logical_or: numbers.either, aten.bitwise_or: numbers.either,
    aten.logical_xor: numbers.differ, aten.bitwise_xor: numbers.differ, aten.any: anywhere(numbers.either),
    aten.all: anywhere(numbers.both),
}  # fmt: skip

# ---- moves: torch itself moves numbers that say which element is where

MOVES = {
    aten.cat, aten.stack, aten.flip, aten.roll, aten.repeat, aten.gather, aten.index_select, aten.index, aten.take,
    aten._unsafe_index, aten.tril, aten.triu, aten.masked_select, aten.constant_pad_nd, aten.reflection_pad1d,
    aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad1d, aten.replication_pad2d,
    aten.replication_pad3d, aten.scatter, aten.index_copy, aten.index_fill, aten.masked_scatter, aten.slice_scatter,
    aten.select_scatter, aten.diagonal_scatter, aten.as_strided_scatter, aten.unsafe_split,
    aten.unsafe_split_with_sizes, aten.embedding, aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle,
    aten.im2col, aten.diag_embed, aten.rot90, aten.block_diag, aten.upsample_nearest1d, aten.upsample_nearest2d,
    aten.upsample_nearest3d, aten.slice_backward, aten.select_backward, aten.index_put, aten._unsafe_index_put,
}  # fmt: skip
# The position, among the arguments, of a number that is written.
WRITTEN = {aten.constant_pad_nd: 2, aten.scatter: 3, aten.index_fill: 3}
# Of these every tensor is moved, whatever its dtype; of the others those of whole numbers say where.
JOINED = {aten.cat, aten.stack, aten.block_diag}


ALIASES = {aten._unsafe_view, aten._reshape_alias, aten.lift_fresh, aten.lift, aten.alias}
EMPTY = {
    aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.empty_permuted
}  # fmt: skip
CREATED = {
    aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.zero,
}  # fmt: skip
# Of these torch's decompositions round a constant, or read what the values are.
REFUSED = {
    aten.sinc, aten.logaddexp2, aten.special_log_ndtr, aten.special_erfcx, aten.special_entr, aten.mvlgamma,
    aten.angle, aten.nan_to_num, aten.copysign, aten.heaviside, aten.nextafter, aten.frexp, aten.renorm,
    aten.gelu_backward, aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d,
    aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.grid_sampler_2d,
    aten.affine_grid_generator,
}  # fmt: skip
