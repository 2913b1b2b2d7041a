"""NaN and infinities: a gradient where a primal is NaN is NaN, 0 or torch's; what else differs is a note."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import with_element
from backprop_rules.subject.ambient import all_finite
from backprop_rules.subject.function import NoAnswer, NoPoint

TORCH = ("torch's reverse mode",)


def answers_nan(evidence: Evidence) -> Iterator[Finding]:
    """Where a primal is NaN its gradient is NaN, or 0, or what torch gives, if torch gives one of these."""
    for told in _first_elements(evidence, math.nan, Kind.NAN_PASSED):
        got, chosen = told.got, told.expected
        near = abs(got - chosen) <= abs(chosen) * 2.0 ** -(24 + evidence.pair.half)
        free = math.isnan(chosen) or (math.isfinite(chosen) and chosen != 0)  # torch gives some number itself
        if not (math.isnan(got) or got == 0 or near or free or not math.isfinite(got)):
            yield told


def answers_infinity_of_the_cotangent(evidence: Evidence) -> Iterator[Finding]:
    """NaN or infinity in the cotangent reaches what torch lets it reach."""
    point = evidence.point
    for bad in (math.inf, -math.inf, math.nan):
        grads = tuple(
            None if g is None or g.is_complex() or not g.numel() else with_element(g, g.numel() // 2, bad)
            for g in point.grads
        )
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
                found = unequal(Kind.SPECIAL, there, i, theirs, got, off, against=TORCH)
                yield replace(found, detail=f"where the cotangent holds {bad}: {found.got}, torch has {found.expected}")
                return


def answers_infinity_of_the_derivative(evidence: Evidence) -> Iterator[Finding]:
    """Where a primal is 0, and the derivative grows to infinity on the way there, the gradient is that infinity."""
    for told in _first_elements(evidence, 0.0, Kind.LIMIT):
        if math.isinf(told.expected) and math.isfinite(told.got) and _grows_to(told, evidence):
            yield told
            return


def _first_elements(evidence: Evidence, value: float, kind: Kind) -> Iterator[Finding]:
    """Yield the backward's number and torch's for each primal's first element, where that has this value."""
    point = evidence.point
    for i in evidence.subject.floats:
        x = point.leaves[i]
        if x is None or not x.numel() or x.is_complex():
            continue
        there = point.with_tensor(i, with_element(x, 0, value))
        for k, mine, other in _asked(evidence, there):
            if k == i:
                where = (torch.arange(x.numel()) == 0).reshape(x.shape)
                yield unequal(kind, there, i, other, mine, where, against=TORCH)


def _grows_to(told: Finding, evidence: Evidence) -> bool:
    """Say whether torch's gradient grows to the infinity expected, from each side on which it is a number."""
    i, sides = told.leaf or 0, 0
    for side in (1, -1):
        way = []
        for step in (2.0**-20, 2.0**-40, 2.0**-80):
            there = evidence.point.with_tensor(i, with_element(evidence.point.leaves[i], 0, side * step))
            try:
                run = evidence.truth(there.leaves, there.grads)
            except NoPoint:
                return False
            g = run.gradients[i] if all_finite(*run.y) else None  # where forward is none, its gradient says nothing
            way.append(math.nan if g is None else float(g.reshape(-1)[0]) * math.copysign(1, told.expected))
        if all(map(math.isfinite, way)):
            sides += 1
            if not 0 < way[0] < way[1] < way[2]:
                return False
    return sides > 0


def _asked(evidence: Evidence, point: Point) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the backward's gradient and torch's for each leaf, where both have the same shape."""
    try:  # torch's first: where its kernel does not ask whether it may, the backward's own is not called either
        theirs = evidence.gradients(point.leaves, point.grads)
        got = evidence.asked(point.leaves, point.grads)
    except NoAnswer:
        return
    for i in evidence.subject.floats:
        mine, other = got[i], theirs[i]
        if isinstance(mine, Tensor) and isinstance(other, Tensor) and mine.shape == other.shape:
            yield i, mine, other
