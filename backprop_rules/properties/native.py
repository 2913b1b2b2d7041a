"""The gradients in the dtypes and on the devices that were asked for, and on tensors that have shapes alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import WIDE, Evidence, Pair, cast, in_precision
from backprop_rules.evidence.native import Native
from backprop_rules.evidence.witnesses import has_lost_digits
from backprop_rules.properties.calls import (
    keeps_nothing_between_calls,
    overwrites_no_result,
    stays_inside_its_arguments,
    writes_every_element,
)
from backprop_rules.properties.finding import Finding, Grade, Kind, unequal
from backprop_rules.properties.form import first_written, has_the_form_of_its_primal, remembered, where_out_of_order
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import is_near
from backprop_rules.strategies.values import recast
from backprop_rules.subject.ambient import F64, all_finite, at, inexact
from backprop_rules.subject.backward import Misfit, Raised, Refused
from backprop_rules.subject.function import Gradients, NoAnswer, NoPoint
from backprop_rules.subject.subject import Subject


def own_dtypes(subject: Subject, point: Point) -> list[torch.dtype | None]:
    """Return the dtypes of the example's leaves, complex where those of the point are."""
    pairs = zip(subject.example, point.leaves, strict=True)
    return [(own.dtype if own.is_complex() else at(own.dtype, x)) if inexact(x) else None for own, x in pairs]


def holds_in(
    subject: Subject, point: Point, dtypes: Sequence[torch.dtype | None], device: str = "cpu", pair: Pair = WIDE
) -> Iterator[Finding]:
    """Yield what is wrong in these dtypes: the form of a gradient, or that it keeps no digit where torch keeps half."""
    here = Native(subject, point, pair, dtypes, device)
    try:
        truth, (leaves, grads) = here.gradients_here, here.given
    except NoPoint:
        return
    if device != "meta" and _overflows((*point.leaves, *point.grads), (*leaves, *grads)):
        return  # a value that these dtypes do not hold: this is another point
    before = [] if device == "meta" else remembered((*leaves, *grads))
    widest = max((precision(d) for d in dtypes if d is not None), default=0)
    shown = next((d for d in dtypes if d is not None and precision(d) == widest), None)
    try:
        got = here.user
    except Raised as error:
        if isinstance(error, Refused) and _refuses(Evidence(subject, point, pair)):
            return  # in the higher precision as well: it is not asked here
        if point.own and not point.empty and _has_a_gradient(here):
            yield Finding(Kind.RAISES, point, detail=f" {error}{where_out_of_order(point)}", dtype=shown)
        return
    except Misfit as error:
        yield Finding(Kind.COUNT, point, detail=f": {error}", dtype=shown)
        return
    if written := first_written((*subject.names, *(["grad_y"] * len(grads))), (*leaves, *grads), before):
        yield Finding(Kind.WRITES, point, detail=f" {written}", dtype=shown)
    own = [x.dtype if inexact(x) and x.dtype not in subject.backward.bridge.borrowed else None for x in leaves]
    found = list(has_the_form_of_its_primal(point, got, truth, own))
    if device != "meta" and not any(f.kind.grade is Grade.WRONG for f in found):
        found += writes_every_element(here)
    yield from (replace(finding, dtype=shown) for finding in found)
    if device != "meta" and not any(f.kind.grade is Grade.WRONG for f in found):
        yield from _digits(subject, point, leaves, grads, truth, got, shown)


def _refuses(evidence: Evidence) -> bool:
    """Say whether a function's own forward raises at a point in the higher precision, too."""
    try:
        _ = evidence.user
    except Refused:
        return True
    except (Raised, Misfit):
        pass
    return False


def keeps_to_its_arguments(
    subject: Subject, points: Sequence[Point], pair: Pair, deterministic: bool
) -> Iterator[Finding]:
    """Yield what is wrong with memory and between calls in the example's own dtypes, if it was not asked in these."""
    between = keeps_nothing_between_calls if deterministic else overwrites_no_result
    for point in points:
        here = Native(subject, point, pair, own_dtypes(subject, point))
        try:
            asked = here.dtypes != in_precision(point, pair.high) and here.user
        except NoAnswer:  # which is told elsewhere
            continue
        shown = max((d for d in here.dtypes if d is not None), key=precision)
        for holds in (between, stays_inside_its_arguments) if asked else ():
            yield from (replace(finding, dtype=shown) for finding in holds(here))


def shows_in_its_dtypes(subject: Subject, point: Point, i: int) -> bool:
    """Say whether a gradient is not torch's in the example's own dtypes either, by more than half of their digits."""
    here = Native(subject, point, WIDE, own_dtypes(subject, point))
    try:
        t, g = here.gradients_here[i], here.user[i]
    except NoAnswer:
        return True
    return t is None or not is_near(g, t)


def _has_a_gradient(here: Native) -> bool:
    """Say whether torch has a gradient there, which is not asked yet on meta."""
    try:
        here.function.run(*here.given, None)
    except NoPoint:
        return False
    return True


def _overflows(before: Sequence[Any], after: Sequence[Any]) -> bool:
    pairs = ((b, a) for b, a in zip(before, after, strict=True) if inexact(a) and inexact(b))
    return any(bool((b.isfinite() & ~a.to(b.device).isfinite()).any()) for b, a in pairs)


def _digits(
    subject: Subject,
    point: Point,
    leaves: Sequence[Any],
    grads: Sequence[Tensor | None],
    theirs: Gradients,
    got: Sequence[Any],
    shown: torch.dtype | None,
) -> Iterator[Finding]:
    try:
        run, _ = subject.function.at(point.params).run(cast(leaves, F64), tuple(cast(grads, F64)), F64)
    except NoPoint:
        return
    moved: Sequence[Tensor | None] | None = None
    for i in subject.floats:
        truth, g, t = run.gradients[i], got[i], theirs[i]
        if truth is None or not isinstance(g, Tensor) or t is None or not truth.numel():
            continue
        if precision(g.dtype) == precision(F64):
            continue
        mine, other = g.to(truth.dtype), t.to(truth.dtype)
        off = _lost(point, mine, other, truth, g.dtype)
        if bool(off.any()) and moved is None:
            moved = moved_by_ties_in(subject, point, [x.dtype if inexact(x) else None for x in leaves])
        by = moved[i] if moved and bool(off.any()) else None
        if by is not None:
            truth, other = truth + by, other + by
            off = _lost(point, mine, other, truth, g.dtype)
        if bool(off.any()):
            yield unequal(Kind.INACCURATE, point, i, truth, g, off, against=("torch's reverse mode",), dtype=shown)


def _lost(point: Point, mine: Tensor, other: Tensor, truth: Tensor, dtype: torch.dtype) -> Tensor:
    lost = has_lost_digits(mine, other, truth, dtype)
    if point.ordinary or all_finite(other):  # past an overflow each form has it elsewhere
        return lost | (truth.isfinite() & other.isfinite() & ~mine.isfinite())
    return lost


def moved_by_ties_in(subject: Subject, point: Point, dtypes: Sequence[torch.dtype | None]) -> Sequence[Tensor | None]:
    """Return what a backward that breaks ties otherwise than torch adds to gradients, at numbers of these dtypes.

    Nothing where it does not.
    """
    from backprop_rules.evidence.broken import moved_by_ties  # long to import, and seldom asked

    pairs = zip(point.leaves, dtypes, strict=True)
    there = replace(point, leaves=tuple(x if d is None else recast(recast(x, d), x.dtype) for x, d in pairs))
    try:
        return moved_by_ties(Evidence(subject, there), 0.0) or ()
    except NoAnswer:
        return ()
