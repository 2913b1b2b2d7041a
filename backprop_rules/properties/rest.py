"""What is asked at a few points alone, after the loop: thresholds, dtypes, every bit, NaN, threads, higher rungs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from backprop_rules.evidence.edges import edges, is_told_near_an_edge
from backprop_rules.evidence.evidence import ELEMENTS, WIDE, Evidence, in_precision, largest, precise
from backprop_rules.evidence.jumps import jumps
from backprop_rules.evidence.witnesses import fits, noise_nearby
from backprop_rules.properties import calls, effort, special
from backprop_rules.properties.finding import Finding, Grade, Kind, Rung
from backprop_rules.properties.form import is_of_forward_by_itself
from backprop_rules.properties.huge import reaches_past_32_bits
from backprop_rules.properties.invariance import WAYS, varies
from backprop_rules.properties.native import holds_in, keeps_to_its_arguments, moved_by_ties_in, own_dtypes
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.strategies.point import FULL, JUMP, Point
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.function import NoAnswer, NoPoint
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # the first of which brings ball arithmetic along
    from backprop_rules.evidence.climb import Climbed
    from backprop_rules.properties.trial import Trial

WIDEST = (torch.float64, torch.complex128)
Dtypes = Sequence[torch.dtype | None]
PASSED_ON = (
    "the cotangent of an output that is infinite is passed on, where forward is a constant, as a score that is masked: "
    "it is 0 at the points that are asked"
)


def rest(trial: "Trial") -> None:
    """Ask what is asked at a few points alone: thresholds of the backward's own, dtypes, NaN, the higher rungs."""
    outcome = trial.outcome
    if trial.answered is not None and not outcome.is_wrong:
        outcome.findings += list(trial.answered.again())
    if outcome.is_wrong:
        return
    plain = [p for p in outcome.passed if p.own and p.ordinary and not p.empty and id(p) not in trial.chosen]
    full, plain = [p for p in plain if p.where == FULL], [p for p in plain if p.where != FULL]
    if len(plain) > 1 and plain[0].size <= effort.JUMPS and not trial.subject.heavy:
        for point in jumps(Evidence(trial.subject, plain[0], outcome.pair), plain[1]):
            trial.at(point)
        _near_edges(trial, plain[0], plain[1:])
    for point, dtypes, device in _natives(trial, full, plain):
        outcome.findings += _held_in(trial, point, dtypes, device)
    alone = not trial.questions.of_rules and not trial.subject.heavy
    if (
        not outcome.objects and (full or plain) and alone and not outcome.random_forward
    ):  # in own dtypes it draws others
        _to_the_bit(trial, [*full, *plain][0])
    if not outcome.objects and plain and not trial.subject.heavy:
        _specials(trial, Evidence(trial.subject, plain[0].without_zeros(), outcome.pair))
    if not outcome.is_wrong and plain and alone:
        _past_infinite_outputs(trial, Evidence(trial.subject, plain[0], outcome.pair))
    _of_a_whole_function(trial, plain[:3])
    if not outcome.is_wrong and alone and not outcome.random_forward:
        deterministic = trial.questions.deterministic
        outcome.findings += keeps_to_its_arguments(trial.subject, plain[:1], outcome.pair, deterministic)
        _invariance(trial, full, plain)
    answered = trial.answered
    if answered is not None and alone and not outcome.is_wrong and not outcome.random_forward:
        outcome.findings += list(calls.answers_in_two_threads(answered.evidence))
    if plain and alone and not outcome.is_wrong and "meta" in trial.questions.devices:
        outcome.findings += list(reaches_past_32_bits(trial.subject, plain[0]))
    if not outcome.is_wrong and not outcome.rungs[Rung.PROVED]:  # as it is of a rule, at some of its points
        climb_with_what_passed(trial.subject, outcome, trial.questions)


def _near_edges(trial: "Trial", start: Point, others: Sequence[Point]) -> None:
    """Ask for values near edges of forward's domain: a clamp shows there, and lost digits are nobody's mistake."""
    outcome = trial.outcome
    if outcome.is_wrong or outcome.pair is not WIDE:  # of few digits nothing is left there
        return
    for point in edges(Evidence(trial.subject, start, outcome.pair), others):
        evidence = Evidence(trial.subject, point.without_zeros(), outcome.pair)
        try:
            asked = list(trial.ask(evidence, {}))
        except NoPoint:
            continue
        outcome.points += 1
        found = [f for f in asked if f.kind is Kind.VALUE and is_told_near_an_edge(evidence, f.leaf)]
        outcome.findings += found
        if found:
            return


def _held_in(trial: "Trial", point: Point, dtypes: Dtypes, device: str) -> list[Finding]:
    """Return what is wrong in dtypes of its own, on a device."""
    found = list(holds_in(trial.subject, point, dtypes, device, trial.outcome.pair))
    # Digits are counted from torch's gradient: not where that is the wrong one.
    off = {f.leaf for f in trial.outcome.findings if f.kind is Kind.TORCH}
    if not point.ordinary and not point.dtypes:
        found = [replace(f, kind=Kind.OVERFLOWS) for f in found if f.kind is Kind.INACCURATE]
    return [f for f in found if f.kind is not Kind.INACCURATE or f.leaf not in off]


def _invariance(trial: "Trial", full: Sequence[Point], plain: Sequence[Point]) -> None:
    """Note what bits change with, of the small example; object where that was asked for, at its own size too."""
    asked = trial.questions.invariance
    for point in (*plain[:1], *full[: len(asked)][:1]):
        for words, finding in varies(trial.subject, point, asked or tuple(WAYS)):
            if asked:
                trial.outcome.findings.append(finding)
            else:
                trial.outcome.notes[words] = None


def _past_infinite_outputs(trial: "Trial", evidence: Evidence) -> None:
    """Note that cotangents of infinite outputs are passed on where forward is a constant: points have zeros there."""
    leaves, pairs = evidence.point.leaves, zip(evidence.run.y, evidence.point.grads, strict=True)
    grads = tuple(None if g is None else torch.where(y.isfinite(), 0.0, torch.ones_like(g)) for y, g in pairs)
    if not any(g is not None and bool(g.any()) for g in grads):
        return
    try:
        right, got = evidence.gradients(leaves, grads), evidence.asked(leaves, grads)
    except NoAnswer:  # of that, other points tell
        return
    if all(g is None or not bool(g.any()) for g in right) and any(inexact(g) and bool(g.any()) for g in got):
        trial.outcome.notes[PASSED_ON] = None


def _of_a_whole_function(trial: "Trial", points: Sequence[Point]) -> None:
    """Ask what a function with a backward of its own, or a rule of the catalogue, is asked beside its gradients."""
    outcome, extra = trial.outcome, trial.questions.extra
    for point in points:
        if extra is not None and not outcome.is_wrong:
            outcome.findings += outcome.until_ours(extra.wrong(trial.subject, point, outcome.pair))
    for point in outcome.passed if not outcome.random_forward else ():
        if extra is not None and point.ordinary and not outcome.is_wrong:
            outcome.findings += outcome.until_ours(extra.computes_another(trial.subject, point))
    if trial.questions.of_rules and not outcome.is_wrong and trial.subject.rule is not None:
        from backprop_rules.properties import special_values

        outcome.findings += list(special_values.wrong(trial.subject.rule))


def _natives(
    trial: "Trial", full: Sequence[Point], plain: Sequence[Point]
) -> Iterator[tuple[Point, list[torch.dtype | None], str]]:
    """Yield the points, the dtypes and the devices to ask the form and the digits of."""
    outcome = trial.outcome
    if trial.questions.of_rules:  # whose points are asked in their own dtypes, one by one
        for point in plain[: effort.DRAWN]:
            for device in trial.questions.devices:
                if device != "cpu":
                    yield point, list(point.dtypes), device
        return
    if full and trial.subject.dtypes != (outcome.pair.low,):  # of float32 it was asked beside float64
        yield full[0], own_dtypes(trial.subject, full[0]), "cpu"
    for point in plain[: 1 if trial.subject.heavy else 2]:
        yield point, own_dtypes(trial.subject, point), "cpu"
        for dtype in () if trial.subject.mixed else trial.subject.dtypes:
            dtypes = own_dtypes(trial.subject, point) if dtype.is_complex else in_precision(point, dtype)
            yield point, dtypes, "cpu"
    big = [p for p in outcome.passed if p.own and p.kind == "big" and p.where != FULL]
    for point in big[: torch.float16 in trial.subject.dtypes]:  # whose range a square leaves
        yield point, in_precision(point, torch.float16), "cpu"
    for point in [p for p in outcome.passed if p.dtypes][: effort.DRAWN]:
        yield point, list(point.dtypes), "cpu"
    for point in (*full[:1], *plain[:1]):
        for device in trial.questions.devices:
            if device != "cpu":
                yield point, own_dtypes(trial.subject, point), device


def _to_the_bit(trial: "Trial", point: Point) -> None:
    """Ask for every bit of whole numbers at which nothing rounds."""
    from backprop_rules.properties.exact import where_nothing_rounds

    pair = trial.outcome.pair
    answered = trial.outcome.unless_ours(lambda: where_nothing_rounds(trial.subject, point, pair), None)
    if answered is None:
        return
    found = [] if answered.apart == {} else list(trial.ask(answered.evidence, {}))
    trial.outcome.findings += found
    if all(f.kind.grade is Grade.NOTE for f in found):
        trial.outcome.findings += list(answered.findings())
        if answered.apart is not None:
            trial.outcome.classes["where nothing rounds"] = 1


def _specials(trial: "Trial", evidence: Evidence) -> None:
    if trial.questions.convention == "torch":
        trial.outcome.findings += list(special.answers_nan(evidence))
        trial.outcome.findings += list(special.answers_infinity_of_the_derivative(evidence))
    trial.outcome.findings += list(special.answers_infinity_of_the_cotangent(evidence))


def climb_with_what_passed(subject: Subject, outcome: Outcome, questions: Questions) -> None:
    """Put into the outcome what the proof and the allowance say of points that passed, and why they say nothing."""
    if subject.rule is None:
        outcome.lower[subject.unruly] = None
        return
    if outcome.random_forward:  # others each time that it is recorded
        outcome.lower["forward draws random numbers"] = None
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
            else:
                found = _beside_ties(subject, point, dtypes, found)
            outcome.findings += list(_findings(subject, outcome, questions, point, dtypes, found))


def _beside_ties(subject: Subject, point: Point, dtypes: Dtypes, found: "Climbed") -> "Climbed":
    """Return what was found but for elements that get something else where a backward breaks ties otherwise."""
    moved = moved_by_ties_in(subject, point, dtypes)
    verdicts = list(found.verdicts)
    for k, verdict in enumerate(verdicts):
        by, outside = moved[verdict.primal] if moved else None, verdict.outside
        if by is not None and outside is not None:  # torch's own gradient is no measure there
            outside = outside & (by == 0).to(outside.device)
            verdicts[k] = replace(verdict, outside=outside if bool(outside.any()) else None)
    return replace(found, verdicts=tuple(verdicts))


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
    from backprop_rules.properties.exact import is_what_a_kernel_may_round

    evidence = Evidence(subject, point)

    def shrinks(i: int) -> bool:
        if outcome.pair is not WIDE:  # nothing was asked in float64
            said = found.of(i)
            return said is not None and is_what_a_kernel_may_round(evidence, dtypes, i, said.gradient)
        user, truth = evidence.user[i], evidence.gradients_here[i]
        if truth is None or not fits(user, truth):
            return False
        return bool(largest(user.to(truth) - truth) <= noise_nearby(evidence, i) * 2.0**-WIDE.half)

    unasked = not subject.in_float64 and all(d in (None, *WIDEST) for d in dtypes)
    for verdict in found.verdicts:
        if verdict.disagrees:
            wide = all(d in (None, *WIDEST) for d in dtypes)
            own = wide and is_of_forward_by_itself(evidence, verdict.primal, verdict.gradient)
            yield from beyond(point, verdict, dtypes, questions.accuracy, unasked or own, outcome.custom, shrinks)
            continue
        if questions.sums is not None:
            yield from keeps_its_sums_as_asked(point, verdict, dtypes)
        if questions.accuracy == "catalogue":
            yield from keeps_its_digits(point, verdict, dtypes)
