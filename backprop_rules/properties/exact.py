"""Each gradient is right to the last bit where nothing rounds: for small whole numbers, at the example's own size.

And whether what is off in float64 may be what the example's own dtypes round, element by element.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.precision import Precision, precision_named
from backprop_rules.evidence.at_size import AtSize, Question, at_size
from backprop_rules.evidence.broken import breaks_ties
from backprop_rules.evidence.evidence import Evidence, Pair, cast, largest
from backprop_rules.evidence.exact_fill import EXPONENTIAL, Fill, exact_fill
from backprop_rules.evidence.table import Of
from backprop_rules.evidence.witnesses import fits
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import cast_like, in_dtypes, numbers_from, recast
from backprop_rules.subject.ambient import F32, F64, at, inexact, real
from backprop_rules.subject.function import NoAnswer, NoPoint, ones
from backprop_rules.subject.subject import Subject

EXACTLY = "whole numbers, of which every sum is exact in any order"


@dataclass(frozen=True, eq=False)
class WholeNumbers:
    """What a backward returns in the example's own dtypes at a point where nothing rounds."""

    evidence: Evidence

    @cached_property
    def apart(self) -> dict[int, Tensor] | None:
        """Masks of what is not right to the last bit, by primal; None of what does not answer, or not as it should."""
        evidence, got = self.evidence, self.got
        if got is None:
            return None
        here = ((i, got[i], evidence.gradients_here[i]) for i in evidence.subject.floats)
        # Of what forward cuts off, None is as good as zeros.
        truths = {i: t for i, g, t in here if t is not None and (g is not None or bool(t.any()))}
        if not all(fits(got[i], t) for i, t in truths.items()):
            return None  # which is told elsewhere
        return {i: off for i, t in truths.items() if bool((off := got[i].to(t.dtype) != t).any())}

    @cached_property
    def got(self) -> Sequence[Any] | None:
        """What it returns; None where it raises."""
        return in_the_own_dtypes(self.evidence)

    def findings(self) -> Iterator[Finding]:
        """Yield what is not right to the last bit.

        What is off in the higher precision as well, by half of float32's digits, is no rounding, and wrong; what is off
        in the own dtypes alone may be another form of the gradient, which rounds there: that is noted.
        """
        evidence, got, apart = self.evidence, self.got, self.apart
        if got is None or apart is None:
            return
        for i, off in apart.items():
            truth, wide = evidence.gradients_here[i], evidence.user[i]
            if truth is None or not fits(wide, truth):
                continue
            is_off = largest(wide.to(truth.dtype) - truth) >= 2.0 ** (-precision(F32) / 2) * largest(truth)
            kind, g = Kind.VALUE if is_off else Kind.BITS, got[i]
            yield unequal(kind, evidence.point, i, truth, g, off, against=(EXACTLY,), dtype=g.dtype)


def where_nothing_rounds(subject: Subject, point: Point, pair: Pair) -> WholeNumbers | None:
    """Return what is answered at a point like this one at which nothing rounds; None where something always does.

    Nor is what is not exact told where the gradient jumps nearby: at a kink there is a choice, and whole numbers are
    full of ties.
    """
    floats = [subject.example[i].dtype for i in subject.floats]
    if any(x.is_complex() for x in (*subject.example, *point.grads) if inexact(x)):
        return None
    narrowest = min(floats, key=precision)
    function, declared = subject.function.at(point.params), precision_named("eager", narrowest)

    def filled(example: Sequence[Any]) -> Fill:
        leaves = tuple(x.detach() if inexact(x) else x for x in example)
        grads = ones(function.y(leaves, None))
        return exact_fill(Question(function, leaves, grads), declared, 0, subject.constants.kept)

    try:
        first = filled(subject.small) if subject.small is not None else None
        if first is not None and first.why and first.why not in EXPONENTIAL:
            return None  # as at any size
        found = filled(subject.example)
        if found.why:
            return None
        both = found.question.leaves, found.question.grads
        leaves, grads = (tuple(recast(x, F64) if inexact(x) else x for x in some) for some in both)
        there = Point(leaves, grads, point.params, "whole numbers", "whole numbers", where=point.where)
        answered = WholeNumbers(Evidence(subject, there, pair))
        return answered if answered.apart == {} or _leaves_no_choice(answered.evidence) else None
    except (NoPoint, NotImplementedError, InputError):
        return None


def _leaves_no_choice(evidence: Evidence) -> bool:
    return _is_smooth(evidence) and not breaks_ties(evidence, 0.0)


def _is_smooth(evidence: Evidence) -> bool:
    """Say whether the gradients change as little as the primals when these are nudged: by half of the bits at most."""
    numbers, nudge = numbers_from(0), 2.0**-30
    point = evidence.point
    moved = [
        x + nudge * torch.randn(x.shape, generator=numbers, dtype=F64).to(x.device) if inexact(x) else x
        for x in point.leaves
    ]
    pairs = zip(evidence.gradients_here, evidence.gradients(moved, point.grads), strict=True)
    return all(a is None or b is None or largest(a - b) <= math.sqrt(nudge) * largest(a) for a, b in pairs)


def in_the_own_dtypes(evidence: Evidence) -> Sequence[Any] | None:
    """Return what the backward returns in the example's own dtypes, None where it raises."""
    subject, point = evidence.subject, evidence.point
    own = tuple(recast(x, e.dtype) if inexact(x) else x for x, e in zip(point.leaves, subject.example, strict=True))
    try:
        grads = tuple(map(cast_like, point.grads, evidence.function.y(own, None)))
        if all(x.dtype is evidence.pair.low for x in (*own, *grads) if inexact(x)):
            return evidence.low_user  # which was asked already
        return subject.backward(evidence.function, grads, None, own, None, whole=True)
    except NoAnswer:
        return None


def outside_of_its_dtypes(evidence: Evidence, i: int) -> Tensor | None:
    """Return where the gradient of leaf i is outside of what the example's dtypes may round; None where it is not.

    Beside the largest element a small one may be lost, and yet be far outside of what it may be itself. It is stored in
    its dtype once: of what is exact there every digit is another matter. What lies inside at each element may be off in
    one direction: a factor near 1 is no rounding.
    """
    pairs = zip(evidence.point.leaves, evidence.subject.example, strict=True)
    try:
        dtypes = [at(own.dtype, x) if inexact(x) else None for x, own in pairs]
        question, declared, held = _held_in(evidence, dtypes, "eager")
        there = question.leaves, question.grads
        leaves, grads = (tuple(None if x is None else cast([x], F64)[0] for x in those) for those in there)
        got, its = evidence.asked(leaves, grads)[i], held.gradients[i]
        if its is None or its.truth.shape != real(got).shape:
            return None
        outside = ~its.contains(real(got).to(its.dtype))
        if got.is_complex():  # of which slopes are not asked
            outside = outside.any(-1)
        elif not bool(outside.any()) and _is_off_systematically(question, declared, held, i, got):
            outside = got != its.truth
    except (NoAnswer, NotImplementedError, InputError):
        return None
    return outside if bool(outside.any()) else None


def _is_off_systematically(question: Question, declared: Precision, held: AtSize, i: int, got: Tensor) -> bool:
    """Say whether a gradient is off in one direction, by more than a right one in its dtype may be."""
    from backprop_rules.evidence.systematic import systematic  # long to import, and seldom asked

    its = held.gradients[i]
    assert its is not None
    some = tuple(got.to(its.dtype) if k == i else None for k in range(len(question.leaves)))
    found = systematic(question, declared, held, some).found
    return found is not None and found.sum.of is not Of.ELEMENT


def is_what_a_kernel_may_round(evidence: Evidence, dtypes: Sequence[Any], i: int, got: Any) -> bool:
    """Say whether the gradient of leaf i lies in what a right kernel may round that computes in these dtypes.

    In any order of its sums, as of a kernel whose operations nobody sees and which is asked in no other dtypes.
    """
    try:
        its = _held_in(evidence, dtypes, None)[2].gradients[i]
    except (NoPoint, NotImplementedError, InputError):
        return False
    return its is not None and its.truth.shape == real(got).shape and bool(its.contains(real(got)).all())


def _held_in(evidence: Evidence, dtypes: Sequence[Any], rounding: str | None) -> tuple[Question, Precision, AtSize]:
    """Return the question at this point in these dtypes, and what holds the gradients there."""
    function, point = evidence.function, evidence.point
    leaves = in_dtypes(point.leaves, dtypes)
    grads = tuple(map(cast_like, point.grads, function.y(leaves, None)))
    declared = precision_named(rounding, min((d for d in dtypes if d is not None), key=precision))
    question = Question(function, leaves, grads)
    return question, declared, at_size(question, declared)
