"""From a finding to its smallest counterexample, and that one on the strongest rung that there is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backprop_rules.evidence.differences import against_itself, directions
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.evidence.evidence import Evidence, Pair, in_precision, largest, precise
from backprop_rules.evidence.kinks import DISTANCES, nearest
from backprop_rules.evidence.witnesses import fits, noise_nearby, witnessed
from backprop_rules.properties import effort, form
from backprop_rules.properties.agreement import TORCH, is_no_rounding, is_within_its_dtypes, loses_digits
from backprop_rules.properties.finding import Finding, Kind, Rung, first, interval, unequal
from backprop_rules.strategies.of_rules import call_at, call_that_fits
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.shrink import Steps, plainer, shrunk, smaller
from backprop_rules.strategies.shrink_rules import on_the_grid, smaller_of_a_rule
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.evidence.verdict import Verdict

Again = Callable[[Point], Finding | None]
OF_VALUES = (Kind.VALUE, Kind.INACCURATE, Kind.DERIVATIVE)
FORMS = (Kind.SHAPE, Kind.DTYPE, Kind.DEVICE, Kind.NONE, Kind.NO_TENSOR, Kind.RAISES, Kind.COUNT)


def smallest(subject: Subject, pair: Pair, finding: Finding, others: Sequence[Finding] = ()) -> Finding:
    """Return the same finding at a point that no step in sight makes smaller: what was found is never lost.

    Begin at the smallest of the points at which it was found, as `others` say, and is found again: at a kink it is not.
    """
    of_the_catalogue = subject.right is not None and subject.right is subject.rule
    exact = of_the_catalogue and bool(finding.point.spacing) and finding.kind is Kind.VALUE
    if of_the_catalogue and finding.point.dtypes:
        from backprop_rules.properties.of_rules import AGAIN

        question = AGAIN.get(finding.kind, finding.again)
        if question is not None and not exact:  # off the grid there are plainer numbers, if a witness sees it too
            return _smallest_of_a_rule(subject, replace(finding, again=question))
    low = finding.kind is Kind.INACCURATE and finding.dtype is pair.low
    if (finding.dtype is not None and not low) or finding.kind not in (*FORMS, *OF_VALUES):
        return finding
    if finding.leaf is None and finding.kind not in FORMS:
        return finding
    again = _again(subject, pair, finding)
    alike = [f for f in others if f.is_like(finding) and not f.point.empty]
    alike.sort(key=lambda f: (exact and not f.point.spacing, f.point.size))
    seen = next((f for f in (*alike, finding) if again(f.point) is not None), None)
    if seen is None:
        if exact and finding.again is not None:
            return _smallest_of_a_rule(subject, finding)
        if of_the_catalogue and finding.point.dtypes and finding.kind is Kind.VALUE:
            from backprop_rules.properties.derivative import agrees_with_every_oracle

            wide = replace(finding.point, dtypes=tuple(precise(subject, finding.point)))
            return _smallest_of_a_rule(subject, replace(finding, point=wide, again=agrees_with_every_oracle))
        return finding  # it was seen by a closer look than is taken at each step here
    finding = seen
    left = effort.SHRINKS_OF_A_RULE if of_the_catalogue else effort.SHRINKS
    ways = _smaller_of(subject), partial(plainer, fixed=subject.constants.kept)
    best = _of_the_layout(_shrunk(subject, finding, again, ways, left), again)
    return _on_the_grid(subject, best, finding.point) or best


def _on_the_grid(subject: Subject, finding: Finding, drawn: Point) -> Finding | None:
    """Return the finding as the oracles tell of it that are exact on the grid, if it was drawn there."""
    rule, point = subject.rule, finding.point
    if (
        rule is None
        or subject.right is not rule
        or not drawn.spacing
        or not point.dtypes
        or finding.kind is not Kind.VALUE
    ):
        return None
    if not on_the_grid(rule, point, drawn):
        return None
    from backprop_rules.properties.derivative import agrees_with_every_oracle
    from backprop_rules.properties.of_rules import asked

    call = call_at(rule, point, precise(subject, point), spacing=drawn.spacing)
    return next((f for f in asked(agrees_with_every_oracle, call) if f.is_like(finding)), None)


def _shrunk(subject: Subject, finding: Finding, again: Again, ways: Iterable[Steps], most: int) -> Finding:
    """Return the finding at a point that no step makes simpler, as far as the effort goes."""
    start, evaluations = subject.work, iter(range(most - 1))

    def left() -> bool:
        return subject.work - start < effort.SHRINKING and next(evaluations, None) is not None

    return shrunk(finding, attrgetter("asked_at"), again, ways, left)


def _smallest_of_a_rule(subject: Subject, finding: Finding) -> Finding:
    """Return what a property of rules found at a smaller point of the rule's domain, in the same dtypes."""
    from backprop_rules.properties.behaviour import returns_the_shape_dtype_and_device_of_each_primal as has_its_form
    from backprop_rules.properties.of_rules import asked

    rule, drawn = subject.rule, finding.asked_at
    assert rule is not None

    def again(point: Point) -> Finding | None:
        if not on_the_grid(rule, point, drawn) or (point.empty and not drawn.empty):
            return None
        call = call_that_fits(rule, point)
        if call is None:
            return None
        # A gradient of another shape lies in no enclosure either: that is another mistake.
        found = asked(has_its_form, call) or asked(finding.again, call)
        return next((f for f in found if f.is_like(finding)), None)

    ways = (partial(smaller_of_a_rule, rule, subject.function, subject.constants), plainer)
    return _shrunk(subject, finding, again, ways, effort.SHRINKS_OF_A_RULE)


def _of_the_layout(finding: Finding, again: Again) -> Finding:
    """Return the finding, told as one of the strides where it is gone in contiguous memory."""
    in_order = all(x.is_contiguous() and not x.storage_offset() for x in finding.point.tensors)
    if finding.kind is not Kind.VALUE or in_order:
        return finding
    if again(finding.point.mapped(partial(torch.clone, memory_format=torch.contiguous_format))) is not None:
        return finding
    return replace(finding, kind=Kind.STRIDES)


def _smaller_of(subject: Subject) -> Steps:
    """Return the steps to smaller points: of a rule's domain, also to arrays of fewer axes, where it has these."""
    rule, function, constants = subject.rule, subject.function, subject.constants
    if subject.right is None or rule is None:
        return lambda point: smaller(function, point, constants)
    steps = partial(smaller_of_a_rule, rule, function, constants)
    return lambda point: (p for p in steps(point) if rule.domain.accepts(*p.leaves, **p.params))


def _again(subject: Subject, pair: Pair, finding: Finding) -> Again:
    def again(point: Point) -> Finding | None:
        evidence = Evidence(subject, point, pair)
        try:
            _ = evidence.run
        except NoPoint:
            return None
        if point.empty and not finding.point.empty:
            return None
        found: Iterable[Finding] = form.is_answered(evidence)
        if finding.kind in (Kind.RAISES, Kind.COUNT):
            return next((replace(f, kind=finding.kind) for f in found if f.kind is not Kind.DOMAIN), None)
        if list(found):
            return None
        dtypes = in_precision(point, pair.high)
        formed = list(form.has_the_form_of_its_primal(point, evidence.user, evidence.gradients_here, dtypes))
        if finding.kind in FORMS:
            return next((f for f in formed if f.is_like(finding)), None)
        i = finding.leaf
        if formed or i is None:
            return None
        if finding.kind is Kind.DERIVATIVE:
            return None if subject.heavy else not_its_derivative(evidence, i)  # of a network, which has its line
        return plainly_wrong(evidence, i) if finding.kind is Kind.VALUE else _inaccurate(evidence, i)

    return again


def not_its_derivative(evidence: Evidence, i: int) -> Finding | None:
    """Return the finding that a gradient is not what differences of the function itself give along a direction."""
    contradicted = against_itself(evidence, i)
    if contradicted is None:
        return None
    (slope, got), along = contradicted, directions(evidence, [i])[i]
    one = along.numel() == 1 and not along.is_complex()  # of which the derivative itself is told
    step, where = (along.item(), "") if one else (1.0, " along a drawn direction")
    expected, got = f"{slope.value / step:.10g} ± {abs(slope.error / step):.1g}{where}", got / step
    return Finding(Kind.DERIVATIVE, evidence.point, i, expected=expected, got=f"{got:.10g}", against=("differences",))


def _inaccurate(evidence: Evidence, i: int) -> Finding | None:
    user, truth = evidence.user[i], evidence.gradients_here[i]
    if truth is None or not fits(user, truth) or not bool(truth.isfinite().all()):
        return None
    return next(loses_digits(evidence, i, user.to(truth.dtype), truth), None)


def plainly_wrong(evidence: Evidence, i: int) -> Finding | None:
    """Return the finding that a gradient is off by more than float32's noise, where torch's is smooth and finite."""
    user, truth = evidence.user[i], evidence.gradients_here[i]
    if truth is None or not fits(user, truth) or not bool(truth.isfinite().all()):
        return None
    user = user.to(truth.dtype)
    seen = witnessed(evidence, i)
    lost = ~user.isfinite()
    if seen is None and not bool(lost.any()):
        return None
    if seen is not None and not bool(lost.any()) and (seen.bits > 0 or seen.torch_keeps_nothing):
        return None
    noise, bits = (seen.noise, seen.bits) if seen is not None else (evidence.pair.unit * largest(truth), None)
    if seen is not None and not bool(lost.any()) and not is_no_rounding(evidence, i, seen):
        noise = max(noise, noise_nearby(evidence, i))  # as at the points that are drawn
        bits = math.log2(noise) - math.log2(seen.difference)
        if bits > 0 or is_within_its_dtypes(evidence, i, bits):
            return None
    wrong = lost | ((user - truth).abs() > noise * 2.0**-evidence.pair.half)
    if not _smooth(evidence, i, truth, noise, wrong):
        return None
    return unequal(Kind.VALUE, evidence.point, i, truth, user, wrong, against=(TORCH,), bits=bits)


def _smooth(evidence: Evidence, i: int, truth: Tensor, noise: float, wrong: Tensor) -> bool:
    """Say whether torch's gradient changes little to the nearest neighbours: a kink would be no counterexample."""
    if evidence.is_asked_past_an_overflow:
        return False
    near = [g[i] for g in nearest(evidence)]
    # A smooth one changes in proportion to the distance, another one at a kink by its size: the middle, in bits.
    most = max(largest(truth), noise) * DISTANCES[1] ** 0.5
    return bool(near) and all(g is not None and largest(torch.where(wrong, g - truth, 0.0)) <= most for g in near)


def confirmed(subject: Subject, finding: Finding) -> Finding | None:
    """Return the finding on the strongest rung that speaks of it; None where a proof sides with the backward."""
    if (
        finding.kind not in (Kind.VALUE, Kind.STRIDES)
        or finding.leaf is None
        or subject.rule is None
        or finding.dtype is not None
    ):
        return finding
    from backprop_rules.evidence.climb import PROOF, climb

    found = climb(subject.rule, finding.point, precise(subject, finding.point), accused=True)
    verdict = found.of(finding.leaf)
    if verdict is None or verdict.enclosure is None or verdict.gradient is None:
        return finding
    against = ("certified" if found.proved else verdict.oracle,)
    rung = Rung.PROVED if found.proved else Rung.ALLOWED
    if verdict.disagrees and verdict.outside is not None:
        where = first(verdict.outside)
        expected = interval(verdict.enclosure, where, verdict.gradient)
        agrees = _torch_agrees(subject, finding, verdict.enclosure)
        return replace(
            finding,
            element=where,
            expected=expected,
            got=verdict.gradient[where].item(),
            wrong=int(verdict.outside.sum()),
            of=verdict.outside.numel(),
            against=(*against, agrees),
            rung=rung,
        )
    held = verdict.enclosure
    exact = held.proves.all(-1) if verdict.gradient.is_complex() else held.proves
    if verdict.oracle != PROOF or finding.element is None:
        return finding
    return None if bool(exact[finding.element]) or is_nearer_than_torchs(subject, finding, verdict) else finding


def is_nearer_than_torchs(subject: Subject, finding: Finding, verdict: "Verdict") -> bool:
    """Say whether the proved gradient is nearer to the backward's than to torch's, in the max norm: torch's is off.

    Where torch cancels, an allowance is so wide that it holds both, or has no bound.
    """
    from backprop_rules.evidence.proof import certified

    i, theirs, mine = verdict.primal, _torchs(subject, finding), verdict.gradient
    balls = certified.certify(verdict.call).gradients[i]
    if theirs is None or mine is None or balls is None or theirs.shape != mine.shape:
        return False
    farthest, least = certified.reach(balls, mine), certified.distance(balls, theirs)
    least = least.sum(-1) if theirs.is_complex() else least
    return bool(farthest.max() < least.max())


def _torch_agrees(subject: Subject, finding: Finding, held: Enclosure) -> str:
    try:
        theirs = _torchs(subject, finding)
    except NoPoint:
        return "torch's own gradient raises"
    if theirs is None or held.outside(theirs) is None:
        return "torch's own gradient agrees"
    return "torch's own gradient lies outside too"


def _torchs(subject: Subject, finding: Finding) -> Tensor | None:
    """Return torch's gradient in float64; NoPoint where it raises."""
    run, _ = subject.function.at(finding.point.params).run(finding.point.leaves, finding.point.grads, torch.float64)
    return run.gradients[finding.leaf or 0]
