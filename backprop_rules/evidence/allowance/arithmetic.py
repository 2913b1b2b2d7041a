"""The formulas of arithmetic: sums, products, quotients and powers, element by element, and casts."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import INFINITE, Operand, Operation, Radius, plus
from backprop_rules.evidence.allowance.units import FEW, NARROW, component, gamma, unit, widens
from backprop_rules.evidence.allowance.vendor import ulps

aten = torch.ops.aten

# Ulps, of 2 u each, of a complex product, in modulus (Higham, lemma 3.5: sqrt(2) gamma_2), and of a quotient: for
# Smith's division, which torch has in place of the textbook's, 7 u to first order (see `quotient`).
COMPLEX_PRODUCT, COMPLEX_QUOTIENT = math.sqrt(2), 3.6


def sum_of_two(op: Operation, a: Any, b: Any, *, alpha: complex = 1) -> Tensor:
    """a + alpha b, fused or not, the product kept wide or not: an addition rounds nothing where it underflows."""
    x, y = op.operand(a), op.operand(b)
    underflows = 2.0 * op.flushes  # of either part
    if alpha in (1, -1):
        return op.rounded(plus(x.radius, y.radius), underflows=underflows)
    factor = op.operand(alpha)
    product, used = y.size * factor.size, unit(op.dtype, op.flushes)
    error = op.up(product * gamma(2 * COMPLEX_PRODUCT if op.result.is_complex() else 1, used.u) + 6 * used.tiny)
    return op.rounded(plus(x.radius, spread(y, factor), error), underflows=underflows)


def difference(op: Operation, a: Any, b: Any, *, alpha: complex = 1) -> Tensor:
    """a - alpha b."""
    return sum_of_two(op, a, b, alpha=alpha)


def reverse_difference(op: Operation, a: Any, b: Any, alpha: complex = 1) -> Tensor:
    """b - alpha a."""
    return sum_of_two(op, b, a, alpha=alpha)


def spread(x: Operand, y: Operand) -> Radius:
    """Return how far the exact operands' product may lie from these operands': without cancellation."""
    if x.radius is None:
        return None if y.radius is None else x.size * y.radius
    return x.radius * y.size if y.radius is None else x.grown() * y.radius + x.radius * y.size


def product(op: Operation, a: Any, b: Any) -> Tensor | None:
    """A b: a mask, a zero and a power of two round nothing."""
    # The kernel keeps a second operand that is a Python number in the dtype in which it computes.
    kept = torch.float32 if op.dtype in NARROW and not isinstance(b, Tensor) else op.dtype
    x, y = op.operand(a), op.operand(b, kept)
    varies = spread(x, y)
    if _whole_factor(op, a, b, y) or _whole_factor(op, b, a, x):
        return None if varies is None else op.up(varies)
    vanished = op.size == 0
    # Most products have no zero, and the question is quicker than the answer, but for a device that is far away.
    asked = not op.flushes and (op.result.is_cuda or bool(vanished.any()))
    exact = ((x.size == 0) | (y.size == 0)) & vanished if asked else None
    if op.result.is_complex():
        return op.rounded(varies, COMPLEX_PRODUCT, 6, exact)
    return op.rounded(varies, exact=exact)


def _whole_factor(op: Operation, factor: Any, other: Any, size: Operand) -> bool:
    """Say whether multiplying by the factor rounds nothing: a mask, or a power of two where nothing underflows."""
    if isinstance(factor, Tensor):
        return factor.dtype == torch.bool and not op.result.is_complex() and op.evaluations == 1
    if isinstance(factor, complex) or op.result.is_complex() or not math.isfinite(factor) or op.evaluations == 2:
        return False
    if factor == 0 or abs(math.frexp(factor)[0]) != 0.5:
        return False
    # The second operand's own cast is in the radius; the result must be in the range of the normal numbers, or zero.
    inside = (op.size >= unit(op.dtype).normal) & (op.size < INFINITE)
    return bool((inside | (op.operand(other).size == 0)).all())


def square(op: Operation, a: Any) -> Tensor | None:
    """A a."""
    return product(op, a, a)


def quotient(op: Operation, a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    """A / b, within (r_a + |a / b| r_b) / (|b| - r_b) of the exact operands' quotient."""
    if rounding_mode is not None:
        raise op.refuse(f"in the mode {rounding_mode}")
    if (
        isinstance(b, int | float)
        and b
        and math.isfinite(b)
        and abs(math.frexp(b)[0]) == 0.5
        and not op.result.is_complex()
    ):
        return product(op, a, 1 / b)
    x, y = op.operand(a), op.operand(b)
    if not isinstance(y.size, Tensor) and y.size == 0:
        return torch.full_like(op.size, INFINITE)
    k, floor = 0.5, 0.0
    if op.result.is_complex():
        # Smith: with t = d / c, |t| <= 1, the parts of the numerator are off by u (|a| + 3 |t b|), and so it by
        # u (1 + 3 t) / sqrt(1 + t^2) <= 2.83 u in proportion; 1 / (c + d t) by 3 u; and their product by u.
        k = COMPLEX_QUOTIENT
        floor = 8 * op.unit.tiny * (1 + x.size + 1 / y.size)
    elif op.result.is_cuda and (not isinstance(b, Tensor) or (b.ndim == 0 and b.device.type == "cpu")):
        # The kernel multiplies by the reciprocal of a number that lies on the CPU.
        k, floor = 1, 2 * op.unit.tiny * (1 + x.size)
    plain = op.rounded(None, k) + floor
    if op.result.is_complex() and isinstance(y.size, Tensor):
        # |c + d t| <= sqrt(2) |b| may overflow, and its inverse is 0 then.
        plain = torch.where(y.size > torch.finfo(component(op.dtype)).max / 2, INFINITE, plain)
    # 0 / b is 0, but for b = 0
    error = plain if op.flushes else torch.where((op.size == 0) & (x.size == 0), 0.0, plain)
    if x.radius is None and y.radius is None:
        return error
    return op.up(error + over(op.size + plain, x.radius, y))


def over(size: Any, radius: Radius, divisor: Operand) -> Any:
    """Return how far the exact operands' quotient may lie from these operands', of at most that size."""
    if divisor.radius is None:
        return radius / divisor.size
    below = divisor.size - divisor.radius
    # The product of size and radius could underflow where the quotient does not.
    apart = size * (divisor.radius / below)
    if radius is not None:
        apart = apart + radius / below
    # The exact divisor may be zero; the difference is off by 2^-53 in proportion to itself.
    return torch.where(below > 0, apart, INFINITE) if isinstance(below, Tensor) else apart


def reciprocal(op: Operation, a: Tensor) -> Any:
    """1 / a; for a complex a its conjugate over |a|^2, which may overflow or underflow where 1 / a does neither."""
    error = quotient(op, 1, a)
    if not op.result.is_complex():
        return error
    squared = op.operand(a).size ** 2
    inside = (squared > 2 * unit(component(op.dtype)).normal) & (squared < torch.finfo(component(op.dtype)).max / 2)
    return torch.where(inside, error, INFINITE)


def relative(x: Operand) -> Any:
    """Return the radius in proportion to the size; infinite where the operand may be anything, 0 where it is exact."""
    return x.radius / x.size.clamp_min(5e-324) if isinstance(x.size, Tensor) else x.radius / max(x.size, 5e-324)


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
    logs: Any = 0.0
    if x.radius is not None:
        logs = p.grown() * -torch.log1p(-torch.as_tensor(relative(x), dtype=torch.float64))
    if p.radius is not None:
        logs = logs + p.radius * torch.as_tensor(x.size, dtype=torch.float64).log().abs()
        # The power of a negative number changes its sign with the parity of the exponent.
        logs = torch.where(torch.as_tensor(a, device=op.result.device) < 0, INFINITE, logs)
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
    k, roundings = _ELEMENTARY.get(exponent, (0, 0))
    # The square of x^-2 may overflow, where the exact result is below the smallest normal number.
    overflow = unit(component(op.dtype)).normal if exponent == -2 else 0
    if not k:
        return op.rounded(None, ulps("sqrt" if exponent == 0.5 else "pow", op.unit_dtype, op.result.device.type))
    if op.dtype in NARROW:
        return op.rounded(None) * roundings + overflow
    return op.rounded(None, k) + overflow


def cast(op: Operation, a: Tensor, **_: Any) -> Any:
    """A in another dtype."""
    radius = op.operand(a, a.dtype).radius
    if radius is not None and radius.device != op.result.device:
        radius = radius.to(op.result.device)
    if widens(a.dtype, op.dtype):
        return radius
    if not (op.result.is_floating_point() or op.result.is_complex()):
        if radius is None:
            return None
        if op.dtype == torch.bool:
            return ((a.abs().double() <= radius) & (radius > 0)).double()
        raise op.refuse("to integers, of a number that is not exact")
    if a.is_complex() and not op.result.is_complex():
        a = torch.view_as_real(a.resolve_conj())[..., 0]  # torch drops the imaginary part
    if not (a.is_floating_point() or a.is_complex()):
        return op.operand(a).radius
    if op.evaluations == 2:
        return op.rounded(radius, underflows=1)
    return op.operand(a).radius if radius is None else _recast(op, a, radius)


def _recast(op: Operation, a: Tensor, radius: Tensor) -> Tensor:
    wide = torch.complex128 if a.is_complex() or op.result.is_complex() else torch.float64
    lost = (op.result.to(wide) - a.to(op.result.device).to(wide)).abs()
    return op.up(radius + lost)  # type: ignore[no-any-return]


def filled(op: Operation, *args: Any, **_: Any) -> Any:
    """A tensor full of the last argument, a Python number, which is rounded to the dtype."""
    radius = op.operand(args[-1]).radius
    if isinstance(radius, float):
        return torch.full(op.result.shape, radius, dtype=torch.float64, device=op.result.device)
    return radius


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.add: sum_of_two, aten.sub: difference, aten.rsub: reverse_difference, aten.mul: product,
    aten.square: square, aten.div: quotient, aten.reciprocal: reciprocal, aten.pow: power, aten._to_copy: cast,
    aten.full: filled, aten.full_like: filled, aten.new_full: filled, aten.scalar_tensor: filled, aten.fill: filled,
}  # fmt: skip
