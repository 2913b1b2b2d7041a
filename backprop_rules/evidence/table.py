"""The slopes, means and sizes of what a gradient is off by, whole and slice by slice, all at once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.blocks import blocks
from backprop_rules.evidence.allowance.units import NARROW, half_an_ulp, stored_by, unit
from backprop_rules.evidence.at_size import Held
from backprop_rules.evidence.shares import Slice

TERMS = 6, 11  # of `Table`, and of one in a narrow dtype


class Of(Enum):
    """What is asked of a gradient, or of what lies at one index along an axis."""

    SLOPE = auto()
    MEAN = auto()
    SIZE = auto()
    ELEMENT = auto()
    SHARE = auto()


@dataclass(frozen=True)
class Sum:
    """A sum over one gradient, the whole of it, or what lies at one index along an axis; or one element.

    Or the share that one slice of an output has in it, in units of what that gives.
    """

    leaf: int
    of: Of
    axis: int | None = None
    index: int | None = None
    element: tuple[int, ...] = ()
    given_by: Slice | None = None

    def part(self, x: Tensor) -> Tensor:
        """Return the part of a tensor of the gradient's shape that is meant."""
        return x if self.axis is None or self.index is None else x.select(self.axis, self.index)

    def coefficients(self, truth: Tensor, off: Tensor) -> Tensor:
        """Return the c for which the answer is <c, got - truth>, which is off."""
        c, t = torch.zeros_like(truth), self.part(truth)
        if self.of is Of.ELEMENT:
            c[self.element] = 1.0
        elif self.of is Of.SIZE:
            part = self.part(off)
            self.part(c).copy_(part / part.norm() / math.sqrt(part.numel()))
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
class Table:
    """The slopes and means of one gradient and of its slices, and what the rounding of the result alone explains."""

    leaf: int
    held: Held
    got: Tensor
    common: float
    sized: bool = True  # whether roundings on the way are so few that the size of what is off says something

    @property
    def _narrow(self) -> bool:
        return self.got.dtype in NARROW

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
        """The axes along which there are slices; None of the whole."""
        several = [k for k, n in enumerate(self.truth.shape) if n > 1]
        return [None, *several] if len(several) > 1 else [None]

    @property
    def questions(self) -> int:
        """How many sums are asked at a stated rate."""
        if not self.truth.numel():
            return 0
        return 2 * sum(1 if axis is None else self.truth.shape[axis] for axis in self.axes)  # a size is sure

    @cached_property
    def off(self) -> Tensor:
        """What is got less the truth, 0 where one is not known."""
        off = self.got.to(self.truth) - self.truth
        return off if self.truth is self.held.truth else torch.where(self.known, off, 0.0)

    @cached_property
    def sums(self) -> dict[int | None, Tensor]:
        """The sums that all answers are made of, by axis: a row for each of `_terms`, block by block."""
        t = self.truth
        found = {axis: t.new_zeros(TERMS[self._narrow], 1 if axis is None else t.shape[axis]) for axis in self.axes}
        for block in blocks(t.shape, t.ndim):
            terms = self._terms(block)
            for axis in reversed(range(t.ndim)):  # the last first: what is left of the others is their sum over it
                if axis in found:
                    here = found[axis][:, block[axis]] if axis < len(block) else found[axis]
                    here += terms.sum(list(range(1, axis + 1))) if axis else terms
                terms = terms.sum(-1)
            found[None] += terms.reshape(-1, 1)
        return found

    def _terms(self, block: tuple[slice, ...]) -> Tensor:
        """Return t^2, t (got - t), got - t, |t|, |t| radius, off^2; of narrow ones (t h)^2, h^2, t (s - t), s - t, +-h.

        Here h is half an ulp, with the sign of t in the last, and s is t as it is stored.
        """
        t, off, radius = self.truth[block], self.off[block], self.held.radius[block].nan_to_num(0.0)  # inf: the largest
        terms = t.new_empty(TERMS[self._narrow], *t.shape)
        squares, along, own, size, worst, off_squares, *narrow = terms.unbind()
        torch.mul(t, t, out=squares)
        torch.mul(t, off, out=along)
        own.copy_(off)
        torch.abs(t, out=size)
        torch.mul(size, radius, out=worst)
        torch.mul(off, off, out=off_squares)
        if narrow:
            by_own, by_halves, along_stored, stored, pushed = narrow
            half = half_an_ulp(t, self.got.dtype)
            torch.mul(size, half, out=by_own).square_()
            torch.mul(half, half, out=by_halves)
            stored.copy_(stored_by(t, self.got.dtype))
            torch.mul(t, stored, out=along_stored)
            torch.mul(half, t.sign(), out=pushed)
        return terms

    def standing_out(self, deviations: float, every: bool = False) -> Iterator[tuple[float, Sum, float]]:
        """Yield what the rounding of the result and the common roundings do not explain, and by how many times."""
        explained = self.common + (0.0 if self._narrow else unit(self.got.dtype).u)
        sums = torch.cat(list(self.sums.values()), 1)
        squares, along, off, sizes, worst, off_squares, *narrow = sums
        count = torch.cat([s.new_full(s.shape[1:], self.truth.numel() / s.shape[1]) for s in self.sums.values()])
        # A slice in which the worst case holds 0 is not asked for its slope: the whole and single elements are.
        says = worst < squares
        says[0] = True  # the whole is the first of the axes
        slope, mean = _ratio(along, squares) * says, off / count
        reach_of_slope = torch.full_like(slope, explained)
        reach_of_mean = (explained * sizes[0] / count[0]).expand(count.shape)
        reach_of_size = explained * (squares / count).sqrt()
        if narrow:
            by_own, by_halves, along_stored, stored, pushed = narrow
            reach_of_slope += _ratio(along_stored.abs() + deviations * by_own.sqrt(), squares)
            # Pushes of both signs may cancel where digits are equal; what does not is shared by at most so many.
            at_least = stored.abs() + deviations * pushed.abs() / count.sqrt()
            reach_of_mean = reach_of_mean + torch.maximum(at_least, deviations * by_halves.sqrt()) / count
            reach_of_size += (by_halves / count).sqrt()
        answers = {Of.SLOPE: (slope, reach_of_slope), Of.MEAN: (mean, reach_of_mean)}
        if self.sized or every:
            answers[Of.SIZE] = (off_squares / count).sqrt(), reach_of_size
        found, reaches = map(torch.stack, zip(*answers.values(), strict=True))
        yield from self._beyond([*answers], found, reaches * (not every))

    def hides(self, slices: int) -> bool:
        """Whether the worst case may hide what one of so many slices of an output gives, of whatever signs they are.

        It decides what is asked, and no verdict: as many give this much if what they give has no direction.
        """
        squares = float(self.sums[None][0]) if self.truth.numel() else 0.0
        return slices > 1 and bool(squares < slices * float(self.held.radius.norm()) ** 2)

    def lacks(self, slices: int, deviations: float) -> bool:
        """Whether so much is off that what one of so many slices gives may be left out.

        That is what they give in the mean, if it has no direction, or so many times less. It decides what is asked.
        """
        sums = self.sums[None][:, 0]
        return bool(sums[5] * slices * deviations**2 >= sums[0])

    @property
    def off_as_likely(self) -> Tensor:
        """What is off, by the mean square of what storing and the common roundings are likely to do."""
        sums = self.sums[None][:, 0]
        likely = float((sums[7] if self._narrow else 0.0) + self.common**2 * sums[0])
        return self.off * (self.off.numel() / likely) if likely else self.off

    def storing(self, coefficients: Tensor, deviations: float) -> float:
        """Return how far storing the truth in a narrow dtype takes a sum: at least so far reach roundings."""
        if not self._narrow:
            return 0.0
        return deviations * float((coefficients * half_an_ulp(self.truth, self.got.dtype)).norm())

    def _beyond(self, of: Sequence[Of], answers: Tensor, reaches: Tensor) -> Iterator[tuple[float, Sum, float]]:
        beyond = torch.nonzero(answers.abs() > reaches).tolist()
        if not beyond:
            return
        places = [(axis, None if axis is None else k) for axis, s in self.sums.items() for k in range(s.shape[1])]
        for row, k in beyond:
            answer, reach = float(answers[row, k]), float(reaches[row, k])
            yield abs(answer) / max(reach, 5e-324), Sum(self.leaf, of[row], *places[k]), answer


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b; 0 where b is 0, of a slice whose truth is 0 throughout: there is no slope."""
    return torch.where(b > 0, a / b, 0.0)
