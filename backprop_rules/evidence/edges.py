"""The hunt for edges of forward's domain, wherever they are: near one a clamp or an eps in a backward shows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import Evidence, farthest, largest
from backprop_rules.strategies.point import EDGE, Point
from backprop_rules.strategies.values import recast
from backprop_rules.subject.ambient import F64, all_finite, inexact
from backprop_rules.subject.function import NoPoint

FAR = 8.0  # times its largest number that a primal moves on a line, before no edge is looked for on this side
HALVINGS = 40  # until an edge is known better than the nearest share of the way to it
NEAREST, STEP = 28, 2  # binary digits of that share, and of how much farther the next one is
TWICE = 8  # of how much farther from the edge is asked as well
MOST = 2.0**512  # of ordinary values of float64: an overflow is no edge of a domain


def edges(evidence: Evidence, others: Sequence[Point]) -> Iterator[Point]:
    """Yield points near where forward stops being finite, on the line through a point and another one of its shapes.

    Where there is none, as of a rule whose points have many shapes, the line is that of the point's multiples.
    """
    start, kept = evidence.point, evidence.subject.constants.kept
    twice = tuple(2 * x if inexact(x) else x for x in start.leaves)
    other = next((p.leaves for p in others if _shapes(p.leaves) == _shapes(start.leaves)), twice)
    pairs = list(zip(start.leaves, other, strict=True))
    moves = [b - a if inexact(a) and not a.is_complex() and k not in kept else None for k, (a, b) in enumerate(pairs)]
    sizes = [(largest(m), largest(a)) for (a, _), m in zip(pairs, moves, strict=True) if m is not None]
    fastest = max((move / size for move, size in sizes if size), default=0.0)

    def at(v: float) -> tuple[Any, ...]:
        return tuple(a if move is None else a + move * v for (a, _), move in zip(pairs, moves, strict=True))

    for far in (FAR / fastest, -FAR / fastest) if fastest and _is_finite(evidence, start.leaves) else ():
        if _is_finite(evidence, at(far)):
            continue
        inside, outside = 0.0, far
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if _is_finite(evidence, at(middle)) else (inside, middle)
        near = (k for k in range(NEAREST, 0, -STEP) if _keeps_digits(evidence, _held(evidence, at(inside * _less(k)))))
        nearest = next(near, 0)
        for k in (nearest - TWICE, nearest):  # of the former a smaller one is found more easily
            if k > 0:
                leaves = _held(evidence, at(inside * _less(k)))
                yield replace(start, leaves=leaves, made="near an edge of forward's domain", kind=EDGE)


def is_told_near_an_edge(evidence: Evidence, i: int | None) -> bool:
    """Say whether both gradients of a leaf are numbers in the lower precision: else nothing tells what is rounding."""
    theirs, own = evidence.low_gradients_here, evidence.low_user
    if i is None or theirs is None or own is None:
        return False
    return all(isinstance(g, Tensor) and all_finite(g) for g in (theirs[i], own[i]))


def _shapes(leaves: Sequence[Any]) -> list[Any]:
    return [x.shape if isinstance(x, Tensor) else None for x in leaves]


def _less(k: int) -> float:
    return 1 - 2.0**-k


def _held(evidence: Evidence, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Return the leaves as the narrowest of the dtypes holds them that are asked for."""
    found, low = list(leaves), evidence.pair.low
    for k, (x, example) in enumerate(zip(leaves, evidence.subject.example, strict=True)):
        if inexact(x) and not x.is_complex():
            narrow = min(example.dtype, low, key=precision) if inexact(example) else low
            found[k] = recast(recast(x, narrow), F64)
    return tuple(found)


def _is_finite(evidence: Evidence, leaves: Sequence[Any]) -> bool:
    try:
        y = evidence.function.y(leaves, F64)
    except NoPoint:
        return False
    return all_finite(*y) and all(largest(out) < MOST for out in y if inexact(out))


def _keeps_digits(evidence: Evidence, leaves: Sequence[Any]) -> bool:
    """Say whether torch's own gradients are finite in both precisions, and nearer to each other than to 0."""
    if not _is_finite(evidence, leaves):
        return False
    try:
        both = [evidence.gradients(leaves, evidence.point.grads, dtype) for dtype in (F64, evidence.pair.low)]
    except NoPoint:
        return False
    return all(map(_agree, *both))


def _agree(truth: Tensor | None, low: Tensor | None) -> bool:
    if truth is None or low is None:
        return True
    return all_finite(truth, low) and 2 * farthest(low.to(truth.dtype), truth) <= largest(truth) < MOST
