"""Torch's operations on whole arrays, in NumPy notation, for exact numbers: reductions, orders, losses and products."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flint import arb

from backprop_rules.evidence.proof.balls import Undecided, as_balls, ball, head
from backprop_rules.evidence.proof.translate import elementwise
from backprop_rules.evidence.proof.translate.elementwise import TIE, Function, choose, each, less, middle, softplus

aten = torch.ops.aten

Dims = int | Sequence[int] | None


def _axes(dim: Dims, ndim: int) -> tuple[int, ...]:
    """Return the axes that `dim` names: all if it names none; a 0-d tensor has none."""
    named = range(ndim) if dim is None or dim in ([], ()) else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(axis % ndim for axis in named)) if ndim else ()


def _size_along(a: Any, dim: Dims) -> int:
    return math.prod(a.shape[axis] for axis in _axes(dim, a.ndim))


def _sum(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    found = np.sum(a, axis=_axes(dim, a.ndim), keepdims=keepdim)
    return found if a.size else found + arb(0)  # NumPy's own zero has no logarithm


def _mean(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return _sum(a, dim, keepdim) / _size_along(a, dim)


def _variance(a: Any, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    apart = a - _mean(a, dim, True)
    return _sum(apart * apart, dim, keepdim) / (_size_along(a, dim) - (1 if correction is None else correction))


def _along(reduce: Function) -> Function:
    """Return one of NumPy's reductions along axes."""
    return lambda a, dim=None, keepdim=False, *, dtype=None: reduce(a, axis=_axes(dim, a.ndim), keepdims=keepdim)


_largest, _smallest = _along(np.max), _along(np.min)


def _norm(a: Any, p: float | None = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if p is None or p == 2:
        return _sum(a * a, dim, keepdim) ** 0.5
    if p == 0:
        raise NotImplementedError("of order 0")
    if abs(p) == math.inf:
        return (_largest if p > 0 else _smallest)(np.abs(a), dim, keepdim)
    return _sum(np.abs(a), dim, keepdim) if p == 1 else _sum(np.abs(a) ** p, dim, keepdim) ** (1 / arb(p))


def _shift(a: Any, dim: Dims) -> Any:
    """Return a constant near the largest along an axis: what it is taken off of depends on it no longer."""
    middles: Any = np.asarray(each(lambda v: head(ball(v)).mid())(a.view(np.ndarray)), dtype=object)
    found = np.maximum.reduce(middles, _axes(dim, a.ndim), keepdims=True, initial=arb(-math.inf))
    return each(lambda v: v if v.is_finite() else arb(0))(found)


def _logsumexp(a: Any, dim: Dims = None, keepdim: bool = False) -> Any:
    """Return m + log(sum(exp(a - m))), for any m."""
    m = _shift(a, dim)
    found = np.log(_sum(np.exp(a - m), dim, True)) + m
    return found if keepdim else np.squeeze(found, _axes(dim, a.ndim))


def _softmax(a: Any, dim: int, half_to_float: bool = False) -> Any:
    """Return exp(a - m) over its sum, for any m."""
    powers = np.exp(a - _shift(a, dim))
    return powers / _sum(powers, dim, True)


# ---- the order of numbers: an index that is not certain is a TIE, and of no use


def _middles(a: Any) -> Any:
    return np.array([float(head(v.value).mid()) for v in a.flat]).reshape(a.shape)


def _place(sign: int) -> Function:
    """Return where the largest element times the sign is."""

    def found(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        rows, axis = (a.reshape(-1), 0) if dim is None else (np.atleast_1d(a), dim)
        best = np.argmax(sign * _middles(rows), axis, keepdims=True)
        below = each(lambda v, top: head(v.value) * sign < head(top.value) * sign, 2)
        lower = below(rows, np.take_along_axis(rows, best, axis))
        np.put_along_axis(lower, best, True, axis)
        places = choose(lower.all(axis, keepdims=True), best, TIE)
        return places.reshape(np.sum(a, axis=_axes(dim, a.ndim), keepdims=keepdim).shape)

    return found


def _extreme(pair: Any, reduce: Function, sign: int) -> Function:
    """Return the larger of two, the largest, or that along an axis and where it is."""

    def found(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, np.ndarray):
            return pair(a, dim)
        values = reduce(a, dim, keepdim)
        return values if dim is None else (values, _place(sign)(a, dim, keepdim))

    return found


def _sort(a: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> tuple[Any, Any]:
    rows = np.atleast_1d(a)
    order = np.argsort(_middles(rows), dim, kind="stable")
    values, last = np.take_along_axis(rows, order, dim), rows.shape[dim] - 1
    if last > 0 and not all(less(np.delete(values, last, dim), np.delete(values, 0, dim)).flat):
        raise Undecided("the order of equal numbers is not certain")
    if descending:
        values, order = np.flip(values, dim), np.flip(order, dim)
    return values.reshape(a.shape), order.reshape(a.shape)


def _topk(a: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Any, Any]:
    values, order = _sort(np.atleast_1d(a), dim, largest)
    shape = () if a.ndim == 0 else np.take(a, range(k), dim).shape
    return np.take(values, range(k), dim).reshape(shape), np.take(order, range(k), dim).reshape(shape)


# ---- losses: the mean, the sum, or neither


def _reduced(losses: Any, reduction: int) -> Any:
    return losses if reduction == 0 else _mean(losses) if reduction == 1 else _sum(losses)


def _huber(a: Any, b: Any, reduction: int = 1, delta: float = 1) -> Any:
    """Half the squared difference, or delta (|d| - delta / 2) beyond delta."""
    least = arb(delta) / 2
    pieced = middle(-delta, delta, lambda d: (-d - least) * delta, lambda d: d * d / 2, lambda d: (d - least) * delta)
    return _reduced(pieced(a - b), reduction)


def _smooth_l1(a: Any, b: Any, reduction: int = 1, beta: float = 1) -> Any:
    """The Huber loss over beta: d^2 / (2 beta), or |d| - beta / 2 beyond beta."""
    return _huber(a, b, reduction, beta) / beta if beta else _reduced(np.abs(a - b), reduction)


# ---- products: of matrices, and of windows of an image


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0, is_causal: bool = False, *, scale: Any = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """Return softmax(q k^T / sqrt(d)) v."""
    if dropout_p or enable_gqa:
        raise NotImplementedError("with dropout, or groups")
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / arb(q.shape[-1]).sqrt() if scale is None else scale)
    if is_causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is not None:
        scores = choose(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    return np.matmul(_softmax(scores, -1), v)


def _every(value: Sequence[int] | int, n: int) -> Sequence[int]:
    named = [value] if isinstance(value, int) else list(value)
    return named * n if len(named) == 1 else named


def _windows(a: Any, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any = 1, outside: float = 0) -> Any:
    """Return the padded array with the windows' axes last."""
    n = len(kernel)
    margins = [(0, 0)] * (a.ndim - n) + [(p, p) for p in _every(padding, n)]
    padded = np.pad(a.view(np.ndarray), margins, constant_values=outside)
    apart = _every(dilation, n)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, apart, strict=True)]
    seen: Any = np.lib.stride_tricks.sliding_window_view(padded, extent, tuple(range(a.ndim - n, a.ndim)))
    return as_balls(seen[(..., *(slice(None, None, step) for step in (*_every(stride or kernel, n), *apart)))])


def _convolution(
    x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int,
) -> Any:  # fmt: skip
    """Cross-correlation, in groups of channels."""
    if transposed:
        raise NotImplementedError("transposed")
    n, batch = w.ndim - 2, x.shape[0]
    seen = _windows(x, w.shape[2:], stride, padding, dilation)
    out = seen.shape[2 : 2 + n]
    # (batch, group, places, channels and window) times (group, channels and window, channels out)
    seen = np.moveaxis(seen.reshape(batch, groups, -1, *seen.shape[2:]), 2, 2 + n)
    seen = seen.reshape(batch, groups, math.prod(out), -1)
    kernels = np.swapaxes(w.reshape(groups, w.shape[0] // groups, -1), 1, 2)
    found = np.swapaxes(np.matmul(seen, kernels), 2, 3).reshape(batch, w.shape[0], *out)
    return found if bias is None else found + bias.reshape(-1, *[1] * n)


def _max_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Any, Any]:
    """The largest of each window; which one that is, is not said."""
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")
    seen = _windows(a, kernel, stride, padding, dilation, -math.inf)
    values = np.max(seen, axis=tuple(range(-len(kernel), 0)))
    return values, np.full(values.shape, TIE)


def _avg_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:  # fmt: skip
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")

    def sums(x: Any) -> Any:
        return np.sum(_windows(x, kernel, stride, padding), axis=tuple(range(-len(kernel), 0)))

    if divisor_override:
        return sums(a) / divisor_override
    return sums(a) / (math.prod(kernel) if count_include_pad else sums(np.ones(a.shape, dtype=int)))


ARRAYS: dict[Any, Function] = {
    aten.sum: _sum, aten.mean: _mean, aten.prod: _along(np.prod), aten.var: _variance,
    aten.var_mean: lambda a, dim=None, **named: (
        _variance(a, dim, **named), _mean(a, dim, named.get("keepdim", False))
    ),
    aten.amax: _largest, aten.amin: _smallest, aten.linalg_vector_norm: _norm,
    aten.logsumexp: _logsumexp, aten._softmax: _softmax,
    aten._log_softmax: lambda a, dim, half_to_float=False: a - _logsumexp(a, dim, True),
    aten.cumsum: lambda a, dim, *, dtype=None: np.add.accumulate(a, dim) if a.ndim else a,
    aten.cumprod: lambda a, dim, *, dtype=None: np.multiply.accumulate(a, dim) if a.ndim else a,
    aten.logcumsumexp: lambda a, dim: np.log(np.add.accumulate(np.exp(a), dim)) if a.ndim else a,
    aten._cdist_forward: lambda a, b, p, mode: _norm(a[..., :, None, :] - b[..., None, :, :], p, -1),
    aten.max: _extreme(np.maximum, _largest, 1), aten.min: _extreme(np.minimum, _smallest, -1),
    aten.argmax: _place(1), aten.argmin: _place(-1), aten.sort: _sort, aten.topk: _topk,
    aten.median: lambda a: _sort(a.ravel())[0][(a.size - 1) // 2],
    aten.cummax: lambda a, dim: (np.maximum.accumulate(a, dim), np.full(a.shape, TIE)),
    aten.cummin: lambda a, dim: (np.minimum.accumulate(a, dim), np.full(a.shape, TIE)),
    aten.huber_loss: _huber, aten.smooth_l1_loss: _smooth_l1,
    aten.soft_margin_loss: lambda a, target, reduction=1: _reduced(softplus(-a * target), reduction),
    aten.mm: np.matmul, aten.bmm: np.matmul, aten.scaled_dot_product_attention: attention,
    aten.convolution: _convolution, aten.max_pool2d_with_indices: _max_pool, aten.max_pool3d_with_indices: _max_pool,
    aten.avg_pool1d: _avg_pool, aten.avg_pool2d: _avg_pool, aten.avg_pool3d: _avg_pool,
}  # fmt: skip

# On arrays of True, False and TIE.
TRUTHS: dict[Any, Function] = {
    aten.any: _along(elementwise.either.reduce), aten.all: _along(elementwise.both.reduce),
}  # fmt: skip
