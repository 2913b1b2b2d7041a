"""The first rung: whether the error shrinks with the unit roundoff.

Per gradient and point, in max norms, with the backward and torch in a higher and a lower precision at the same values:

    noise = max(|user_low - user|, |torch_low - truth|, u |truth|, the smallest subnormal)
    bits  = log2(noise / |user - truth|)

Where the difference is rounding, it is smaller than the noise by as many bits as the precisions differ; a mistake is as
large as it was. Half of these bits, the middle, tells the one from the other.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import Evidence, farthest, largest
from backprop_rules.strategies.values import numbers_from, relaid
from backprop_rules.subject.ambient import F32, F64, all_finite, at, inexact
from backprop_rules.subject.function import Cotangents, NoAnswer, NoPoint

SMALLEST = 2.0**-149  # float32's smallest subnormal number
LAST_BITS = 2.0**-50  # by how much of itself a number moves by a few ulps of float64


@dataclass(frozen=True)
class Witnessed:
    """What the witnesses say of one gradient: how large the difference is, and the noise that it is held against."""

    difference: float
    noise: float
    scale: float
    torch_keeps_nothing: bool
    user_keeps_nothing: bool
    outside: Tensor | None = None

    @property
    def bits(self) -> float:
        """By how many bits the difference lies under the noise."""
        return math.inf if self.difference == 0 else math.log2(self.noise) - math.log2(self.difference)


def witnessed(evidence: Evidence, i: int) -> Witnessed | None:
    """Return what the witnesses say of the gradient of leaf i, None where neither it nor the truth is finite."""
    user, truth = evidence.user[i], evidence.gradients_here[i]
    assert truth is not None
    user = user.to(truth.dtype)
    said = None if all_finite(truth, user) else truth.isfinite() & user.isfinite()
    if said is not None and not bool(said.any()):
        return None
    difference, scale = _apart(said, user, truth), largest(_where(said, truth))
    if not difference:  # whatever the noise is
        return Witnessed(0.0, evidence.pair.unit * scale, scale, False, False)
    low_user, low_truth = evidence.low_user, evidence.low_gradients_here
    own = theirs = 0.0
    if low_user is not None and fits(low_user[i], truth):
        own = _apart(said, low_user[i], user)
    if low_truth is not None and (low := low_truth[i]) is not None:
        theirs = _apart(said, low, truth)
    noise = max(own, theirs, evidence.pair.unit * scale, SMALLEST)
    return Witnessed(difference, noise, scale, theirs >= scale > 0, own >= scale > 0)


def fits(gradient: object, truth: Tensor) -> bool:
    """Say whether it is a tensor of the truth's shape."""
    return isinstance(gradient, Tensor) and gradient.shape == truth.shape


def _apart(said: Tensor | None, a: Tensor, b: Tensor) -> float:
    return farthest(a, b) if said is None else largest(_where(said, a.to(b.dtype) - b))


def _where(said: Tensor | None, x: Tensor) -> Tensor:
    """Return the numbers of what is said, 0 elsewhere; said is everything if it is None."""
    return x if said is None else torch.where(said, x, torch.zeros_like(x))


def noise_nearby(evidence: Evidence, i: int) -> float:
    """Return the noise at neighbours that use all bits: float32 may be exact at a point by luck."""
    noise = 0.0
    for high, low, truth, theirs in evidence.kept(("noise",), lambda: list(_nearby(evidence))):
        pairs = [(theirs[i], truth[i])]
        if fits(high[i], truth[i]) and fits(low[i], truth[i]):
            pairs.append((low[i], high[i]))
        for one, other in pairs:
            apart = one.to(truth[i].dtype) - other.to(truth[i].dtype)
            if bool(apart.isfinite().all()):
                noise = max(noise, largest(apart))
    return noise


def torchs_error_nearby(evidence: Evidence, i: int) -> float:
    """Return how far torch's own gradient is off in the lower precision at these neighbours."""
    error = 0.0
    for _, _, truth, theirs in evidence.kept(("noise",), lambda: list(_nearby(evidence))):
        apart = theirs[i].to(truth[i].dtype) - truth[i]
        error = max(error, largest(apart) if bool(apart.isfinite().all()) else 0.0)
    return error


def lost_in_the_norm(evidence: Evidence, i: int) -> float:
    """Return how far torch's gradient moves with an error of one unit of each matrix's norm, where one is factorised.

    It is what a stable factorisation, an inverse or a solution may lose in the lower precision; torch's own, of one
    matrix, may lose nothing by luck. Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition,
    section 1.5 and chapter 9.
    """
    if not evidence.run.factorises:
        return 0.0
    numbers, unit, truth = numbers_from(31), 2.0 ** -precision(evidence.pair.low), evidence.gradients_here[i]

    def moved(x: Any) -> Any:
        if not inexact(x) or not x.numel():
            return x
        norm = x.abs().amax((-2, -1), keepdim=True) if x.dim() >= 2 else x.abs().amax()
        return x + unit * norm * torch.randn(x.shape, generator=numbers, dtype=F64).to(x.device)

    error = 0.0
    for _ in range(_often(evidence)):
        with suppress(NoPoint):
            there = evidence.gradients([moved(x) for x in evidence.point.leaves], evidence.point.grads)[i]
            if truth is not None and there is not None:
                error = max(error, largest(there - truth))
    return error


def keeps_few_digits_nearby(evidence: Evidence, i: int) -> bool:
    """Say whether torch's gradient in float64 loses half of its digits at each neighbour, by the last bits of these.

    So it is where a singular system is solved all the same, as A^T A is of an A with more columns than rows: by what
    rounding makes of a pivot. Exact at whole numbers, the two precisions may agree there by luck. Where forward is
    defined at no neighbour, the point itself is asked.
    """
    return evidence.known.kept(("few digits", i), lambda: _keeps_few_digits(evidence, i))


def _keeps_few_digits(evidence: Evidence, i: int) -> bool:
    numbers, leaves, often = numbers_from(43), evidence.point.leaves, _often(evidence)

    def lost(base: Sequence[Any]) -> bool | None:
        here = _gradient_at(evidence, i, base)
        if here is None or not largest(here):
            return None
        there = _gradient_at(evidence, i, _nudged(base, LAST_BITS, numbers))
        return there is None or farthest(there, here) > 2.0 ** (-precision(F64) / 2) * largest(here)

    told = [lost(_nudged(leaves, 2.0**-10, numbers)) for _ in range(often)]
    if all(one is None for one in told):
        return any(lost(leaves) for _ in range(often))
    return False not in told


def _gradient_at(evidence: Evidence, i: int, leaves: Sequence[Any]) -> Tensor | None:
    """Return torch's gradient of leaf i at other leaves, None where forward is not defined."""
    try:
        return evidence.gradients(leaves, evidence.point.grads)[i]
    except NoPoint:
        return None


def _nudged(leaves: Sequence[Any], by: float, numbers: torch.Generator) -> list[Any]:
    """Return the leaves, each number moved by about so much of it."""
    noise = (torch.randn(x.shape, generator=numbers, dtype=F64).to(x.device) if inexact(x) else None for x in leaves)
    return [x if some is None else x * (1 + by * some) for x, some in zip(leaves, noise, strict=True)]


def _often(evidence: Evidence) -> int:
    return 1 if evidence.heavy else 4


def _nearby(evidence: Evidence) -> Iterator[tuple[Any, ...]]:
    """Yield the backward's gradients and torch's in both precisions, at neighbours."""
    for leaves, grads, *torchs in evidence.known.kept(("nearby",), lambda: list(_torchs_nearby(evidence))):
        with suppress(NoAnswer):
            yield evidence.asked(leaves, grads), evidence.asked(leaves, grads, evidence.pair.low), *torchs


def _torchs_nearby(evidence: Evidence) -> Iterator[tuple[Any, ...]]:
    """Yield neighbours that float32 holds, and torch's gradients there in both precisions."""
    numbers, pair, point = numbers_from(7), evidence.pair, evidence.point

    def moved(x: Any) -> Any:
        if not inexact(x):
            return x
        there = x * (1 + 2.0**-10 * torch.randn(x.shape, generator=numbers, dtype=F64).to(x.device))
        return relaid(there.to(at(pair.low, x)).to(x.dtype), x)

    for _ in range(_often(evidence)):
        leaves, grads = [moved(x) for x in point.leaves], tuple(moved(g) for g in point.grads)
        with suppress(NoPoint):
            yield leaves, grads, evidence.gradients(leaves, grads), evidence.gradients(leaves, grads, pair.low)


def is_granular(evidence: Evidence, i: int, each: bool) -> bool:
    """Say whether a nudge of 2^-40 does not come through: then something computes in float32, out of sight.

    A nudge of `each` argument alone, too: a kernel may take only some for float32.
    """
    seen, point, numbers = 2.0**-12, evidence.point, numbers_from(23)
    # Next to the point: on a kink a nudge may be a jump.
    base = [
        relaid(x * (1 + seen * torch.randn(x.shape, generator=numbers, dtype=F64).to(x.device)), x) if inexact(x) else x
        for x in point.leaves
    ]
    alone = evidence.subject.floats if each else ()
    try:
        here, truth = evidence.asked(base, point.grads)[i], evidence.gradients(base, point.grads)[i]
    except NoAnswer:
        return False
    if not isinstance(here, Tensor) or truth is None or not largest(here) or not largest(truth):
        return False
    return any(_swallows(evidence, i, base, here, truth, nudged) for nudged in (None, *alone))


def _swallows(evidence: Evidence, i: int, base: Sequence[Any], here: Tensor, truth: Tensor, nudged: int | None) -> bool:
    """Say whether a nudge of a leaf, or of all and the cotangents, changes nothing, or by whole steps of float32."""
    nudge, seen, grads = 2.0**-40, 2.0**-12, evidence.point.grads

    # What depends on the layout would change with it, by more than any nudge.
    def moved(by: float) -> tuple[Sequence[Any], Cotangents]:
        leaves = [relaid(x * (1 + by), x) if inexact(x) and nudged in (None, k) else x for k, x in enumerate(base)]
        turned = tuple(None if g is None else relaid(g * (1 + by), g) for g in grads)
        return leaves, turned if nudged is None else grads

    try:
        there, theirs = evidence.asked(*moved(nudge))[i], evidence.gradients(*moved(nudge))[i]
    except NoAnswer:
        return False
    if not fits(there, here) or theirs is None:
        return False
    change, right = (largest(a - b) / (nudge * largest(b)) for a, b in ((there, here), (theirs, truth)))
    # A float32 step is 2^-24 of the size or more, and the change of a smooth gradient some times the nudge, as torch's
    # is: the middle, in bits, tells them apart.
    middle = 2.0 ** ((40 - 24) / 2)
    if change or right <= 1 / middle:
        return bool(change > middle * max(right, 1.0))
    try:  # what does not change by what float32 sees either does not depend on it
        return not torch.equal(evidence.asked(*moved(seen))[i], here)
    except NoAnswer:
        return False


def has_lost_digits(got: Tensor, theirs: Tensor, truth: Tensor, dtype: torch.dtype, nearby: float = 0.0) -> Tensor:
    """Return where `got` has lost digits that torch keeps in the dtype, beside the largest element of the truth.

    Torch keeps -log2(their error / scale) bits of the dtype's p, and the backward loses more of these: from p/2 on,
    the middle between as accurate as torch and nothing kept, its formula is to blame, and not the dtype. Below float32
    half of the digits are so few that a longer sum loses them too: there, none is kept where torch keeps half. `nearby`
    is torch's error at neighbours, where it is not exact by luck.
    """
    if all_finite(truth, got, theirs):
        said = None
    else:
        said = truth.isfinite() & got.isfinite() & theirs.isfinite()
        truth, got, theirs = (torch.where(said, x, 0.0) for x in (truth, got, theirs))
    scale, unit = largest(truth), 2.0 ** -precision(dtype)
    if not has_digits(scale, dtype):
        return torch.zeros_like(truth, dtype=torch.bool)
    torchs = max(farthest(theirs, truth), unit * scale, nearby)
    lost = torchs * unit**-0.5
    if precision(dtype) < precision(F32):
        lost = scale if lost <= scale else torch.inf
    if farthest(got, truth) < lost and largest(got) + scale < torch.finfo(truth.dtype).max:  # none is infinitely far
        return torch.zeros_like(truth, dtype=torch.bool)
    off = (got - truth).abs().ge(lost)
    return off if said is None else off & said


def has_digits(size: float, dtype: torch.dtype) -> bool:
    """Say whether a number of this size has the dtype's digits, and the product of two such in float32 any."""
    return size >= max(float(torch.finfo(dtype).tiny), math.sqrt(torch.finfo(F32).tiny))
