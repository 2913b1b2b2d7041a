"""Whether a gradient jumps, grows or changes smoothly around a point: gradients nearby, at two distances.

Their spread stays at a kink, shrinks with the distance where the function is smooth, and grows at a singular point.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence, largest
from backprop_rules.strategies.values import move_of, numbers_from
from backprop_rules.subject.ambient import inexact, real
from backprop_rules.subject.function import NoAnswer, NoPoint

DISTANCES = (2.0**-24, 2.0**-40)
NEIGHBOURS, FEW = 12, 4
MORE = 36  # where a gradient lies outside of the hull of these: of a tie of several, each must have won once
ALONE = 320  # elements of a tie that are moved alone, up and down, at most: half a millisecond each
SINGLE = 4  # outputs that are asked for one by one
# Between the two distances the spread stays at a kink, and shrinks or grows at least as a root of the distance: the
# middle, in bits.
GROWTH = (DISTANCES[0] / DISTANCES[1]) ** (1 / 4)


Neighbour = tuple[list[Any], tuple[Tensor | None, ...]]  # its leaves, and torch's gradients there


class Shape(Enum):
    """What the function does around a point."""

    SMOOTH = "smooth"
    KINK = "kink"
    SINGULAR = "singular"
    EDGE = "edge"


@dataclass(frozen=True, eq=False)
class Around:
    """What is around a point: its shape, where it is so, and the leaves of the nearest neighbours.

    `still` is where all gradients nearby are the same: under a cotangent of 0 even a kink's are.
    """

    shape: Shape
    where: Tensor
    still: Tensor
    leaves: tuple[tuple[object, ...], ...] = ()


def nearest(evidence: Evidence) -> list[tuple[Tensor | None, ...]]:
    """Return torch's gradients at some neighbours: enough to tell a smooth point from a kink."""
    return evidence.known.kept(("nearest",), lambda: [g for _, g in _neighbours(evidence, DISTANCES[1], 13, FEW)])


def neighbours(evidence: Evidence, delta: float, more: bool = False) -> list[Neighbour]:
    """Return leaves at a distance, and torch's gradients there; those that forward does not take are left out."""
    if more:
        return evidence.known.kept(("more", delta), lambda: list(_neighbours(evidence, delta, 17, MORE)))
    count = FEW if evidence.heavy else NEIGHBOURS
    return evidence.known.kept(("neighbours", delta), lambda: list(_neighbours(evidence, delta, 13, count)))


def _neighbours(
    evidence: Evidence, delta: float, seed: int, count: int, alone: tuple[int, Tensor] | None = None,
    grads: tuple[Tensor | None, ...] | None = None,
) -> Iterator[Neighbour]:  # fmt: skip
    """Yield neighbours in pairs, on opposite sides of the point: no kink through it has both on one side.

    Where only some elements of one leaf can move, these `alone` do. The cotangents are the point's, if not `grads`.
    """
    numbers, point = numbers_from(seed), evidence.point
    for _ in range(count // 2):
        moves = [_move(x, numbers) if inexact(x) else None for x in point.leaves]
        if alone is not None:
            k, where = alone
            moves = [torch.where(where, move, 0) if i == k else None for i, move in enumerate(moves)]  # type: ignore[arg-type]
        for side in (delta, -delta):
            leaves = [x if move is None else x + side * move for x, move in zip(point.leaves, moves, strict=True)]
            with suppress(NoPoint):
                yield leaves, evidence.gradients(leaves, point.grads if grads is None else grads)


def _move(x: Tensor, numbers: torch.Generator) -> Tensor:
    # In proportion to each element, so that small ones beside huge ones stay near too; zeros move as well.
    return move_of(x, 2.0**-10 * min(largest(x) or 1.0, 1.0), numbers)


def around(evidence: Evidence, i: int, suspicious: Tensor, noise: float) -> Around:
    """Return what is around a point, seen in the gradient of leaf i where it is suspicious."""

    def finite(some: Iterable[Neighbour]) -> list[Neighbour]:
        mask = real_mask(suspicious, evidence.gradients_here[i])
        return [one for one in some if bool(real(one[1][i])[mask].isfinite().all())]

    spreads = []
    for delta in DISTANCES:
        found = finite(neighbours(evidence, delta))
        if len(found) < 2:
            found = finite(_neighbours(evidence, delta, 19, NEIGHBOURS, (i, suspicious)))
        if len(found) < 2:
            return Around(Shape.EDGE, suspicious, torch.zeros_like(suspicious))
        stack = torch.stack([real(gradients[i]) for _, gradients in found])
        spread = stack.amax(0) - stack.amin(0)
        spreads.append(spread.amax(-1) if spread.dim() > suspicious.dim() else spread)
    far, near = spreads
    still = suspicious & (far == 0) & (near == 0)
    grows = suspicious & (near > far * GROWTH) & (near > noise)
    if bool((grows == suspicious).all()):
        return Around(Shape.SINGULAR, suspicious, still)
    left = suspicious & ~grows
    apart = [float(s[left].max()) for s in spreads]
    smooth = apart[1] <= apart[0] / GROWTH or apart[1] <= noise * 2.0**-evidence.pair.half
    shape = Shape.SMOOTH if smooth else Shape.KINK
    return Around(shape, left, still, tuple(tuple(x) for x, _ in found))


def is_in_the_hull(evidence: Evidence, i: int, kink: Around, noise: float, shared: bool) -> bool:
    """Say whether the gradient lies in the hull of those nearby; if `shared`, summed for single outputs too."""
    near = noise * 2.0**-evidence.pair.half
    user = real(evidence.user[i])
    mask = real_mask(kink.where, evidence.user[i])
    here = user[mask]
    if not bool(here.isfinite().all()) or not is_between(evidence, i, here, mask, near):
        return False
    return not shared or all(_sums_to_one_nearby(evidence, kink, one) for one in _single_outputs(evidence))


def is_between(evidence: Evidence, i: int, here: Tensor, mask: Tensor, near: float, smooth: bool = False) -> bool:
    """Say whether each element lies between those of the gradients nearby: of more of them, unless it is `smooth`.

    Of a tie of many, the elements that have not won there yet are moved alone, up and down; and each output chooses
    for itself, as each window of a pool does: the parts by positive and by negative cotangents are added up.
    """
    low, high = torch.full_like(here, torch.inf), torch.full_like(here, -torch.inf)

    def outside(some: Iterable[Neighbour]) -> Tensor:
        for _, gradients in some:
            g = real(gradients[i])[mask]
            if bool(g.isfinite().all()):
                torch.minimum(low, g, out=low)
                torch.maximum(high, g, out=high)
        return ((here < low - near) | (here > high + near)).nonzero()

    left = outside(neighbours(evidence, DISTANCES[1]))
    if smooth or not len(left):
        return not len(left)
    left = outside(neighbours(evidence, DISTANCES[1], more=True))
    leaf, places, parts = evidence.point.leaves[i], mask.nonzero(), _by_sign(evidence.point.grads)
    for (k,) in left[:ALONE].tolist():
        alone = torch.zeros_like(leaf, dtype=torch.bool)
        alone[tuple(places[k][: leaf.dim()])] = True
        ends = [
            [float(real(g[i])[mask][k]) for _, g in _neighbours(evidence, DISTANCES[1], 23, 2, (i, alone), part)]
            for part in parts
        ]
        if not all(ends) or not sum(map(min, ends)) - near <= float(here[k]) <= sum(map(max, ends)) + near:
            return False
    return True


def _by_sign(grads: tuple[Tensor | None, ...]) -> list[tuple[Tensor | None, ...]]:
    """Return the positive and the negative parts of cotangents, of complex ones all."""
    if any(g is not None and g.is_complex() for g in grads):
        return [grads]
    parts = [tuple(None if g is None else g.clamp(low, high) for g in grads) for low, high in ((0, None), (None, 0))]
    return [part for part in parts if any(g is not None and bool(g.any()) for g in part)]


def _single_outputs(evidence: Evidence) -> list[tuple[Tensor | None, ...]]:
    """Return cotangents of one element: the largest of the point's own of either sign, which reach most."""
    grads, found = evidence.point.grads, []
    for k, g in enumerate(grads):
        if g is None or not g.numel():
            continue
        flat = g.abs().reshape(-1) if g.is_complex() else g.reshape(-1)
        ends = [torch.topk(sign * flat, min(SINGLE // 2, g.numel())).indices for sign in (1, -1)]
        most = torch.cat([*ends, torch.topk(g.abs().reshape(-1), min(SINGLE, g.numel())).indices]).tolist()
        for place in [k for k in dict.fromkeys(most) if flat[k] != 0][:SINGLE]:
            one = torch.zeros(g.shape, dtype=g.dtype, device=g.device)
            one.view(-1)[place] = g.reshape(-1)[place]
            others = [None if o is None else torch.zeros_like(o) for o in grads]
            found.append(tuple(one if j == k else o for j, o in enumerate(others)))
    return found[: 2 * SINGLE]


def _sums_to_one_nearby(evidence: Evidence, kink: Around, one: tuple[Tensor | None, ...]) -> bool:
    """Say whether all gradients of one output sum to what they sum to all around: a tie is shared, not multiplied.

    Where the sums around differ, as those of a rectifier do, any choice may be meant.
    """
    try:
        mine, theirs = evidence.asked(evidence.point.leaves, one), evidence.gradients(evidence.point.leaves, one)
        if all(t is None or (isinstance(g, Tensor) and torch.equal(g, t)) for g, t in zip(mine, theirs, strict=True)):
            return True  # torch's own choice, whatever it sums to
        sums = [_total(evidence.gradients(leaves, one)) for leaves in kink.leaves]
    except NoAnswer:
        return True
    reach = sum(float(real(g).abs().sum()) for g in mine if isinstance(g, Tensor)) * evidence.pair.unit
    if max(sums) - min(sums) > reach:
        return True
    return min(sums) - reach <= _total(mine) <= max(sums) + reach


def _total(gradients: tuple[object, ...]) -> float:
    return sum(float(real(g).sum()) for g in gradients if isinstance(g, Tensor))


def real_mask(mask: Tensor, like: object) -> Tensor:
    """Return the mask for `real(like)`."""
    assert isinstance(like, Tensor)
    return mask.unsqueeze(-1).expand(*mask.shape, 2) if like.is_complex() else mask
