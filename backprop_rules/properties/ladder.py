"""The higher rungs for what passed: held to the proof and the allowance, the smallest points first, in each dtype."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from backprop_rules.evidence.evidence import ELEMENTS, WIDE, Evidence, largest, precise
from backprop_rules.evidence.witnesses import fits, noise_nearby
from backprop_rules.properties import effort
from backprop_rules.properties.finding import Finding, Rung
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.strategies.point import JUMP, Point
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.evidence.climb import Climbed

WIDEST = (torch.float64, torch.complex128)
Dtypes = Sequence[torch.dtype | None]


def climb_with_what_passed(subject: Subject, outcome: Outcome, questions: Questions) -> None:
    """Put into the outcome what the proof and the allowance say of points that passed, and why they say nothing."""
    if subject.rule is None:
        outcome.lower[subject.unruly] = None
        return
    from backprop_rules.evidence.climb import climb

    for point, dtypes in _to_climb(subject, outcome, questions):
        found = climb(subject.rule, point, dtypes)
        if not found.verdicts:
            outcome.lower[found.why] = None
            if not outcome.rungs[Rung.PROVED] and not outcome.rungs[Rung.ALLOWED]:
                return
        elif found.spoke:
            if not any(verdict.disagrees for verdict in found.verdicts):
                outcome.rungs[Rung.PROVED if found.proved else Rung.ALLOWED] += 1
            outcome.findings += list(_findings(subject, outcome, questions, point, dtypes, found))


def _to_climb(subject: Subject, outcome: Outcome, questions: Questions) -> Iterator[tuple[Point, Dtypes]]:
    """Yield small points of ordinary values, and a long one: what is lost in sums shows where these are long."""
    if questions.accuracy == "catalogue":  # asked of every value
        for point in outcome.passed:
            if not point.empty and point.kind != JUMP:
                yield point, precise(subject, point)
        return
    asked = [*outcome.passed, *outcome.inaccurate]  # these may be wrong in their own dtypes
    chosen = [p for p in asked if p.ordinary and not p.empty and p.kind != JUMP]
    chosen.sort(key=lambda p: (not p.own, p.size))
    spent = 0
    for k, point in enumerate(chosen[: effort.CLIMBS]):
        spent += point.size
        if k and spent > effort.CLIMBED:
            break
        yield point, own_dtypes(subject, point)
        if k == 0 and outcome.pair is WIDE and precise(subject, point) != own_dtypes(subject, point):
            yield point, precise(subject, point)
    long = max((p for p in chosen[effort.CLIMBS :] if p.size <= ELEMENTS), key=lambda p: p.size, default=None)
    if long is not None:
        yield long, own_dtypes(subject, long)


def _findings(
    subject: Subject, outcome: Outcome, questions: Questions, point: Point, dtypes: Dtypes, found: "Climbed"
) -> Iterator[Finding]:
    from backprop_rules.properties.beyond import beyond, keeps_its_digits, keeps_its_sums_as_asked

    evidence = Evidence(subject, point)

    def shrinks(i: int) -> bool:
        user, truth = evidence.user[i], evidence.gradients_here[i]
        if outcome.pair is not WIDE or truth is None or not fits(user, truth):
            return False
        return bool(largest(user.to(truth) - truth) <= noise_nearby(evidence, i) * 2.0**-WIDE.half)

    unasked = not subject.in_float64 and all(d in (None, *WIDEST) for d in dtypes)
    for verdict in found.verdicts:
        if verdict.disagrees:
            yield from beyond(point, verdict, dtypes, questions.accuracy, unasked, outcome.custom, shrinks)
            continue
        if questions.sums is not None:
            yield from keeps_its_sums_as_asked(point, verdict, dtypes)
        if questions.accuracy == "catalogue":
            yield from keeps_its_digits(point, verdict, dtypes)
