"""The units of rounding: how far one operation may be off in each dtype, and in which dtype torch computes it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision

# Covers what a bound formed in float64 by an exponential, a power or a hypotenuse of at most 5 ulps (see ULPS) and
# a few elementary operations may itself be off: 16 times 2^-52.
FEW = 1 + 2.0**-48

# How often a right gradient is called off, in a whole run, by what is random in roundings.
FALSE_ALARMS = 1e-12

# torch loads these into float32, computes, and rounds once on storing (at::opmath_type, at::acc_type).
NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Unit:
    """What rounding to nearest may do: |fl(x) - x| <= max(u |fl(x)|, tiny) (Higham, theorem 2.3 and section 2.1).

    `tiny` is half the smallest subnormal number; where subnormal numbers are flushed, the smallest normal one.
    """

    u: float
    tiny: float
    normal: float


class once(cached_property[Any]):  # noqa: N801 - as what it is made of
    """A property that is computed once, without the lock that Python 3.11 takes for it: there are a hundred a check."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Compute it."""
        found = instance.__dict__[self.attrname] = self.func(instance)
        return found


def component(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a complex dtype's parts; a real dtype itself."""
    return dtype.to_real() if dtype.is_complex else dtype


@cache
def unit(dtype: torch.dtype, flushes: bool = False) -> Unit:
    """Return the unit of a floating-point dtype."""
    if not (dtype.is_floating_point or dtype.is_complex):
        raise NotImplementedError("no formula for whole numbers that are not exact")
    info = torch.finfo(component(dtype))
    # float16's own subnormal numbers are never flushed: F16C and AVX-512 convert them whatever the mode.
    flushed = flushes and dtype != torch.float16
    tiny = info.smallest_normal if flushed else info.smallest_normal * info.eps / 2
    if tiny == 0:  # half the smallest float64 is no float64
        tiny = 2.0**-1074
    return Unit(2.0 ** -precision(component(dtype)), tiny, info.smallest_normal)


def lost_in(dtype: torch.dtype, size: Tensor) -> Tensor:
    """Return how far rounding to nearest takes numbers of at most these sizes, in whose place it is written."""
    zeros = None if positive(size) else size == 0
    size.mul_(unit(dtype).u).clamp_min_(unit(dtype).tiny)
    return size if zeros is None else size.masked_fill_(zeros, 0.0)


def lost_by_storing(y: Tensor, radius: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return how far numbers are off that are stored in a dtype: as they are, or as they may be within a radius."""
    if radius is None:
        return (y.to(dtype).double() - y.double()).abs_()
    size = y.abs() if y.dtype == torch.float64 else y.double().abs_()
    return lost_in(dtype, size.add_(radius)).add_(radius)


def positive(x: Tensor) -> bool:
    """Say whether all numbers are above 0, quicker than a mask of them: NaN is not."""
    return not x.numel() or x.amin().item() > 0


def power_below(x: Tensor) -> Tensor:
    """Return the largest power of two of at most the size of each number of float64, 0 of 0: by its bits."""
    return (x.contiguous().view(torch.int64) & 0x7FF0000000000000).view(torch.float64)


def stored_by(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much rounding to a dtype changes numbers; 0 of what overflows there, of which elements tell."""
    return (x.to(dtype).to(x) - x).nan_to_num_(0.0, 0.0, 0.0)


def half_an_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far rounding to nearest may take numbers in a dtype; 0 of those that it has, as 1 of a softmax."""
    half = power_below(x).mul_(2.0 ** -precision(dtype)).clamp_min_(unit(dtype).tiny)
    stored = x.to(dtype)
    stored = stored.to(x.dtype) if dtype.itemsize == 1 else stored  # torch promotes no float8
    rounds = (stored - x).sign_().abs_()
    return half.mul_(rounds) if math.isfinite(float(half.sum())) else torch.where(rounds > 0, half, 0.0)


def powers_of_two(x: Tensor) -> bool:
    """Say whether all numbers of float64 are positive powers of two, by their bits: the first one says it mostly."""
    if x.dtype != torch.float64:
        return False
    return all(positive(some) and bool((power_below(some) == some).all()) for some in (x.reshape(-1)[:1], x))


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which torch computes operations on this one."""
    return torch.float32 if dtype in NARROW else dtype


def gamma(count: float, u: float) -> float:
    """Return Higham's gamma_n = n u / (1 - n u), for n roundings after one another; infinite if n u >= 1."""
    return count * u / (1 - count * u) if count * u < 1 else float("inf")


def factorial(n: int) -> float:
    """Return n!, which float64 holds up to 170."""
    return float(math.factorial(n)) if n <= 170 else math.inf


# What a float32 operand loses before a product of reduced precision: rounded to nearest to bf16's 8 bits, or cut
# to TF32's 11 (the tensor core reads 19 of the 32 bits; NVIDIA, PTX ISA, "Matrix fragments for .tf32").
LOST_OF_OPERANDS = {"tf32": 2.0**-10, "bf16": 2.0**-8}


def lost_of_operands(dtype: torch.dtype, on_cuda: bool) -> float:
    """Return what each operand of a matrix product loses, in proportion, in the mode that torch is in."""
    if dtype not in (torch.float32, torch.complex64):
        return 0.0
    backend = torch.backends.cuda if on_cuda else torch.backends.mkldnn
    modes = [backend.matmul.fp32_precision, torch.backends.fp32_precision]  # type: ignore[attr-defined]
    if not on_cuda:
        modes.insert(1, torch.backends.mkldnn.fp32_precision)
    # The first that is not "none" is in force; the older API, torch.set_float32_matmul_precision, sets the first.
    return LOST_OF_OPERANDS.get(next((mode for mode in modes if mode != "none"), "ieee"), 0.0)


# The exactly representable integers of a dtype reach to 2^precision, so an integer of b bits needs b bits of it.
_BITS = {torch.bool: 1, torch.uint8: 8, torch.int8: 7, torch.int16: 15, torch.int32: 31, torch.int64: 63}


@cache
def widens(source: torch.dtype, target: torch.dtype) -> bool:
    """Say whether every number of one dtype is one of the other."""
    if source == target:
        return True
    if not (target.is_floating_point or target.is_complex) or (source.is_complex and not target.is_complex):
        return source in _BITS and target in _BITS and _BITS[source] <= _BITS[target]
    a, b = component(source), component(target)
    if a in _BITS:
        return _BITS[a] <= precision(b)
    wider_range = torch.finfo(a).smallest_normal >= torch.finfo(b).smallest_normal
    return precision(a) <= precision(b) and (wider_range and torch.finfo(a).max <= torch.finfo(b).max)


def largest_of(radii: Iterable[Any]) -> Tensor | None:
    """Return the largest of radii, element by element; None where none is known."""
    found: Tensor | None = None
    for radius in radii:
        if radius is not None:
            off = torch.as_tensor(radius, dtype=torch.float64)
            found = off if found is None else torch.maximum(found, off)
    return found


def wide(x: Any) -> Any:
    """Return a tensor in float64 or complex128; a number as it is."""
    if not isinstance(x, Tensor):
        return x
    return x.to(torch.complex128) if x.is_complex() else x.double()


def left_of(a: Any, b: Any, c: Any) -> Any:
    """Return a + b - c, in which no digit is lost where it nearly vanishes: by what a + b rounds (Knuth's TwoSum)."""
    total = a + b
    part = total - b
    return (total - c) + ((a - part) + (b - (total - part)))


def apart(a: Any, b: Any) -> Tensor:
    """Return |a - b| in float64."""
    return (wide(a) - wide(b)).abs()  # type: ignore[no-any-return]


def stays_the_same_integer(a: Tensor, radius: Tensor) -> bool:
    """Say whether each number is cut off to one integer wherever it lies within its radius."""
    a = a.to(radius.device).double()
    below = torch.nextafter(a - radius, torch.full_like(a, -math.inf))
    above = torch.nextafter(a + radius, torch.full_like(a, math.inf))
    return bool(((below.trunc() == above.trunc()) | (radius == 0)).all())


def magnitude(x: Tensor) -> Tensor:
    """Return |x| in float64; for complex numbers rounded up, so that it is no less."""
    if x.dtype == torch.float64:
        return x.abs()
    return wide(x).abs() * FEW if x.is_complex() else x.double().abs()  # hypot is right to a few units of 2^-53


def items_of(x: Tensor) -> int:
    """Return how many numbers of a tensor's dtype its storage has."""
    return int(x.untyped_storage().nbytes() // x.itemsize)


def item_by_item(radii: Tensor, items: int) -> Tensor:
    """Return the radii of all that is stored, of so many items: a complex number has two real parts."""
    if 2 * len(radii) == items:
        return radii.repeat_interleave(2)
    return torch.hypot(radii[::2], radii[1::2]) * FEW if len(radii) == 2 * items else radii


def subnormal(x: Tensor) -> Tensor:
    """Return a mask of the subnormal numbers, by their bits: arithmetic may take them for zero."""
    if x.is_complex():
        return subnormal(torch.view_as_real(x.resolve_conj())).any(-1)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize]
    smallest = torch.tensor(torch.finfo(x.dtype).smallest_normal, dtype=x.dtype).view(whole).item()
    bits = x.resolve_neg().contiguous().view(whole) & torch.iinfo(whole).max
    return (bits > 0) & (bits < smallest)


# The largest errors that the vendors of mathematical functions document, in units in the last place (ulps).
# torch's float32 and float64 kernels for the CPU call, as arrays, strides and lengths have it, SLEEF's
# functions ending in `_u10` (at most 1.0 ulp, https://sleef.org/purec.xhtml), MKL's vector mathematics in its
# mode HA (at most 1.0 ulp, Intel oneMKL VM accuracy and performance), or glibc's libm (The GNU C Library,
# section 19.7, Known Maximum Errors in Math Functions, and its sysdeps/x86_64/fpu/libm-test-ulps). An entry is
# the largest of them. On CUDA they call CUDA's own (CUDA C++ Programming Guide, appendix Mathematical
# Functions, tables of the maximum ulp error of the single- and double-precision standard library functions).
# name: (cpu float32, cpu float64, cuda float32, cuda float64)
ULPS: dict[str, tuple[float, float, float, float]] = {
    "exp": (1, 1, 2, 1),
    "exp2": (1, 1, 2, 1),
    "expm1": (1, 1, 1, 1),
    "log": (1, 1, 1, 1),
    "log1p": (1, 1, 1, 1),
    "log2": (1, 2, 1, 1),  # glibc: 2
    "log10": (2, 2, 2, 1),  # glibc: 2
    "sin": (1, 1, 2, 2),
    "cos": (1, 1, 2, 2),
    "atan": (1, 1, 2, 2),
    "tan": (1, 1, 4, 2),
    "asin": (1, 1, 2, 2),
    "acos": (1, 1, 2, 2),
    "atan2": (1, 1, 3, 2),
    "acosh": (2, 2, 4, 3),  # glibc: 2
    "atanh": (2, 2, 3, 2),  # glibc: 2
    "asinh": (2, 2, 4, 3),  # glibc: 2
    "sinh": (2, 2, 3, 2),  # glibc: 2
    "cosh": (2, 2, 2, 1),  # glibc: 2
    "tanh": (2, 2, 2, 1),  # glibc: 2
    "erf": (1, 1, 2, 2),
    "erfc": (2.5, 5, 4, 5),  # Sleef_erfc_u15: 2.5 for arguments above 26.2; glibc: 5
    "pow": (1, 1, 4, 2),
    # As CUDA documents; torch's own for the CPU ends with two of Newton's steps.
    "erfinv": (2, 5, 2, 5),
    # Of what is positive, and below 0 what its square loses besides (`elementwise.function`). As CUDA documents.
    "special_erfcx": (4, 4, 4, 4),
    # CUDA's, or of Cephes, whose code torch has for CPU and CUDA (peaks of the relative error in its comments).
    "special_ndtri": (5, 7, 5, 7),
    "i0": (6, 6, 6, 6),
    "special_i0e": (6, 6, 6, 6),
    "special_i1": (13, 9, 13, 9),
    "special_i1e": (13, 10, 13, 10),
    # Of what is positive; glibc: 7 and 4, where SLEEF's is right to 1.
    "lgamma": (7, 4, 6, 4),
    # Correctly rounded by IEEE 754, and on CUDA with -prec-sqrt=true, which torch does not change; but not by
    # MKL's mode HA, which torch.sqrt of contiguous tensors takes.
    "sqrt": (1, 1, 0.5, 0.5),
    # On the CPU a square root and a quotient: 1.5 u each to first order, together within 2 u = 1 ulp.
    "rsqrt": (1, 1, 2, 1),
}

# What kernels for float32 take in the place of these: the hardware's own functions (CUDA C++ Programming Guide,
# appendix Mathematical Functions, table of the intrinsic functions; PTX ISA, div.full and the approximate roots), and
# on the CPU Abramowitz & Stegun's 7.1.26 for erf. In ulps, ...
FAST = {"exp": 2, "exp2": 2, "log": 3, "log2": 3, "log10": 3, "sqrt": 1, "rsqrt": 2, "quotient": 2}
# ... in ulps for each unit of the argument's size: the argument is multiplied by log2(e) first ...
FAST_BY_ARGUMENT = {"exp": 1.173, "sigmoid": 1.173}
# ... and absolutely: logarithms near 1, erf near 0, and tanh near 0, as 2 sigmoid(2 x) - 1. For erf the polynomial in
# t = 1 / (1 + p x) is off by 1.5e-7, and where it is 1, at 0, by what rounds in float32, in u = 2^-24: its coefficients
# by 5, Horner's scheme by 8, t by 3 of which its slope makes 11, the exponential, the product and the difference by 4.
FAST_BESIDES = {
    "log": 2.0**-21.41, "log2": 2.0**-22, "log10": 2.0**-22, "erf": 1.5e-7 + 28 * 2.0**-24, "tanh": 2.0**-22,
}  # fmt: skip
