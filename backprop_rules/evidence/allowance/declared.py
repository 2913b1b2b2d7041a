"""How far any implementation may be from the truth that rounds what is declared of it: a radius beside float64.

`RunningError` says how far a computation that was made is from the exact one. Here the computation is made in float64,
and the radius says how far another one may be that keeps its intermediates, its products' operands and its sums in the
declared precision, in any order of its sums: one that cannot be followed, such as a kernel's.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance import units
from backprop_rules.evidence.allowance.granules import granule
from backprop_rules.evidence.allowance.mode import RunningError, place_of
from backprop_rules.evidence.allowance.operation import (
    LOST,
    UP,
    Operand,
    Operation,
    Radius,
    as_computed,
    no_narrower_than,
    plus,
    scalar,
)
from backprop_rules.evidence.allowance.units import NARROW, computed_in, unit
from backprop_rules.subject.ambient import F32, F64, inexact, tensors_in

aten = torch.ops.aten


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
    return Precision(name, wide, fast=wide is F32)


CORRECTLY = 0.5  # ulps, of what is rounded to the nearest number


@dataclass(eq=False)
class DeclaredOperation(Operation):
    """An operation computed in float64, whose radius is what another implementation of it may round."""

    declared: Precision
    own: torch.dtype  # the dtype in which the other implementation stores the result
    mode: "Declared"
    arguments: tuple[Any, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the other implementation stores the result."""
        if not inexact(self.result):
            return self.result.dtype  # type: ignore[no-any-return]
        return self.own.to_complex() if self.result.is_complex() else self.own

    def operand(self, x: Any, dtype: torch.dtype | None = None, flushed: bool = False) -> Operand:
        """Return an operand, which has been rounded to its dtype when it was stored."""
        return Operand(x, self.radius(x)) if isinstance(x, Tensor) else scalar(x, dtype or self.dtype)

    def factor(self, x: Tensor, flushed: bool = False) -> Operand:
        """Return an operand of a matrix product, rounded to the dtype in which products are taken."""
        found, narrow = self.operand(x), self.declared.operands
        if narrow is None or x.is_complex():
            return found
        used = unit(narrow)
        if found.radius is None:
            lost = (x.to(narrow).double() - x.double()).abs()
            return replace_radius(found, lost if bool(lost.any()) else None)
        return replace_radius(found, found.radius + (found.grown() * used.u).clamp_min(used.tiny))

    def total(self, varies: Radius, error: Tensor, factor: float, roundings: int = 1) -> Tensor:
        """Return the radius: what the other one rounds of its own operands, and what is rounded here in float64."""
        here = 2.0 ** (precision(units.component(self.unit_dtype)) - precision(F64))
        own = (1 + factor) * (1 + here) * UP
        if varies is None:
            return error * own
        radius = torch.add(error * own, torch.as_tensor(varies), alpha=(1 + factor * (1 + here)) * UP)
        return radius + LOST[self.flushes] if self.dtype == F64 else radius

    def ulps(self, name: str) -> float:
        """Return the largest error that is documented of a function, on any device, approximate ones if allowed."""
        wide = self.unit_dtype in (torch.float64, torch.complex128)
        found = max(units.ULPS[name][wide], units.ULPS[name][2 + wide])
        return max(found, units.FAST.get(name, 0.0)) if self.declared.fast and not wide else found

    def summed(
        self, varies: Radius, size: Tensor, length: int, underflows: float = 0, narrow: bool = False, divisor: float = 1
    ) -> Tensor:
        """Return the radius of a sum, whose length is counted; of a sum that is exact in any order, what is stored."""
        self.mode.counted(length)
        if varies is None and self.exact_sum(size, divisor):
            return self.stored_exactly()
        return super().summed(varies, size, length, underflows, narrow, divisor)

    def rounded(
        self, varies: Radius, ulps: float = 0.5, underflows: float | None = None, exact: Tensor | None = None
    ) -> Tensor:
        """Return the radius of a result; of what is correctly rounded, and of exact operands, it is known."""
        if varies is None and ulps == CORRECTLY and self.own != F64 and not self.result.is_complex():
            return self.stored_exactly()
        return super().rounded(varies, ulps, underflows, exact)

    def exact_sum(self, size: Tensor, divisor: float = 1) -> bool:
        """Say whether a sum of exact terms is exact in any order: all multiples of one number, and not many of it.

        A partial sum is a multiple of what divides all terms, and no larger than their sizes together.
        """
        if divisor != 2.0 ** round(math.log2(divisor)):
            return False
        digits, most = precision(units.component(self.unit_dtype)), float(size.max() if size.numel() else 0) * divisor
        for few in (True, False):
            step = granule(self.func.overloadpacket, self.arguments, few)
            if step is None or not most <= 2.0 ** min(digits + step, 1023):
                return False
        return True

    def stored_exactly(self) -> Tensor:
        """Return what is lost of an exact result when it is stored."""
        lost = (self.result.to(self.own).to(self.result) - self.result).abs()
        # Rounded to float32 first, and then once more, it may go to the other neighbour of a number halfway between.
        return self.up(torch.where(lost > 0, lost + self.size * 2.0**-23, 0.0))  # type: ignore[no-any-return]

    def may_be_either(self, choices: Tensor) -> bool:
        """Take note of choices, not 0, that may come out otherwise; say whether these count."""
        self.mode.ambiguous = self.mode.ambiguous or bool(choices.any())
        return not self.mode.decided

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
            ulps = units.FAST_BY_ARGUMENT[name] * a.double().abs()
            found = torch.where(self.size == 0, 0.0, self.size * (2 * unit(F32).u * ulps))
        return found

    def stored(self, radius: Tensor) -> Tensor:
        """Return the radius of what a kernel of several operations stores in its own dtype."""
        if self.unit_dtype == self.dtype:
            return radius
        used = unit(self.dtype)
        return radius + ((self.size + radius) * used.u).clamp_min(used.tiny)


def replace_radius(x: Operand, radius: Radius) -> Operand:
    """Return the operand with another radius, its size as far as it is known."""
    found = Operand(x.value, radius)
    if "size" in x.__dict__:
        found.__dict__["size"] = x.__dict__["size"]
    return found


class Rounds(NotImplementedError):
    """The named operation may round, where only what is exact was asked for."""


class Declared(RunningError):
    """While it is entered, keep beside every float64 tensor how far a declared implementation may be from it."""

    def __init__(self, declared: Precision, only_exact: bool = False) -> None:
        super().__init__()
        self.declared, self._only_exact = declared, only_exact
        self._tags = WeakIdKeyDictionary()  # the dtypes that tensors have in their own run, by storage
        self._in_kernel, self._in_a_block = 0, False
        self.roundings = 0
        self.first = ""  # the first operation of which something may be off
        self._longest = 0
        self._sums_in: torch.dtype | None = None  # where the kernel of torch's that is followed keeps its sums

    @property
    def decided(self) -> bool:
        """Whether every choice is taken as it comes out."""
        return self._decided

    def tag(self, x: Tensor, dtype: torch.dtype) -> None:
        """Say in which dtype the reference stores this tensor, in its own run."""
        self._tags[x.untyped_storage()] = dtype

    def dtype_of(self, x: Tensor) -> torch.dtype:
        """Return the dtype in which the reference stores a tensor."""
        found: torch.dtype = self._tags.get(x.untyped_storage(), x.dtype) if inexact(x) else x.dtype
        return found

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x after a cast of the reference, which rounds as the other implementation may."""
        cast: Tensor = _Cast.apply(x, self, self.dtype_of(x), dtype)  # type: ignore[no-untyped-call]
        return cast

    def _operation(self, func: Any, result: Any, args: Any) -> Operation:
        own = self._promoted(args)
        own = computed_in(own) if self._in_kernel else own
        for y in tensors_in((result,)):
            self.tag(y, own)
        own = self.declared.kept or own
        narrow = self._sums_in if func.overloadpacket == aten.sum else None
        sums = as_computed if narrow is None else partial(no_narrower_than, narrow)
        named = (func, result, self._radius, self._evaluations, self._flushes, sums)
        return DeclaredOperation(*named, self.declared, own, self, args)

    def counted(self, length: int) -> None:
        """Take note of a sum of that many roundings in a row."""
        self._longest = max(self._longest, length)

    def _promoted(self, args: Any) -> torch.dtype:
        """Return the dtype of the result of operands as an eager implementation stores them."""
        tags: dict[bool, torch.dtype] = {}
        for x in tensors_in(args):
            tag = self._tags.get(x.untyped_storage())
            if tag is not None:  # a number counts where there are no others
                tags[x.ndim > 0] = torch.promote_types(tags.get(x.ndim > 0, tag), tag)
        return tags.get(True, tags.get(False, F64))

    def _radius_of(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, block by block where it is made so: in the processor's cache."""
        if not self._in_kernel:
            self.roundings, self._longest = self.roundings + self._longest, 1
        first = result[0] if isinstance(result, tuple) else result
        if isinstance(first, Tensor) and first.numel() > BLOCK and not named:
            axes = _separate(func, first, args)
            if axes and func.overloadpacket == aten.native_layer_norm_backward:
                return self._rows_and_sums(func, result, args, axes)
            if axes:
                radius = self._in_blocks(func, result, args, axes)
                self._noted(func, radius)
                return radius
        radius = self._exact_where_infinite(result, self._of_torchs_kernel(func, result, args, named))
        self._noted(func, radius)
        return radius

    def _of_torchs_kernel(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, as torch computes it where the implementation is eager."""
        own = self._promoted(args) if self.declared.kept is None and not self._in_kernel else F64
        if own not in NARROW:
            return super()._radius_of(func, result, args, named)
        self._sums_in = own if func.overloadpacket in SUMS_NARROW else None
        try:
            radius = super()._radius_of(func, result, args, named)
        finally:
            self._sums_in = None
        besides = kept_narrow(args, own) if func.overloadpacket in KEPT_NARROW else None
        return plus(radius, besides)

    def keep(self, result: Any, radius: Any) -> None:
        """Keep the radius of a tensor, or those of several; what is off by nothing is exact."""
        if isinstance(result, Tensor) and isinstance(radius, Tensor) and float(radius.sum()) == 0:
            radius = None
        super().keep(result, radius)

    def _noted(self, func: Any, radius: Any) -> None:
        """Remember the first operation of which something may be off, and stop at it if that was all that was asked."""
        if self.first or self._in_kernel or self._in_a_block or not _is_off(radius):
            return
        self.first = str(func).removesuffix(".default")
        if self._only_exact:
            raise Rounds(self.first)

    @staticmethod
    def _exact_where_infinite(result: Any, radius: Any) -> Any:
        """Return the radius; an infinity in float64 is the reference's own, as in a mask, and is exact."""
        if not isinstance(result, Tensor) or not isinstance(radius, Tensor) or not inexact(result):
            return radius
        if math.isfinite(float(radius.sum())):
            return radius
        return torch.where(result.isinf(), 0.0, torch.where(radius.isnan(), torch.inf, radius))

    def _rows_and_sums(self, func: Any, result: Any, args: Any, axes: int) -> Any:
        """Return the radii of a gradient that is separate in its rows, and of those that are sums over them."""
        *given, mask = args
        rows = self._in_blocks(func, (result[0], None, None), (*given, [mask[0], False, False]), axes)
        sums = self._of_torchs_kernel(func, (None, *result[1:]), (*given, [False, *mask[1:]]), {})
        return [rows[0], *sums[1:]]

    def _in_blocks(self, func: Any, result: Any, args: Any, axes: int) -> Any:
        several = isinstance(result, tuple)
        results = result if several else (result,)
        shape = results[0].shape
        found = [None if y is None else torch.zeros(y.shape, dtype=F64, device=y.device) for y in results]
        radii = [self._radius(x) if isinstance(x, Tensor) else None for x in args]
        self._in_a_block = True
        for block in blocks(shape, axes):
            parts = [_part(x, shape, block, axes) for x in args]
            kept = [
                self._lend(part, _part(radius, shape, block, axes))
                for part, radius in zip(parts, radii, strict=True)
                if radius is not None
            ]
            here = tuple(_part(y, shape, block, axes) for y in results)
            made = self._of_torchs_kernel(func, here if several else here[0], tuple(parts), {})
            for whole, own, radius in zip(found, here, made if several else (made,), strict=True):
                if radius is not None and whole is not None:
                    _part(whole, shape, block, axes).copy_(self._exact_where_infinite(own, radius))
            for radii_of_storage, place in kept:
                radii_of_storage.pop(place, None)
        self._in_a_block = False
        return found if several else found[0]

    def _lend(self, part: Tensor, radius: Tensor) -> tuple[dict[Any, Tensor], Any]:
        """Keep the radius of a part of a tensor for now; return where it is, to be taken away."""
        kept, place = self._radii.setdefault(part.untyped_storage(), {}), place_of(part)
        kept[place] = radius
        return kept, place

    def _finer(self, x: Any) -> Any:
        return x

    def _in_one_kernel(self, reference: Callable[..., Any], args: Any, named: Any) -> Any:
        self._in_kernel += 1
        try:
            return super()._in_one_kernel(reference, args, named)
        finally:
            self._in_kernel -= 1

    def stored(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of x as it is stored in a dtype, rounded if that is narrower than what it is kept in."""
        with torch._C._DisableTorchDispatch():
            y, radius = x.clone(), self._radius(x)
            if precision(dtype) < precision(self.declared.kept or self.dtype_of(x)):
                used, size = unit(dtype), y.double().abs()
                if radius is None:
                    lost = (y.to(dtype).double() - y.double()).abs()
                else:
                    lost = ((size + radius) * used.u).clamp_min(used.tiny)
                radius = plus(radius, lost)
            self.keep(y, radius)
        self.tag(y, dtype)
        return y


# Numbers whose radius is found at a time: with the radii of operands and what is made on the way, some MiB.
BLOCK = 1 << 16
# What torch's own kernels for the CPU keep in a narrow dtype on the way, where others keep float32: the sum of the
# exponentials and its logarithm, and the sums of the weight's and the bias's gradient.
KEPT_NARROW, SUMS_NARROW = (aten._log_softmax,), (aten.native_layer_norm_backward,)
# What is separate in all dimensions but those named by the argument in this place.
ALONG = {aten._softmax: 1, aten._log_softmax: 1, aten._softmax_backward_data: 2, aten._log_softmax_backward_data: 2}
# What is separate in all dimensions but the last ones, of a shape that is named by the argument in this place.
NORMALISED = {aten.native_layer_norm: 1, aten.native_layer_norm_backward: 2}


def kept_narrow(args: Any, dtype: torch.dtype) -> float:
    """Return how far a log softmax is off by its sum, of at most n, that is kept narrow, and its logarithm."""
    u, count = unit(dtype).u, args[0].shape[args[1]] if args[0].ndim else 1
    return u * (1 + 2 * u) * (1 + math.log(max(1, count)))


def _is_off(radius: Any) -> bool:
    several = radius if isinstance(radius, list | tuple) else (radius,)
    return any(bool(torch.as_tensor(r).any()) for r in several if r is not None)


def _separate(func: Any, result: Tensor, args: Any) -> int:
    """Return how many leading dimensions of a result are separate: of a pointwise operation, all."""
    if torch.Tag.pointwise in func.tags:
        return result.ndim
    if func.overloadpacket in ALONG:
        return int(args[ALONG[func.overloadpacket]]) % result.ndim
    if func.overloadpacket in NORMALISED:
        return result.ndim - len(args[NORMALISED[func.overloadpacket]])
    return 0


def blocks(shape: torch.Size, axes: int) -> Iterator[tuple[slice, ...]]:
    """Yield slices of the leading dimensions that make blocks of about BLOCK numbers."""
    inner = math.prod(shape[1:])
    if not axes or not shape:
        yield ()
    elif inner >= BLOCK and axes > 1:
        for k in range(shape[0]):
            for rest in blocks(shape[1:], axes - 1):
                yield slice(k, k + 1), *rest
    else:
        step = max(1, BLOCK // max(1, inner))
        for k in range(0, shape[0], step):
            yield (slice(k, k + step),)


def _part(x: Any, shape: torch.Size, block: tuple[slice, ...], axes: int) -> Any:
    """Return the part of an operand that a block of the result is made of: the whole where it is broadcast."""
    if not isinstance(x, Tensor):
        return x
    missing = len(shape) - x.ndim
    if axes == len(shape):  # pointwise: aligned at the end
        own = [s if x.shape[k - missing] != 1 else slice(None) for k, s in enumerate(block) if k >= missing]
        return x[tuple(own)]
    # Otherwise what has the leading dimensions is cut, and weights are whole.
    return x[block] if x.shape[:axes] == shape[:axes] else x


class _Cast(torch.autograd.Function):
    """A cast, whose gradient is in the new dtype first, and then cast back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mode: Declared, own: torch.dtype, dtype: torch.dtype) -> Tensor:
        ctx.mode, ctx.own, ctx.dtype = mode, own, dtype
        return mode.stored(x, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.mode.stored(ctx.mode.stored(grad, ctx.dtype), ctx.own), None, None, None
