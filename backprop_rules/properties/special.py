"""NaN and infinities: a gradient where a primal is NaN is NaN, 0 or torch's; what else differs is a note."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import all_finite
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoPoint

TORCH = ("torch's reverse mode",)


def answers_nan(evidence: Evidence) -> Iterator[Finding]:
    """Where a primal is NaN its gradient is NaN, or 0, or what torch gives, if torch gives one of these."""
    point, half = evidence.point, evidence.pair.half
    for i in evidence.subject.floats:
        x = point.leaves[i]
        if x is None or not x.numel() or x.is_complex():
            continue
        poisoned = x.clone(memory_format=torch.contiguous_format)
        poisoned.view(-1)[0] = math.nan
        there = replace(point, leaves=(*point.leaves[:i], poisoned, *point.leaves[i + 1 :]))
        found = next(((mine, other) for k, mine, other in _asked(evidence, there) if k == i), None)
        if found is None:
            continue
        got, chosen = (float(t.reshape(-1)[0]) for t in found)
        near = abs(got - chosen) <= abs(chosen) * 2.0 ** -(24 + half)
        free = math.isnan(chosen) or (math.isfinite(chosen) and chosen != 0)  # torch gives some number itself
        if not (math.isnan(got) or got == 0 or near or free or not math.isfinite(got)):
            where = (torch.arange(x.numel()) == 0).reshape(x.shape)
            yield unequal(Kind.NAN_PASSED, there, i, found[1], found[0], where, against=TORCH)


def answers_infinity_of_the_cotangent(evidence: Evidence) -> Iterator[Finding]:
    """NaN or infinity in the cotangent reaches what torch lets it reach."""
    point = evidence.point
    for bad in (math.inf, -math.inf, math.nan):
        grads = tuple(None if g is None or g.is_complex() or not g.numel() else _with(g, bad) for g in point.grads)
        if any(g is None for g in grads):
            return
        there = replace(point, grads=grads)
        for i, got, theirs in _asked(evidence, there):
            swallowed = got.isfinite() & theirs.isinf()  # of a cotangent of 1 in its place it has a part
            if bool(swallowed.any()) and math.isinf(bad):
                yield unequal(Kind.SWALLOWS, there, i, theirs, got, swallowed, against=TORCH)
                return
            off = (got.isnan() & ~theirs.isnan()) | (got.isfinite() & ~theirs.isfinite())
            if bool(off.any()):
                yield unequal(Kind.SPECIAL, there, i, theirs, got, off, against=TORCH)
                return


def answers_infinity_of_the_derivative(evidence: Evidence) -> Iterator[Finding]:
    """Where a primal is 0, and the derivative grows to infinity on the way there, the gradient is that infinity."""
    point = evidence.point
    for i in evidence.subject.floats:
        x = point.leaves[i]
        if x is None or not x.numel() or x.is_complex():
            continue

        def near(value: float, i: int = i, x: Tensor = x) -> Point:
            moved = x.clone(memory_format=torch.contiguous_format)
            moved.view(-1)[0] = value
            return replace(point, leaves=(*point.leaves[:i], moved, *point.leaves[i + 1 :]))

        there = near(0.0)
        found = next(((mine, other) for k, mine, other in _asked(evidence, there) if k == i), None)
        if found is None:
            continue
        got, theirs = (float(t.reshape(-1)[0]) for t in found)
        if math.isinf(theirs) and math.isfinite(got) and _grows_to(theirs, evidence, i, near):
            where = (torch.arange(x.numel()) == 0).reshape(x.shape)
            yield unequal(Kind.LIMIT, there, i, found[1], found[0], where, against=TORCH)
            return


def _grows_to(limit: float, evidence: Evidence, i: int, near: Callable[[float], Point]) -> bool:
    """Say whether torch's gradient grows to an infinity of this sign, from each side on which it is a number."""
    sides = 0
    for side in (1, -1):
        way = []
        for step in (2.0**-20, 2.0**-40, 2.0**-80):
            there = near(side * step)
            try:
                run = evidence.truth(there.leaves, there.grads)
            except NoPoint:
                return False
            g = run.gradients[i] if all_finite(*run.y) else None  # where forward is none, its gradient says nothing
            way.append(math.nan if g is None else float(g.reshape(-1)[0]) * math.copysign(1, limit))
        if all(map(math.isfinite, way)):
            sides += 1
            if not 0 < way[0] < way[1] < way[2]:
                return False
    return sides > 0


def _with(g: Tensor, value: float) -> Tensor:
    changed = g.clone(memory_format=torch.contiguous_format)
    changed.view(-1)[g.numel() // 2] = value
    return changed


def _asked(evidence: Evidence, point: Point) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the backward's gradient and torch's for each leaf, where both have the same shape."""
    try:
        got, theirs = evidence.asked(point.leaves, point.grads), evidence.gradients(point.leaves, point.grads)
    except (Raised, Misfit, NoPoint):
        return
    for i in evidence.subject.floats:
        mine, other = got[i], theirs[i]
        if isinstance(mine, Tensor) and isinstance(other, Tensor) and mine.shape == other.shape:
            yield i, mine, other
