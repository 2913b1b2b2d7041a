"""What is asked at a few points alone, after the loop: thresholds, dtypes, every bit, NaN, threads, higher rungs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from backprop_rules.errors import of_ours
from backprop_rules.evidence.evidence import Evidence, in_precision
from backprop_rules.evidence.jumps import jumps
from backprop_rules.properties import calls, effort, special
from backprop_rules.properties.finding import Grade, Kind, Rung
from backprop_rules.properties.huge import reaches_past_32_bits
from backprop_rules.properties.invariance import WAYS, varies
from backprop_rules.properties.ladder import climb_with_what_passed
from backprop_rules.properties.native import holds_in, own_dtypes
from backprop_rules.strategies.point import FULL, Point

if TYPE_CHECKING:
    from backprop_rules.properties.trial import Trial


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
    for point, dtypes, device in _natives(trial, full, plain):
        # Digits are counted from torch's gradient: not where that is the wrong one.
        off = {f.leaf for f in outcome.findings if f.kind is Kind.TORCH}
        found = list(holds_in(trial.subject, point, dtypes, device))
        if not point.ordinary and not point.dtypes:
            found = [replace(f, kind=Kind.OVERFLOWS) for f in found if f.kind is Kind.INACCURATE]
        outcome.findings += [f for f in found if f.kind is not Kind.INACCURATE or f.leaf not in off]
    if not outcome.objects and (full or plain) and not trial.subject.heavy and not trial.questions.of_rules:
        _to_the_bit(trial, [*full, *plain][0])
    if not outcome.objects and plain and not trial.subject.heavy:
        _specials(trial, Evidence(trial.subject, _without_zeros(plain[0]), outcome.pair))
    _of_a_whole_function(trial, plain[:3])
    if not outcome.is_wrong and not trial.subject.heavy and not trial.questions.of_rules and not outcome.random_forward:
        _invariance(trial, full, plain)
    answered, alone = trial.answered, not trial.questions.of_rules and not trial.subject.heavy
    if answered is not None and alone and not outcome.is_wrong and not outcome.random_forward:
        outcome.findings += list(calls.answers_in_two_threads(answered.evidence))
    if plain and alone and not outcome.is_wrong and "meta" in trial.questions.devices:
        outcome.findings += list(reaches_past_32_bits(trial.subject, plain[0]))
    if not outcome.is_wrong and not outcome.rungs[Rung.PROVED]:  # as it is of a rule, at some of its points
        climb_with_what_passed(trial.subject, outcome, trial.questions)


def _invariance(trial: "Trial", full: Sequence[Point], plain: Sequence[Point]) -> None:
    """Note what bits change with, of the small example; object where that was asked for, at its own size too."""
    asked = trial.questions.invariance
    for point in (*plain[:1], *full[: len(asked)][:1]):
        for words, finding in varies(trial.subject, point, asked or tuple(WAYS)):
            if asked:
                trial.outcome.findings.append(finding)
            else:
                trial.outcome.notes[words] = None


def _of_a_whole_function(trial: "Trial", points: Sequence[Point]) -> None:
    """Ask what a function with a backward of its own, or a rule of the catalogue, is asked beside its gradients."""
    outcome, extra = trial.outcome, trial.questions.extra
    for point in points:
        if extra is not None and not outcome.is_wrong:
            outcome.findings += list(extra.wrong(trial.subject, point))
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
        own = own_dtypes(trial.subject, point)
        yield point, own, "cpu"
        mixed = len({*own} - {None}) > 1 and {*own} - {None} == {*trial.subject.dtypes}  # as the example has them
        for dtype in () if mixed else trial.subject.dtypes:
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

    try:
        answered = where_nothing_rounds(trial.subject, point, trial.outcome.pair)
    except Exception as error:  # of our own analysis: then nothing is asked there
        trial.outcome.notes[of_ours(error)] = None
        return
    if answered is None:
        return
    found = [] if answered.apart == {} else list(trial.ask(answered.evidence, {}))
    trial.outcome.findings += found
    if all(f.kind.grade is Grade.NOTE for f in found):
        trial.outcome.findings += list(answered.findings())
        trial.outcome.classes["where nothing rounds"] = 1


def _specials(trial: "Trial", evidence: Evidence) -> None:
    if trial.questions.convention == "torch":
        trial.outcome.findings += list(special.answers_nan(evidence))
        trial.outcome.findings += list(special.answers_infinity_of_the_derivative(evidence))
    trial.outcome.findings += list(special.answers_infinity_of_the_cotangent(evidence))


def _without_zeros(point: Point) -> Point:
    """Return the point with no zero in a cotangent, that would hide what it is multiplied with."""
    grads = tuple(None if g is None else torch.where(g == 0, torch.ones_like(g), g) for g in point.grads)
    return replace(point, grads=grads)
