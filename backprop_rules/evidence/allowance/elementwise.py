"""The formulas of arithmetic and of elementary functions, element by element, and of casts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance import special, units
from backprop_rules.evidence.allowance.operation import INFINITE, UNDERFLOWS, Operand, Operation, Radius, spread
from backprop_rules.evidence.allowance.sums import COMPLEX_PRODUCT
from backprop_rules.evidence.allowance.units import (
    FEW,
    NARROW,
    apart,
    component,
    computed_in,
    left_of,
    unit,
    wide,
    widens,
)

aten = torch.ops.aten

# Ulps, of 2 u each, of a complex quotient, in modulus: for Smith's division, which torch has in place of the
# textbook's, 7 u to first order (see `quotient`).
COMPLEX_QUOTIENT = 3.6


def product(op: Operation, a: Any, b: Any) -> Tensor | None:
    """A b: a mask, a zero and a power of two round nothing."""
    # The kernel keeps a second operand that is a Python number in the dtype in which it computes.
    kept = torch.float32 if op.dtype in NARROW and not isinstance(b, Tensor) else op.dtype
    x = op.operand(a)
    y = x if b is a else op.operand(b, kept)
    varies = spread(x, y)
    if op.whole or _whole_factor(op, a, b) or _whole_factor(op, b, a):
        return None if varies is None else op.up(varies)
    # Most products have no zero, and the question is quicker than the answer.
    exact = ((x.size == 0) | (y.size == 0)) & (op.size == 0) if op.may_vanish else None
    if op.result.is_complex():
        return op.rounded(varies, COMPLEX_PRODUCT, 6, exact)
    return op.rounded(varies, exact=exact)


def _whole_factor(op: Operation, factor: Any, other: Any) -> bool:
    """Say whether multiplying by the factor rounds nothing: a mask, or a power of two where nothing underflows."""
    if isinstance(factor, Tensor):
        return factor.dtype == torch.bool and not op.result.is_complex() and op.evaluations == 1
    if isinstance(factor, complex) or op.result.is_complex() or op.evaluations == 2 or not _power_of_two(factor):
        return False
    # The second operand's own cast is in the radius; the result must be in the range of the normal numbers, or zero.
    normal = unit(op.dtype).normal
    if op.size.numel() and op.size.amin().item() >= normal and op.size.amax().item() < INFINITE:
        return True
    inside = (op.size >= normal) & (op.size < INFINITE)
    return bool((inside | (op.operand(other).size == 0)).all())


def _power_of_two(x: float) -> bool:
    return math.isfinite(x) and abs(math.frexp(x)[0]) == 0.5


def quotient(op: Operation, a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    """A / b, within (r_a + |a / b| r_b) / (|b| - r_b) of the exact operands' quotient."""
    if rounding_mode is not None:
        return whole_quotient(op, a, b, rounding_mode)
    if isinstance(b, int | float) and _power_of_two(b) and not op.result.is_complex():
        return product(op, a, 1 / b)
    x, y = op.operand(a), op.operand(b)
    if op.knows_it_exactly(x, y) and not op.flushes and isinstance(b, Tensor) and units.powers_of_two(b):
        return op.stored_exactly()  # approximate division is exact there, too
    if not isinstance(y.size, Tensor) and y.size == 0:
        return torch.full_like(op.size, INFINITE)
    k, floor = op.quotient_ulps, 0.0
    if op.result.is_complex():
        # Smith: with t = d / c, |t| <= 1, the parts of the numerator are off by u (|a| + 3 |t b|), and so it by
        # u (1 + 3 t) / sqrt(1 + t^2) <= 2.83 u in proportion; 1 / (c + d t) by 3 u; and their product by u.
        k = COMPLEX_QUOTIENT
        floor = 8 * op.unit.tiny * (1 + x.size + 1 / y.size)
    elif op.result.is_cuda and (not isinstance(b, Tensor) or (b.ndim == 0 and b.device.type == "cpu")):
        # The kernel multiplies by the reciprocal of a number that lies on the CPU.
        k, floor = 1, 2 * op.unit.tiny * (1 + x.size)
    exact = x.radius is None and y.radius is None
    plain = op.rounded(None if exact else 0.0, k) + floor
    if op.result.is_complex() and isinstance(y.size, Tensor):
        # |c + d t| <= sqrt(2) |b| may overflow, and its inverse is 0 then.
        plain = torch.where(y.size > torch.finfo(component(op.dtype)).max / 2, INFINITE, plain)
    # 0 / b is 0, but for b = 0
    error = torch.where((op.size == 0) & (x.size == 0), 0.0, plain) if op.may_vanish else plain
    return error if exact else op.up(error + over(op.size + error, x.radius, y, op.choices.least(b)))


def whole_quotient(op: Operation, a: Any, b: Any, rounding_mode: str) -> Any:
    """A / b to a whole number, or to another one, which their quotient may reach: it is rounded before."""
    x, y, found = op.operand(a), op.operand(b), op.result.double()
    u = unit(op.dtype).u  # torch's kernel stores the quotient first
    whole = {"floor": torch.floor, "trunc": torch.trunc}[rounding_mode]
    exact = torch.as_tensor(wide(a) / wide(b), dtype=torch.float64, device=op.result.device)
    away = exact.abs() * (2 * op.quotient_ulps * u + 2.0**-50)
    known = x.radius is None and y.radius is None
    left = torch.fmod(*(torch.as_tensor(wide(z), dtype=torch.float64, device=exact.device) for z in (a, b)))
    away = torch.where(left == 0, 0.0, away) if known else over(exact.abs(), x.radius, y) + away  # which rounds nothing
    away = torch.where(torch.as_tensor(x.grown()) > 0, away + 1e-323, away)  # below which float64 has no quotients
    off = torch.maximum(whole(exact + away) - found, found - whole(exact - away)).clamp_min(0)
    jumps = bool(off.any()) and op.may_be_either(off)
    return op.rounded(off if jumps else None, exact=op.size < 1 / u)


def over(size: Any, radius: Radius, divisor: Operand, least: float = 0.0) -> Any:
    """Return how far the exact operands' quotient may lie from these, of at most that size, by no less than `least`."""
    if divisor.radius is None:
        return radius / divisor.size
    below = divisor.size - divisor.radius
    below = below.clamp_min(least) if least else below
    # The product of size and radius could underflow where the quotient does not.
    off = size * (divisor.radius / below)
    if radius is not None:
        off = off + radius / below
    # The exact divisor may be zero; the difference is off by 2^-53 in proportion to itself.
    return torch.where(below > 0, off, INFINITE) if isinstance(below, Tensor) and not units.positive(below) else off


def reciprocal(op: Operation, a: Tensor) -> Any:
    """1 / a; for a complex a its conjugate over |a|^2, which may overflow or underflow where 1 / a does neither."""
    error = quotient(op, 1, a)
    if not op.result.is_complex():
        return error
    squared = op.operand(a).size ** 2
    inside = (squared > 2 * unit(component(op.dtype)).normal) & (squared < torch.finfo(component(op.dtype)).max / 2)
    return torch.where(inside, error, INFINITE)


def power(op: Operation, a: Any, exponent: Any) -> Any:
    """A to the exponent, within |a^p| (exp(|p| (-log(1 - r / |a|)) + r_p |log |a||) - 1) of the exact operands'."""
    number = not isinstance(exponent, Tensor)
    if op.result.is_complex():
        raise op.refuse("for a complex exponent")
    if number and exponent in (0, 1):
        return op.operand(a).radius if exponent else None
    if number and exponent in (2, -1):
        return product(op, a, a) if exponent == 2 else quotient(op, 1, a)
    x, p = op.operand(a), op.operand(exponent)
    error = _power_error(op, exponent if number else math.nan)
    size = op.size + error
    if x.radius is None and p.radius is None:
        return error
    logs: Any = 0.0 if x.radius is None else p.grown() * _logarithm(x)
    if p.radius is not None:
        logs = logs + p.radius * torch.as_tensor(x.size, dtype=torch.float64).log().abs()
        # The power of a negative number changes its sign with the parity of the exponent.
        logs = torch.where(torch.as_tensor(a, device=op.result.device) < 0, INFINITE, logs)
        if not number:  # 0 to any power that is surely positive is 0
            logs = torch.where((torch.as_tensor(x.grown()) == 0) & (exponent > p.radius), 0.0, logs)
    varies = size * torch.expm1(op.up(logs))
    if number and exponent > 0 and p.radius is None:
        # Near zero the power itself is small, wherever the exact operand is.
        varies = torch.fmin(varies.nan_to_num(INFINITE), torch.pow(x.grown(), exponent) * FEW + size)
    return op.up(error + varies)


# Exponents for which torch computes with elementary operations: the ulps, and, where each of those is rounded
# to a narrow dtype, the roundings. In x^-2 the square may underflow to a subnormal number, down to 1 / largest,
# with 2 bits fewer: 4 u.
_ELEMENTARY = {3: (1, 2.1), -2: (3, 6.1), -0.5: (1, 2.1)}


def _power_error(op: Operation, exponent: float) -> Tensor:
    if exponent not in _ELEMENTARY:
        return op.rounded(None, op.ulps("sqrt" if exponent == 0.5 else "pow"))
    k, roundings = _ELEMENTARY[exponent]
    error = op.rounded(0.0) * roundings if op.dtype in NARROW else op.rounded(None, k)
    # The square of x^-2 may overflow, where the exact result is below the smallest normal number.
    return error + unit(component(op.dtype)).normal if exponent == -2 else error


def cast(op: Operation, a: Tensor, **_: Any) -> Any:
    """A in another dtype; it may be a number, in functions that are mapped."""
    if not isinstance(a, Tensor):
        return op.operand(a).radius
    radius = op.operand(a, a.dtype).radius
    if radius is not None:
        radius = radius.to(op.result.device)
    if widens(a.dtype, op.dtype):
        return radius
    if not (op.result.is_floating_point() or op.result.is_complex()):
        if radius is None:
            return None
        if op.dtype == torch.bool:
            return ((a.abs().double() <= radius) & (radius > 0)).double()
        if units.stays_the_same_integer(a, radius):
            return None
        raise op.refuse("to integers, of a number that is not exact")
    if a.is_complex() and not op.result.is_complex():
        a = torch.view_as_real(a.resolve_conj())[..., 0]  # torch drops the imaginary part
    if not (a.is_floating_point() or a.is_complex()):
        return op.operand(a).radius
    if op.evaluations == 2:
        return op.rounded(radius, underflows=1)
    if radius is None:
        return op.operand(a).radius
    return op.up(radius + apart(op.result, a.to(op.result.device)))


def _at_most(limit: float, radius: Any) -> Tensor:
    return torch.fmin(radius, torch.tensor(limit, dtype=torch.float64))


def _logarithm(x: Operand) -> Tensor:
    return _share(x.size, 0.0, x.radius)


def _share(a: Any, b: Any, radius: Any) -> Tensor:
    # log((a + b) / (a + b - r)), by the difference, in which no digit is lost.
    left, radius = (torch.as_tensor(z, dtype=torch.float64) for z in (left_of(a, b, radius), radius))
    return torch.where(radius > 0, torch.where(left > 0, torch.log1p(radius / left), INFINITE), 0.0)


def _sqrt(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # Of two numbers that are not negative. Where both roots are small, they differ by sqrt(r) at most.
    off = x.radius / (x.size.sqrt() + (x.size - x.radius).clamp_min(0).sqrt())
    return torch.fmin(off, torch.sqrt(x.radius))


def _exp(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    off, far = size * torch.expm1(x.radius), torch.as_tensor(x.radius) >= 1
    if not bool(far.any()):
        return off
    # Where both are far below 0, as of what is masked, both are about 0.
    most = torch.exp((a.real if a.is_complex() else a).double() + x.radius) * FEW
    return torch.where(far, torch.fmin(off, most), off)


def _tanh(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # tanh(a + d) - tanh(a) = (1 - tanh(a)^2) tanh(d) / (1 + tanh(a) tanh(d)), with 1 - tanh^2 = 4 e / (1 + e)^2.
    # Its divisor is 1 - tanh(d) at least, and tanh(d) / (1 - tanh(d)) = (exp(2 d) - 1) / 2.
    e = torch.exp(-2 * x.size) * FEW
    return _at_most(2, 2 * e / (1 + e).square() * torch.expm1(2 * x.radius))


def _tan(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # tan(a + d) - tan(a) = (1 + tan(a)^2) tan(d) / (1 - tan(a) tan(d)), as far as there is no pole between.
    t = torch.tan(x.radius) * FEW
    off = (1 + size.square()) * t / (1 - size * t)
    return torch.where((x.radius < math.pi / 2) & (size * t < 1), off, INFINITE)


def _arcsine(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # Its slope is largest at the end that is farther out, and infinite at 1; within the domain it is no more than that.
    # By c = 1 - |a|, or 1 + |a| at the other end, in which no digit is lost: arccos(a) = 2 arcsin(sqrt(c / 2)).
    outer, other = (left_of(1, size, x.radius).clamp_min(0) for size in (-x.size, x.size))
    c = (1 - x.size).clamp_min(0)
    here, least, most, beyond = (2 * torch.asin((z / 2).sqrt()) for z in (c, outer, (c + x.radius).clamp_max(1), other))
    most = torch.where(other < 1, math.pi - beyond, most)
    ends = torch.maximum(here - least, most - here) + 2.0**-50
    return torch.fmin(ends, x.radius / (outer * (2 - outer)).sqrt() * FEW)


def _arcosh(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # Its slope is largest at the lower end (two roots: a product overflows); from 1 on it grows as sqrt(2 r), at most.
    # Less 1 first, which is exact near 1: the lower end of numbers near 1 would be rounded.
    above = (x.size - 1 - x.radius).clamp_min(0)
    return torch.fmin(x.radius / above.sqrt() / (above + 2).sqrt(), torch.sqrt(2 * x.radius)) * FEW


def _artanh(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # artanh(a) = (log(1 + a) - log(1 - a)) / 2, as far as there is no pole between.
    return (_share(1, -x.size, x.radius) + torch.log1p(x.radius / (1 + x.size))) / 2


def _sigmoid(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # The slope of its logarithm is at most 1, and its own largest at the end that is nearer to 0.
    nearest = (x.size - x.radius).clamp_min(0)
    slope = torch.sigmoid(nearest) * torch.sigmoid(-nearest) * FEW
    return _at_most(1, torch.fmin(size * torch.expm1(x.radius), x.radius * slope))


def _erf(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    nearest = (x.size - x.radius).clamp_min(0)
    slope = (2 / math.sqrt(math.pi)) * torch.exp(-nearest.square()) * FEW
    return _at_most(2, x.radius * slope)


# How far a function of the exact operand may lie from that of `a`: by the operand x, and the largest size that
# the function of `a` may have.
VARIATIONS: dict[str, Callable[[Operand, Tensor, Tensor], Tensor]] = {
    "exp": _exp,
    "exp2": lambda x, size, a: size * torch.expm1(x.radius * (math.log(2) * FEW)),
    # exp(a) <= 1 + |expm1(a)|; and exp(a) itself, right to a few units, where that is smaller.
    "expm1": lambda x, size, a: torch.fmin(1 + size, a.double().exp() * FEW) * torch.expm1(x.radius),
    "log": lambda x, size, a: _logarithm(x),
    "log2": lambda x, size, a: _logarithm(x) / math.log(2),
    "log10": lambda x, size, a: _logarithm(x) / math.log(10),
    "log1p": lambda x, size, a: _share(1, a.double(), x.radius),
    "sqrt": _sqrt,
    "rsqrt": lambda x, size, a: size * torch.expm1(_logarithm(x) / 2),
    # Their slope is at most 1.
    "sin": lambda x, size, a: _at_most(2, x.radius),
    "cos": lambda x, size, a: _at_most(2, x.radius),
    "atan": lambda x, size, a: _at_most(math.pi, x.radius),
    "asinh": lambda x, size, a: x.radius,
    "tan": _tan,
    "asin": _arcsine,
    "acos": _arcsine,
    "acosh": _arcosh,
    "atanh": _artanh,
    # cosh(a + d) - cosh(a) = cosh(a) (cosh(d) - 1) + sinh(a) sinh(d), where |sinh(a)| <= cosh(a); sinh alike.
    "cosh": lambda x, size, a: size * torch.expm1(x.radius),
    "sinh": lambda x, size, a: (1 + size) * torch.expm1(x.radius),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "erfc": _erf,
    **special.VARIATIONS,
}


def function(op: Operation, a: Tensor, *, name: str) -> Tensor:
    """A function of the vendor's, documented in ulps."""
    if op.result.is_complex() and name != "exp":
        raise op.refuse(f"in {op.dtype}")
    error, x = _function_error(op, a, name), op.operand(a)
    if name == "exp" and not units.positive(x.size):  # exp(0) is 1, and exp(-inf) is 0
        nought = x.size == 0 if x.radius is None else (x.size == 0) & (torch.as_tensor(x.radius) <= UNDERFLOWS)
        endless = (op.size == 0) & x.size.isinf() if op.knows_it_exactly(x) else False
        error = torch.where(nought | endless, 0.0, error)
    besides = op.besides(name, a)
    error = error if besides is None else error + besides
    return error if x.radius is None else op.up(VARIATIONS[name](x, op.size + error, a) + error)


def angle(op: Operation, a: Tensor, b: Tensor) -> Any:
    """The angle of the point (b, a), which turns by no more than the arcsine of how far that may be off."""
    y, x = op.operand(a), op.operand(b)
    error = op.rounded(None, op.ulps("atan2"))
    if y.radius is None and x.radius is None:
        return error
    off_y, off_x = (torch.as_tensor(0.0 if r is None else r, dtype=torch.float64) for r in (y.radius, x.radius))
    share = torch.hypot(off_y, off_x) / torch.hypot(y.size, x.size) * FEW  # of the distance from the origin
    turned = torch.where(share < 1, torch.asin(share.clamp_max(1)) * FEW, math.pi)
    across = (b - off_x <= 0) & (y.size <= off_y) & (off_y > 0)  # from pi to -pi, or back
    jumps = bool(across.any()) and op.may_be_either(across.double())
    return op.up((torch.where(across, 2 * math.pi, turned) if jumps else turned) + error)


def _function_error(op: Operation, a: Tensor, name: str) -> Tensor:
    if op.result.is_complex():
        # exp(x) (cos(y) + i sin(y)): the modulus is off by the errors of exp, of cos and sin, and of a product.
        return op.rounded(None, op.ulps("exp") + max(op.ulps("sin"), op.ulps("cos")) + 1, 8)
    if name == "sigmoid":
        # 1 / (1 + exp(-a)): exp's error comes in with a weight of at most 1; the sum and the quotient round once
        # each. Where exp overflows, the exact value is below the smallest normal number.
        return op.rounded(None, op.ulps("exp") + 1) + op.unit.normal
    if name == "special_erfcx":
        return special.scaled_error(op, a)
    if name == "erf" and computed_in(op.result.dtype) == torch.float32:
        # For float32 torch's vectors have Abramowitz & Stegun's 7.1.26, with five digits more than nothing near
        # zero. In float64 there is a documented function to compare with.
        reference = torch.erf(a.double())
        return op.up(apart(op.result, reference) + reference.abs() * (FEW - 1))  # type: ignore[no-any-return]
    error = op.rounded(None, op.ulps(name))
    # In narrow dtypes it is 1 / sqrt(a), with both operations rounded to the narrow dtype.
    return error * 2.1 if name == "rsqrt" and op.dtype in NARROW else error


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.mul: product, aten.div: quotient, aten.reciprocal: reciprocal,
    aten.pow: power, aten._to_copy: cast, aten.atan2: angle,
    # What is copied, or a number, the last argument, is rounded to the dtype.
    aten.copy: lambda op, a, source, *_: op.operand(source).radius,
    **dict.fromkeys(
        (aten.full, aten.full_like, aten.new_full, aten.scalar_tensor, aten.fill),
        lambda op, *args, **_: op.operand(args[-1]).radius,
    ),
    **{getattr(aten, name): partial(function, name=name) for name in VARIATIONS},
}  # fmt: skip
