"""Torch's reductions, in NumPy notation, for arrays of exact numbers: sums, extremes, orders, losses."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flint import arb

from backprop_rules.evidence.proof.balls import Undecided, ball, head
from backprop_rules.evidence.proof.translate import numbers
from backprop_rules.evidence.proof.translate.numbers import Function, each, middle

aten = torch.ops.aten

LEAST: Any = arb(-math.inf)

Dims = int | Sequence[int] | None


def axes(dim: Dims, ndim: int) -> tuple[int, ...]:
    """Return the axes that `dim` names: all if it names none; a 0-d tensor has none."""
    named = range(ndim) if dim is None or dim in ([], ()) else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(axis % ndim for axis in named)) if ndim else ()


def size_along(a: Any, dim: Dims) -> int:
    """Return how many elements are reduced into one."""
    return math.prod(a.shape[axis] for axis in axes(dim, a.ndim))


def square(a: Any) -> Any:
    """A a."""
    return a * a


def total(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum."""
    found = np.sum(a, axis=axes(dim, a.ndim), keepdims=keepdim)
    return found if a.size else found + arb(0)  # NumPy's own zero has no logarithm


def mean(a: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum, divided by the number of its terms."""
    return total(a, dim, keepdim) / size_along(a, dim)


def variance(a: Any, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    """The sum of the squares about the mean, over n less the correction."""
    squares = square(a - mean(a, dim, True))
    return total(squares, dim, keepdim) / (size_along(a, dim) - (1 if correction is None else correction))


def along(reduce: Function) -> Function:
    """Return one of NumPy's reductions along axes."""
    return lambda a, dim=None, keepdim=False, *, dtype=None: reduce(a, axis=axes(dim, a.ndim), keepdims=keepdim)


product, largest, smallest = along(np.prod), along(np.max), along(np.min)


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
    aten.sum: total, aten.mean: mean, aten.prod: product, aten.var: variance,
    aten.var_mean: lambda a, dim=None, **named: (
        variance(a, dim, **named), mean(a, dim, named.get("keepdim", False))
    ),
    aten.amax: largest, aten.amin: smallest,
    aten.linalg_vector_norm: norm, aten.logsumexp: logsumexp, aten._softmax: softmax,
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
    if not all(numbers.less(row[i], row[j]) for i, j in itertools.pairwise(order)):
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
    """The Huber loss over beta: d^2 / (2 beta), or |d| - beta / 2 beyond beta."""
    return huber(a, b, reduction, beta) / beta if beta else reduced(np.abs(a - b), reduction)


def soft_margin(a: Any, target: Any, reduction: int = 1) -> Any:
    """log(1 + exp(-target a))."""
    return reduced(numbers.softplus(-a * target), reduction)


LOSSES: dict[Any, Function] = {
    aten.huber_loss: huber, aten.smooth_l1_loss: smooth_l1, aten.soft_margin_loss: soft_margin,
}  # fmt: skip

# ---- truths


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


TRUTHS: dict[Any, Function] = {aten.any: anywhere(numbers.either), aten.all: anywhere(numbers.both)}
