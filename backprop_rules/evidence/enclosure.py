"""The only comparison: membership of a gradient in the set that holds the true derivative."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def as_real(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU; a complex tensor gets a last axis for its real and imaginary part.

    Every dtype of the catalogue has at most float64's precision and range, so nothing is rounded.
    """
    x = x.detach()
    if x.is_complex():
        return torch.view_as_real(x.to("cpu", torch.complex128).resolve_conj())
    return x.to("cpu", torch.float64)


def real_shape(x: Tensor) -> torch.Size:
    """Return the shape of `as_real(x)`."""
    return torch.Size((*x.shape, 2)) if x.is_complex() else x.shape


@dataclass(frozen=True)
class Enclosure:
    """For each element of a gradient the interval [lo, hi] that holds it, in float64 (see `as_real`).

    The interval from -inf to inf claims nothing, and holds NaN as well.
    """

    lo: Tensor
    hi: Tensor

    @classmethod
    def exactly(cls, value: Tensor) -> "Enclosure":
        """Return the enclosure that holds this value (a tensor of any dtype) and no other."""
        return cls(as_real(value), as_real(value))

    @classmethod
    def around(cls, value: Tensor, radius: Tensor, dtype: torch.dtype) -> "Enclosure":
        """Return the enclosure of all that lies within the radius of the value, infinity where that is past the dtype.

        `radius` is real and has the value's shape; the ends are rounded outwards.
        """
        real = as_real(value)
        reach = radius.unsqueeze(-1) if value.is_complex() else radius
        lo, hi = (
            (real - reach).nextafter(real.new_tensor(-math.inf)),
            (real + reach).nextafter(real.new_tensor(math.inf)),
        )
        largest = torch.finfo(dtype).max
        nowhere = lo.isnan() | hi.isnan() | reach.isinf()
        lo = torch.where(nowhere | (lo < -largest), -math.inf, lo)
        return cls(lo, torch.where(nowhere | (hi > largest), math.inf, hi))

    def outside(self, value: Tensor) -> Tensor | None:
        """Return a mask of the elements that do not lie inside, None where all do; NaN lies only inside NaN.

        A value of another shape lies nowhere: broadcasting would accept almost anything.
        """
        real = as_real(value)
        if real.shape != self.lo.shape:
            return torch.ones_like(value, dtype=torch.bool)
        inside = (self.lo <= real) & (real <= self.hi)
        if inside.all():
            return None
        claims_nothing = (self.lo == -math.inf) & (self.hi == math.inf)
        inside = inside | claims_nothing | (real.isnan() & self.lo.isnan() & self.hi.isnan())
        outside = ~(inside.all(-1) if value.is_complex() else inside)
        return outside if outside.any() else None

    @property
    def proves(self) -> Tensor:
        """A mask of the elements of which it says something: it does not hold zero beside other numbers."""
        return (self.lo > 0) | (self.hi < 0) | (self.lo == self.hi)
