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
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.units import FALSE_ALARMS, NARROW, unit
from backprop_rules.evidence.at_size import AtSize, Question
from backprop_rules.evidence.sensitivity import Enough, Sensitivities, Weighed, sensitivities
from backprop_rules.evidence.shares import Shares, Slice, longest
from backprop_rules.evidence.table import Of, Off, Sum, Table
from backprop_rules.evidence.unseen import BLIND, NOT_FAR, SUMMED, Unseen, unseen_of
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import F32
from backprop_rules.subject.function import Gradients

# Slices whose reach is computed, those that stand out most, and of which the size does: a reverse pass each.
ASKED = 4, 1


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
    both = ((k, h, g) for k, (h, g) in pairs if h is not None and isinstance(g, Tensor))
    tables = [_Table(k, h, g, common, not (held.narrowed and g.dtype in NARROW)) for k, h, g in both]
    questions = sum(table.questions for table in tables)
    if not questions:
        return Systematic(None, 0)
    most = longest(question.grads)
    hidden = [table for table in tables if every or table.hides(most)]
    shares = Shares(question, {table.leaf: table.off_as_likely for table in hidden})
    questions += len(tables) * shares.slices  # what is hidden in one gradient is looked for in all
    elements = sum(table.held.truth.numel() for table in tables if table.is_open)  # any may be the farthest
    deviations = math.sqrt(2 * math.log(2 * (questions + elements) / rate))
    chosen, drawn = _asked_of(tables, deviations, every)
    answers = Systematic(None, questions)
    try:
        reaches = _Reaches(question, declared, held.either, tables, deviations)
        off = next((off for one, answer in chosen if (off := reaches.off(one, answer)).beyond), None)
        answers = replace(answers, found=off) if off else _of_the_drawn(answers, reaches, drawn)
        off = answers.found
        says_less = off is None or off.sum.of in (Of.MEAN, Of.SIZE) or off.sum.axis is not None
        if says_less and (every or any(table.lacks(most, deviations) for table in hidden)):
            slices = shares.standing_out(deviations * (not every))
            off = next((found for one in slices if (found := reaches.left_out(*one, every))), off)
        return replace(answers, found=off)
    except NotImplementedError as error:
        return replace(answers, why=str(error))


def _asked_of(
    tables: Sequence["_Table"], deviations: float, every: bool
) -> tuple[list[tuple[Sum, float]], list["_Drawn"]]:
    """Return the sums that are asked, with the answers, whole gradients first, and the elements that are drawn."""
    found_out = [q for table in tables for q in table.standing_out(deviations, every)]
    chosen: list[tuple[Sum, float]] = []
    for sizes in (False, True):  # of which a slope says more, if it says anything
        those = (q for q in found_out if (q[1].of is Of.SIZE) is sizes)
        # Whole gradients first, then what stands out most.
        standing_out = sorted(those, key=lambda one: (one[1].axis is not None, -one[0]))
        whole = sum(one.axis is None for _, one, _ in standing_out)
        chosen += [(one, answer) for _, one, answer in standing_out[: None if every else whole + ASKED[sizes]]]
    unseen = [(table, table.unseen(deviations)) for table in tables if table.held.blind > BLIND]
    chosen += [pair for table, these in unseen for pair in table.farthest(these)]
    chosen += [pair for table in tables if table.is_open and table.held.blind <= BLIND for pair in table.anywhere()]
    return chosen, [some for table, these in unseen if (some := table.drawn(these)).elements]


class _Reaches:
    """How far right implementations reach, of every form of the reference: by reverse passes."""

    def __init__(
        self, question: Question, declared: Precision, either: bool, tables: Sequence["_Table"], deviations: float
    ) -> None:
        self._recorded = question, declared, either
        self._tables, self._deviations = {table.leaf: table for table in tables}, deviations

    @cached_property
    def _forms(self) -> list[Sensitivities]:
        return list(sensitivities(*self._recorded))

    def reach(self, coefficients: dict[int, Tensor], far: float, chosen: bool = False) -> float:
        """Return how far they take the sum of <coefficients, gradient>: no farther than is seen to be beyond `far`.

        Of coefficients that were `chosen` by what is off, the worst case holds, and no rate.
        """
        deviations = math.inf if chosen else self._deviations
        terms = [Weighed(k, c, self._tables[k].truth, self._tables[k].got) for k, c in coefficients.items()]
        passes = (form.reach(terms, Enough(deviations, far)) for form in self._forms)
        return max(reach.within(deviations) for reach in passes)

    def off(self, one: Sum, answer: float, far: float = 0.0) -> Off:
        """Return an answer beside how far they reach, as far as that and as `far`."""
        table = self._tables[one.leaf]
        coefficients = {one.leaf: one.coefficients(table.truth, table.off)}
        return Off(one, answer, self.reach(coefficients, max(abs(answer), far), one.of is Of.SIZE))

    def left_out(self, one: Slice, given: Gradients, every: bool) -> Off | None:
        """Return that what a slice of an output gives to a gradient is not in it once; None where it may be."""
        for k, gives in enumerate(given):
            table = self._tables.get(k)
            if table is None or gives is None or not bool(gives.any()):
                continue
            c = torch.where(table.known, gives, 0.0)
            c = c / (c * c).sum()
            answer = float((c * table.off).sum())
            if not every and abs(answer) <= table.storing(c, self._deviations):
                continue
            off = Off(Sum(k, Of.SHARE, given_by=one), answer, self.reach({k: c}, abs(answer)))
            if off.beyond:
                return off
        return None


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
class _Table(Table):
    """The same, and what is asked where the worst case says little."""

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
