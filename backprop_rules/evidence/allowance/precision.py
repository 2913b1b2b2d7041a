"""What an implementation may round, as it is declared, and one operation of it as the formulas see it."""

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance import units
from backprop_rules.evidence.allowance.granules import granule
from backprop_rules.evidence.allowance.operation import (
    LOST,
    UP,
    Operand,
    Operation,
    Radius,
    plus,
    scalar,
)
from backprop_rules.evidence.allowance.units import NARROW, computed_in, lost_in, once, positive, unit
from backprop_rules.subject.ambient import F32, F64, inexact

if TYPE_CHECKING:
    from backprop_rules.evidence.allowance.declared import Declared


@dataclass(frozen=True)
class Precision:
    """What an implementation may round.

    `kept` is the dtype of intermediates, None for each one's own, as the reference stores it; `operands` that of the
    operands of matrix products, None for the intermediates' own. `fast` allows the hardware's approximate functions.
    """

    name: str
    kept: torch.dtype | None
    operands: torch.dtype | None = None
    fast: bool = True


def precision_named(name: str | None, dtype: torch.dtype) -> Precision:
    """Return a declared precision for primals of a dtype: by name, or the one that its kernels usually have."""
    if name is None:
        name = "tensorcore" if dtype in NARROW else "float32"
    wide = F32 if precision(dtype) < precision(F64) else F64
    if name == "eager":
        return Precision(name, None, fast=False)
    if name == "tensorcore":
        return Precision(name, wide, dtype if dtype in NARROW else None)
    return Precision(name if wide is F32 else "float64", wide, fast=wide is F32)


@cache
def _beside(dtype: torch.dtype) -> float:
    """Return what is rounded in float64, beside what an operation on this dtype rounds."""
    return 2.0 ** (precision(units.component(computed_in(dtype))) - precision(F64))


CORRECTLY = 0.5  # ulps, of what is rounded to the nearest number


@dataclass(eq=False)
class DeclaredOperation(Operation):
    """An operation computed in float64, whose radius is what another implementation of it may round."""

    declared: Precision
    own: torch.dtype  # the dtype in which the other implementation stores the result
    mode: "Declared"
    arguments: tuple[Any, ...] = ()

    @once
    def dtype(self) -> torch.dtype:
        """The dtype in which the other implementation stores the result."""
        result = self.result[0] if isinstance(self.result, tuple) else self.result
        if not inexact(result):
            return result.dtype  # type: ignore[no-any-return]
        return self.own.to_complex() if result.is_complex() else self.own

    def operand(self, x: Any, dtype: torch.dtype | None = None, flushed: bool = False) -> Operand:
        """Return an operand, which was rounded to its dtype when it was stored; a subnormal one may be read as 0."""
        found = Operand(x, self.radius(x)) if isinstance(x, Tensor) else self._number(x, dtype or self.dtype)
        if isinstance(x, float) and math.isinf(found.size):  # beyond the dtype: it stands for infinity, as in a mask
            return Operand(abs(x), None)
        if not (self.flushes and isinstance(x, Tensor) and inexact(x)):
            return found
        lost = self.flushed(found.size)
        if bool(lost.any()):
            found.radius = plus(found.radius, lost)
        return found

    def _number(self, x: complex, dtype: torch.dtype) -> Operand:
        """Return a Python number as it is used in a dtype, of which it is noted if it is 0 there."""
        found = scalar(x, dtype)
        if x and not found.size:
            self.mode.vanished = self.mode.vanished or f"{x:g} is 0 in {dtype}".replace("torch.", "")
        return found

    def flushed(self, size: Tensor) -> Tensor:
        """Return what is lost of numbers of these sizes where subnormal ones are flushed.

        Those that are compared are of the dtype that they share, whatever the dtype of the answer.
        """
        return torch.where(size < unit(computed_in(self.own)).normal, size, 0.0)

    def factor(self, x: Tensor) -> Operand:
        """Return an operand of a matrix product, rounded to the dtype in which products are taken."""
        found, narrow = self.operand(x), self.declared.operands
        if narrow is None or x.is_complex() or self.mode.has_been_rounded(x, narrow):
            return found
        if found.radius is None:
            lost = (x.to(narrow).double() - x.double()).abs()
            found.radius = lost if bool(lost.any()) else None
            self.mode.narrowed = self.mode.narrowed or found.radius is not None
        else:
            self.mode.narrowed = True
            found.radius = lost_in(narrow, found.grown()).add_(found.radius)
        return found

    def total(self, varies: Radius, error: Tensor, factor: Any, roundings: int = 1, terms: int = 0) -> Tensor:
        """Return the radius: what the other one rounds of its own operands, and what is rounded here in float64."""
        here = _beside(self.dtype)
        radius = error.mul_((1 + factor) * (1 + here) * UP)
        if varies is None:
            return radius
        grown = (1 + factor * (1 + here)) * (UP + terms * 2.0**-51) * UP
        more = varies if isinstance(varies, Tensor) else torch.as_tensor(varies)
        # A factor for each element stands where each is a sum of its own length.
        radius = radius.addcmul_(more, grown) if isinstance(grown, Tensor) else radius.add_(more, alpha=grown)
        return radius.add_((1 + bool(terms)) * LOST[self.flushes]) if self.dtype == F64 else radius

    def unless_infinite(self, error: Tensor) -> Tensor:
        """Return the error of a sum: in float64 a sum is finite where the sizes of its terms are."""
        return error

    def ulps(self, name: str) -> float:
        """Return the largest error that is documented of a function, on any device, approximate ones if allowed."""
        wide = self.unit_dtype in (torch.float64, torch.complex128)
        found = max(units.ULPS[name][wide], units.ULPS[name][2 + wide])
        return max(found, units.FAST.get(name, 0.0)) if self.declared.fast and not wide else found

    def summed(
        self, varies: Radius, size: Tensor, length: int, underflows: float = 0, narrow: bool = False, divisor: float = 1
    ) -> Radius:
        """Return the radius of a sum, whose length is counted; of a sum that is exact in any order, what is stored."""
        self.counted(length)
        if varies is None and self.exact_sum(size, divisor, narrow):
            return self.stored_exactly()
        return super().summed(varies, size, length, underflows, narrow, divisor)

    def rounded(
        self, varies: Radius, ulps: float = 0.5, underflows: float | None = None, exact: Tensor | None = None
    ) -> Radius:
        """Return the radius of a result; of what is correctly rounded, and of exact operands, it is known."""
        if varies is None and ulps == CORRECTLY and self.knows_it_exactly():
            return self.stored_exactly()
        return super().rounded(varies, ulps, underflows, exact)

    def counted(self, length: int) -> None:
        """Take note of a sum of that many roundings."""
        self.mode.counted(length)

    def exact_sum(self, size: Tensor, divisor: float = 1, narrow: bool = False) -> bool:
        """Say whether a sum of exact terms is exact in any order: all multiples of one number, and not many of it.

        A partial sum is a multiple of what divides all terms, and no larger than their sizes together.
        """
        if not self.arguments or divisor != 2.0 ** round(math.log2(divisor)):
            return False
        kept = self.accumulator(narrow)
        digits, most = precision(units.component(kept)), float(size.max() if size.numel() else 0) * divisor
        info = torch.finfo(units.component(kept))
        smallest = math.log2(info.smallest_normal) - (0 if self.flushes or self.flushes_products else digits - 1)
        for few in (True, False):
            step = granule(self.func.overloadpacket, self.arguments, few)
            if step is None or step < smallest + math.log2(divisor):
                return False
            if not most <= min(info.max, 2.0 ** min(digits + step, 1023)):
                return False
        return True

    def knows_it_exactly(self, *operands: Operand) -> bool:
        """Say whether it is: in float64 beside a dtype with fewer bits."""
        return self.own != F64 and not self.result.is_complex() and all(x.radius is None for x in operands)

    def stored_exactly(self) -> Radius:
        """Return what is lost of an exact result when it is stored."""
        if self.own == F64:
            return None
        if self.result.is_complex():
            return self.up(2 * lost_in(self.own, self.size.clone()))
        lost = self.result.to(self.own).to(F64).sub_(self.result).abs_()
        if self.flushes:
            lost = torch.maximum(lost, self.flushed(self.size))
        if self.own == F32 and math.isfinite(float(lost.sum())):
            return lost.mul_(UP)
        # Rounded to float32 first, and then once more, it may go to the other neighbour of a number halfway between.
        besides = (self.size * 2.0**-23).add_(unit(F32).tiny)
        if not math.isfinite(float(lost.sum())):  # an infinity is stored as it is
            lost = torch.where(self.result.isinf(), 0.0, lost)
            return self.up(torch.where(lost > 0, lost + besides, 0.0))
        return self.up(besides.mul_(lost.sign()).add_(lost))

    def may_be_either(self, choices: Tensor) -> bool:
        """Take note of choices, not 0, that may come out otherwise; say whether these count."""
        self.mode.ambiguous = self.mode.ambiguous or bool(choices.any())
        return not self.mode.decided

    def adds_nothing(self, *terms: Any) -> Tensor | None:
        """Return where a term is exactly 0, as most of the gradient of a slice is."""
        tensors = all(isinstance(x, Tensor) for x in terms)  # a number may round where it is stored
        return self.mode.slices.adds_nothing(self.radius, *terms) if tensors else None

    def several(self, a: Any, b: Any) -> tuple[Tensor, int] | None:
        """Return what a sum of several gradients may round beside its terms, times the unit, and how many these are."""
        return None if self.mode.in_kernel else self.mode.slices.several(self.result, a, b)

    def of_either(self, chosen: Tensor, other: Tensor, *operands: Any) -> Tensor:
        """Return the radius of what may be either operand, as the mode counts choices."""
        return self.mode.of_either(chosen, other, *operands)

    @property
    def may_vanish(self) -> bool:
        """Whether an element of the result may be 0: where numbers are flushed, too, as none is in float64.

        What is flushed comes nearer to 0, and so is no farther from a result of 0 than what it is made of.
        """
        return bool(self.result.is_cuda) or not positive(self.size)

    @property
    def truncates(self) -> bool:
        """Whether products are summed by tensor cores, which cut off."""
        return self.declared.operands is not None or super().truncates

    @property
    def loses(self) -> float:
        """What each operand loses is in `factor`."""
        return 0.0 if self.declared.kept is not None else super().loses

    @property
    def quotient_ulps(self) -> float:
        """How far a division may be off."""
        return units.FAST["quotient"] if self.approximate else 0.5

    @property
    def approximate(self) -> bool:
        """Whether the hardware's approximate functions are allowed: they are for float32."""
        return self.declared.fast and self.unit_dtype == F32

    def besides(self, name: str, a: Tensor) -> Radius:
        """Return what approximate functions may be off besides their ulps."""
        if name == "erf" and self.unit_dtype == F32:  # whatever is declared: torch's own for the CPU
            return self.size * (2 * units.ULPS["erf"][2] * unit(F32).u) + units.FAST_BESIDES["erf"]
        if not self.approximate:
            return None
        found: Radius = units.FAST_BESIDES.get(name)
        if name in units.FAST_BY_ARGUMENT:
            ulps = a.double().abs() * units.FAST_BY_ARGUMENT[name]
            found = self.size * ulps.mul_(2 * unit(F32).u)
            found = found if positive(self.size) else torch.where(self.size == 0, 0.0, found)
        if name == "sigmoid":  # in 1 / (1 + e) what e is off by counts as e, and in float64 there is no less than 2^-53
            found = (1 - self.size).clamp_min_(2.0**-52).mul_(found)
        return found

    def stored(self, radius: Tensor) -> Tensor:
        """Return the radius of what a kernel of several operations stores in its own dtype."""
        if self.unit_dtype == self.dtype:
            return radius
        return radius + lost_in(self.dtype, self.size + radius)
