"""From a subject to the report: hold it to what is asked, and find the smallest point where it fails."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.checker.diagnosis import diagnosed
from backprop_rules.checker.evidence import (
    ANOTHER_CHOICE,
    ANSWERS_NAN,
    INACCURATE,
    NO_SUBGRADIENT,
    Ask,
    grave,
    less_accurate_than_the_catalogue,
    shared_memory,
    slight,
)
from backprop_rules.checker.first import around, try_once
from backprop_rules.checker.hunt import kinks_near
from backprop_rules.checker.question import Asked
from backprop_rules.checker.report import Report
from backprop_rules.checker.sizes import halved, is_quick, is_small
from backprop_rules.checker.subject import Subject
from backprop_rules.checker.tally import Tally
from backprop_rules.draw import quiet, search
from backprop_rules.errors import InputError, RoundingUnknown
from backprop_rules.objection import OraclesDisagree, WrongGradient
from backprop_rules.point import Point
from backprop_rules.properties import check as hold
from backprop_rules.rule import Rule
from backprop_rules.simplify import simplest

# What is told only of a backward that is right but for that.
SLIGHT = (INACCURATE, ANOTHER_CHOICE, NO_SUBGRADIENT, ANSWERS_NAN)
# What a backward of another function than the one that it is held against fails: a mistake of the question.
NOT_ITS_FUNCTION = ("comes with a forward", "has a definition that raises")


def examine(
    subject: Subject,
    asked: Asked,
    first: tuple[Tensor | None, ...] | None = None,
    cases: Sequence[Point] = (),
) -> Report:
    """Return the report on a subject: hold it to what makes a backward wrong, then to what is less."""
    started, subject = time.perf_counter(), replace(subject, accumulate=asked.sums)
    tally, objection = Tally(), None
    example = try_once(subject, first)
    before, after = around(example, bool(asked.max_examples))
    before = [*cases, *before]
    tally.example = example
    objection = _searched(subject, partial(_hold, tally, asked, 0), asked, before, after)
    if objection is None and tally.failures:
        # Nothing is wrong, but something is not quite as asked: find the smallest point of that.
        tally.failures.clear()
        objection = _searched(subject, partial(_hold, tally, asked, 1), asked, before, after)
    if objection is not None and objection.kind.startswith(NOT_ITS_FUNCTION):
        raise InputError(f"{subject}: {_not_its_function(subject, objection)}\n{objection}")
    if objection is not None:
        _more_like(objection, subject, tally, asked)
        tally.notes |= {hint} if (hint := tally.hint(objection)) else set()
    mistake = diagnosed(tally.failures, objection, partial(others, subject, asked)) if objection else None
    return Report(
        subject=subject,
        verdict=_verdict(objection, tally),
        objection=mistake.objection if mistake else objection,
        mistake=mistake,
        points=tally.points,
        proved=tally.proved / tally.elements if tally.elements else 0.0,
        dtypes=tuple(tally.dtypes),
        devices=tuple(asked.devices),
        seed=asked.seed,
        seconds=time.perf_counter() - started,
        notes=tuple(sorted(tally.notes)),
        why=tally.why,
    )


def _hold(tally: Tally, asked: Asked, slightly: int, point: Point) -> None:
    """Ask what is to be asked at a point, as one where roundings are allowed for, and keep count.

    What is slight is only kept, not raised, unless it is asked for.
    """
    point = replace(point, spacing=0.0)
    try:
        _ = point.y
    except Exception:  # a forward that does not take these values, such as the inverse of a singular matrix
        return
    tally.tried(point)
    try:
        slighter = slight(asked.convention, asked.accuracy, asked.sums, asked.tried(point.rule))
        hold(point, (*grave(asked.saves is not None, asked.strict_memory), *asked.extra, *slighter))
    except WrongGradient as objection:
        if tally.excuses(objection):
            return
        tally.failures.append(objection)
        if slightly or not objection.kind.startswith(SLIGHT):
            raise
    except RoundingUnknown as error:
        tally.why = str(error)
        return
    tally.passed(point)
    tally.notes.update(shared_memory(point))
    if asked.accuracy == "torch" and not point.on_meta:
        tally.notes.update(less_accurate_than_the_catalogue(point))


def _searched(
    subject: Subject, held: Ask, asked: Asked, first: Sequence[Point], last: Sequence[Point]
) -> WrongGradient | None:
    """Return the objection at the smallest point found: at the first, drawn, near undeclared kinks, or at the last."""
    objection = _first_of(first, held)
    if objection is None and asked.max_examples:
        objection = search(subject, held, asked.max_examples, asked.seed, asked.dtypes_for(subject), asked.devices)
    if objection is None and asked.max_examples and subject.name not in CATALOGUE:
        objection = _first_of((near for point in first[:HUNTED] for near in kinks_near(point)), held)
    if objection is None:
        objection = _first_of(last, held)
    return _smallest(objection, held) if objection is not None and asked.max_examples else objection


def _smallest(objection: WrongGradient, held: Ask) -> WrongGradient:
    """Return the objection to the smallest point that fails in the same way: its axes halved first."""
    smaller: WrongGradient | None = objection
    while smaller is not None and not is_small(objection.point):
        objection, kind = smaller, smaller.kind
        smaller = _first_of(halved(objection.point), held, kind)
    return simplest(objection, held) if is_quick(objection.point) else objection


# Points near which undeclared kinks are hunted: a failing one of last time, and the example.
HUNTED = 2

# Points drawn on top, so that a mistake is not named after the one point at which it was first seen.
MORE = 48


def _more_like(objection: WrongGradient, subject: Subject, tally: Tally, asked: Asked) -> None:
    """Put failing points of the same kind, of other sizes, in front of those that were found on the way."""
    found: list[WrongGradient] = []

    def held(point: Point) -> None:
        try:
            _hold(Tally(), asked, int(objection.kind.startswith(SLIGHT)), point)
        except WrongGradient as other:
            if other.kind == objection.kind and other.primal == objection.primal:
                found.append(other)

    search(subject, held, MORE, asked.seed + 1, asked.dtypes_for(subject), asked.devices)
    tally.failures[:0] = found


# Points drawn to tell explanations apart: nothing is proved of them, so that they cost little.
APART = 200


def others(subject: Rule, asked: Asked) -> list[Point]:
    """Return more points, at which the backward may be right or wrong."""
    found: list[Point] = []
    search(subject, found.append, APART, asked.seed + 2, asked.dtypes_for(subject), asked.devices)
    return found


def _first_of(points: Iterable[Point], held: Ask, kind: str | None = None) -> WrongGradient | None:
    """Return the first objection at these points, of that kind if one is named."""
    with quiet():
        for point in points:
            try:
                held(point)
            except WrongGradient as objection:
                if kind in (None, objection.kind):
                    return objection
    return None


def _not_its_function(subject: Subject, objection: WrongGradient) -> str:
    if objection.kind.startswith(NOT_ITS_FUNCTION[1]):
        return (
            "the definition raises, so nothing can be said of the backward. It runs on arrays of exact numbers: write "
            "it with NumPy's elementary functions, sums, products, maxima and indices."
        )
    if subject.derived:
        return (
            "forward gives something else in this dtype than in exact numbers, so nothing can be said: does it depend "
            "on the dtype, as by torch.finfo? Give its numbers as params."
        )
    return "forward and definition are different functions, so nothing can be said."


def _verdict(objection: WrongGradient | None, tally: Tally) -> str:
    if objection is None:
        return "right" if tally.proved else "inconclusive"
    if isinstance(objection, OraclesDisagree):
        return "inconclusive"
    if objection.kind.startswith(INACCURATE):
        return "inaccurate"
    return "convention" if objection.kind.startswith((ANOTHER_CHOICE, ANSWERS_NAN)) else "wrong"
