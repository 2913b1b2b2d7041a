"""Whether a function's own forward computes the function: its outputs are forward's, but for rounding."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.errors import InputError, OwnError, first_line
from backprop_rules.evidence.allowance.units import FALSE_ALARMS, wide
from backprop_rules.evidence.evidence import NARROW, WIDE, Pair, largest
from backprop_rules.properties.finding import Finding, Kind, unequal
from backprop_rules.properties.form import differs
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.own_backward import outputs_of, tensors_of
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import is_near
from backprop_rules.strategies.values import in_dtypes, move_of, numbers_from, recast
from backprop_rules.subject.ambient import F32, F64, SEED, at, inexact, running
from backprop_rules.subject.backward import Refused
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

Outputs = list[Tensor]


@dataclass(frozen=True, eq=False)
class Value:
    """The outputs of a function at a point, in the dtypes of the example, and those that it is to have.

    What is asked raises NoAnswer where the function, or forward, does not take these leaves.
    """

    function: Any
    subject: Subject
    point: Point

    @property
    def is_another(self) -> bool:
        """Whether an output is off by more than half of the digits: no more than one forward of each is needed."""
        return not all(is_near(y, t) for y, t in self._here if inexact(t))

    def wrong(self) -> Iterator[Finding]:
        """Yield that an output is not the function's, by more than rounding."""
        yield from self.chooses_otherwise()
        ys, right = self._both(self._leaves)
        if _forms(ys) != _forms(right):  # of what forward makes of nothing the dtype is that where it runs by itself
            ys, right = self._both(self._leaves, as_written=True)
        for got, expected in zip(_forms(ys), _forms(right), strict=True):
            if got != expected:
                yield Finding(Kind.FUNCTION, self.point, expected=expected, got=got)
                return
        if all(map(torch.equal, ys, right)):
            return
        radii = known = self._radii()
        if radii is None:
            ys, right, radii = self._in_two_precisions()
        beyond = [(wide(y) - wide(t)).abs() - r.to(y.device) for y, t, r in zip(ys, right, radii, strict=True)]
        if self._is_rounding(beyond) or self._is_as_written(known):
            return
        k = next(k for k, off in enumerate(beyond) if bool((off > 0).any()))
        places = [n for n, (_, t) in enumerate(self._here) if inexact(t)]
        which = f" in output {places[k]}" * (len(places) > 1)
        yield unequal(Kind.FUNCTION, self.point, None, right[k], ys[k], beyond[k] > 0, detail=which)

    def chooses_otherwise(self) -> Iterator[Finding]:
        """Yield that whole numbers, or a mask, are others than forward's that stay what they are nearby.

        That is as far as half of the digits go in which a right function may compute what it chooses by: of float32;
        and however ties are broken that no move undoes, as among what is masked.
        """
        from backprop_rules.evidence.broken import otherwise  # long to import, and seldom asked

        if all(inexact(t) or _are_same(y, t) for y, t in self._here):
            return
        here = self._every(self._leaves, as_written=True)  # in float64 a cast keeps all digits, and bits
        off = [k for k, (y, t) in enumerate(here) if not (inexact(t) or _are_same(y, t))]
        leaves, digits = self.point.leaves, precision(F32)
        if not off or differs(self.subject.function.at(self.point.params), self.point, seed=1):
            return
        try:
            every = self._every(leaves)
        except Refused:  # it may take its own dtypes alone
            every, digits = self._here, min(precision(x.dtype) for x in self._leaves if inexact(x))
        near, numbers = list[Outputs](), numbers_from(SEED)
        # What is tied within its rounding is so at a neighbour too with odds of about 2 to minus half of the digits.
        chosen = sum(every[k][1].numel() for k in off)
        for _ in range(math.ceil(math.log2(chosen / FALSE_ALARMS) / (digits / 2)) if chosen else 1):
            moves = [move_of(x, largest(x) or 1.0, numbers) * 2.0 ** (-digits / 2) if inexact(x) else 0 for x in leaves]
            with suppress(NoPoint):  # where forward takes both alone: of what is tied, each may win
                near += [self._chosen([x + side * m for x, m in zip(leaves, moves, strict=True)]) for side in (1, -1)]
        near += otherwise(lambda ties: self._chosen(leaves, ties)) if near else ()
        for k in off if near else ():
            (y, t), (own, right) = every[k], here[k]
            if any(len(ys) != len(every) or ys[k].shape != t.shape for ys in near):
                continue
            if own.shape != right.shape:
                forms = tuple(right.shape), tuple(own.shape)
                yield Finding(Kind.FUNCTION, self.point, expected=forms[0], got=forms[1], detail=f" in output {k}")
            elif y.shape == t.shape == own.shape:
                wrong = torch.stack([ys[k] == t for ys in near]).all(0) & (y != t) & (own != right)
                if bool(wrong.any()):
                    yield unequal(Kind.FUNCTION, self.point, None, t, y, wrong, detail=f" in output {k}")

    def _chosen(self, leaves: Sequence[Any], ties: AbstractContextManager[Any] | None = None) -> Outputs:
        with ties or nullcontext():
            return list(map(_comparable, self.subject.function.at(self.point.params).y(leaves, F64)))

    @cached_property
    def _here(self) -> list[tuple[Tensor, Tensor]]:
        return self._every(self._leaves)

    @cached_property
    def _dtypes(self) -> Sequence[torch.dtype | None]:
        return self.point.dtypes or own_dtypes(self.subject, self.point)

    @cached_property
    def _leaves(self) -> Sequence[Any]:
        return in_dtypes(self.point.leaves, self._dtypes)

    def _both(self, leaves: Sequence[Any], as_written: bool = False) -> tuple[Outputs, Outputs]:
        """Return what the function gives of numbers that have a gradient, and what it is to give."""
        both = [(y, t) for y, t in self._every(leaves, as_written) if inexact(t)]
        return [y for y, _ in both], [t for _, t in both]

    def _every(self, leaves: Sequence[Any], as_written: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Return each output of the function, and what it is to be, where random numbers are the same ones.

        Constants of forward are of the leaves' precision, if it is not taken `as_written`.
        """
        forward = self.subject.function.at(self.point.params)
        precise = all(x.dtype == at(F64, x) for x in leaves if inexact(x)) and not as_written
        right = forward.y(leaves, F64 if precise else None)
        like = self.subject.backward.returned.of(right)
        try:
            ys = outputs_of(self.function, forward.arguments(leaves), forward.params, like=like)[0]
        except (InputError, OwnError):
            raise
        except (Exception, SystemExit) as error:  # of somebody's code
            raise Refused(type(error).__name__, first_line(error)) from error
        own = ys if len(ys) == len(right) else tensors_of(ys)  # what it returns None for is not asked
        pairs = ((t if y is None else y, t) for y, t in zip(own, right, strict=True))
        return [(_comparable(y.detach()), _comparable(t.detach())) for y, t in pairs]

    def _radii(self) -> Sequence[Tensor] | None:
        """Return how far one output and another evaluation of it may be apart; None where that is not known."""
        from backprop_rules.evidence.allowance.bounds import bounds

        if self.subject.rule is None:
            return None
        try:
            with running(None):
                call = call_at(self.subject.rule, self.point, self._dtypes)
                row, right = bounds(call, evaluations=2).y.reshape(-1), self._both(call.primals)[1]
                parts = zip(row.split([t.numel() for t in right]), right, strict=True)
                return [part.reshape(t.shape) for part, t in parts]
        except (InputError, NotImplementedError):  # neither its rounding nor its exact value is known
            return None

    def _is_rounding(self, beyond: Sequence[Tensor]) -> bool:
        """Say whether outputs are off by what shrinks with the unit roundoff: written otherwise, they may lose digits.

        In this dtype no element lies farther `beyond` than the function's own operations round, where these are known.
        """
        from backprop_rules.evidence.climb import own_rounding

        off = [k for k, some in enumerate(beyond) if bool((some > 0).any())]
        if not off:
            return True
        try:
            *both, noise = self._in_two_precisions()
        except Refused:  # it may take its own dtype alone
            return False
        if not all(bool(((y - t).abs() <= n).all()) for y, t, n in zip(*both, noise, strict=True)):
            return False
        own = {k: own_rounding(partial(self._output, k)) for k in off}
        return all(most is None or not bool((beyond[k] > most).any()) for k, most in own.items())

    def _output(self, k: int) -> Tensor:
        return self._both(self._leaves)[0][k]

    def _is_as_written(self, radii: Sequence[Tensor] | None) -> bool:
        """Say whether outputs are what forward gives by itself, with constants of float32, but for rounding."""
        try:
            ys, right = self._both(self._leaves, as_written=True)
            if radii is None:
                ys, right, radii = self._in_two_precisions(as_written=True)
        except Refused:  # as above
            return False
        return all(bool(((wide(y) - wide(t)).abs() <= r).all()) for y, t, r in zip(ys, right, radii, strict=True))

    def _in_two_precisions(self, as_written: bool = False) -> tuple[Outputs, Outputs, Outputs]:
        """Return outputs, and how far they may be apart if that is rounding: it shrinks from float32 to float64 on.

        Of an output that is in float32 whatever the function is given, it shrinks from bfloat16 to float32.
        """
        found = list(zip(*self._between(WIDE, as_written), strict=True))
        rough = [k for k, (y, t, r) in enumerate(found) if bool(((y - t).abs() > r).any()) and _is_of(F32, y)]
        narrow = list(zip(*self._between(NARROW, as_written), strict=True)) if rough else found
        ys, right, radii = zip(*(narrow[k] if k in rough else found[k] for k in range(len(found))), strict=True)
        return list(ys), list(right), list(radii)

    def _between(self, pair: Pair, as_written: bool) -> tuple[Outputs, Outputs, Outputs]:
        """Return outputs in the higher of two precisions, and how far they may be apart if that is rounding."""

        def both(dtype: torch.dtype) -> list[Outputs]:
            leaves = [recast(recast(x, at(pair.low, x)), at(dtype, x)) if inexact(x) else x for x in self._leaves]
            return [list(map(wide, some)) for some in self._both(leaves, as_written)]

        (precise, right), (low, theirs) = both(pair.high), both(pair.low)
        apart = [max(largest(y - a), largest(t - b)) for y, t, a, b in zip(precise, right, low, theirs, strict=True)]
        return precise, right, [torch.tensor(most * 2.0**-pair.half, dtype=F64) for most in apart]


def _is_of(dtype: torch.dtype, x: Tensor) -> bool:
    """Say whether every number is one of a narrower dtype."""
    return torch.equal(x, wide(x.to(at(dtype, x))))


def _comparable(x: Tensor) -> Tensor:
    """Return whole numbers as torch compares them with others."""
    return x.long() if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x


def _are_same(y: Tensor, t: Tensor) -> bool:
    return y.shape == t.shape and bool((y == t).all())


def _forms(ys: Outputs) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(y.shape), y.dtype) for y in ys]
