"""One operation as the formulas see it: the sizes and radii of its operands, and the rounding of its result."""

import cmath
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance import units
from backprop_rules.evidence.allowance.units import (
    apart,
    component,
    computed_in,
    gamma,
    magnitude,
    once,
    positive,
    unit,
    widens,
)

if TYPE_CHECKING:
    from backprop_rules.evidence.allowance.chosen import Choices

INFINITE = float("inf")
# A formula takes fewer than 2^10 operations in float64 on numbers that are not negative, each off by 2^-53 ...
UP = 1 + 2.0**-43
# ... or, where it underflows, by 2^-1074, or is flushed, 2^-1022. The other dtypes' numbers are too large for that.
LOST = (2.0**-1064, 2.0**-1012)
# What rounding a number of float64 to a narrower dtype loses is counted as no less than this, if it is not nothing: far
# below what these dtypes hold, and too large to underflow on the way.
LEAST = 2.0**-1000
# A radius no larger than this is made of such losses alone: around a zero of float64, it is {0}.
UNDERFLOWS = LOST[True] * 2.0**52

Radius = Any  # a tensor or a number; None where the value is known exactly

# From the dtype in which an operation keeps its sums to the one in which they are said to be kept.
Sums = Callable[[torch.dtype], torch.dtype]


def as_computed(kept: torch.dtype) -> torch.dtype:
    """Return the dtype itself: sums are kept as the operation keeps them."""
    return kept


def accumulated_in(asked: torch.dtype, kept: torch.dtype) -> torch.dtype:
    """Return the dtype asked for: complex where the sums are."""
    return asked.to_complex() if kept.is_complex and not asked.is_complex else asked


def no_narrower_than(asked: torch.dtype, kept: torch.dtype) -> torch.dtype:
    """Return the narrower one of the dtype asked for and the operation's own, either of which is allowed."""
    asked = accumulated_in(asked, kept)
    return min(kept, asked, key=lambda dtype: precision(component(dtype)))


@dataclass(eq=False)
class Operand:
    """An operand's size in float64, computed when it is asked for, and its radius."""

    value: Tensor | float
    radius: Radius

    @once
    def size(self) -> Any:
        """|value| in float64."""
        return magnitude(self.value) if isinstance(self.value, Tensor) else self.value

    def grown(self) -> Any:
        """Return the largest size that the exact operand may have."""
        return self.size if self.radius is None else self.size + self.radius

    def through(self, weighted: Callable[[Any], Any]) -> tuple[Any, Radius]:
        """Return what sums with weights that are not negative make of the size, and of the radius."""
        return weighted(self.size), None if self.radius is None else weighted(self.radius)


def spread(x: Operand, y: Operand, multiply: Callable[[Any, Any], Any] = operator.mul) -> Radius:
    """Return how far the exact operands' product may lie from these operands': without cancellation."""
    if y.radius is None:
        return None if x.radius is None else multiply(x.radius, y.size)
    first = multiply(x.grown(), y.radius)
    if x.radius is None:
        return first
    if multiply is operator.mul and isinstance(first, Tensor):
        return torch.addcmul(first, *map(torch.as_tensor, (x.radius, y.size)))
    return first + multiply(x.radius, y.size)


def plus(*radii: Radius) -> Radius:
    """Return the sum of radii."""
    known = [radius for radius in radii if radius is not None]
    return sum(known[1:], start=known[0]) if known else None


@lru_cache(maxsize=4096)
def scalar(x: complex, dtype: torch.dtype) -> Operand:
    """Return a Python number as torch uses it, rounded to the dtype, with that rounding for its radius."""
    cast = torch.as_tensor(x, dtype=dtype).item()
    lost = 0.0 if cast == x or cmath.isnan(x) else max(abs(cast - x) * UP, LEAST)
    return Operand(abs(cast), lost or None)


@dataclass(eq=False)
class Operation:
    """An operation that was computed, while its radius is being found."""

    func: Any
    result: Any
    radius: Callable[[Any], Tensor | None]  # of a tensor as it is kept; None for what is known exactly
    evaluations: int
    flushes: bool
    sums: Sums
    choices: "Choices"

    @once
    def size(self) -> Tensor:
        """The size of the result."""
        return magnitude(self.result)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the result."""
        return self.result.dtype  # type: ignore[no-any-return]

    @property
    def whole(self) -> bool:
        """Whether the result has whole numbers, which round nothing."""
        return not (self.result.is_floating_point() or self.result.is_complex())

    def refuse(self, why: str = "") -> NotImplementedError:
        """Return the refusal of this operation."""
        return NotImplementedError(f"no formula for the rounding of {self.func}{why and ' '}{why}")

    def radii(self, *values: Any) -> list[Tensor] | None:
        """Return the radii of values that are copied, zeros for those that are exact; None if all are."""
        radii = [
            self.radius(x)
            if isinstance(x, Tensor) and component(x.dtype) == component(self.dtype)
            else self.operand(x).radius
            for x in values
        ]
        if all(radius is None for radius in radii):
            return None
        shapes = [x.shape if isinstance(x, Tensor) else () for x in values]
        kind = {"dtype": torch.float64, "device": self.result.device}
        return [
            torch.zeros(shape, **kind) if radius is None else torch.as_tensor(radius, **kind)
            for shape, radius in zip(shapes, radii, strict=True)
        ]

    def settled(self, *indices: Any) -> None:
        """Refuse masks that may be others for the exact operands, but those of what was chosen: these are taken so."""
        for index in indices:
            if isinstance(index, list | tuple):
                self.settled(*index)
            radius = self.radius(index)
            behind = self.choices.are_behind(index)
            if radius is not None and radius.any():
                if not behind or (index.dtype == torch.bool and not self.choices.explain(index, radius)):
                    raise self.refuse("with an index that is not exact")
                self.choices.tell(self.func)
            elif behind and self.choices.by(index) is None:
                self.choices.tell(self.func)

    def operand(self, x: Any, dtype: torch.dtype | None = None, flushed: bool = False) -> Operand:
        """Return an operand in the dtype in which it is used: another's rounding to that is a part of its radius."""
        dtype = dtype or self.dtype
        if not isinstance(x, Tensor):
            return scalar(x, dtype)
        radius: Radius = self.radius(x)
        if not widens(x.dtype, dtype):
            cast = x.to(dtype)
            lost = apart(cast, x)
            if x.dtype == torch.int64 and not dtype.is_complex:
                # An integer beyond 2^53 is rounded on the way to float64, too.
                u = unit(dtype).u
                lost = x.double().abs() * u * (1 + 2 * u)
            lost = torch.where(lost > 0, (lost * UP).clamp_min(LEAST), lost)
            x, radius = cast, plus(radius, lost if lost.any() else None)
        if (flushed or self.flushes) and (x.is_floating_point() or x.is_complex()):
            # The arithmetic may take a subnormal operand for zero.
            small = units.subnormal(x)
            radius = plus(radius, 2 * unit(x.dtype).normal * small.double()) if small.any() else radius
        return Operand(x, radius)

    @property
    def flushes_products(self) -> bool:
        """Whether products take subnormal numbers for zero, and flush, in every mode: VDPBF16PS and TDPBF16PS do."""
        return self.dtype == torch.bfloat16 and not self.result.is_cuda

    def weight(self, factor: float) -> float:
        """Return by how much a factor makes the size of a term larger."""
        return abs(factor)

    def factor(self, x: Any) -> Operand:
        """Return an operand of a matrix product."""
        return self.operand(x, flushed=self.flushes_products)

    def knows_it_exactly(self, *operands: Operand) -> bool:
        """Say whether it is the exact result that is known, of exact operands, and not one that was rounded."""
        return False

    @property
    def met_behind(self) -> bool:
        """Whether the backward error of what is solved is met by the sensitivity to the matrix, and not here."""
        return False

    @property
    def may_vanish(self) -> bool:
        """Whether an element of the result may be 0: asked of the elements, but for a device that is far away."""
        return not self.flushes and (bool(self.result.is_cuda) or not positive(self.size))

    @property
    def wider(self) -> bool:
        """Whether radii are computed in more bits than the operation, so that differences of them serve."""
        return precision(component(self.unit_dtype)) < precision(torch.float64)

    @property
    def truncates(self) -> bool:
        """Whether products of matrices may be summed by a device that cuts off, as tensor cores do."""
        return bool(self.result.is_cuda) and self.dtype in units.NARROW

    @property
    def loses(self) -> float:
        """What each operand of a product loses, in proportion, in the mode that torch is in."""
        return units.lost_of_operands(self.dtype, self.result.is_cuda)

    @property
    def quotient_ulps(self) -> float:
        """How far a division may be off: it is correctly rounded."""
        return 0.5

    def besides(self, name: str, a: Tensor) -> Radius:
        """Return what a function may be off besides its ulps."""
        return None

    def may_be_either(self, choices: Tensor) -> bool:
        """Take note of choices, not 0, that may come out otherwise in another evaluation; say whether these count."""
        return True

    def either(self, reach: Tensor | None) -> Tensor | None:
        """Return what other choices change, if there are any and they count."""
        return reach if reach is not None and bool(reach.any()) and self.may_be_either(reach) else None

    def of_either(self, chosen: Tensor, other: Tensor, *operands: Any) -> Tensor:
        """Return the radius of what may be either operand, by how far the exact one may be if it is this, or other."""
        return torch.maximum(chosen, other)

    def adds_nothing(self, *terms: Any) -> Tensor | None:
        """Return where a term of a sum is known to be exactly 0, None where nobody looked."""
        return None

    def several(self, a: Any, b: Any) -> tuple[Tensor, int] | None:
        """Return by how many units a sum of several gradients may be off, and of how many; None where nobody looks."""
        return None

    def in_any_order(self, varies: Radius, size: Tensor, terms: int) -> Tensor:
        """Return the radius of a sum whose terms others may add up in another order, off by u times the size."""
        factor, floor = _coefficients(self.dtype, 0.5, 2.0 * self.flushes, self.flushes)
        error = self.up(size, terms, factor)
        error = torch.where(size > 0, error.clamp_min(floor), 0.0) if floor else error
        return self.total(varies, error, terms * factor)

    def exact_sum(self, size: Tensor, divisor: float = 1, narrow: bool = False) -> bool:
        """Say whether a sum of exact terms, of these sizes together, is exact in any order."""
        return False

    def counted(self, length: int) -> None:
        """Take note of a sum of that many roundings."""

    def stored_exactly(self) -> Radius:
        """Return what is lost of an exact result when it is stored."""
        return None

    def stored(self, radius: Tensor) -> Tensor:
        """Return the radius of what a kernel of several operations stores, which is seen here."""
        return radius

    def rounded(
        self, varies: Radius, ulps: float = 0.5, underflows: float | None = None, exact: Tensor | None = None
    ) -> Tensor:
        """Return the radius of a result whose computation is off by `ulps` of the computing dtype, then rounded.

        `varies` is how far the exact result for the exact operands may lie from the one for these.
        Below the smallest normal number it may be off by `underflows` halves of the smallest subnormal one,
        by as many ulps as elsewhere if that is not given. Where `exact` is True the operation itself rounds nothing.
        """
        if self.whole:
            return varies  # type: ignore[no-any-return]
        factor, floor = _coefficients(self.dtype, ulps, 2 * ulps if underflows is None else underflows, self.flushes)
        error = self.size * factor
        if floor:
            error.clamp_min_(floor)
        if exact is not None:
            error.masked_fill_(exact, 0)
        return self.total(varies, error, factor)

    def total(self, varies: Radius, error: Tensor, factor: Any, roundings: int = 1, terms: int = 0) -> Tensor:
        """Return the radius of a result with that error, of so many roundings, at most `factor` times the value.

        The error is the caller's own, and may be written over; `varies` is a sum of so many terms.
        """
        varies = self.up(varies, terms) if terms and varies is not None else varies
        if self.evaluations == 2:
            # The other evaluation rounds too, of an exact result that lies within error + varies of this one.
            smallest = 2 * roundings * self.unit.normal  # and may flush what underflows
            error = 2 * error + factor * (error if varies is None else error + varies) + smallest
        radius = error if varies is None else error + varies
        return self.up(radius)  # type: ignore[no-any-return]

    def unless_infinite(self, error: Tensor) -> Tensor:
        """Return the error of a sum, NaN where the result is not finite though the sizes of its terms are."""
        return error + self.size * 0  # type: ignore[no-any-return]

    def of_any(self, size: Tensor, varies: Radius, lost: float) -> Any:
        """Return what underflows lose of sums of terms of these sizes: nothing of one whose terms all are 0.

        Sizes in float64 are not 0 themselves by an underflow, if the operation has fewer bits.
        """
        if not self.wider or positive(size):
            return lost
        return torch.where((size if varies is None else size + varies) > 0, lost, 0.0)

    def up(self, radius: Any, terms: int = 0, factor: float = 1.0) -> Any:
        """Return a radius times a factor, larger than the rounding of its own computation, of that many terms."""
        radius = radius * (factor * (UP + terms * 2.0**-51))
        return radius + LOST[self.flushes] if self.dtype in (torch.float64, torch.complex128) else radius

    @property
    def unit_dtype(self) -> torch.dtype:
        """The dtype in which the operation is computed."""
        return computed_in(self.dtype)

    @property
    def unit(self) -> units.Unit:
        """The unit of the dtype in which the operation is computed."""
        return unit(self.unit_dtype, self.flushes)

    def ulps(self, name: str) -> float:
        """Return the largest error that is documented of a vendor's function, in ulps."""
        device = self.result.device.type
        if device not in ("cpu", "cuda"):
            raise NotImplementedError(f"no documented error of {name} on the device {device}")
        return units.ULPS[name][2 * (device == "cuda") + (self.unit_dtype in (torch.float64, torch.complex128))]

    def accumulator(self, narrow: bool = False) -> torch.dtype:
        """Return the dtype in which sums are kept; `narrow` says that the operation keeps them in the result's."""
        return self.sums(self.dtype if narrow else self.unit_dtype)

    def summed(
        self, varies: Radius, size: Tensor, length: int, underflows: float = 0, narrow: bool = False, divisor: float = 1
    ) -> Tensor:
        """Return the radius of a sum of that many roundings, whose terms' sizes add up to `size`.

        `narrow` says that the sum is accumulated in the dtype of the result, not in a wider one, and
        `divisor` by what it was divided in the end.
        """
        kept = self.accumulator(narrow)
        used = unit(kept, self.flushes)
        if not widens(self.dtype if narrow else self.unit_dtype, kept):
            # Narrower than the operation's own: each term is rounded to it, and the first one too.
            length, underflows = length + 1, underflows + length + 1
        factor = gamma(length, used.u)
        error = self.unless_infinite(self.up(size, length, factor))
        lost = underflows + 2 * length * self.flushes
        if lost:
            error += self.of_any(size, varies, lost * used.tiny)
        if not widens(kept, self.dtype):
            storage = unit(self.dtype, self.flushes)
            floor = torch.as_tensor(self.of_any(size, varies, storage.tiny), dtype=torch.float64, device=error.device)
            error = error + torch.maximum(self.size * storage.u, floor)
            factor += storage.u
        if self.evaluations == 2 or self.sums is not as_computed:
            # In another order, or in fewer bits, a partial sum may be as large as all terms together, and overflow.
            largest = torch.finfo(kept).max
            error = error.masked_fill(self.up(size, length) * divisor > largest, torch.inf)
        return self.total(varies, error, factor, length, length)


@cache
def _coefficients(dtype: torch.dtype, ulps: float, underflows: float, flushes: bool) -> tuple[float, float]:
    """Return f and g such that a result y computed within `ulps`, then stored, is off by at most max(f |y|, g)."""
    compute = unit(computed_in(dtype), flushes)
    # An ulp is at most 2 u |exact|, and |exact| <= |y| / (1 - 2 u ulps). Rounding to nearest (half an ulp) is
    # within u |y| of the stored y itself (Higham, theorem 2.3).
    factor = compute.u if ulps == 0.5 else gamma(2 * ulps, compute.u)
    floor = underflows * compute.tiny
    if computed_in(dtype) == dtype:
        return factor, floor
    storage = unit(dtype, flushes)
    # What is stored is within max(u_s |y|, tiny_s) of what was computed, c, and so |c| <= |y| + that.
    factor, spread = storage.u + factor * (1 + 2 * storage.u), factor / storage.u
    return factor, storage.tiny * (1 + 2 * spread) + floor
