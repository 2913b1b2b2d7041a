"""The second witness: extrapolated differences of forward, or its forward mode, along a direction.

Central differences at steps that halve are extrapolated to step 0 (Ridders 1982); how far neighbouring entries of the
table are apart, and what rounding of the two values gives, is the error that is computed with them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from backprop_rules.evidence.evidence import WIDE, Evidence, largest
from backprop_rules.strategies.values import move_of, numbers_from
from backprop_rules.subject.ambient import F64, inexact, running
from backprop_rules.subject.function import Function, Gradients, NoPoint, live_ones

ROWS, FEW = 9, 4
UNIT = 2.0**-53
Directions = Mapping[int, Tensor]


@dataclass(frozen=True)
class Slope:
    """The derivative of Re⟨ȳ, f⟩ along a direction, its error, and the one-sided slopes at the smallest step.

    `jump` is by how much these differ in the limit, and `unsure` how far that is off; `doubt` is the error, or more,
    where neighbours in the table are nearer to each other than what rounds inside of forward leaves them.
    """

    value: float
    error: float
    left: float
    right: float
    jump: float
    unsure: float
    doubt: float = 0.0

    @property
    def kink(self) -> bool:
        """Whether the slopes of both sides differ: of several kinks, any sum of their parts may be meant."""
        return abs(self.jump) > self.unsure

    def contradicts(self, other: float, least: float = 0.0) -> bool:
        """Say whether another value lies outside of the error, or of what is more, and not between both sides."""
        between = min(self.left, self.right) <= other <= max(self.left, self.right)
        return math.isfinite(self.value) and abs(self.value - other) > max(self.error, least) and not between


def slope(evidence: Evidence, along: Directions, step: float) -> Slope | None:
    """Return the slope along the directions, None where forward does not take what lies there."""
    point, function = evidence.point, evidence.function

    def value(h: float) -> tuple[float, float]:
        moved = [x + h * along[k] if k in along else x for k, x in enumerate(point.leaves)]
        return function.value(moved, point.grads)

    table: list[list[float]] = []
    best, error, left, right, at, noise = math.nan, math.inf, math.nan, math.nan, step, 0.0
    apart_at, rows = list[float](), FEW if evidence.heavy else ROWS
    try:
        here, size = value(0.0)
        for count in range(rows):
            (a, more), (b, less) = value(step), value(-step)
            size = max(size, more, less)
            left, right = (here - b) / step, (a - here) / step
            apart_at.append(right - left)
            rounded = 4 * UNIT * size / step
            row = [(a - b) / (2 * step)]
            for j, before in enumerate(table[-1] if table else ()):
                row.append((4.0 ** (j + 1) * row[j] - before) / (4.0 ** (j + 1) - 1))
                apart = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - before)) + rounded
                if apart < error:
                    best, error, at = row[j + 1], apart, step
            if count >= rows // 2:  # by then little else than rounding is left of the highest order
                noise = max(noise, step * abs(row[-2] - table[-1][-1]))
            table.append(row)
            step /= 2
    except NoPoint:
        return None
    # What a second derivative puts between the two sides is halved with the step; what the third one's change leaves of
    # it is less by far than the step before.
    jumps = [2 * b - a for a, b in pairwise(apart_at)]
    unsure = abs(jumps[-1] - jumps[-2]) + 6 * rounded
    doubt = max(error, noise / at)
    return Slope(best, error, left, right, jumps[-1], unsure, doubt) if math.isfinite(best) else None


class _AsAutogradGoes(TorchFunctionMode):
    """While it is entered, forward mode stops where autograd is switched off, as it does behind `detach`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        given, named = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        found = func(*given, **named)
        return args[0] if args and found is given[0] else found  # what is written to has the derivative that it had


def tangents(function: Function, leaves: Sequence[Any], along: Directions) -> list[Tensor | None] | None:
    """Return the derivatives of the outputs along the directions, by torch's forward mode; None where it has none."""
    try:
        with running(function.ambient(F64)) as inside, forward_ad.dual_level(), torch.enable_grad(), _AsAutogradGoes():
            made = [
                forward_ad.make_dual(x.contiguous(), along[k].contiguous()) if k in along else x
                for k, x in enumerate(leaves)
            ]
            return [forward_ad.unpack_dual(out).tangent for out in function.outputs(made, inside)]
    except (NoPoint, RuntimeError, NotImplementedError):
        return None


def pushed(evidence: Evidence, along: Directions) -> float | None:
    """Return the same as one number, along the cotangents too."""
    grads = evidence.point.grads
    found = tangents(evidence.function, evidence.point.leaves, along)
    if found is None or len(found) != len(grads):
        return None
    return along_of(grads, {k: t for k, t in enumerate(found) if t is not None})


def along_of(gradients: Sequence[Any] | Mapping[int, Any], along: Directions) -> float:
    """Return what gradients predict along the directions: Re⟨x̄, t⟩."""
    total = 0.0
    for k, t in along.items():
        g = gradients[k]
        if g is not None:
            total += float((g.conj() * t).real.sum() if g.is_complex() or t.is_complex() else (g * t).sum())
    return total


@dataclass(frozen=True)
class Second:
    """What the second witness says of torch's gradients at a point: that it agrees, contradicts, or nothing.

    `hidden` says that differences see what neither of torch's modes does: forward hides a dependence from both.
    """

    agrees: bool
    contradicts: bool
    words: str = ""
    hidden: bool = False


def second_witness(evidence: Evidence, half: float, own: Sequence[Any] | None = None) -> Second:
    """Ask differences, and forward mode where these do not decide, whether torch's gradients are right, or `own`."""
    truth = evidence.gradients_here if own is None else own
    # What forward detaches is moved by no direction: a difference would see it.
    live = [k for k, g in enumerate(evidence.run.gradients) if g is not None]
    if not all(bool(g.isfinite().all()) for k in live if (g := truth[k]) is not None):
        return Second(False, False)
    along = directions(evidence, live)
    predicted = along_of(truth, along)
    sizes = ((g, t) for k, t in along.items() if (g := truth[k]) is not None)
    size = sum(float((g.abs() * t.abs()).sum()) for g, t in sizes)
    if len(evidence.point.grads) > 1:  # what a Function marks as without a gradient is no dependence
        evidence = _of_what_has_a_gradient(evidence)
    found = slope(evidence, along, 2.0**-5)
    if found is not None and abs(found.value - predicted) <= found.error:
        return Second(True, False)
    forward, found = pushed(evidence, along), _borne_out(evidence, along, 2.0**-5, found)
    if forward is not None and abs(forward - predicted) <= size * _far_below_float32(half):
        # What differs in the last digits of float32 alone is a constant's, and no dependence.
        hidden = found is not None and not found.kink and found.contradicts(predicted, size * WIDE.unit)
        return Second(True, False, hidden=hidden)
    if found is not None and found.contradicts(predicted):
        words = f"differences give {found.value:.10g} ± {found.error:.1g}, torch's reverse mode {predicted:.10g}"
        return Second(False, True, words + (f", its forward mode {forward:.10g}" if forward is not None else ""))
    return Second(False, False)


def against_itself(evidence: Evidence, i: int) -> tuple[Slope, float] | None:
    """Return the slope that contradicts the gradient of leaf i, whatever is hidden from autograd, and what it says."""
    evidence, gradient = _of_what_has_a_gradient(evidence), evidence.user[i]
    along = directions(evidence, [i])
    gradient = torch.zeros_like(along[i]) if gradient is None else gradient.to(along[i].dtype)
    found, predicted = slope(evidence, along, _step(evidence)), along_of({i: gradient}, along)
    if found is None or abs(found.value - predicted) <= found.error:
        return None
    found = _borne_out(evidence, along, _step(evidence), found)
    if found is None or found.kink:
        return None
    size = max(float((gradient.abs() * along[i].abs()).sum()), abs(found.value))
    return (found, predicted) if found.contradicts(predicted, size * WIDE.unit) else None  # as above


def not_seen_together(evidence: Evidence, leaves: Sequence[int]) -> Iterator[int]:
    """Yield the leaves that one slope along all of them does not show to be right; where it fails, each half is asked.

    Such a leaf's part of it is below the middle between roundings and mistakes, from the error on.
    """
    if len(leaves) < 2:
        yield from leaves
        return
    evidence, gradients = _of_what_has_a_gradient(evidence), evidence.user
    along = directions(evidence, leaves)
    parts = {i: 0.0 if gradients[i] is None else along_of(gradients, {i: t}) for i, t in along.items()}
    found = slope(evidence, along, _step(evidence))
    if found is None or found.kink or abs(found.value - sum(parts.values())) > found.error:
        half = len(leaves) // 2
        yield from not_seen_together(evidence, leaves[:half])
        yield from not_seen_together(evidence, leaves[half:])
        return
    yield from (i for i, part in parts.items() if abs(part) * 2.0**-WIDE.half <= found.error)


def _step(evidence: Evidence) -> float:
    """Return the largest step: of many numbers some are within a larger one of a kink, and few slopes are taken."""
    return 2.0**-20 if evidence.heavy else 2.0**-5


def _of_what_has_a_gradient(evidence: Evidence) -> Evidence:
    """Return the evidence of the outputs alone that have a gradient, as gradcheck asks: no threshold or mask beside."""
    function, point = evidence.function, evidence.point
    with running(function.ambient(F64)) as inside, torch.enable_grad():
        pairs = zip(function.outputs(live_ones(point.leaves), inside), point.grads, strict=True)
        grads = tuple(g if y.requires_grad else None for y, g in pairs)
    return Evidence(evidence.subject, replace(point, grads=grads), evidence.pair)


def _borne_out(evidence: Evidence, along: Directions, step: float, found: Slope | None) -> Slope | None:
    """Return the surest of it and of slopes from two much smaller steps if these agree: only they may contradict.

    Between the kinks of many ReLUs neighbouring steps may agree by luck; no step is halved to another slope's.
    """
    for smaller in (3 * 2.0**-8, 5 * 2.0**-15):
        again = None if found is None else slope(evidence, along, step * smaller)
        if found is None or again is None or abs(found.value - again.value) > found.error + again.error:
            return None
        found = min(found, again, key=lambda one: one.error)
    return None if found is None else replace(found, error=max(found.error, found.doubt))


def _far_below_float32(half: float) -> float:
    """The middle, in bits, between float32's roundoff and float64's: two computations in float64 are nearer."""
    return float(2.0 ** -(24 + half))


def directions(evidence: Evidence, live: Sequence[int]) -> dict[int, Tensor]:
    """Return a direction for each of these leaves, of the order of its values; symmetric matrices stay symmetric.

    Rows that are an embedding's padding, which has no gradient, stay where they are.
    """
    numbers, leaves = numbers_from(11), evidence.point.leaves
    along = {k: move_of(leaves[k], 2.0**-6, numbers) for k in live if inexact(leaves[k])}
    for k, row in evidence.subject.constants.padding:
        if k in along:
            along[k][row : row + 1 or None] = 0
    return along


def sides_with(evidence: Evidence, i: int, wrong: Tensor, truth: Gradients) -> str:
    """Say with whom differences side along user - truth: torch, user, neither, or nobody where they do not decide."""
    t = truth[i]
    assert t is not None
    measured = _along_the_difference(evidence, i, wrong, t)
    if measured is None:
        return "nobody"
    along, step, found = measured
    theirs, own = (abs(along_of(g, along) - found.value) for g in (truth, {i: evidence.user[i].to(t.dtype)}))
    if theirs > found.error:
        forward, predicted = pushed(evidence, along), along_of(truth, along)
        size = float((t.abs() * along[i].abs()).sum())
        agree = forward is not None and abs(forward - predicted) <= size * _far_below_float32(evidence.pair.half)
        if agree and theirs > size * WIDE.unit:
            return "torch"  # differences see what forward detaches: that is more than float32's last digit
        sure = _borne_out(evidence, along, step, found)
        if sure is None or theirs <= sure.error:
            return "nobody"
        return "user" if own <= sure.error else "neither"
    return "torch" if own > found.error else "nobody"


def borne_out(evidence: Evidence, i: int, wrong: Tensor, truth: Tensor) -> str:
    """Say whom differences along user - truth bear out alone, whatever is detached: torch, user, or nobody."""
    measured = _along_the_difference(evidence, i, wrong, truth)
    if measured is None:
        return "nobody"
    along, _, found = measured
    theirs, own = (abs(along_of({i: g.to(truth.dtype)}, along) - found.value) for g in (truth, evidence.user[i]))
    if (theirs <= found.error) == (own <= found.error):
        return "nobody"
    return "torch" if theirs <= found.error else "user"


def _along_the_difference(
    evidence: Evidence, i: int, wrong: Tensor, truth: Tensor
) -> tuple[dict[int, Tensor], float, Slope] | None:
    """Return the direction of user - truth, a step along it, and the slope; None where there is none."""
    apart = evidence.user[i].to(truth.dtype) - truth
    apart = torch.where(wrong & apart.isfinite(), apart, torch.zeros_like(apart))
    length = float(torch.linalg.vector_norm(apart))
    if not length:
        return None
    along = {i: apart / length}
    step = 2.0**-6 * max(largest(evidence.point.leaves[i]) or 1.0, 2.0**-20)
    found = slope(evidence, along, step)
    return None if found is None else (along, step, found)
