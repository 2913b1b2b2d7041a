"""All that is known of one point, computed once, when it is first asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.blocks import blocks
from backprop_rules.strategies.point import JUMP, Point
from backprop_rules.strategies.values import recast
from backprop_rules.subject.ambient import BF16, F32, F64, Ambient, all_finite, at, inexact
from backprop_rules.subject.function import Cotangents, Function, Gradients, NoAnswer, NoPoint, Outputs, Run
from backprop_rules.subject.kept import Keeps
from backprop_rules.subject.subject import HEAVY, Subject

ELEMENTS = 1 << 15  # of a point that an allowance is computed for


@dataclass(frozen=True)
class Pair:
    """Two precisions whose errors are compared: rounding shrinks from the one to the other, a mistake does not."""

    high: torch.dtype
    low: torch.dtype

    @property
    def bits(self) -> int:
        """How many bits rounding shrinks by: 29 from float32 to float64."""
        return precision(self.high) - precision(self.low)

    @property
    def half(self) -> float:
        """The middle between rounding, which shrinks by all these bits, and a mistake, which shrinks by none."""
        return self.bits / 2

    @property
    def unit(self) -> float:
        """The unit roundoff of the lower precision."""
        return 2.0 ** -precision(self.low)


WIDE = Pair(F64, F32)
NARROW = Pair(F32, BF16)  # of a backward that cannot compute in float64


@dataclass(frozen=True, eq=False)
class Evidence(Keeps):
    """The witnesses of a point: torch's gradients and the backward's, in two precisions, at the same values."""

    subject: Subject
    point: Point
    pair: Pair = WIDE

    def relaid(self, point: Point) -> "Evidence":
        """Return the evidence of a point that has the values of this one in another layout: the truth is the same."""
        other = Evidence(self.subject, point, self.pair)
        # What is lost in rounding is asked of the numbers, not of their layout.
        other.known.take_over(self.known, "run", "low run")
        vars(other).update((name, vars(self)[name]) for name in ("low_user",) if name in vars(self))
        return other

    @cached_property
    def known(self) -> Keeps:
        """What does not depend on the backward: the same for every one that a function is to have."""
        return Keeps()

    @cached_property
    def function(self) -> Function:
        """The function at the point's params."""
        return self.subject.function.at(self.point.params)

    @property
    def run(self) -> Run:
        """The outputs and torch's gradients in float64; NoPoint where there are none."""
        leaves, grads = self.point.leaves, self.point.grads
        return self.known.kept("run", lambda: self.function.run(leaves, grads, F64, looks=True)[0])

    @property
    def is_asked_past_an_overflow(self) -> bool:
        """Whether an output is no number where its cotangent is not 0."""
        pairs = [(y, g) for y, g in zip(self.run.y, self.point.grads, strict=False) if inexact(y) and g is not None]
        return any(bool((~y.isfinite() & (g.to(y.device) != 0)).any()) for y, g in pairs if not all_finite(y))

    @property
    def low_run(self) -> Run | None:
        """The same run in the lower precision, None where torch has none, or that does not hold the values."""
        return self.known.kept("low run", self._low_run)

    def _low_run(self) -> Run | None:
        if self.point.kind == JUMP:
            return None
        try:
            return self.truth(self.point.leaves, self.point.grads, self.pair.low)
        except NoPoint:
            return None

    @cached_property
    def user(self) -> tuple[Any, ...]:
        """What the backward returns in the higher precision; Raised or Misfit where it does not."""
        return self.asked(*self.given, self.pair.high, remembers=True, y=self.y)

    @cached_property
    def given(self) -> tuple[Sequence[Any], Cotangents]:
        """The primals and cotangents that the backward is given: those of the point, or copies in a lower precision."""
        if self.pair.high is F64:
            return self.point.leaves, self.point.grads
        return cast(self.point.leaves, self.pair.high), tuple(cast(self.point.grads, self.pair.high))

    @property
    def ambient(self) -> Ambient | None:
        """The precision in which the backward is called."""
        return self.subject.precision_of_backward(self.pair.high)

    @cached_property
    def y(self) -> Outputs | None:
        """The outputs, for a backward that takes them, and may write into them; None where the call makes them."""
        if self.subject.backward.signature.y_at is None or self.pair.high is not F64:
            return None
        try:
            return tuple(y.detach().clone() for y in self.run.y)
        except NoPoint:
            return None

    @cached_property
    def low_user(self) -> tuple[Any, ...] | None:
        """The same in the lower precision, None where it raises, or that does not hold the values."""
        if self.point.kind == JUMP:
            return None
        try:
            return self.asked(self.point.leaves, self.point.grads, self.pair.low)
        except NoAnswer:
            return None

    @property
    def heavy(self) -> bool:
        """Whether few runs can be had here: of forward's constants, or of the point itself."""
        return self.subject.heavy or self.point.size > HEAVY

    def bits_below_every_dtype(self, i: int) -> float:
        """Return the bits under the noise from which a difference is within that of every dtype asked for of leaf i."""
        return float((self.subject.bits_of(i) or precision(self.pair.high)) - precision(self.pair.low))

    def truth(self, leaves: Sequence[Any], grads: Cotangents, dtype: torch.dtype = F64) -> Run:
        """Return the outputs and torch's gradients at other leaves; NoPoint where forward does not take them."""
        there = leaves if dtype is F64 else cast(leaves, dtype)
        return self.function.run(there, grads, dtype)[0]

    def gradients(self, leaves: Sequence[Any], grads: Cotangents, dtype: torch.dtype = F64) -> Gradients:
        """Return torch's gradients at other leaves, zeros where no derivative reaches one."""
        return filled(self.truth(leaves, grads, dtype).gradients, leaves)

    def asked(
        self,
        leaves: Sequence[Any],
        grads: Cotangents,
        dtype: torch.dtype | None = None,
        remembers: bool = False,
        y: Outputs | None = None,
        **how: Any,
    ) -> tuple[Any, ...]:
        """Return what the backward returns at other leaves and cotangents; in the higher precision if none is named.

        JAX may compile it in one piece, but for the example's sizes where it is asked what a call `remembers`. `how`
        names another random seed, or what memory is filled with that is handed out.
        """
        dtype = dtype or self.pair.high
        there = leaves if dtype is F64 else cast(leaves, dtype)
        own = grads if dtype is F64 else cast(grads, dtype)
        ambient = self.subject.precision_of_backward(dtype)
        given = tuple(x.detach() if isinstance(x, Tensor) else x for x in there)
        whole = not (remembers and self._has_the_examples_sizes)
        return self.subject.backward(self.function, tuple(own), y, given, ambient, whole=whole, **how)

    @cached_property
    def _has_the_examples_sizes(self) -> bool:
        pairs = zip(self.point.leaves, self.subject.example, strict=True)
        return all(x.shape == own.shape for x, own in pairs if isinstance(x, Tensor) and isinstance(own, Tensor))

    @property
    def gradients_here(self) -> Gradients:
        """Torch's gradients at the point."""
        return self.known.kept("gradients", lambda: filled(self.run.gradients, self.point.leaves))

    @property
    def low_gradients_here(self) -> Gradients | None:
        """Torch's gradients at the point in the lower precision."""
        low, run = self.pair.low, self.low_run
        if run is None:
            return None
        return self.known.kept("low gradients", lambda: filled(run.gradients, cast(self.point.leaves, low)))


def filled(gradients: Gradients, leaves: Sequence[Any]) -> Gradients:
    """Return the gradients, zeros in the place of None for what can have one."""
    return tuple(torch.zeros_like(x) if g is None and inexact(x) else g for g, x in zip(gradients, leaves, strict=True))


def cast(leaves: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """Return the leaves in another precision, in the same memory layout; integers as they are."""
    return [recast(x, at(dtype, x)) if inexact(x) else x for x in leaves]


def largest(x: Tensor) -> float:
    """Return the largest magnitude, 0 of an empty tensor, of what is finite."""
    if not x.numel():
        return 0.0
    size = x.abs() if x.is_complex() else x
    least, most = map(float, size.aminmax())  # in one pass, which keeps nothing
    if not (math.isfinite(least) and math.isfinite(most)):
        least, most = map(float, torch.where(size.isfinite(), size, torch.zeros_like(size)).aminmax())
    return max(most, -least)


def farthest(a: Tensor, b: Tensor) -> float:
    """Return the largest magnitude of a - b, of what is finite: block by block, in the processor's cache."""
    return max((largest(a[block] - b[block]) for block in blocks(a.shape, a.ndim)), default=0.0)


def in_precision(point: Point, dtype: torch.dtype) -> list[torch.dtype | None]:
    """Return the dtypes of the leaves in a precision."""
    return [at(dtype, x) if inexact(x) else None for x in point.leaves]


def precise(subject: Subject, point: Point) -> list[torch.dtype | None]:
    """Return the dtypes to climb the higher rungs in: float64, or the example's own if forward takes no other."""
    if subject.rule is not None and subject.rule.domain.own_dtypes:
        return [x.dtype if inexact(x) else None for x in subject.example]
    return in_precision(point, F64)
