"""A gradient that witnesses take for right, and that lies beyond the allowance: how many digits it lost, and where."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.call import BackwardRaised
from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import (
    attainable,
    cannot_round_as_far,
    in_float64,
    sums_as_asked,
    sums_in_their_own_dtype,
)
from backprop_rules.evidence.allowance.units import computed_in
from backprop_rules.evidence.climb import NUMBERS, PROOF
from backprop_rules.evidence.enclosure import Enclosure, as_real
from backprop_rules.evidence.evidence import largest, precise
from backprop_rules.evidence.oracles import ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.verdict import Verdict
from backprop_rules.evidence.witnesses import has_lost_digits
from backprop_rules.properties.finding import Finding, Kind, Rung, outside
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject


def beyond(
    point: Point,
    verdict: Verdict,
    dtypes: Sequence[torch.dtype | None],
    accuracy: str = "torch",
    unasked: bool = False,
    custom: bool = False,
    shrinks: Callable[[int], bool] = lambda _: False,
) -> Iterator[Finding]:
    """Yield that a gradient is inaccurate; a note where the lost digits do not reach its largest terms.

    A note as well where torch's own gradient loses them too, unless the catalogue's accuracy is asked for, and where
    the dtypes are `unasked`, as float64 is for an example in float32. Wrong, where the backward's own operations are
    known, and there is a bound for what they round; and where torch's gradient comes of a `custom` Function, which is
    no witness. Where they are not known, another right form may round a few times more than torch's: an error that
    `shrinks` with the unit roundoff is a note until half of the digits are lost.
    """
    if verdict.outside is None or verdict.enclosure is None:
        return
    outside = verdict.outside
    theirs = None if accuracy == "catalogue" or custom else _torchs_own(verdict)
    excused = None if theirs is None else verdict.enclosure.outside(theirs)
    if excused is not None:
        outside = outside & ~excused.to(outside.device)
    if custom and bool(outside.any()) and _reaches_the_largest(verdict, outside):
        yield _told(Kind.VALUE, point, verdict, outside, dtypes)
    elif unasked or not bool(outside.any()) or not _reaches_the_largest(verdict, outside):
        yield _told(Kind.DIGITS, point, verdict, verdict.outside, dtypes)
    elif sums_narrowly(verdict):
        yield _told(Kind.NARROW_SUMS, point, verdict, outside, dtypes)
    elif cannot_round_as_far(verdict.call, verdict.primal, outside):
        yield _told(Kind.VALUE, point, verdict, outside, dtypes)
    elif accuracy != "catalogue" and _keeps_half_of_its_digits(verdict):
        if shrinks(verdict.primal):
            yield _told(Kind.DIGITS, point, verdict, verdict.outside, dtypes)
        else:
            yield _told(Kind.FARTHER, point, verdict, outside, dtypes)
    else:
        yield _told(Kind.INACCURATE, point, verdict, outside, dtypes)


def keeps_its_digits(point: Point, verdict: Verdict, dtypes: Sequence[torch.dtype | None]) -> Iterator[Finding]:
    """Yield that a gradient lies only inside what its own roundings excuse, where the catalogue's enclosure says more.

    Asked where torch computes in the dtype, in which every operation rounds what it stores otherwise.
    """
    strict, loose, gradient = verdict.attainable, verdict.enclosure, verdict.gradient
    if (
        strict is None
        or loose is None
        or gradient is None
        or any(d is not None and computed_in(d) != d for d in dtypes)
    ):
        return
    nothing = strict.proves & ~loose.proves
    outside = strict.outside(gradient)
    if outside is None or not bool(gradient.isfinite().all()):
        return
    outside = outside & (nothing.any(-1) if gradient.is_complex() else nothing).to(outside.device)
    if bool(outside.any()):
        yield _told(Kind.INACCURATE, point, replace(verdict, enclosure=strict), outside, dtypes)


def keeps_its_sums_as_asked(point: Point, verdict: Verdict, dtypes: Sequence[torch.dtype | None]) -> Iterator[Finding]:
    """Yield that a gradient is further from the derivative than sums take it that are kept in the dtype asked for."""
    gradient = verdict.gradient
    if verdict.oracle != PROOF or gradient is None or verdict.attainable is None:
        return
    radius = sums_as_asked(verdict.call).gradients[verdict.primal]
    truth = certified.certify(verdict.call).gradients[verdict.primal]
    assert radius is not None and truth is not None
    held = certified.enclosure(truth, radius, gradient)
    outside = held.outside(gradient)
    if outside is not None:
        yield _told(Kind.SUMS, point, replace(verdict, enclosure=held), outside, dtypes)


def _told(kind: Kind, point: Point, verdict: Verdict, mask: Tensor, dtypes: Sequence[torch.dtype | None]) -> Finding:
    gradient, held = verdict.gradient, verdict.enclosure
    assert gradient is not None and held is not None
    rung = Rung.PROVED if verdict.oracle == PROOF else Rung.ALLOWED
    dtype = max((d for d in dtypes if d is not None), key=precision)
    return outside(kind, point, verdict.primal, gradient, held, mask, against=(verdict.oracle,), rung=rung, dtype=dtype)


def _torchs_own(verdict: Verdict) -> Tensor | None:
    """Return torch's own gradient in the same dtypes, None where there is none."""
    try:
        return ReverseMode().gradients(verdict.call)[verdict.primal]
    except (Silent, RuntimeError):
        return None


def _keeps_half_of_its_digits(verdict: Verdict) -> bool:
    """Say whether no element has lost half of the digits that torch's own gradient keeps in the same dtype."""
    held, gradient = verdict.enclosure, verdict.gradient
    assert held is not None and gradient is not None
    theirs = _torchs_own(verdict)
    if theirs is None:
        return False
    own, other, middle = as_real(gradient), as_real(theirs), (held.lo + held.hi) / 2
    return not bool(has_lost_digits(own, other, middle.to(own.device), gradient.dtype).any())


def _reaches_the_largest(verdict: Verdict, outside: Tensor) -> bool:
    """Say whether the gradient is further off, there, than the allowance of its largest element."""
    held, gradient = verdict.enclosure, verdict.gradient
    assert held is not None and gradient is not None
    radius = attainable(verdict.call).gradients[verdict.primal]
    if radius is None or not bool(radius.isfinite().all()):
        return False
    middle, real = (held.lo + held.hi) / 2, as_real(gradient)
    apart = (real - middle).abs()
    apart = apart.amax(-1) if gradient.is_complex() else apart
    return largest(torch.where(outside.cpu(), apart, 0.0)) > largest(radius)


def sums_narrowly(verdict: Verdict) -> bool:
    """Say whether the gradient may come of sums that are kept in a dtype as narrow as the primals'."""
    point, gradient = verdict.call, verdict.gradient
    wider = sums_in_their_own_dtype(point)
    if wider is None or gradient is None:
        return False
    radius = wider.gradients[verdict.primal]
    assert radius is not None
    if verdict.oracle == PROOF:
        balls = certified.certify(point).gradients[verdict.primal]
        assert balls is not None
        return certified.enclosure(balls, radius, gradient).outside(gradient) is None
    wide = in_float64(point)
    truth, own = wide.gradients[verdict.primal], attainable(wide).gradients[verdict.primal]
    if truth is None or own is None:
        return False
    return Enclosure.around(truth, (own + radius).cpu(), gradient.dtype).outside(gradient) is None


def not_a_number(subject: Subject, point: Point) -> Iterator[Finding]:
    """Yield that a gradient is NaN where the derivative is proved to be finite, though torch's is NaN as well."""
    if subject.rule is None:
        return
    try:
        there = call_at(subject.rule, point, precise(subject, point))
        with certified.at_most(NUMBERS):
            balls, gradients = certified.certify(there).gradients, there.gradients
    except (InputError, Silent, NotImplementedError, ValueError, RuntimeError, BackwardRaised):
        return  # called as it is, a module may raise where its buffers are in float32
    for i in there.given:
        gradient, own = gradients[i], balls[i]
        if gradient is None or own is None or not bool(gradient.isnan().any()):
            continue
        held = certified.enclosure(own, torch.zeros(gradient.shape, dtype=torch.float64), gradient)
        known = held.lo.isfinite() & held.hi.isfinite()
        outside = gradient.isnan() & (known.all(-1) if gradient.is_complex() else known)
        if bool(outside.any()):
            verdict = Verdict(PROOF, i, there, gradient, held, outside)
            yield _told(Kind.VALUE, point, verdict, outside, precise(subject, point))
