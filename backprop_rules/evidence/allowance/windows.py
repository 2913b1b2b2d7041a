"""The formulas of convolutions and of pooling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.kept_narrow import INTERPOLATED, WEIGHTED
from backprop_rules.evidence.allowance.operation import Operand, Operation, plus
from backprop_rules.evidence.allowance.sums import added_at, products_summed
from backprop_rules.evidence.allowance.units import NARROW, gamma, unit

aten = torch.ops.aten


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
    return [
        None if y is None else products_summed(replace(op, result=y), size, varies, count)
        for y, size, varies, count in zip(op.result, sizes, varied, counts, strict=True)
    ]


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
    """The mean of a window, divided by its count or by a given number."""
    x = op.operand(a)
    varies = None if x.radius is None else op.func(x.radius, kernel, *how)
    return op.summed(varies, op.func(x.size, kernel, *how), math.prod(kernel) + 1, 1, divisor=math.prod(kernel))


def mean_pool_backward(op: Operation, grad: Tensor, a: Tensor, kernel: Any, *how: Any) -> Tensor | None:
    """The gradient of a window over its count, summed over the windows that an element lies in."""
    g = op.operand(grad)
    varies = None if g.radius is None else op.func(g.radius, a, kernel, *how)
    return op.summed(varies, op.func(g.size, a, kernel, *how), math.prod(kernel) + 1, 1, narrow=True)


def weighted(op: Operation, a: Tensor, *how: Any) -> Any:
    """Sums with weights that are not negative."""
    x, places = op.operand(a), (*zip(a.shape[2:], op.result.shape[2:], strict=True),)
    varies = None if x.radius is None else op.func(x.radius, *how)
    terms = math.prod(-(-max(n, m) // max(1, min(n, m))) + 1 for n, m in places)
    size = op.func(x.size, *how)
    radius = op.summed(varies, size, terms + 2, 2 * terms)
    if op.dtype not in NARROW:
        return radius
    used = unit(op.dtype)  # in which the weights are stored, and some kernels' sums
    return radius + size * gamma(4 * terms, used.u) + op.of_any(size, varies, 4 * terms * used.tiny)


def interpolated(op: Operation, a: Tensor, *how: Any) -> Any:
    """Weights come of a place among all, whose rounding is no share of a small one: it lets neighbours in."""
    axes, sizes = a.ndim - 2, (*a.shape[2:], *op.result.shape[2:])
    largest = partial(getattr(torch.nn.functional, f"max_pool{axes}d"), kernel_size=3, stride=1, padding=1)
    near = largest(op.func(largest(op.operand(a).grown()), *how))
    return weighted(op, a, *how) + op.up(near * gamma(4 * 3**axes * sum(sizes), op.unit.u))


def replicated(op: Operation, grad: Tensor, a: Tensor, pad: Any) -> Tensor | None:
    """The gradient of an edge is the sum over what repeats it."""
    g = op.operand(grad)
    varies = None if g.radius is None else op.func(g.radius, a, pad)
    return op.summed(varies, op.func(g.size, a, pad), math.prod(abs(n) + 1 for n in pad), narrow=True)


def max_pool(op: Operation, a: Tensor, *how: Any) -> tuple[Any, None]:
    """The largest of a window: one that lies farther than its radius behind does not count."""
    op = replace(op, result=op.result[0])
    x = op.operand(a)
    if x.radius is None:
        return None, None
    highest, _ = op.func(a + x.radius, *how)
    return op.up(highest - op.result), None


def largest_of_regions(op: Operation, a: Tensor, *how: Any) -> tuple[Any, None]:
    """The largest of a region moves by no more than the largest radius in it."""
    op = replace(op, result=op.result[0])
    radius = op.operand(a).radius
    return None if radius is None else op.up(op.func(radius, *how)[0]), None


def max_pool_backward(op: Operation, grad: Tensor, a: Tensor, *how: Any) -> Any:
    """The gradient goes to the largest; where another may be the largest, to either."""
    *window, indices = how
    g, x = op.operand(grad), op.operand(a)
    radius = None
    if g.radius is not None:
        radius = op.func(g.radius, a, *window, indices)
    if x.radius is not None:
        contested = _contested(g.grown(), a, x.radius, window)
        radius = plus(radius, contested if op.may_be_either(contested) else None)
    roundings = window[0][0] * window[0][-1]  # an element lies in no more windows
    return op.summed(radius, op.func(g.size, a, *window, indices), roundings, narrow=True)  # as torch's own kernel


def to_the_largest(op: Operation, grad: Tensor, a: Tensor, *how: Any) -> Any:
    """The gradient goes to the largest of a region, to either where regions are windows and another may be larger."""
    axes, places = 2 if op.func.overloadpacket == aten.adaptive_max_pool2d_backward else 3, how[-1]
    x, g = op.operand(a), op.operand(grad)

    def add(x: Tensor, y: Any) -> Tensor:
        terms = torch.as_tensor(y, dtype=x.dtype, device=x.device).expand(grad.shape)
        return x.flatten(-axes).scatter_add(-1, places.flatten(-axes), terms.flatten(-axes)).reshape(a.shape)

    radius = added_at(op, torch.zeros_like(op.result), places, grad, add, True)
    if x.radius is None:
        return radius
    cut = [n % m for n, m in zip(a.shape[-axes:], grad.shape[-axes:], strict=True)]
    if axes != 2 or any(cut) or how[:-1]:
        raise op.refuse("of numbers that are not exact")
    sides = [n // m for n, m in zip(a.shape[-2:], grad.shape[-2:], strict=True)]
    contested = _contested(g.grown(), a, x.radius, (sides, sides, [0, 0], [1, 1], False))
    return plus(radius, contested if op.may_be_either(contested) else None)


def _contested(size: Any, a: Tensor, radius: Tensor, window: Sequence[Any]) -> Tensor:
    """Return what an element may get or lose where more than one may be the largest of a window."""
    kernel, stride, padding, dilation, ceil = window
    if ceil:
        raise NotImplementedError("no formula for the rounding of a pooling that goes beyond the edge")
    stride = stride or kernel
    how = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    planes, area = a.reshape(-1, 1, *a.shape[-2:]), tuple(a.shape[-2:])

    def windows(x: Tensor) -> Tensor:
        return torch.nn.functional.unfold(x, **how)

    inside = windows(torch.ones_like(planes)) > 0
    low = torch.where(inside, windows(planes - radius.reshape(planes.shape)), -torch.inf)
    high = torch.where(inside, windows(planes + radius.reshape(planes.shape)), -torch.inf)
    may_win = high >= low.amax(1, keepdim=True)
    contested = may_win & (may_win.sum(1, keepdim=True) > 1)
    reach = contested * size.reshape(planes.shape[0], 1, -1)
    return torch.nn.functional.fold(reach, area, **how).reshape(a.shape)


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.convolution: convolution, aten.convolution_backward: convolution_backward,
    **dict.fromkeys((aten.avg_pool2d, aten.avg_pool3d), mean_pool),
    **dict.fromkeys((aten.avg_pool2d_backward, aten.avg_pool3d_backward), mean_pool_backward),
    **{getattr(aten, f"replication_pad{n}d_backward"): replicated for n in (1, 2, 3)},
    **dict.fromkeys(WEIGHTED, weighted), **dict.fromkeys(INTERPOLATED, interpolated),
    **dict.fromkeys((aten.adaptive_max_pool2d, aten.adaptive_max_pool3d), largest_of_regions),
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), max_pool),
    aten.max_pool2d_with_indices_backward: max_pool_backward,
    aten.max_pool3d_with_indices_backward: to_the_largest, aten.adaptive_max_pool2d_backward: to_the_largest,
    aten.adaptive_max_pool3d_backward: to_the_largest,
}  # fmt: skip
