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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.declared import Precision
from backprop_rules.evidence.allowance.units import NARROW, unit
from backprop_rules.evidence.at_size import AtSize, Held, Question, at_size
from backprop_rules.evidence.sensitivity import Sensitivities, half_an_ulp
from backprop_rules.subject.ambient import F32

# How often a right gradient is called off, in a whole run, by what is random in roundings.
FALSE_ALARMS = 1e-12
# Slices whose reach is computed, those that stand out most: a reverse pass each.
ASKED = 4


@dataclass(frozen=True)
class Sum:
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

    sum: Sum
    answer: float
    reach: float

    @property
    def beyond(self) -> bool:
        """Whether no right implementation is as far off, but at the stated rate."""
        return abs(self.answer) > self.reach


@dataclass(frozen=True, eq=False)
class Systematic:
    """The answers for one call: `slopes` of the whole gradients, the first that is off, and why some were not asked."""

    slopes: dict[int, float]
    found: Off | None
    asked: int
    unasked: int = 0
    why: str = ""


def systematic(
    question: Question, declared: Precision, held: AtSize, got: Sequence[Any], rate: float = FALSE_ALARMS
) -> Systematic:
    """Return what is off systematically: of the whole gradients, and of the slices that stand out most."""
    tables = [
        _Table(leaf, h.truth, g, _roundings(held, h.truth))
        for leaf, (h, g) in enumerate(zip(held.gradients, got, strict=True))
        if h is not None and isinstance(g, Tensor)
    ]
    questions = sum(table.questions for table in tables)
    if not questions:
        return Systematic({}, None, 0)
    deviations = math.sqrt(2 * math.log(2 * questions / rate))
    slopes = {table.leaf: 1 + float(table.whole) for table in tables}
    standing_out = sorted((q for table in tables for q in table.standing_out(deviations)), key=_first)
    whole = sum(one.axis is None for _, one, _ in standing_out)
    chosen = standing_out[: whole + ASKED]
    if not chosen:
        return Systematic(slopes, None, questions)
    try:
        reaches = [Sensitivities(run, declared) for run in question.runs]
        choices = _choices(held, at_size(question, declared, decided=True) if held.either else held)
        for _, one, answer in chosen:
            its, h = got[one.leaf].dtype, held.gradients[one.leaf]
            assert h is not None
            off = Off(one, answer, max(_reach(r, one, h, its, deviations) for r in reaches) + choices(one))
            if off.beyond:
                return Systematic(slopes, off, questions)
    except NotImplementedError as error:
        return Systematic(slopes, None, questions, len(standing_out), str(error))
    return Systematic(slopes, None, questions, len(standing_out) - len(chosen))


def _first(one: tuple[float, Sum, float]) -> tuple[bool, float]:
    """Return what comes first: whole gradients, then what stands out most."""
    times, asked, _ = one
    return asked.axis is not None, -times


def _reach(reaches: Sensitivities, one: Sum, held: Held, dtype: torch.dtype, deviations: float) -> float:
    """Return how far right implementations of one algebraic form reach by rounding."""
    worst, squares = reaches.reach(one.leaf, one.coefficients(held.truth), held.truth, dtype)
    return worst + deviations * math.sqrt(squares)


def _choices(held: AtSize, decided: AtSize) -> Callable[[Sum], float]:
    """Return how far choices reach that may come out either way: what they change is no rounding, and not small."""

    def reach(one: Sum) -> float:
        a, b = held.gradients[one.leaf], decided.gradients[one.leaf]
        if a is None or b is None or a is b:
            return 0.0
        return float((one.coefficients(a.truth).abs() * (a.radius - b.radius).clamp_min(0)).sum())

    return reach


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

    def standing_out(self, deviations: float) -> Iterator[tuple[float, Sum, float]]:
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
    ) -> Iterator[tuple[float, Sum, float]]:
        times = torch.where(answers.abs() > reaches, answers.abs() / reaches.clamp_min(5e-324), 0.0).reshape(-1)
        for k in torch.nonzero(times).reshape(-1).tolist():
            yield (
                float(times[k]),
                Sum(self.leaf, slope, axis, None if axis is None else k),
                float(answers.reshape(-1)[k]),
            )


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; 0 where b is 0, of a slice whose truth is 0 throughout: there is no slope."""
    return torch.where(b > 0, a / b, 0.0)
