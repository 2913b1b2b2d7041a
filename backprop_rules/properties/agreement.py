"""Does each gradient agree with torch's, but for rounding? What is suspicious is looked at closer before it is said."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.operation import UNDERFLOWS
from backprop_rules.evidence.differences import borne_out, sides_with
from backprop_rules.evidence.evidence import WIDE, Evidence, largest
from backprop_rules.evidence.kinks import Around, Shape, around, is_between, is_in_the_hull, real_mask
from backprop_rules.evidence.witnesses import (
    Witnessed,
    fits,
    has_lost_digits,
    is_granular,
    keeps_few_digits_nearby,
    lost_in_the_norm,
    noise_nearby,
    torchs_error_nearby,
    witnessed,
)
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.strategies.point import EDGE
from backprop_rules.strategies.values import is_symmetric
from backprop_rules.subject.ambient import all_finite, at, inexact, real

TORCH = "torch's reverse mode"
SETTLED = "differences agree with torch"
FEW_DIGITS = "torch keeps few of its digits nearby"
FROM_AROUND = "torch's gradients around the point"


class ComputesNarrower(Exception):
    """The backward does not compute in float64, though it takes float64: another pair of precisions is to be used."""


# How far roundings may take a gradient in float64, by the operations of the function and of the backward: a radius for
# each element, None where it is not known.
Radius = Callable[[Evidence, int], Tensor | None]


@dataclass
class Judged:
    """What was said of a gradient: whether anything could be, and whether it was a number other than zero."""

    spoke: bool = False
    nonzero: bool = False
    sides_with_it: bool = False  # whether torch's own is the wrong one, and differences or a proof side with it


def agrees(
    evidence: Evidence,
    i: int,
    radius: Radius,
    judged: Judged,
    known: bool = False,
    chosen: bool = False,
    digits: bool = True,
) -> Iterator[Finding]:
    """Yield what is wrong with the gradient of leaf i; `known` if a mistake in it was established at another point.

    `chosen` if another choice at kinks was, several times: whether it is shared rightly was seen then. `digits` if it
    is asked for those that the lower precision keeps.
    """
    user, truth = evidence.user[i], evidence.gradients_here[i]
    assert truth is not None
    if not truth.numel():
        judged.spoke = True
        return
    user = user.to(truth.dtype)
    yield from _finite(evidence, i, user, truth)
    seen = witnessed(evidence, i)
    if seen is None:
        return
    if seen.bits >= evidence.pair.half:
        judged.spoke, judged.nonzero = True, seen.scale > 0
        # In another layout it is the same numbers, of which this was asked.
        yield from loses_digits(evidence, i, user, truth) if digits and evidence.point.relaid is None else ()
        return
    if known and seen.bits < 0 and not seen.torch_keeps_nothing and is_no_rounding(evidence, i, seen):
        yield _wrong(evidence, i, user, truth, seen, "")
        return
    yield from _closer(evidence, i, user, truth, seen, radius, judged, chosen)


def _finite(evidence: Evidence, i: int, user: Tensor, truth: Tensor) -> Iterator[Finding]:
    """NaN or infinity where torch's gradient is finite, and all outputs are."""
    if not all_finite(*evidence.run.y) or all_finite(user):
        return
    lost = ~user.isfinite() & truth.isfinite()
    if not bool(lost.any()) or (not evidence.point.ordinary and not all_finite(truth)):
        return  # past the values at which torch's form overflows, too, each form does elsewhere
    low = None if evidence.low_gradients_here is None else evidence.low_gradients_here[i]
    if low is not None:
        lost = lost & low.isfinite().to(lost.device)
        apart = torch.where(truth.isfinite() & low.isfinite(), low.to(truth) - truth, 0.0)
        if largest(apart) > evidence.pair.unit**0.5 * largest(truth.nan_to_num(0.0, 0.0, 0.0)):
            return  # torch itself keeps no digit, as at a singular matrix
    if not bool(lost.any()):
        return
    kink = around(evidence, i, lost, evidence.pair.unit * largest(truth))
    smooth = lost if kink.shape is Shape.SMOOTH else kink.still
    if bool(smooth.any()):
        kind = Kind.VALUE if evidence.point.ordinary else Kind.INACCURATE
        yield unequal(kind, evidence.point, i, truth, user, smooth, against=(TORCH,), detail="not finite")
    else:
        yield unequal(Kind.NAN_CHOICE, evidence.point, i, truth, user, lost, against=(TORCH,))


def loses_digits(evidence: Evidence, i: int, user: Tensor, truth: Tensor) -> Iterator[Finding]:
    """Few digits in the lower precision where torch keeps most; NaN, where it keeps a number."""
    low, theirs, run = evidence.low_user, evidence.low_gradients_here, evidence.low_run
    if low is None or theirs is None or run is None or (other := theirs[i]) is None or not fits(low[i], truth):
        return
    if not all_finite(*run.y):
        return
    own, other = low[i].to(truth.dtype), other.to(truth.dtype)
    said = truth if all_finite(user) else torch.where(user.isfinite(), truth, torch.nan)
    off = has_lost_digits(own, other, said, evidence.pair.low)
    if bool(off.any()):  # a constant cotangent, of which all cancels, may leave torch exact by luck
        nearby = max(torchs_error_nearby(evidence, i), lost_in_the_norm(evidence, i))
        off = has_lost_digits(own, other, said, evidence.pair.low, nearby)
    widest = evidence.subject.bits_of(i) or precision(evidence.pair.low)
    if widest < precision(evidence.pair.low):  # a kernel for narrower dtypes alone may round to these
        off = off & ((own - said).abs() > 2.0**-widest * largest(said))
    if bool(off.any()):  # where the gradient jumps, each precision may stand on another side
        off = off & (around(evidence, i, off, evidence.pair.unit * largest(truth)).shape is Shape.SMOOTH)
    if not all_finite(own) and (evidence.point.ordinary or all_finite(other)):
        off = off | (said.isfinite() & other.isfinite() & ~own.isfinite())
    if bool(off.any()):
        yield unequal(Kind.INACCURATE, evidence.point, i, truth, own, off, against=(TORCH,), dtype=evidence.pair.low)


def _closer(
    evidence: Evidence,
    i: int,
    user: Tensor,
    truth: Tensor,
    seen: Witnessed,
    radius: Radius,
    judged: Judged,
    chosen: bool,
) -> Iterator[Finding]:
    """Look closer at a suspicious gradient."""
    pair, point = evidence.pair, evidence.point
    if evidence.is_asked_past_an_overflow:
        return  # outside of forward's domain, or past an overflow, nothing is held to torch's gradient
    noise = max(seen.noise, noise_nearby(evidence, i))
    bits = math.log2(noise) - math.log2(seen.difference)
    if bits >= pair.half:
        judged.spoke, judged.nonzero = True, seen.scale > 0
        return
    if keeps_few_digits_nearby(evidence, i):
        yield _wrong(evidence, i, user, truth, seen, FEW_DIGITS, Kind.SINGULAR)
        return
    if pair.high is torch.float64 and point.kind != EDGE and _is_granular(evidence, i, seen):
        if point.ordinary:
            raise ComputesNarrower(point)
        return  # numbers that are zeros but for a few may look so by chance
    if seen.torch_keeps_nothing:
        return  # torch itself keeps no digit in the lower precision: the point says nothing
    suspicious = ((user - truth).abs() > noise * 2.0**-pair.half) & user.isfinite() & truth.isfinite()
    reach = radius(evidence, i)
    if reach is not None:
        explained = reach.isfinite() & ((user - truth).abs() <= reach.to(truth.device))
        suspicious = suspicious & ~explained
    if not bool(suspicious.any()):
        # Within what the operations round: that says something unless most elements might as well be 0.
        if reach is not None and _share_blind(truth, reach.to(truth.device)) <= 0.5:
            judged.spoke, judged.nonzero = True, seen.scale > 0
        return
    judged.spoke = True
    yield from _told(evidence, i, user, truth, replace(seen, noise=noise, outside=suspicious), chosen)


def _share_blind(truth: Tensor, reach: Tensor) -> float:
    """Return the share of elements, other than zeros without a radius, that are no larger than their radius."""
    known = (truth != 0) | ~(reach <= UNDERFLOWS)
    return float(((reach >= truth.abs()) & known).sum() / known.sum().clamp(min=1))


def _is_granular(evidence: Evidence, i: int, seen: Witnessed) -> bool:
    return is_granular(evidence, i, not (evidence.subject.in_float64 or is_no_rounding(evidence, i, seen)))


def is_no_rounding(evidence: Evidence, i: int, seen: Witnessed) -> bool:
    """Say whether a difference is too large to be looked at closer: half of the digits of the narrowest dtype at play.

    A smaller one may be what float32 rounds nearby, where it is exact at this point by luck.
    """
    low = precision(evidence.pair.low)
    digits = min(evidence.subject.bits_of(i) or low, low)
    return bool(seen.difference >= 2.0 ** (-digits / 2) * seen.scale)


def is_within_its_dtypes(evidence: Evidence, i: int, bits: float) -> bool:
    """Say whether a difference that lies so many bits under the noise is what the dtypes asked for may round."""
    if evidence.subject.in_float64 or bits <= evidence.bits_below_every_dtype(i):
        return False
    return _outside_of_its_dtypes(evidence, i) is None


def _told(evidence: Evidence, i: int, user: Tensor, truth: Tensor, seen: Witnessed, chosen: bool) -> Iterator[Finding]:
    assert seen.outside is not None
    kink = around(evidence, i, seen.outside, seen.noise)
    seen = Witnessed(seen.difference, seen.noise, seen.scale, False, seen.user_keeps_nothing, kink.where)
    if kink.shape is not Shape.SMOOTH:
        yield _where_it_is_not_smooth(evidence, i, user, truth, seen, kink, chosen)
        return
    if evidence.pair is not WIDE and _is_what_a_kernel_may_round(evidence, i, user):
        yield _wrong(evidence, i, user, truth, seen, "", Kind.DIGITS)
        return
    if not evidence.subject.in_float64 and seen.bits > evidence.bits_below_every_dtype(i):
        outside = _outside_of_its_dtypes(evidence, i)
        if outside is None or not bool((outside & kink.where).any()):
            yield _wrong(evidence, i, user, truth, seen, "", Kind.DIGITS)
            return
        seen = replace(seen, outside=outside & kink.where)
    if _antisymmetric(evidence, i, user, truth, seen):
        yield _wrong(evidence, i, user, truth, seen, "", Kind.ANTISYMMETRIC)
        return
    if seen.user_keeps_nothing and seen.bits > 0 and evidence.point.ordinary:
        yield _wrong(evidence, i, user, truth, seen, "float32 keeps no digit", Kind.INACCURATE)
        return
    own, theirs = (_is_among_those_around(evidence, i, g, seen, kink) for g in (user, truth))
    if not theirs:
        kind, words = (
            (Kind.TORCH, "torch's own gradients around the point side with it")
            if own
            else (Kind.SINGULAR, "torch's own gradient is none of those around the point")
        )
        yield _wrong(evidence, i, user, truth, seen, words, kind)
        return
    yield _by_differences(evidence, i, user, truth, seen)


def _by_differences(evidence: Evidence, i: int, user: Tensor, truth: Tensor, seen: Witnessed) -> Finding:
    """Return what is wrong by those whom differences side with."""
    assert seen.outside is not None
    side = sides_with(evidence, i, seen.outside, evidence.gradients_here)
    if side == "user":
        return _wrong(evidence, i, user, truth, seen, "", Kind.TORCH)
    if side == "neither":
        found = _wrong(evidence, i, user, truth, seen, "differences contradict torch's gradient as well")
        return replace(found, against=("differences",), expected=None)
    if side == "nobody" and seen.bits > 0:  # below what float32 sees torch alone says so, and it may be torch
        return _wrong(evidence, i, user, truth, seen, "torch's reverse mode alone", Kind.DIGITS)
    return _wrong(evidence, i, user, truth, seen, SETTLED if side == "torch" else "")


def _outside_of_its_dtypes(evidence: Evidence, i: int) -> Tensor | None:
    from backprop_rules.properties.exact import outside_of_its_dtypes  # long to import, and seldom asked

    return outside_of_its_dtypes(evidence, i)


def _is_what_a_kernel_may_round(evidence: Evidence, i: int, user: Tensor) -> bool:
    from backprop_rules.properties.exact import is_what_a_kernel_may_round  # long to import, and seldom asked

    dtypes = [at(evidence.pair.high, x) if inexact(x) else None for x in evidence.point.leaves]
    return is_what_a_kernel_may_round(evidence, dtypes, i, user.to(at(evidence.pair.high, user)))


def _where_it_is_not_smooth(
    evidence: Evidence, i: int, user: Tensor, truth: Tensor, seen: Witnessed, kink: Around, chosen: bool
) -> Finding:
    if kink.shape is Shape.SINGULAR:
        return _wrong(evidence, i, user, truth, seen, "the derivative grows without bound nearby", Kind.SINGULAR)
    if kink.shape is Shape.EDGE:
        return _wrong(evidence, i, user, truth, seen, "at the edge of the domain", Kind.SINGULAR)
    if _breaks_ties(evidence, seen.noise) or is_in_the_hull(evidence, i, kink, seen.noise, shared=not chosen):
        if seen.noise > seen.scale * 2.0**-evidence.pair.half:  # as of a singular system, solved all the same
            return _wrong(evidence, i, user, truth, seen, FEW_DIGITS, Kind.SINGULAR)
        return _wrong(evidence, i, user, truth, seen, "", Kind.CHOICE)
    kind = Kind.SUBGRADIENT if _each_between(evidence, i, kink, seen.noise) else Kind.VALUE
    return _wrong(evidence, i, user, truth, seen, "at a kink, and no gradient from around it", kind)


def _breaks_ties(evidence: Evidence, noise: float) -> bool:
    from backprop_rules.evidence.broken import breaks_ties  # long to import, and seldom asked

    return breaks_ties(evidence, noise)


def _is_among_those_around(evidence: Evidence, i: int, gradient: Tensor, seen: Witnessed, kink: Around) -> bool:
    """Say whether a gradient is among torch's own around the point, where these change smoothly."""
    mask, near = real_mask(kink.where, gradient), seen.noise * 2.0**-evidence.pair.half
    return is_between(evidence, i, real(gradient)[mask], mask, near, smooth=True)


def _each_between(evidence: Evidence, i: int, kink: Around, noise: float) -> bool:
    """Say whether each element alone is one of those around: then it is their sum that is none."""
    user = evidence.user[i]
    mask = real_mask(kink.where, user)
    here = real(user)[mask]
    return bool(here.isfinite().all()) and is_between(evidence, i, here, mask, noise * 2.0**-evidence.pair.half)


def _antisymmetric(evidence: Evidence, i: int, user: Tensor, truth: Tensor, seen: Witnessed) -> bool:
    """Say whether only the antisymmetric part differs, of which torch's own is a choice.

    It is one where every matrix is symmetric, as the example's, or forward reads a triangle; not where forward sees
    what torch says.
    """
    x, own, apart = evidence.point.leaves[i], evidence.subject.example[i], user - truth
    if apart.is_complex() or apart.dim() < 2 or apart.shape[-1] != apart.shape[-2]:
        return False
    if largest(apart + apart.mT) > seen.noise * 2.0**-evidence.pair.half:
        return False
    assert seen.outside is not None
    side = borne_out(evidence, i, seen.outside, truth)
    return side == "user" or (side != "torch" and is_symmetric(x) and is_symmetric(own))


def _wrong(
    evidence: Evidence, i: int, user: Tensor, truth: Tensor, seen: Witnessed, detail: str, kind: Kind = Kind.VALUE
) -> Finding:
    outside = seen.outside
    if outside is None:
        outside = (user - truth).abs() > seen.noise * 2.0**-evidence.pair.half
    against = (FROM_AROUND,) if kind in (Kind.CHOICE, Kind.SUBGRADIENT) else (TORCH,)
    return unequal(kind, evidence.point, i, truth, user, outside, against=against, detail=detail, bits=seen.bits)
