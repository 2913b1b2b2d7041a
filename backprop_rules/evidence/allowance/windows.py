"""The formulas of convolutions and of pooling."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.choices import end_of, ends, moved
from backprop_rules.evidence.allowance.kept_narrow import INTERPOLATED, ROUNDED_INSIDE, WEIGHTED
from backprop_rules.evidence.allowance.operation import Operand, Operation, plus
from backprop_rules.evidence.allowance.sums import products_summed
from backprop_rules.evidence.allowance.units import FEW, NARROW, gamma, unit, wide

aten = torch.ops.aten

# Of an axis: where its windows begin, where it ends for each, and how far apart and how many a window's elements are.
Window = tuple[Tensor, Tensor, int, int]


def convolution(op: Operation, a: Tensor, weight: Tensor, bias: Any, *how: Any) -> Tensor | None:
    """Inner products of windows with weights, by the order of the sums alone: not by Winograd's or Fourier's."""
    x, w = op.factor(a), op.factor(weight)
    (size,), (varies,) = _of_sizes(lambda s, t: (op.func(s, t, None, *how),), x, w)
    added = None if bias is None else op.operand(bias)
    if added is not None:
        along = (1, -1, *[1] * (a.ndim - 2))
        size = size + added.size.reshape(along)
        varies = plus(varies, None if added.radius is None else added.radius.reshape(along))
    groups, transposed = how[-1], how[3]
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    return products_summed(op, size, varies, weight.numel() // max(1, outputs) + (bias is not None))


def convolution_backward(
    op: Operation, grad: Tensor, a: Tensor, weight: Tensor, bias_sizes: Any, *how: Any
) -> Sequence[Tensor | None]:
    """The gradients of the input and the weight are inner products too, that of the bias is a sum."""
    one = replace(op, result=next(y for y in op.result if y is not None))
    g, x, w = one.factor(grad), one.factor(a), one.factor(weight)
    sizes, varied = _of_sizes(lambda *sizes: op.func(*sizes, bias_sizes, *how), g, x, w)
    if varied[2] is not None:
        varied[2] = None if g.radius is None else g.radius.sum([0, *range(2, grad.ndim)])
    places = grad.numel() // max(1, grad.shape[1])
    counts = (weight.numel() // max(1, weight.shape[1 - how[3]]), places, places)
    ways: tuple[Callable[..., Any], ...] = (products_summed, products_summed, _bias)
    return [
        None if y is None else way(replace(op, result=y), *those)
        for y, way, *those in zip(op.result, ways, sizes, varied, counts, strict=True)
    ]


def _bias(op: Operation, size: Tensor, varies: Any, count: int) -> Any:
    if op.flushes_products:  # by an instruction that takes it as products with 1
        return products_summed(op, size, varies, count)
    return op.summed(varies, size, max(count - 1, 0))


def _of_sizes(multiply: Callable[..., Any], x: Operand, *others: Operand) -> tuple[list[Any], list[Any]]:
    """Return the products of the sizes of x with the others', and how far the exact ones may lie from them."""
    sizes = list(multiply(x.size, *(y.size for y in others)))
    varied: list[Any] = [None] * len(sizes)
    if any(y.radius is not None for y in others):
        radii = [torch.zeros_like(y.size) if y.radius is None else y.radius for y in others]
        varied = list(multiply(x.grown(), *radii))
    if x.radius is not None:
        more = multiply(x.radius, *(y.size for y in others))
        varied = [plus(a, b) for a, b in zip(varied, more, strict=True)]
    return sizes, varied


def mean_pool(op: Operation, a: Tensor, kernel: Any, *how: Any) -> Tensor | None:
    """The mean of a window, divided by its count or by a given number, which may be below 0."""
    size, varies = op.operand(a).through(lambda x: op.func(x, kernel, *how).abs())
    return op.summed(varies, size, math.prod(kernel) + 1, 1, divisor=math.prod(kernel))


def mean_pool_backward(op: Operation, grad: Tensor, a: Tensor, kernel: Any, *how: Any) -> Tensor | None:
    """The gradient of a window over its count, summed over the windows that an element lies in."""
    size, varies = op.operand(grad).through(lambda g: op.func(g, wide(a), kernel, *how).abs())
    windows = math.prod(-(-n // step) for n, step in zip(kernel, how[0] or kernel, strict=True))
    return op.summed(varies, size, windows + 1, 1, narrow=True)


def weighted(op: Operation, a: Tensor, *how: Any) -> Any:
    """Sums with weights that are not negative."""
    size, varies = op.operand(a).through(lambda x: op.func(x, *how))
    terms = math.prod(-(-n // max(1, m)) + 1 for n, m in zip(a.shape[2:], op.result.shape[2:], strict=True))
    return with_weights(op, varies, size, terms, 4 * terms)


def with_weights(op: Operation, varies: Any, size: Tensor, terms: int, stored: int, narrow: bool = False) -> Tensor:
    """Return the radius of sums of so many terms, with weights that are computed, and sums `stored` in some kernels."""
    radius = op.summed(varies, size, terms + 2, 2 * terms, narrow)
    if op.dtype not in NARROW or op.func.overloadpacket not in ROUNDED_INSIDE:
        return radius
    used = unit(op.dtype)  # in which the weights are stored, too
    lost: Tensor = size * gamma(stored, used.u) + op.of_any(size, varies, stored * used.tiny)
    return radius + lost


def interpolated(op: Operation, a: Tensor, *how: Any) -> Any:
    """Weights come of a place among all, whose rounding is no share of a small one: it lets neighbours in."""
    axes, sizes = a.ndim - 2, (*a.shape[2:], *op.result.shape[2:])
    largest = partial(getattr(torch.nn.functional, f"max_pool{axes}d"), kernel_size=3, stride=1, padding=1)
    near = largest(op.func(largest(op.operand(a).grown()), *how))
    return weighted(op, a, *how) + op.up(near * gamma(4 * 3**axes * sum(sizes), op.unit.u))


def repeated(op: Operation, grad: Tensor, a: Tensor, pad: Any) -> Tensor | None:
    """The gradient of an edge, or of what is reflected at it, is the sum over what repeats it."""
    size, varies = op.operand(grad).through(lambda g: op.func(g, wide(a), pad))
    return op.summed(varies, size, math.prod(abs(n) + 1 for n in pad), narrow=True)


def pooled(op: Operation, a: Tensor, *how: Any) -> tuple[Any, None]:
    """The largest of each window."""
    op = replace(op, result=op.result[0])
    radius = op.operand(a).radius
    return (None if radius is None else moved(op, op.result, op.func(end_of(a, radius, 1), *how)[0])), None


def pool_backward(op: Operation, grad: Tensor, a: Tensor, *how: Any) -> Any:
    """The gradient goes to the largest of each window; where another may be the largest, to either."""
    x, g, axes = op.operand(a), op.operand(grad), 2 if "2d" in str(op.func) else 3
    a = wide(a)
    sizes, counts = a.shape[-axes:], grad.shape[-axes:]
    if len(how) > 1:
        kernel, *rest = ([k] * axes if isinstance(k, bool) or not k else list(k) * (axes // len(k)) for k in how[:-1])
        windows, overlap = list(map(_window, sizes, counts, kernel, *rest)), math.prod(kernel)
    else:
        windows = list(map(_region, sizes, counts))
        overlap = math.prod(1 - (-m // max(1, n)) for n, m in zip(sizes, counts, strict=True))
    varies = None if g.radius is None else op.func(g.radius, a, *how)
    if x.radius is not None:
        varies = plus(varies, op.either(_of_windows(a, x.radius, g.grown(), windows)))
    return op.summed(varies, op.func(g.size, a, *how), overlap, narrow=True)


def _window(size: int, count: int, kernel: int, stride: Any, padding: int, dilation: int, _: bool) -> Window:
    """Return so many windows of an axis, of which the last may go beyond its end."""
    begin = torch.arange(count) * (stride or kernel) - padding
    return begin, torch.full_like(begin, size), dilation, kernel


def _region(size: int, count: int) -> Window:
    """Return so many regions of an axis, of about the same size, that overlap where it does not divide."""
    ranks = torch.arange(count)
    begin, end = ranks * size // count, -(-(ranks + 1) * size // count)
    return begin, end, 1, int((end - begin).max())


def _of_windows(a: Tensor, radius: Tensor, size: Tensor, windows: Sequence[Window]) -> Tensor:
    """Return what an element may get or lose of the gradients of windows of which it may be the largest, or another."""
    axes, shape = len(windows), a.shape[-len(windows) :]
    low, high = (x.flatten(-axes) for x in ends(a, radius))
    size = size.flatten(-axes)

    def elements() -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first element of every window, then the second, and so on, and whether there is one."""
        for offsets in itertools.product(*(range(count) for *_, count in windows)):
            at, inside = torch.tensor(0), torch.tensor(True)
            for n, (begin, end, step, _), offset in zip(shape, windows, offsets, strict=True):
                here = begin + offset * step
                at, inside = at[..., None] * n + here, inside[..., None] & (here >= 0) & (here < end)
            yield torch.where(inside, at, 0).flatten().to(a.device), inside.flatten().to(a.device)

    least, rivals, found = torch.full_like(size, -math.inf), torch.zeros_like(size), torch.zeros_like(low)
    for at, inside in elements():
        least = torch.maximum(least, torch.where(inside, low[..., at], -math.inf))
    for at, inside in elements():
        rivals += inside & (high[..., at] >= least)
    size = torch.where(rivals > 1, size, 0.0)
    for at, inside in elements():
        found.index_add_(found.ndim - 1, at, torch.where(inside & (high[..., at] >= least), size, 0.0))
    return found.reshape(a.shape) * FEW


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.convolution: convolution, aten.convolution_backward: convolution_backward,
    **dict.fromkeys((aten.avg_pool2d, aten.avg_pool3d), mean_pool),
    **dict.fromkeys((aten.avg_pool2d_backward, aten.avg_pool3d_backward), mean_pool_backward),
    **{getattr(aten, f"{how}_pad{n}d_backward"): repeated for how in ("replication", "reflection") for n in (1, 2, 3)},
    **dict.fromkeys(WEIGHTED, weighted), **dict.fromkeys(INTERPOLATED, interpolated),
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), pooled),
    **dict.fromkeys((aten.adaptive_max_pool2d, aten.adaptive_max_pool3d), pooled),
    **{getattr(aten, f"{name}_backward"): pool_backward for name in (
        "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d",
    )},
}  # fmt: skip
