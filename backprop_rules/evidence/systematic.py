"""Whether a gradient is off systematically, by less than the worst case but in one direction.

    slope - 1 = <truth, got - truth> / <truth, truth>,    mean = sum(got - truth) / n,

of each gradient, and of each slice along each axis. Both are sums c_e (got_e - truth_e), and first order in every
number z that an implementation rounds on the way: c_e d got_e / d z, which one more reverse pass gives. What rounds to
float32 is taken at its worst. What rounds to a narrower dtype is off by half an ulp at most, in no direction, and
independently of the others but for equal values, which round alike: their sensitivities s are added before they are
squared. By Hoeffding's inequality (Probability inequalities for sums of bounded random variables, 1963) all of these
together exceed

    sqrt(2 log(2 / alpha) sum((s half an ulp)^2))

with a probability of at most alpha.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.declared import Precision
from backprop_rules.evidence.allowance.units import NARROW, unit
from backprop_rules.evidence.at_size import AtSize
from backprop_rules.evidence.sensitivity import Sensitivities, half_an_ulp
from backprop_rules.subject.ambient import F32
from backprop_rules.subject.function import Cotangents, Function

# How often a right gradient is called off, in a whole run, by what is random in roundings.
FALSE_ALARMS = 1e-12
# Slices whose reach is computed, those farthest out: a reverse pass each.
ASKED = 4


@dataclass(frozen=True)
class Question:
    """A slope or a mean of one gradient, the whole of it, or what lies at one index along an axis."""

    leaf: int
    slope: bool
    axis: int | None = None
    index: int | None = None

    def part(self, x: Tensor) -> Tensor:
        """Return the part of a tensor of the gradient's shape that is meant."""
        return x if self.axis is None or self.index is None else x.select(self.axis, self.index)

    def coefficients(self, truth: Tensor) -> Tensor:
        """Return the c for which the answer is <c, got - truth>."""
        c, t = torch.zeros_like(truth), self.part(truth)
        self.part(c).copy_(t / (t * t).sum() if self.slope else torch.full_like(t, 1 / t.numel()))
        return c


@dataclass(frozen=True)
class Off:
    """An answer, and how far right implementations reach; the share of a gradient's elements that it speaks of."""

    question: Question
    answer: float
    reach: float

    @property
    def beyond(self) -> bool:
        """Whether no right implementation is as far off, but at the stated rate."""
        return abs(self.answer) > self.reach


@dataclass(frozen=True, eq=False)
class Systematic:
    """The answers for one call: `slopes` of the whole gradients, what is off, and why something was not asked."""

    slopes: dict[int, float]
    found: tuple[Off, ...]
    asked: int
    unasked: int = 0
    why: str = ""


def systematic(
    function: Function,
    leaves: Sequence[Any],
    grads: Cotangents,
    declared: Precision,
    held: AtSize,
    got: Sequence[Any],
    rate: float = FALSE_ALARMS,
) -> Systematic:
    """Return what is off systematically: the whole gradients, and the slices that stand out most."""
    tables = [
        _Table(leaf, h.truth, g, _roundings(held, h.truth))
        for leaf, (h, g) in enumerate(zip(held.gradients, got, strict=True))
        if h is not None and isinstance(g, Tensor)
    ]
    questions = sum(table.questions for table in tables)
    if not questions:
        return Systematic({}, (), 0)
    deviations = math.sqrt(2 * math.log(2 * questions / rate))
    slopes = {table.leaf: 1 + float(table.whole) for table in tables}
    standing_out = sorted((q for table in tables for q in table.standing_out(deviations)), key=lambda q: -q[0])
    chosen = standing_out[:ASKED]
    if not chosen:
        return Systematic(slopes, (), questions)
    try:
        reaches = Sensitivities(function, leaves, grads, declared)
        answers = [
            Off(question, answer, _reach(reaches, question, held, got, deviations)) for _, question, answer in chosen
        ]
    except NotImplementedError as error:
        return Systematic(slopes, (), questions, len(standing_out), str(error))
    found = tuple(off for off in answers if off.beyond)
    return Systematic(slopes, found, questions, len(standing_out) - len(chosen))


def _reach(reaches: Sensitivities, question: Question, held: AtSize, got: Sequence[Any], deviations: float) -> float:
    one = held.gradients[question.leaf]
    assert one is not None
    coefficients = question.coefficients(one.truth)
    worst, squares = reaches.reach(question.leaf, coefficients, one.truth, got[question.leaf].dtype)
    reach = worst + deviations * math.sqrt(squares)
    # What a choice changes is no rounding, and not small: only the radius knows it.
    return max(reach, float((coefficients.abs() * one.radius).sum())) if held.either else reach


def _roundings(held: AtSize, truth: Tensor) -> float:
    """Return about how far all roundings in float32 take a number. It decides what is asked, and no verdict."""
    return math.sqrt(held.roundings) * unit(F32).u


@dataclass(frozen=True, eq=False)
class _Table:
    """The slopes and means of one gradient and of its slices, and what the rounding of the result alone explains."""

    leaf: int
    truth: Tensor
    got: Tensor
    common: float

    @property
    def axes(self) -> list[int | None]:
        several = [k for k, n in enumerate(self.truth.shape) if n > 1]
        return [None, *several] if len(several) > 1 else [None]

    @property
    def questions(self) -> int:
        if not self.truth.numel():
            return 0
        return 2 * sum(1 if axis is None else self.truth.shape[axis] for axis in self.axes)

    @cached_property
    def off(self) -> Tensor:
        return self.got.to(self.truth) - self.truth

    @property
    def whole(self) -> Tensor:
        return _ratio((self.off * self.truth).sum(), (self.truth * self.truth).sum())

    def standing_out(self, deviations: float) -> Iterator[tuple[float, Question, float]]:
        """Yield what the rounding of the result and the common roundings do not explain, and by how many times."""
        half = half_an_ulp(self.truth, self.got.dtype)
        explained = self.common + (0.0 if self.got.dtype in NARROW else unit(self.got.dtype).u)
        for axis in self.axes:

            def total(x: Tensor, axis: int | None = axis) -> Tensor:
                return x.sum() if axis is None else x.sum([k for k in range(x.ndim) if k != axis])

            squares, count = total(self.truth * self.truth), total(torch.ones_like(self.truth))
            slope = _ratio(total(self.off * self.truth), squares)
            reach = explained + deviations * _ratio(total((self.truth * half).square()).sqrt(), squares)
            yield from self._chosen(axis, True, slope, reach)
            mean = total(self.off) / count
            reach = explained * total(self.truth.abs()) / count + deviations * total(half.square()).sqrt() / count
            yield from self._chosen(axis, False, mean, reach)

    def _chosen(
        self, axis: int | None, slope: bool, answers: Tensor, reaches: Tensor
    ) -> Iterator[tuple[float, Question, float]]:
        times = torch.where(answers.abs() > reaches, answers.abs() / reaches.clamp_min(5e-324), 0.0).reshape(-1)
        for k in torch.nonzero(times).reshape(-1).tolist():
            yield (
                float(times[k]),
                Question(self.leaf, slope, axis, None if axis is None else k),
                float(answers.reshape(-1)[k]),
            )


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; 0 where b is 0, of a slice whose truth is 0 throughout: there is no slope."""
    return torch.where(b > 0, a / b, 0.0)
