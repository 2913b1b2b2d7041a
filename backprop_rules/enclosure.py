"""The only comparison: membership of a gradient in the set that holds the true derivative."""

from dataclasses import dataclass

import torch
from torch import Tensor


def as_real(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU; a complex tensor gets a last axis for its real and imaginary part.

    Every dtype of the catalogue has at most float64's precision and range, so nothing is rounded.
    """
    x = x.detach().cpu().resolve_conj()
    return torch.view_as_real(x.to(torch.complex128)) if x.is_complex() else x.to(torch.float64)


@dataclass(frozen=True)
class Enclosure:
    """For each element of a gradient the interval [lo, hi] that holds it, in float64 (see `as_real`)."""

    lo: Tensor
    hi: Tensor

    @classmethod
    def exactly(cls, value: Tensor) -> "Enclosure":
        """Return the enclosure that holds this value (a tensor of any dtype) and no other."""
        return cls(as_real(value), as_real(value))

    def holds(self, value: Tensor) -> Tensor:
        """Return for each element whether the value lies inside; NaN lies only inside NaN.

        A value of another shape lies nowhere: broadcasting would accept almost anything.
        """
        real = as_real(value)
        if real.shape != self.lo.shape:
            return torch.zeros_like(self.lo, dtype=torch.bool)
        inside = (self.lo <= real) & (real <= self.hi)
        inside = inside | (real.isnan() & self.lo.isnan() & self.hi.isnan())
        return inside.all(-1) if value.is_complex() else inside
