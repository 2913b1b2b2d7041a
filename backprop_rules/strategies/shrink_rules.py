"""The way to a smaller point of a rule: by the names of its domain's axes, and on the grid that it was drawn on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import BATCH, axes_of
from backprop_rules.rule import Rule
from backprop_rules.strategies.grid import odd_part
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.shrink import cuts_of, refitted, smaller
from backprop_rules.subject.ambient import inexact, real
from backprop_rules.subject.constants import Constants
from backprop_rules.subject.function import Function


def smaller_of_a_rule(rule: Rule, function: Function, constants: Constants, point: Point) -> Iterator[Point]:
    """Yield points of fewer axes and primals, then of smaller sizes: those of the domain's axes, then any."""
    yield from _without_an_axis(rule, function, point)
    yield from _of_fewer_and_shorter(rule, function, point)
    yield from smaller(function, point, constants)


def _of_fewer_and_shorter(rule: Rule, function: Function, point: Point) -> Iterator[Point]:
    """Yield points of fewer primals, then of smaller sizes: one named axis is cut in every tensor that has it."""
    for i, name in enumerate(rule.primals):
        if name in rule.optional and point.leaves[i] is not None:
            dtypes = tuple(None if k == i else d for k, d in enumerate(point.dtypes))
            leaves = tuple(None if k == i else x for k, x in enumerate(point.leaves))
            if rule.domain.accepts(*leaves, **point.params):
                yield from refitted(function, replace(point, dtypes=dtypes), leaves)
    named = axis_names(rule, point)
    for axis in sorted({name for names in named for name in names}):
        pairs = [(x, names.index(axis)) for x, names in zip(point.leaves, named, strict=True) if axis in names]
        n = max(x.shape[d] for x, d in pairs)
        for kept in cuts_of(n):
            yield from _cut(function, point, named, axis, n, kept)


def _without_an_axis(rule: Rule, function: Function, point: Point) -> Iterator[Point]:
    """Yield the point without its outermost batch axis, where that has size 1 in every tensor that has it."""
    named = axis_names(rule, point)
    outermost = max((names[0] for names in named if names and names[0].startswith(BATCH)), key=_number, default=None)
    if outermost is None:
        return
    pairs = list(zip(point.leaves, named, strict=True))
    if any(names[:1] == [outermost] and x.shape[0] != 1 for x, names in pairs):
        return
    yield from refitted(function, point, [x[0] if names[:1] == [outermost] else x for x, names in pairs])


def _number(axis: str) -> int:
    return int(axis.removeprefix(BATCH))


def axis_names(rule: Rule, point: Point) -> list[list[str]]:
    """Return a name for each axis of each primal; batch axes are counted from the last."""
    named = []
    for names, x in zip(axes_of(rule.domain.shapes), point.leaves, strict=True):
        ndim = 0 if x is None else x.ndim
        core = [name for name in names if name != BATCH]
        if len(core) > ndim:
            core = [name for name in core if not name.endswith("?")]
        core = [name.rstrip("?") for name in core][:ndim]
        named.append([f"{BATCH}{k}" for k in reversed(range(ndim - len(core)))] + core)
    return named


def _cut(
    function: Function, point: Point, named: Sequence[list[str]], axis: str, n: int, kept: Sequence[int]
) -> Iterator[Point]:
    """Yield the points with these indices of an axis: the cotangent loses the others along whichever axis fits."""
    leaves = tuple(
        _kept(x, names.index(axis), kept) if axis in names and x.shape[names.index(axis)] == n else x
        for names, x in zip(named, point.leaves, strict=True)
    )

    def cuts(g: Tensor) -> list[Tensor]:
        return [g, *(_kept(g, d, kept) for d, size in enumerate(g.shape) if size == n)]

    yield from refitted(function, point, leaves, cuts)


def _kept(x: Tensor, dim: int, kept: Sequence[int]) -> Tensor:
    """Return these indices of an axis: a view, in x's layout, if x has another than the usual and they are in a row."""
    if kept[-1] - kept[0] == len(kept) - 1 and (not x.is_contiguous() or x.storage_offset()):
        return x.narrow(dim, kept[0], len(kept))
    return x.index_select(dim, torch.tensor(list(kept), device=x.device))


def on_the_grid(rule: Rule, point: Point, drawn: Point) -> bool:
    """Say whether a point that was made of a drawn one is on the same grid: nothing rounds there either."""
    if not drawn.spacing:
        return True
    if rule.domain.divisor is not None:
        first = next(x for x in point.leaves if x is not None and inexact(x))
        divisor = rule.domain.divisor(tuple(first.shape), **point.params)
        if Fraction(drawn.spacing).numerator % odd_part(divisor):
            return False  # values are multiples of what the drawn point divides by
    pairs = ((point.leaves, drawn.leaves), (point.grads, drawn.grads))
    return all(_fits(some, most, drawn.spacing) for some, most in pairs)


def _fits(some: Sequence[Any], most: Sequence[Any], spacing: float) -> bool:
    reals, limits = ([real(x) for x in xs if x is not None and inexact(x) and x.numel()] for xs in (some, most))
    limit = max((float(x.abs().max()) for x in limits), default=0.0)
    return all(bool((x % spacing == 0).all()) and float(x.abs().max()) <= limit for x in reals)
