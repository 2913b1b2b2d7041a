"""Whether a gradient is off systematically, by less than the worst case but in one direction.

    slope - 1 = <truth, got - truth> / <truth, truth>,    mean = sum(got - truth) / n,

of each gradient, and of each slice along each axis. Both are sums c_e (got_e - truth_e), and first order in every
number z that an implementation rounds on the way: c_e d got_e / d z, which one more reverse pass gives. What rounds to
float32 is taken at its worst, and so are choices that may come out either way. What rounds to a narrower dtype is off
by half an ulp at most, in no direction, and independently of the others but for equal values, which round alike: their
sensitivities s are added before they are squared. Values that lie close together may all round one way, too: by as much
as rounding those of the truth does, |sum(s (rounded z - z))|, which is added. By Hoeffding's inequality (Probability
inequalities for sums of bounded random variables, 1963) all of these together exceed

    sqrt(2 log(2 / alpha) sum((s half an ulp)^2))

with a probability of at most alpha.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.blocks import blocks
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.units import NARROW, half_an_ulp, stored_by, unit
from backprop_rules.evidence.at_size import AtSize, Held, Question
from backprop_rules.evidence.sensitivity import Enough, Weighed, sensitivities
from backprop_rules.evidence.unseen import BLIND, NOT_FAR, SUMMED, Unseen, unseen_of
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import F32

# How often a right gradient is called off, in a whole run, by what is random in roundings.
FALSE_ALARMS = 1e-12
TERMS = 10  # of `_Table`
# Slices whose reach is computed, those that stand out most: a reverse pass each.
ASKED = 4


class Of(Enum):
    """What is asked of a gradient, or of what lies at one index along an axis."""

    SLOPE = auto()
    MEAN = auto()
    ELEMENT = auto()


@dataclass(frozen=True)
class Sum:
    """A sum over one gradient, the whole of it, or what lies at one index along an axis; or one element."""

    leaf: int
    of: Of
    axis: int | None = None
    index: int | None = None
    element: tuple[int, ...] = ()

    def part(self, x: Tensor) -> Tensor:
        """Return the part of a tensor of the gradient's shape that is meant."""
        return x if self.axis is None or self.index is None else x.select(self.axis, self.index)

    def coefficients(self, truth: Tensor) -> Tensor:
        """Return the c for which the answer is <c, got - truth>."""
        c, t = torch.zeros_like(truth), self.part(truth)
        if self.of is Of.ELEMENT:
            c[self.element] = 1.0
        else:
            self.part(c).copy_(t / (t * t).sum() if self.of is Of.SLOPE else torch.full_like(t, 1 / t.numel()))
        return c


@dataclass(frozen=True)
class Off:
    """An answer, and how far right implementations reach."""

    sum: Sum
    answer: float
    reach: float

    @property
    def beyond(self) -> bool:
        """Whether no right implementation is as far off, but at the stated rate."""
        return abs(self.answer) > self.reach


@dataclass(frozen=True, eq=False)
class Systematic:
    """The answers for one call: the first that is off, of so many that were asked, and `why` some could not be.

    `blind` is, of gradients whose worst case holds 0 at most of their elements, the share of the elements asked for
    themselves at which a right implementation may reach 0.
    """

    found: Off | None
    asked: int
    why: str = ""
    blind: dict[int, float] = field(default_factory=dict)


def systematic(
    question: Question,
    declared: Precision,
    held: AtSize,
    got: Sequence[Any],
    rate: float = FALSE_ALARMS,
    every: bool = False,
) -> Systematic:
    """Return what is off systematically: of the whole gradients, and of the slices that stand out most, or `every`."""
    pairs = enumerate(zip(held.gradients, got, strict=True))
    # About how far all roundings in float32 take a number. It decides what is asked, and no verdict.
    common = math.sqrt(held.roundings) * unit(F32).u
    tables = [_Table(k, h, g, common) for k, (h, g) in pairs if h is not None and isinstance(g, Tensor)]
    questions = sum(table.questions for table in tables)
    if not questions:
        return Systematic(None, 0)
    elements = sum(table.held.truth.numel() for table in tables if table.is_open)  # any may be the farthest
    deviations = math.sqrt(2 * math.log(2 * (questions + elements) / rate))
    found_out = (q for table in tables for q in table.standing_out(deviations, every))
    # Whole gradients first, then what stands out most.
    standing_out = sorted(found_out, key=lambda one: (one[1].axis is not None, -one[0]))
    whole = sum(one.axis is None for _, one, _ in standing_out)
    asked = standing_out[: None if every else whole + ASKED]
    chosen = [(one, answer) for _, one, answer in asked]
    unseen = [(table, table.unseen(deviations)) for table in tables if table.held.blind > BLIND]
    chosen += [pair for table, these in unseen for pair in table.farthest(these)]
    chosen += [pair for table in tables if table.is_open and table.held.blind <= BLIND for pair in table.anywhere()]
    drawn = [some for table, these in unseen if (some := table.drawn(these)).elements]
    answers = Systematic(None, questions)
    if not chosen and not drawn:
        return answers
    try:
        reaches = _Reaches(question, declared, held.either, tables, deviations)
        off = next((off for one, answer in chosen if (off := reaches.off(one, answer)).beyond), None)
        return replace(answers, found=off) if off else _of_the_drawn(answers, reaches, drawn)
    except NotImplementedError as error:
        return replace(answers, why=str(error))


class _Reaches:
    """How far right implementations reach, of every form of the reference: by reverse passes."""

    def __init__(
        self, question: Question, declared: Precision, either: bool, tables: Sequence["_Table"], deviations: float
    ) -> None:
        self._forms = list(sensitivities(question, declared, either))
        self._tables, self._deviations = {table.leaf: table for table in tables}, deviations

    def reach(self, coefficients: dict[int, Tensor], far: float) -> float:
        """Return how far they take the sum of <coefficients, gradient>: no farther than is seen to be beyond `far`."""
        terms = [Weighed(k, c, self._tables[k].truth, self._tables[k].got) for k, c in coefficients.items()]
        passes = (form.reach(terms, Enough(self._deviations, far)) for form in self._forms)
        return max(reach.within(self._deviations) for reach in passes)

    def off(self, one: Sum, answer: float, far: float = 0.0) -> Off:
        """Return an answer beside how far they reach, as far as that and as `far`."""
        coefficients = {one.leaf: one.coefficients(self._tables[one.leaf].truth)}
        return Off(one, answer, self.reach(coefficients, max(abs(answer), far)))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Elements of a gradient that the worst case does not tell from 0, and random weights of some in a few sums."""

    table: "_Table"
    unseen: Unseen
    elements: Sequence[tuple[int, ...]]
    summed: Sequence[tuple[int, ...]]
    weights: Tensor

    def random(self, which: int) -> Tensor:
        """Return the coefficients of a random sum, each in units of its element's truth."""
        found = torch.zeros_like(self.table.truth)
        for element, weight in zip(self.summed, self.weights[which], strict=True):
            found[element] = weight / self.table.truth[element].abs()
        return found

    def share_at_zero(self, reaches: _Reaches) -> float | Off:
        """Return the share of the gradient that right implementations take to 0, one by one; or one that is off."""
        drawn, reached = len(self.elements), list[bool]()
        for n, element in enumerate(self.elements):
            if self.unseen.decided(reached, drawn - n):
                break
            to_zero = abs(float(self.table.truth[element]))
            off = reaches.off(*self.table.at(element), to_zero)
            if off.beyond:
                return off
            reached.append(off.reach >= to_zero)
        return self.unseen.share(sum(reached), len(reached))


def _none_at_zero(drawn: Sequence[_Drawn], reaches: _Reaches) -> bool:
    """Say whether right implementations take none of the elements to 0: by few random sums, that they do not take far.

    One that is farther off than these reach is looked for one by one.
    """
    farthest = 0.0
    for which, at_most in enumerate(NOT_FAR):
        sums = {some.table.leaf: some.random(which) for some in drawn}
        answer = abs(math.fsum(float((sums[some.table.leaf] * some.table.off).sum()) for some in drawn))
        reach = reaches.reach(sums, NOT_FAR[-1]) if answer <= NOT_FAR[-1] else math.inf
        farthest = max(farthest, reach)
        if not answer <= reach <= NOT_FAR[-1]:
            return False
        if farthest <= at_most:
            return True
    return False


def _of_the_drawn(answers: Systematic, reaches: _Reaches, drawn: Sequence[_Drawn]) -> Systematic:
    """Return how blind the gradients are by the elements drawn of them, all at once or one by one; or what is off."""
    blind: dict[int, float] = {}
    at_once = [some for some in drawn if some.summed]
    seen = at_once if at_once and _none_at_zero(at_once, reaches) else []
    for some in drawn:
        found = some.unseen.share(0, 1) if some in seen else some.share_at_zero(reaches)
        if isinstance(found, Off):
            return replace(answers, found=found)
        blind[some.table.leaf] = found
    return replace(answers, blind=blind)


@dataclass(frozen=True, eq=False)
class _Table:
    """The slopes and means of one gradient and of its slices, and what the rounding of the result alone explains."""

    leaf: int
    held: Held
    got: Tensor
    common: float

    @cached_property
    def known(self) -> Tensor:
        """A mask of the elements that are finite, of the truth and of the gradient, however far roundings may reach."""
        return self.held.truth.isfinite() & self.got.isfinite()

    @cached_property
    def truth(self) -> Tensor:
        """The truth, 0 where it is not known."""
        if math.isfinite(float(self.held.truth.sum()) + float(self.got.sum())):
            return self.held.truth
        return torch.where(self.known, self.held.truth, 0.0)

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
        off = self.got.to(self.truth) - self.truth
        return off if self.truth is self.held.truth else torch.where(self.known, off, 0.0)

    @cached_property
    def sums(self) -> dict[int | None, Tensor]:
        """The sums that all answers are made of, by axis: a row for each of `_terms`, block by block."""
        t = self.truth
        found = {axis: t.new_zeros(TERMS, 1 if axis is None else t.shape[axis]) for axis in self.axes}
        for block in blocks(t.shape, t.ndim):
            terms = self._terms(block)
            for axis in reversed(range(t.ndim)):  # the last first: what is left of the others is their sum over it
                if axis in found:
                    within = block[axis] if axis < len(block) else slice(None)
                    found[axis][:, within] += terms.sum(list(range(1, axis + 1))) if axis else terms
                terms = terms.sum(-1)
            found[None] += terms.reshape(TERMS, 1)
        return found

    def _terms(self, block: tuple[slice, ...]) -> Tensor:
        """Return t^2, t (got - t), got - t, |t|, |t| radius; of narrow ones (t h)^2, h^2, t (s - t), s - t, +-h.

        Here h is half an ulp, with the sign of t in the last, and s is t as it is stored.
        """
        t, off, radius = self.truth[block], self.off[block], self.held.radius[block].nan_to_num(0.0)  # inf: the largest
        terms, size = t.new_zeros(TERMS, *t.shape), t.abs()
        torch.mul(t, t, out=terms[0])
        torch.mul(t, off, out=terms[1])
        terms[2] = off
        terms[3] = size
        torch.mul(size, radius, out=terms[4])
        if self.got.dtype in NARROW:
            half = half_an_ulp(t, self.got.dtype)
            torch.mul(size, half, out=terms[5]).square_()
            torch.mul(half, half, out=terms[6])
            terms[8] = stored_by(t, self.got.dtype)
            torch.mul(t, terms[8], out=terms[7])
            torch.mul(half, t.sign(), out=terms[9])
        return terms

    def standing_out(self, deviations: float, every: bool = False) -> Iterator[tuple[float, Sum, float]]:
        """Yield what the rounding of the result and the common roundings do not explain, and by how many times."""
        explained = self.common + (0.0 if self.got.dtype in NARROW else unit(self.got.dtype).u)
        sums = torch.cat(list(self.sums.values()), 1)
        squares, along, off, sizes, worst, by_own, by_halves, along_stored, stored, pushed = sums
        count = torch.cat([s.new_full(s.shape[1:], self.truth.numel() / s.shape[1]) for s in self.sums.values()])
        # A slice in which the worst case holds 0 is not asked for its slope: the whole and single elements are.
        says = worst < squares
        says[0] = True  # the whole is the first of the axes
        slope, mean = _ratio(along, squares) * says, off / count
        reach_of_slope = explained + _ratio(along_stored.abs() + deviations * by_own.sqrt(), squares)
        # Pushes of both signs may cancel where digits are equal; what does not is shared by at most so many numbers.
        at_least = stored.abs() + deviations * pushed.abs() / count.sqrt()
        by_storing = torch.maximum(at_least, deviations * by_halves.sqrt())
        reach_of_mean = explained * sizes[0] / count[0] + by_storing / count
        yield from self._chosen(Of.SLOPE, slope, reach_of_slope * (not every))
        yield from self._chosen(Of.MEAN, mean, reach_of_mean * (not every))

    def unseen(self, deviations: float) -> Unseen:
        """Return the elements whose worst case holds 0."""
        return unseen_of(self.held, self.truth, self.off, self.got.dtype, deviations)

    @cached_property
    def is_open(self) -> bool:
        """Whether the worst case leaves something open: most of the elements, or any of which it says nothing."""
        return self.held.blind > BLIND or self.held.open > 0

    def anywhere(self) -> Iterator[tuple[Sum, float]]:
        """Yield the element farthest off, of those of which the worst case says nothing."""
        off = torch.where(self.held.radius.isfinite() | ~self.known, 0.0, self.off.abs())
        if bool(off.any()):
            yield self.at(self._place(int(off.argmax())))

    def farthest(self, unseen: Unseen) -> Iterator[tuple[Sum, float]]:
        """Yield the element farthest off, of those that storing does not explain, and the one in units of its truth.

        The second where none of those drawn may be asked for itself.
        """
        size, found = self.off.abs(), list[int]()
        alone = self.got.dtype in NARROW  # or some of those drawn are
        for among, off in ((unseen.wide, size), (unseen.open, size / self.truth.abs()))[: 2 - alone]:
            if bool(among.any()):
                found.append(int(torch.where(among, off, -1.0).argmax()))
        yield from (self.at(self._place(k)) for k in dict.fromkeys(found))

    def drawn(self, unseen: Unseen) -> _Drawn:
        """Return some elements, where it is open whether they are told from 0, and weights of those in random sums.

        What narrow dtypes round may take a few of those drawn to 0, and farthest in proportion the smallest: these are
        left out.
        """
        random = numbers_from(self.leaf)
        elements = [*map(self._place, unseen.drawn(random))]
        summed = elements[:SUMMED]
        if self.got.dtype in NARROW:
            by_size = sorted(elements, key=lambda element: -abs(float(self.truth[element])))
            summed = by_size[: unseen.have_to_be_seen(len(elements))]
        weights = 2 * torch.rand(len(NOT_FAR), len(summed), generator=random, dtype=self.truth.dtype) - 1
        return _Drawn(self, unseen, elements, summed, weights)

    def at(self, element: tuple[int, ...]) -> tuple[Sum, float]:
        """Return what is asked of an element, and the answer."""
        return Sum(self.leaf, Of.ELEMENT, element=element), float(self.off[element])

    def _place(self, k: int) -> tuple[int, ...]:
        return tuple(int(i) for i in torch.unravel_index(torch.tensor(k), self.truth.shape))

    def _chosen(self, of: Of, answers: Tensor, reaches: Tensor) -> Iterator[tuple[float, Sum, float]]:
        beyond = torch.nonzero(answers.abs() > reaches).reshape(-1).tolist()
        if not beyond:
            return
        places = [(axis, None if axis is None else k) for axis, s in self.sums.items() for k in range(s.shape[1])]
        for k in beyond:
            answer, reach = float(answers[k]), float(reaches[k])
            yield abs(answer) / max(reach, 5e-324), Sum(self.leaf, of, *places[k]), answer


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; 0 where b is 0, of a slice whose truth is 0 throughout: there is no slope."""
    return torch.where(b > 0, a / b, 0.0)
