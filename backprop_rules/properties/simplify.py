"""The last steps to the smallest counterexample, which need several tensors to change at once.

Hypothesis shrinks one drawn value at a time; it cannot drop row k of a product's first factor and row k
of the cotangent in one step. Here an index is dropped from an axis of every tensor that has the axis, and
elements are set to zero, as long as the point still fails in the same way.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.domain import BATCH, axes_of
from backprop_rules.errors import Objection
from backprop_rules.point import Point
from backprop_rules.strategies.grid import odd_part

# Elements, or indices of an axis, that are simplified one by one; of more than these, many at a time.
MANY = 32


def simplest(objection: Objection, check: Callable[[Point], None]) -> Objection:
    """Return the objection to a point that no single step makes simpler without mending it."""
    point, found = objection.point, True
    while found:
        found = False
        for candidate in simpler(point):
            try:
                check(candidate)
            except Objection as other:
                if other.kind == objection.kind:
                    point, objection, found = candidate, other, True
                    break
    return objection


def simpler(point: Point) -> Iterator[Point]:
    """Yield the points that are one step simpler: fewer primals, then fewer elements, then fewer that are not zero."""
    for i, name in enumerate(point.rule.primals):
        if name in point.rule.optional and point.primals[i] is not None:
            left = replace(point, primals=(*point.primals[:i], None, *point.primals[i + 1 :]))
            if point.rule.domain.accepts(*left.primals, **left.params):
                yield left
    for axis in sorted({name for names in axis_names(point) for name in names}):
        sizes = {x.shape[d] for x, d in _with_axis(point, axis)}
        # A long axis is left as it is: each index would be tried again after every other step.
        for index in reversed(range(max(sizes, default=0) if max(sizes, default=0) <= MANY else 0)):
            if max(sizes) > 1:
                yield from _without(point, axis, index)
    for k, x in enumerate(() if point.on_meta else (*point.primals, point.grad_y)):
        if x is None or 0 in x.stride() or not (x.is_floating_point() or x.is_complex()):
            continue
        elements = torch.nonzero((x != 0) & x.isfinite())
        if len(elements) > MANY:
            for part in elements.chunk(2) + elements.chunk(8):
                changed = x.clone() if x.is_contiguous() else _relaid(x)
                changed[tuple(part.T)] = 0
                yield _with_tensor(point, k, changed)
        for element in elements[:MANY].tolist():
            # Off the grid, what must not be zero is plainer as 1 or -1.
            value = float(x[tuple(element)].real)
            for plainer in (0.0,) if point.spacing or abs(value) == 1 else (0.0, math.copysign(1.0, value)):
                changed = x.clone() if x.is_contiguous() else _relaid(x)
                changed[tuple(element)] = plainer
                yield _with_tensor(point, k, changed)


def axis_names(point: Point) -> list[list[str]]:
    """Return a name for each axis of each primal; batch axes are counted from the last."""
    named = []
    for names, x in zip(axes_of(point.rule.domain.shapes), point.primals, strict=True):
        ndim = 0 if x is None else x.ndim
        core = [name for name in names if name != BATCH]
        if len(core) > ndim:
            core = [name for name in core if not name.endswith("?")]
        core = [name.rstrip("?") for name in core][:ndim]
        named.append([f"{BATCH}{k}" for k in reversed(range(ndim - len(core)))] + core)
    return named


def _with_axis(point: Point, axis: str) -> list[tuple[Tensor, int]]:
    found = zip(axis_names(point), point.primals, strict=True)
    return [(x, names.index(axis)) for names, x in found if x is not None and axis in names]


def _without(point: Point, axis: str, index: int) -> Iterator[Point]:
    """Yield the points without that index of the axis: the cotangent loses it along whichever axis fits."""
    primals = tuple(
        x if x is None or axis not in names or x.shape[names.index(axis)] <= 1 else _drop(x, names.index(axis), index)
        for names, x in zip(axis_names(point), point.primals, strict=True)
    )
    moved = replace(point, primals=primals)
    divisor = point.rule.domain.divisor
    if divisor:
        # Values are multiples of what the old point divides by; that must do for the new one.
        old, new = (odd_part(divisor(tuple(p.tensors[0].shape), **p.params)) for p in (point, moved))
        if old % new:
            return
    try:
        shape = moved.y.shape
    except (RuntimeError, IndexError, ValueError):
        return  # the forward does not take what is left
    dropped = [_drop(point.grad_y, d, index) for d, n in enumerate(point.grad_y.shape) if index < n]
    for grad_y in (point.grad_y, *dropped):
        if grad_y.shape == shape:
            yield replace(moved, grad_y=grad_y)


def _drop(x: Tensor, dim: int, index: int) -> Tensor:
    """Return x without an index: contiguous if x is, with x's strides if the index is at an end."""
    before, after = x.narrow(dim, 0, index), x.narrow(dim, index + 1, x.shape[dim] - index - 1)
    if x.is_contiguous() and not x.storage_offset():
        return torch.cat([before, after], dim)
    if index in (0, x.shape[dim] - 1):
        return after if index == 0 else before
    return torch.cat([before, after], dim)


def _relaid(x: Tensor) -> Tensor:
    """Return a copy of x with its strides and offset, NaN in the gaps."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    buffer = x.new_full((x.storage_offset() + span,), torch.nan)
    return buffer.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(x)


def _with_tensor(point: Point, k: int, x: Tensor) -> Point:
    if k == len(point.primals):
        return replace(point, grad_y=x)
    return replace(point, primals=(*point.primals[:k], x, *point.primals[k + 1 :]))
