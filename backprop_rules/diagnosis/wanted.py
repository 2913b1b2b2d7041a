"""When numbers are explained, and by which factor: the one test of all who say what a gradient is that is wrong."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor


class Factor(NamedTuple):
    """A factor, how far it may be off, and in how many numbers it is seen: one is always some factor times another."""

    c: float
    off: float
    numbers: int


@dataclass(frozen=True, eq=False)
class Wanted:
    """Numbers to be explained, the right ones, and how far each of these may be off: as far as it likes, if infinitely.

    What is larger than the right ones may be off by as much more, but no farther than a `share` of its size: where the
    right ones cancel, any number would be as near. What agrees in half of its digits does so by no chance, and that is
    the share where one is given; it decides what is told, and no verdict.
    """

    got: Tensor
    right: Tensor
    off: Tensor
    share: float = 0.0

    def is_explained_by(self, made: Tensor) -> bool:
        """Say whether they are what is made."""
        size = made.abs().amax() if made.numel() else made.sum()
        off = as_far(self.off, size / self._size, self.share * size)
        return bool(((made - self.got).abs() <= off).all())

    def factor(self, through: Tensor, rest: Tensor | float = 0.0) -> Factor | None:
        """Return the factor c with which they are rest + c through, None if there is none."""
        known = self.off.isfinite()
        squares = float((through * through)[known].sum())
        if not squares:
            return None
        c = float((through * (self.got - rest))[known].sum()) / squares
        uncertain = float((through.abs() * self.off)[known].sum()) / squares
        found = Factor(c, uncertain, int(through.count_nonzero()))
        return found if self.is_explained_by(rest + c * through) else None

    @cached_property
    def _size(self) -> float:
        return (float(self.right.abs().amax()) if self.right.numel() else 0.0) or 1.0


def as_far(off: Tensor, larger: Tensor, most: Tensor) -> Tensor:
    """Return how far numbers may be off that are so many times larger than what may be off so far, and at most."""
    return (off * larger.clamp_min(1.0)).minimum(most).maximum(off)
