"""The hunt for thresholds in the backward's own code: where it jumps on a line it is cornered to neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence, largest
from backprop_rules.evidence.kinks import DISTANCES, neighbours
from backprop_rules.strategies.point import JUMP, Point
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.function import NoAnswer

STEPS = 6  # parts of the line, in each of which one jump is cornered
CORNERED = 3  # jumps, of different elements, the largest first
LOOKED_AT = 40  # changes that are looked at
HALVINGS = 52  # to neighbouring numbers of float64
# Halvings after which a smooth change has dwindled to a sixteenth or less, and one about a pole has grown as much; a
# jump has stayed.
STAYS = 8


def jumps(evidence: Evidence, other: Point) -> Iterator[Point]:
    """Yield points on both sides of jumps of the backward, on the line from a point to another one."""
    start = evidence.point.without_zeros()
    kept = evidence.subject.constants.kept
    ends = [
        (a, b) if inexact(a) and not a.is_complex() and k not in kept else (a, None)
        for k, (a, b) in enumerate(zip(start.leaves, other.leaves, strict=True))
    ]

    def at(v: float) -> tuple[Any, ...]:
        return tuple(a if b is None else a + (b - a) * v for a, b in ends)

    def asked(v: float) -> Tensor:
        found = evidence.asked(at(v), start.grads)
        flat = [g.reshape(-1).to(F64) for g in found if isinstance(g, Tensor) and not g.is_complex()]
        return torch.cat(flat) if flat else torch.zeros(0, dtype=F64)

    try:
        grid = torch.stack([asked(k / STEPS) for k in range(STEPS + 1)])
        if not grid.shape[1]:
            return
        for low, high in _cornered(grid, asked):
            for v in (low, high, 2 * low - high, 2 * high - low):
                yield replace(start, leaves=at(v), made="a jump of the backward's own", kind=JUMP)
    except (NoAnswer, RuntimeError):
        return


def is_of_one_number(evidence: Evidence, i: int, at: tuple[int, ...]) -> bool:
    """Say whether a gradient's element at a jump stays, the backward's and torch's, where all numbers but its own move.

    So it does where the jump is that of a threshold which its own number is held against.
    """
    point = evidence.point

    def element(leaves: Sequence[Any]) -> tuple[Tensor, Tensor]:
        theirs = evidence.gradients(leaves, point.grads)[i]
        assert theirs is not None
        return evidence.asked(leaves, point.grads)[i][at], theirs[at]

    try:
        here = element(point.leaves)
        apart = abs(here[0] - here[1]) / 2
        for away in (DISTANCES[1], -DISTANCES[1]):
            leaves = [x + away * x.abs().amax() if inexact(x) and x.numel() else x for x in point.leaves]
            leaves[i] = leaves[i].clone()
            leaves[i][at] = point.leaves[i][at]
            if any(bool(abs(a - b) > apart) for a, b in zip(here, element(leaves), strict=True)):
                return False
    except NoAnswer:
        return False
    return True


def is_beyond_its_dtypes(evidence: Evidence, i: int | None) -> bool:
    """Say whether a gradient is torch's own on the other side of a jump that is nearer than sums in float32 round.

    A kernel of float32 that cannot be followed has its jump there, wherever it stands in float64: of a sum of n numbers
    as far as n roundings go.
    """
    if evidence.subject.in_float64 or i is None:
        return False
    user, truth = evidence.user[i], evidence.gradients_here[i]
    if truth is None:
        return False
    near = largest(truth) * 2.0**-evidence.pair.half
    longest = max(max(x.shape, default=1) for x in evidence.point.leaves if inexact(x))
    others = (gradients[i] for delta in (1, longest) for _, gradients in neighbours(evidence, delta * DISTANCES[0]))
    return any(g is not None and largest(user.to(g) - g) <= near for g in others)


def _cornered(grid: Tensor, asked: Any) -> Iterator[tuple[float, float]]:
    change = (grid[1:] - grid[:-1]).abs().nan_to_num(0, 0, 0)
    done: set[int] = set()
    order = torch.argsort(change.reshape(-1), descending=True)[:LOOKED_AT].tolist()
    for place in order:
        k, e = divmod(place, change.shape[1])
        if e in done:
            continue
        if len(done) == CORNERED or not float(change[k, e]):
            return
        done.add(e)
        low, high, a, b = k / STEPS, (k + 1) / STEPS, grid[k, e], grid[k + 1, e]
        whole = abs(a - b)
        for step in range(HALVINGS):
            middle = (low + high) / 2
            found = asked(middle)[e]
            if abs(found - a) >= abs(found - b):
                high, b = middle, found
            else:
                low, a = middle, found
            if step == STAYS and not 2 ** (-STAYS / 2) <= abs(a - b) / whole < 2 ** (STAYS / 2):
                break
        else:
            yield low, high
