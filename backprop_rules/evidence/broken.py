"""Which way of breaking ties explains gradients: found by what was given, and held to as any other truth.

However it is found, what comes of it is a derivative of the reference: a search that fails excuses nothing.
What a number gets is what its rank among its equals gets, and what it gets besides. Two runs, in which every rank moves
on by one, tell how the ranks differ, and what else each number gets. By what is left of the given gradient, in its
order, the ranks are dealt out anew. Beside that, ties go to the first, to the last, to all alike, or to those that were
given most.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.declared import Declared
from backprop_rules.evidence.allowance.precision import Precision, precision_named
from backprop_rules.evidence.at_size import AtSize, Question, at_size, run_at_size
from backprop_rules.evidence.evidence import Evidence, largest
from backprop_rules.evidence.flushed import all_inside
from backprop_rules.evidence.ties import Choice, Ties, in_order, steps
from backprop_rules.evidence.witnesses import fits
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.function import NoPoint

Gradients = Sequence[Tensor | None]
Made = TypeVar("Made")


def with_ties_broken(
    question: Question, declared: Precision, held: AtSize, got: Gradients, outputs: Sequence[Tensor]
) -> tuple[Question, AtSize]:
    """Return the question with ties broken so that gradients and outputs lie inside, and what holds these.

    As they were, where that is not found, and where there are other algebraic forms of the backward: of these nobody
    knows where they choose.
    """
    with suppress(NoPoint, NotImplementedError):
        broken = () if question.also else _broken(question, declared, got)
        ties, _ = min(broken, key=lambda one: _far(one[1], got), default=(None, ()))
        if ties is not None:
            otherwise = replace(question, ties=ties)
            found = at_size(otherwise, declared)
            if all_inside(found, got, outputs):
                return otherwise, replace(found, said=replace(found.said, ties=True))
    return question, held


def breaks_ties(evidence: Evidence, noise: float) -> bool:
    """Say whether a backward breaks ties otherwise than torch at a point: as near to that as a precision sees."""
    return moved_by_ties(evidence, noise) is not None


def moved_by_ties(evidence: Evidence, noise: float) -> Gradients | None:
    """Return what a backward that breaks ties otherwise adds to torch's gradients so; None where it does not.

    It is 0 where ties concern no gradient: there torch's own is as good a measure as anywhere.
    """
    got, near = evidence.user, 2.0**-evidence.pair.half

    def same(a: Tensor, b: Tensor) -> Tensor:
        return (a.to(b) - b).abs().le(near * max(noise, evidence.pair.unit * largest(b)))

    def are(truth: Gradients) -> bool:
        pairs = [(t, g) for t, g in zip(truth, got, strict=True) if t is not None]
        return all(fits(g, t) and bool(same(g, t).all()) for t, g in pairs)

    def asked() -> Gradients | None:
        question = Question(evidence.function, evidence.point.leaves, evidence.point.grads)
        given = [g if isinstance(g, Tensor) else None for g in got]
        with suppress(NoPoint, NotImplementedError, InputError):
            broken = _broken(question, precision_named("eager", F64), given)
            truth = next((truth for _, truth in broken if are(truth)), ())
            pairs = zip(truth, evidence.gradients_here, strict=False)
            added = [None if t is None or h is None else torch.where(same(h, t), 0.0, t - h) for t, h in pairs]
            return added if any(x is not None and bool(x.any()) for x in added) else None
        return None

    return evidence.kept(("moved by ties", noise), asked)


def otherwise(run: Callable[[Ties], Made]) -> Iterator[Made]:
    """Yield what a run makes with ties broken in three ways: no equal number keeps its place in all of them."""
    first = Ties(whole=True)
    run(first)
    tied = [_Tied.among(choice, ()) for choice in first.choices]
    last, onward = ([one.moved(by) for one in tied] for by in (0, 1))
    yield from (run(Ties(keys, whole=True)) for keys in (last, onward, [-key for key in last]))


def _far(truth: Gradients, got: Gradients) -> float:
    """Return how far given gradients are from true ones in all: it says which is tried, and nothing else."""
    pairs = ((t, g) for t, g in zip(truth, got, strict=True) if t is not None and g is not None)
    return sum(float((g.to(t) - t).abs().nan_to_num().sum()) for t, g in pairs)


class _Exact(Declared):
    """The same run, of which only the numbers are wanted."""

    def _radius_of(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        self._operation(func, result, args)  # which takes note of dtypes
        return None


def _broken(question: Question, declared: Precision, got: Gradients) -> Iterator[tuple[Ties, Gradients]]:
    """Yield ways to break ties, and the gradients that they give; none where nothing that is chosen is tied."""
    modes = list[_Exact]()  # which a graph needs, and does not own

    def run(keys: Sequence[Tensor] = (), create_graph: bool = False) -> tuple[Ties, Gradients]:
        ties = Ties(keys)
        modes.append(_Exact(declared))
        return ties, run_at_size(replace(question, ties=ties), modes[-1], create_graph)[1]

    first, _ = run(create_graph=True)
    tied = [_Tied.among(choice, first.leaves) for choice in first.choices]
    if not any(bool((one.end - one.start > 1).any()) for one in tied):
        return
    last, onward = ([one.moved(by) for one in tied] for by in (0, 1))
    (ties, before), (_, after) = run(last), run(onward)
    yield ties, before
    dealt = [one.dealt(before, after, got) for one in tied]
    backwards = [-key for key in last]
    for others in (last, backwards):
        keys = zip(tied, dealt, others, strict=True)
        yield run([other if one.choice.groups is None else key for one, key, other in keys])
    yield run(backwards)
    yield run([torch.zeros_like(key) for key in last])
    yield run([one.of(got).abs().reshape(key.shape) for one, key in zip(tied, last, strict=True)])


@dataclass(frozen=True, eq=False)
class _Tied:
    """Numbers among which was chosen, by the blocks of those that are equal and compete, and where they are of leaves.

    `order` has them block by block; there the block of each goes from `start` to before `end`. `places` are, by leaf,
    the element that a number is of, -1 of none, and the factor by which it is.
    """

    choice: Choice
    order: Tensor
    start: Tensor
    end: Tensor
    places: Sequence[tuple[Tensor, Tensor] | None]

    @classmethod
    def among(cls, choice: Choice, leaves: Sequence[Any]) -> "_Tied":
        """Return the blocks of a choice, in a run that began at these leaves."""
        x = choice.numbers.detach()
        groups = torch.zeros_like(x) if choice.groups is None else choice.groups
        order = in_order(groups, x)
        block = steps(order, groups, x)
        start, end = torch.searchsorted(block, block), torch.searchsorted(block, block, right=True)
        return cls(choice, order, start, end, _places(choice.numbers, leaves))

    @property
    def rank(self) -> Tensor:
        """The rank of each number among its equals, in their order: those that come first are the smaller ones."""
        return torch.arange(len(self.order), device=self.order.device) - self.start

    def moved(self, by: int) -> Tensor:
        """Return the rank of each number among its equals, moved on by so many."""
        return self._put((self.rank + by) % (self.end - self.start))

    def dealt(self, before: Gradients, after: Gradients, got: Gradients) -> Tensor:
        """Return ranks of the numbers among their equals, by gradients before and after each moved on by one."""
        now, then, given = (self.of(gradients).nan_to_num()[self.order] for gradients in (before, after, got))
        sums = (then - now).cumsum(0) - (then - now)
        share = sums - sums[self.start]
        by_share, by_left = in_order(self.start, share), in_order(self.start, given - (now - share))
        found = torch.empty_like(self.order)
        found[by_left] = self.rank[by_share]
        return self._put(found)

    def of(self, gradients: Gradients) -> Tensor:
        """Return the gradients of the numbers, as the leaves that they are of have them; 0 of others."""
        found = torch.zeros(len(self.order), dtype=F64, device=self.order.device)
        for gradient, placed in zip(gradients, self.places, strict=True):
            if gradient is not None and placed is not None:
                place, factor = placed
                found = torch.where(place < 0, found, gradient.reshape(-1).to(found)[place] / factor)
        return found

    def _put(self, ordered: Tensor) -> Tensor:
        return torch.empty_like(ordered).scatter_(0, self.order, ordered).reshape(self.choice.numbers.shape)


def _places(x: Tensor, leaves: Sequence[Any]) -> list[tuple[Tensor, Tensor] | None]:
    """Return, by leaf, which element of it each number is, -1 of none, and by which factor: by two reverse passes.

    An element that goes to one number alone sends back the number's index as often as it is its factor.
    """
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(leaves)
    floats = [k for k, leaf in enumerate(leaves) if inexact(leaf)]
    if not x.requires_grad:
        return found
    index = torch.arange(x.numel(), dtype=F64, device=x.device).reshape(x.shape)
    live, along = [leaves[k] for k in floats], (torch.ones_like(index), index)
    try:
        sent = [torch.autograd.grad(x, live, v, retain_graph=True, allow_unused=True) for v in along]
    except RuntimeError:  # of somebody's own Function
        return found
    for k, factors, times in zip(floats, *sent, strict=True):
        if factors is not None and times is not None:
            which = (times / factors).reshape(-1).round()
            elements = torch.nonzero((which >= 0) & (which < x.numel())).reshape(-1)
            at, place = which[elements].long(), torch.full_like(index, -1).reshape(-1).long()
            factor = torch.ones_like(place, dtype=F64)
            place[at], factor[at] = elements, factors.reshape(-1)[elements]
            found[k] = place, factor
    return found
