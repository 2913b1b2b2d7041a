"""The formulas of elementary functions of one real number."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.arithmetic import relative
from backprop_rules.evidence.allowance.operation import Operand, Operation
from backprop_rules.evidence.allowance.units import FEW, NARROW
from backprop_rules.evidence.allowance.vendor import ulps

aten = torch.ops.aten

Variation = Callable[[Operand, Tensor, Tensor], Tensor]


def _exp(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return size * torch.expm1(x.radius)


def _exp2(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return size * torch.expm1(x.radius * math.log(2))


def _expm1(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # exp(a) <= 1 + |expm1(a)|; and exp(a) itself, right to a few units, where that is smaller.
    return torch.fmin(1 + size, a.double().exp() * FEW) * torch.expm1(x.radius)


def _log(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return -torch.log1p(-relative(x))


def _log2(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return _log(x, size, a) / math.log(2)


def _log10(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return _log(x, size, a) / math.log(10)


def _log1p(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return -torch.log1p(-relative(Operand((1 + a.double()).clamp_min(0), x.radius)))


def _sqrt(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # Of two numbers that are not negative. Where both roots are small, they differ by sqrt(r) at most.
    apart = x.radius / (x.size.sqrt() + (x.size - x.radius).clamp_min(0).sqrt())
    return torch.fmin(apart, torch.sqrt(x.radius))


def _rsqrt(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return size * torch.expm1(-0.5 * torch.log1p(-relative(x)))


def _one_lipschitz_in_one(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    return torch.fmin(x.radius, torch.tensor(2.0, dtype=torch.float64))


def _tanh(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # tanh(a + d) - tanh(a) = (1 - tanh(a)^2) tanh(d) / (1 + tanh(a) tanh(d)), with 1 - tanh^2 = 4 e / (1 + e)^2.
    e, t = torch.exp(-2 * x.size) * FEW, torch.tanh(x.radius)
    return torch.fmin(4 * e / (1 + e).square() * t / (1 - t), torch.tensor(2.0, dtype=torch.float64))


def _sigmoid(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    # The logarithm of the sigmoid is 1-Lipschitz.
    return torch.fmin(size * torch.expm1(x.radius), torch.tensor(1.0, dtype=torch.float64))


def _erf(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    nearest = (x.size - x.radius).clamp_min(0)
    slope = (2 / math.sqrt(math.pi)) * torch.exp(-nearest.square()) * FEW
    return torch.fmin(x.radius * slope, torch.tensor(2.0, dtype=torch.float64))


def function(op: Operation, a: Tensor, *, name: str, variation: Variation) -> Tensor:
    """A function of the vendor's, documented in ulps."""
    if op.result.is_complex():
        raise op.refuse(f"in {op.dtype}")
    error = _vendors_error(op, a, name)
    x = op.operand(a)
    return error if x.radius is None else op.up(variation(x, op.size + error, a) + error)


def _vendors_error(op: Operation, a: Tensor, name: str) -> Tensor:
    error = op.rounded(None, ulps(name, op.unit_dtype, op.result.device.type))
    if name == "erf" and op.unit_dtype == torch.float32:
        # For float32 torch's vectors have Abramowitz & Stegun's 7.1.26, with five digits more than nothing near
        # zero. In float64 there is a documented function to compare with.
        reference = torch.erf(a.double())
        return op.up((op.result.double() - reference).abs() + reference.abs() * (FEW - 1))  # type: ignore[no-any-return]
    # In narrow dtypes it is 1 / sqrt(a), with both operations rounded to the narrow dtype.
    return error * 2.1 if name == "rsqrt" and op.dtype in NARROW else error


def exponential(op: Operation, a: Tensor) -> Tensor:
    """exp of a real or a complex number."""
    if not op.result.is_complex():
        return function(op, a, name="exp", variation=_exp)
    # exp(x) (cos(y) + i sin(y)): the modulus is off by the errors of exp, of cos and sin, and of a product.
    device, dtype = op.result.device.type, op.unit_dtype
    k = ulps("exp", dtype, device) + max(ulps("sin", dtype, device), ulps("cos", dtype, device)) + 1
    error, x = op.rounded(None, k, 8), op.operand(a)
    return error if x.radius is None else op.up(_exp(x, op.size + error, a) + error)


def sigmoid(op: Operation, a: Tensor) -> Tensor:
    """1 / (1 + exp(-a)): where exp overflows, the exact value is below the smallest normal number."""
    if op.result.is_complex():
        raise op.refuse(f"in {op.dtype}")
    # exp's error comes in with a weight of at most 1; the sum and the quotient round once each.
    error = op.rounded(None, ulps("exp", op.unit_dtype, op.result.device.type) + 1) + op.unit.normal
    x = op.operand(a)
    return error if x.radius is None else op.up(_sigmoid(x, op.size + error, a) + error)


_VARIATIONS: dict[str, Variation] = {
    "exp2": _exp2, "expm1": _expm1, "log": _log, "log2": _log2, "log10": _log10, "log1p": _log1p, "sqrt": _sqrt,
    "rsqrt": _rsqrt, "sin": _one_lipschitz_in_one, "cos": _one_lipschitz_in_one, "tanh": _tanh, "erf": _erf,
    "erfc": _erf,
}  # fmt: skip

FORMULAS: dict[Any, Callable[..., Any]] = {
    getattr(aten, name): partial(function, name=name, variation=variation) for name, variation in _VARIATIONS.items()
}
FORMULAS |= {aten.exp: exponential, aten.sigmoid: sigmoid}
