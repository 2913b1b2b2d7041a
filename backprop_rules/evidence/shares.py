"""Whether what one slice of an output gives to a gradient is left out of it, or taken twice: of all slices at once.

A gradient is a sum of what the slices of the cotangent give, that of a weight of a product for each row. One row of
many thousands changes each element by less than the worst case, and the slope by next to nothing. But with e = got -
truth, and P_i g the cotangent of slice i alone,

    <J^T P_i g, e> = <P_i g, J e>,

so that one pass of forward mode, along e, has these sums for all slices. Of one that is left out it is less by its
square; of the others it is what roundings make of it. The one that stands out among the others is asked for itself: c =
J^T P_i g, by a reverse pass, and how far right implementations take <c, e> / <c, c>, by another.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from backprop_rules.evidence.at_size import Question
from backprop_rules.evidence.differences import Directions, tangents
from backprop_rules.subject.ambient import F64, at, inexact
from backprop_rules.subject.function import Cotangents, Gradients

ASKED = 2  # slices that are asked for themselves, of several axes that which stands out most: a reverse pass each


@dataclass(frozen=True)
class Slice:
    """What lies at one index along some axes of an output."""

    output: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    index: tuple[int, ...]

    def __str__(self) -> str:
        one = len(self.axes) == 1
        at_, of, axes = ((x[0] if one else list(x)) for x in (self.index, self.shape, self.axes))
        return f"index {at_} of {of} along {'axis' if one else 'axes'} {axes} of output {self.output}"

    def alone(self, grads: Cotangents) -> Cotangents:
        """Return the cotangents with zeros for all that lies elsewhere."""
        made: list[Tensor | None] = [None if g is None else torch.zeros_like(g) for g in grads]
        g, here = grads[self.output], made[self.output]
        assert g is not None and here is not None
        where = tuple(self.index[self.axes.index(k)] if k in self.axes else slice(None) for k in range(g.ndim))
        here[where] = g[where]
        return tuple(made)


@dataclass(frozen=True, eq=False)
class Shares:
    """The slices of the outputs of a question, and what they give to some gradients, by their leaves.

    These are `off` in units of the mean square of what is likely: each counts as much as it tells.
    """

    question: Question
    off: Directions

    @property
    def slices(self) -> int:
        """How many there are of which any may stand out, and is asked for what it gives to each gradient."""
        return sum(math.prod(g.shape[k] for k in axes) for _, g, axes in _along(self.question.grads) if self.off)

    def standing_out(self, deviations: float) -> Iterator[tuple[Slice, Gradients]]:
        """Yield the slices whose sums lie so many deviations of the others' from 0, most first, and what they give."""
        if not self.off:
            return
        found = sorted(self._found(deviations), key=lambda one: -one[0])
        for _, one in found[:ASKED]:
            grads = tuple(None if g is None else g.to(F64) for g in self.question.grads)
            run, _ = self.question.function.run(self._leaves, one.alone(grads), F64)
            yield one, run.gradients

    def _found(self, deviations: float) -> Iterator[tuple[float, Slice]]:
        function, grads = self.question.function, self.question.grads
        moved = tangents(function, self._leaves, self.off)
        for k, g, axes in _along(grads):
            along = None if moved is None else moved[k]
            if along is None:
                continue
            others = [d for d in range(g.ndim) if d not in axes]
            sums = along * g
            sums = (sums.sum(others) if others else sums).reshape(-1)
            which = int(sums.abs().argmax())
            most, all_ = float(sums[which].abs()), float(sums.square().sum())
            likely = math.sqrt(max(0.0, all_ - most * most) / (len(sums) - 1))
            if most > deviations * likely:
                shape = tuple(g.shape[d] for d in axes)
                index = tuple(int(i) for i in torch.unravel_index(torch.tensor(which), shape))
                yield most / max(likely, 5e-324), Slice(k, axes, shape, index)

    @cached_property
    def _leaves(self) -> list[object]:
        return [x.detach().to(at(F64, x)) if inexact(x) else x for x in self.question.leaves]


def longest(grads: Cotangents) -> int:
    """Return the number of slices along that axis of which there are most."""
    return max((n for g in grads if g is not None for n in g.shape), default=0)


def _along(grads: Cotangents) -> Iterator[tuple[int, Tensor, tuple[int, ...]]]:
    """Yield each output's cotangent with the axes along which it is cut: each by itself, and all but the last."""
    for k, g in enumerate(grads):
        several: Sequence[int] = [] if g is None else [d for d, n in enumerate(g.shape) if n > 1]
        cuts = {*((d,) for d in several), tuple(several[:-1])} - {()}
        yield from ((k, g, axes) for axes in sorted(cuts) if g is not None)
