"""Each gradient is right to the last bit where nothing rounds: for small whole numbers, at the example's own size."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.precision import precision_named
from backprop_rules.evidence.at_size import Question
from backprop_rules.evidence.evidence import Evidence, largest
from backprop_rules.evidence.exact_fill import EXPONENTIAL, Fill, exact_fill
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import recast
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

EXACTLY = "whole numbers, of which every sum is exact in any order"


def is_right_to_the_bit(subject: Subject, point: Point) -> Iterator[Finding] | None:
    """Yield the gradients that are not, in the example's own dtypes; None where something rounds whatever the inputs.

    What is off in float64 as well is no rounding, and wrong; what is off in the own dtypes alone may be another form
    of the gradient, which rounds there.
    """
    there = _point(subject, point)
    return None if there is None else _wrong(subject, there)


def _point(subject: Subject, point: Point) -> Point | None:
    floats = [subject.example[i].dtype for i in subject.floats]
    if any(x.is_complex() for x in (*subject.example, *point.grads) if inexact(x)):
        return None
    narrowest = min(floats, key=precision)
    function, declared = subject.function.at(point.params), precision_named("eager", narrowest)

    def filled(example: Sequence[Any]) -> Fill:
        leaves = tuple(x.detach() if inexact(x) else x for x in example)
        grads = tuple(torch.ones_like(out) if inexact(out) else None for out in function.y(leaves, None))
        return exact_fill(Question(function, leaves, grads), declared, seed=0)

    try:
        first = filled(subject.small) if subject.small is not None else None
        if first is not None and first.why and first.why not in EXPONENTIAL:
            return None  # as at any size
        found = filled(subject.example)
    except (NoPoint, NotImplementedError, InputError):
        return None
    if found.why:
        return None
    leaves, grads = (
        tuple(recast(x, F64) if inexact(x) else x for x in some)
        for some in (found.question.leaves, found.question.grads)
    )
    return Point(leaves, grads, point.params, "whole numbers", "whole numbers", where=point.where)


def _wrong(subject: Subject, there: Point) -> Iterator[Finding]:
    function = subject.function.at(there.params)
    run, _ = function.run(there.leaves, there.grads, F64)
    own = tuple(recast(x, e.dtype) if inexact(x) else x for x, e in zip(there.leaves, subject.example, strict=True))
    narrowest = min((subject.example[i].dtype for i in subject.floats), key=precision)
    grads = tuple(None if g is None else recast(g, narrowest) for g in there.grads)
    try:
        got = subject.backward(function, grads, None, own, None, whole=True)
    except (Raised, Misfit):
        return  # which is told elsewhere
    for i in subject.floats:
        truth, g = run.gradients[i], got[i]
        if truth is None or not isinstance(g, Tensor) or g.shape != truth.shape:
            continue
        apart = g.to(truth.dtype) - truth
        if bool((apart != 0).any()):
            kind = Kind.VALUE if _is_off_in_float64(subject, there, i, truth, apart) else Kind.BITS
            yield unequal(kind, there, i, truth, g, apart != 0, against=(EXACTLY,), dtype=g.dtype)


def _is_off_in_float64(subject: Subject, there: Point, i: int, truth: Tensor, apart: Tensor) -> bool:
    """Say whether the difference is as large there, in bits: nearer to what it was than to what rounding leaves."""
    try:
        wide = Evidence(subject, there).user[i]
    except (Raised, Misfit):
        return False
    shrinks = precision(F64) - precision(subject.example[i].dtype)
    return isinstance(wide, Tensor) and largest(wide - truth) >= largest(apart) * 2.0 ** (-shrinks / 2)
