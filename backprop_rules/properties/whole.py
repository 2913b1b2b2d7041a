"""What is asked of a whole function with a backward of its own, beside its gradients: its value, and autograd."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import first_line
from backprop_rules.evidence.evidence import Evidence, Pair
from backprop_rules.evidence.native import Native
from backprop_rules.properties import effort
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.properties.form import but_for_last_bits, first_other, same_numbers
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.own_backward import (
    applied,
    by_engine,
    is_autograd_function,
    outputs_of,
    tensors_of,
)
from backprop_rules.properties.value import Value
from backprop_rules.rule import Gradients
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import inexact, running
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoAnswer, cloned, live_ones
from backprop_rules.subject.places import raised_at
from backprop_rules.subject.subject import Subject

Function = Callable[..., Any]


@dataclass(frozen=True)
class Whole:
    """What is asked of a function beside its backward: of its outputs, and of what autograd makes of it.

    `note` says how it is applied, where that is not as it was given. If it is not `deterministic`, its sums come in any
    order, and half of the digits are the same.
    """

    function: Any
    note: str = ""
    deterministic: bool = True

    def wrong(self, subject: Subject, point: Point, pair: Pair) -> Iterator[Finding]:
        """Yield the first that is wrong with its output, its gradients through autograd, and what it saves."""
        for found in chain.from_iterable(self._each(subject, point, pair)):
            yield found
            if found.kind is not Kind.ONCE:
                return

    def _each(self, subject: Subject, point: Point, pair: Pair) -> Iterator[Iterable[Finding]]:
        """Yield what each question finds: of its outputs and of one call in its own dtypes, then between calls."""
        found, of_a_function = self.value(subject, point), is_autograd_function(self.function)
        yield () if found is None else (found,)
        here = Native(subject, point, pair, point.dtypes or own_dtypes(subject, point))
        answers = self._answers(here)
        if answers:
            yield self._says_what_it_writes_to(here) if of_a_function else ()
            yield self._gives_the_same_through_autograd(here)
            yield self._leaves_what_it_saved_alone(here) if of_a_function else ()
        if of_a_function:  # elsewhere autograd's engine makes casts that a direct call does not
            there = here if answers else Evidence(subject, point, pair)
            yield self._keeps_forwards_apart(there)
            yield self._does_without(there)
            yield self._does_without_a_cotangent(there)

    def _answers(self, evidence: Evidence) -> bool:
        """Say whether forward, and the function, take what is given there."""
        try:
            return evidence.user is not None
        except NoAnswer:  # which others ask
            return False

    def value(self, subject: Subject, point: Point) -> Finding | None:
        """Return the finding that an output is that of another function; None where one of both raises."""
        try:
            return next(Value(self.function, subject, point).wrong(), None)
        except NoAnswer:  # which others ask
            return None

    def computes_another(self, subject: Subject, point: Point) -> Iterator[Finding]:
        """Yield that an output is that of another function, by more than half of the digits, at any point.

        That is asked first: it takes a forward of both, and how far these round takes longer to tell.
        """
        try:
            value = Value(self.function, subject, point)
            yield from value.wrong() if value.is_another else value.chooses_otherwise()
        except NoAnswer:  # as above
            return

    def _says_what_it_writes_to(self, evidence: Evidence) -> Iterator[Finding]:
        """Its forward leaves its arguments alone, or says by mark_dirty which it writes to: autograd asks that."""
        with running(evidence.ambient) as inside, inside, torch.enable_grad():
            leaves = [x.clone() if inexact(x) else x for x in live_ones(evidence.given[0])]
            before = [(x.grad_fn, x.detach().clone()) if inexact(x) else None for x in leaves]
            applied(self.function, evidence.function.arguments(leaves), evidence.function.params)
        for name, x, was in zip(evidence.subject.names, leaves, before, strict=True):
            if was is not None and x.grad_fn is was[0] and not same_numbers(x.detach(), was[1]):
                yield Finding(Kind.DIRTY, evidence.point, detail=f" {name}")

    def _gives_the_same_through_autograd(self, evidence: Evidence) -> Iterator[Finding]:
        """The gradients through autograd are the same bits as those of its own backward."""
        yield from self._as_direct(evidence, Kind.ENGINE, evidence.user)

    def _leaves_what_it_saved_alone(self, evidence: Evidence) -> Iterator[Finding]:
        """A second backward of one forward gives the same, and none writes into an output."""
        first: Sequence[Any] = ()
        second, raised = first, ""
        with self._forward(evidence) as (ys, back):
            before = cloned(ys)
            try:
                first = cloned(back(keep=True) if ys else ())  # which the second may write into
                second = back(keep=True) if ys else ()
            except (Exception, SystemExit) as error:  # of somebody's code: what it saved is freed, or was written into
                raised = f"{type(error).__name__}: {first_line(error)}"
        for one, other, of_a_leaf in ((before, cloned(ys), False), (first, second, True)):
            k = first_other(one, other)
            if k is not None and not self._are_alike(one[k], other[k]):
                leaf = k if of_a_leaf else None
                yield unequal(Kind.SAVED, evidence.point, leaf, one[k], other[k], one[k] != other[k])
        if raised:
            yield Finding(Kind.ONCE, evidence.point, detail=raised)

    def _keeps_forwards_apart(self, evidence: Evidence) -> Iterator[Finding]:
        """Another forward, between a forward and its backward, changes nothing."""
        yield from self._as_direct(evidence, Kind.FORWARDS, evidence.user, between=True)

    def _does_without(self, evidence: Evidence) -> Iterator[Finding]:
        """Each gradient is the same whichever of the other primals require one."""
        floats = evidence.subject.floats
        several = [set(some) for n in range(1, len(floats)) for some in combinations(floats, n)]
        for frozen in several[: effort.ALONE]:
            direct = [None if k in frozen else g for k, g in enumerate(evidence.user)]
            yield from self._as_direct(evidence, Kind.ALONE, direct, frozen)

    def _as_direct(
        self, evidence: Evidence, kind: Kind, direct: Sequence[Any], frozen: Collection[int] = (), between: bool = False
    ) -> Iterator[Finding]:
        """Through autograd the gradients are those of a direct call, and it raises where that raises."""
        try:
            through = self._through_autograd(evidence, frozen, between)
        except (Exception, SystemExit) as error:  # of somebody's code
            if self._as_it_is(evidence) is not None:
                names = ", ".join(evidence.subject.names[k] for k in sorted(frozen))
                yield Finding(kind, evidence.point, detail=f"{names and ', as ' + names}: it raises {_told(error)}")
            return
        yield from self._same(evidence, kind, through, direct)

    def _does_without_a_cotangent(self, evidence: Evidence) -> Iterator[Finding]:
        """Where one of several outputs is used alone, the gradients are those with zeros for the others."""
        point, (leaves, given) = evidence.point, evidence.given
        for k in range(len(given)) if len(given) > 1 else ():
            grads = tuple(g if j == k or g is None else torch.zeros_like(g) for j, g in enumerate(given))
            try:
                alone = self._through_autograd(evidence, output=k)
            except (Exception, SystemExit) as error:  # of somebody's code
                there = tuple(g if j == k else None for j, g in enumerate(point.grads))
                yield Finding(Kind.UNDEFINED, replace(point, grads=there), detail=f": it raises {_told(error)}")
                return
            if alone is not None:
                yield from self._same(evidence, Kind.UNDEFINED, alone, evidence.asked(leaves, grads))

    @contextmanager
    def _forward(
        self, evidence: Evidence, frozen: Collection[int] = (), between: bool = False, output: int | None = None
    ) -> Iterator[tuple[list[Tensor], Callable[..., Gradients]]]:
        """Until the end of the block, yield the outputs that autograd is asked for, and what asks it."""
        params, (given, grads) = evidence.function.params, evidence.given
        primals, like = tuple(evidence.function.arguments(given)), evidence.subject.backward.returned.of(grads)
        with running(evidence.ambient) as inside, inside:
            outputs, leaves = outputs_of(self.function, primals, params, frozen, like)
            ys = tensors_of(outputs)
            if between:
                outputs_of(self.function, tuple(x / 2 if inexact(x) else x for x in primals), params)
            used = [k for k, y in enumerate(ys) if y.requires_grad and grads[k] is not None and output in (None, k)]
            asked = [ys[k] for k in used]
            yield asked, partial(by_engine, asked, leaves, [grads[k] for k in used])

    def _through_autograd(
        self, evidence: Evidence, frozen: Collection[int] = (), between: bool = False, output: int | None = None
    ) -> Gradients | None:
        """Return the gradients through autograd, None where there are none."""
        with self._forward(evidence, frozen, between, output) as (ys, back):
            return back() if ys else None

    def _as_it_is(self, evidence: Evidence) -> Sequence[Any] | None:
        """Return its gradients called directly, with casts to narrower dtypes that are casts; None where it raises."""
        (leaves, grads), y = evidence.given, evidence.y
        given = tuple(x.detach() if isinstance(x, Tensor) else x for x in leaves)
        try:
            return evidence.subject.backward(evidence.function, grads, y, given, None)
        except (Raised, Misfit):
            return None

    def _are_alike(self, a: Tensor, b: Tensor) -> bool:
        return same_numbers(a, b) or (not self.deterministic and but_for_last_bits(a, b))

    def _same(
        self, evidence: Evidence, kind: Kind, through: Gradients | None, direct: Sequence[Any]
    ) -> Iterator[Finding]:
        for i, (right, got) in enumerate(zip(direct, through or (), strict=False)):
            if not isinstance(right, Tensor):
                continue
            if not self._are_alike(right, torch.zeros_like(right) if got is None else got):
                here = (self._as_it_is(evidence) or direct)[i]  # autograd's engine runs it with the casts that it makes
                if kind is not Kind.UNDEFINED and got is not None and same_numbers(here.to(got.dtype), got):
                    continue
                expected, found_ = (None if t is None else t.tolist() for t in (right, got))
                yield Finding(kind, evidence.point, i, expected=expected, got=found_)
                return


def _told(error: BaseException) -> str:
    """Return what is said of an error of somebody's code."""
    return ": ".join(filter(None, (type(error).__name__, first_line(error)))) + raised_at(error)
