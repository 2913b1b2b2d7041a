"""The gradients in the dtypes and on the devices that were asked for, and on tensors that have shapes alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import WIDE, Evidence, Pair, cast, filled
from backprop_rules.evidence.witnesses import has_lost_digits
from backprop_rules.properties.finding import Finding, Grade, Kind, unequal
from backprop_rules.properties.form import first_written, has_the_form_of_its_primal, remembered, where_out_of_order
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import is_near
from backprop_rules.strategies.values import cast_like, in_dtypes, recast
from backprop_rules.subject.ambient import F64, all_finite, at, inexact
from backprop_rules.subject.backward import Misfit, Raised, Refused
from backprop_rules.subject.function import Cotangents, Function, Gradients, NoAnswer, NoPoint
from backprop_rules.subject.subject import Subject


def own_dtypes(subject: Subject, point: Point) -> list[torch.dtype | None]:
    """Return the dtypes of the example's leaves, complex where those of the point are."""
    pairs = zip(subject.example, point.leaves, strict=True)
    return [(own.dtype if own.is_complex() else at(own.dtype, x)) if inexact(x) else None for own, x in pairs]


def holds_in(
    subject: Subject, point: Point, dtypes: Sequence[torch.dtype | None], device: str = "cpu", pair: Pair = WIDE
) -> Iterator[Finding]:
    """Yield what is wrong in these dtypes: the form of a gradient, or that it keeps no digit where torch keeps half."""
    leaves = [x.to(device) if isinstance(x, Tensor) else x for x in in_dtypes(point.leaves, dtypes)]
    function = subject.function.at(point.params)
    try:
        truth, grads = _torchs(function, point, leaves, device)
    except NoPoint:
        return
    if device != "meta" and _overflows((*point.leaves, *point.grads), (*leaves, *grads)):
        return  # a value that these dtypes do not hold: this is another point
    given = tuple(x.detach() if isinstance(x, Tensor) else x for x in leaves)
    before = [] if device == "meta" else remembered((*given, *grads))
    widest = max((precision(d) for d in dtypes if d is not None), default=0)
    shown = next((d for d in dtypes if d is not None and precision(d) == widest), None)
    try:
        got = subject.backward(function, grads, None, given, None, whole=True)
    except Raised as error:
        if isinstance(error, Refused) and _refuses(Evidence(subject, point, pair)):
            return  # in the higher precision as well: it is not asked here
        if point.own and not point.empty and _has_a_gradient(function, leaves, grads):
            yield Finding(Kind.RAISES, point, detail=f" {error}{where_out_of_order(point)}", dtype=shown)
        return
    except Misfit as error:
        yield Finding(Kind.COUNT, point, detail=f": {error}", dtype=shown)
        return
    if written := first_written((*subject.names, *(["grad_y"] * len(grads))), (*given, *grads), before):
        yield Finding(Kind.WRITES, point, detail=f" {written}", dtype=shown)
    own = [x.dtype if inexact(x) and x.dtype not in subject.backward.bridge.borrowed else None for x in leaves]
    found = list(has_the_form_of_its_primal(point, got, truth, own))
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


def shows_in_its_dtypes(subject: Subject, point: Point, i: int) -> bool:
    """Say whether a gradient is not torch's in the example's own dtypes either, by more than half of their digits."""
    leaves = in_dtypes(point.leaves, own_dtypes(subject, point))
    function = subject.function.at(point.params)
    try:
        truth, grads = _torchs(function, point, leaves, "cpu")
        got = subject.backward(function, grads, None, [x.detach() if inexact(x) else x for x in leaves], None)
    except NoAnswer:
        return True
    t = truth[i]
    return t is None or not is_near(got[i], t)


def _torchs(function: Function, point: Point, leaves: Sequence[Any], device: str) -> tuple[Gradients, Cotangents]:
    """Return torch's gradients, and the cotangents; on meta they have the form of the leaves, and forward is enough."""
    if device == "meta":
        grads = tuple(map(cast_like, point.grads, function.y(leaves, None)))
        return tuple(x if inexact(x) else None for x in leaves), grads
    run, grads = function.run(leaves, lambda y: tuple(map(cast_like, point.grads, y)), None)
    return filled(run.gradients, leaves), grads


def _has_a_gradient(function: Function, leaves: Sequence[Any], grads: Cotangents) -> bool:
    try:
        function.run(leaves, grads, None)
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
