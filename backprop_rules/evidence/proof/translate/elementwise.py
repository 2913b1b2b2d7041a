"""Torch's operations on each number by itself, in NumPy notation, for arrays of exact numbers."""

from typing import Any

import numpy as np
import torch
from flint import arb

from backprop_rules.evidence.proof.translate import numbers
from backprop_rules.evidence.proof.translate.numbers import Function, compared, middle, pieces

aten = torch.ops.aten


def times(a: Any, factor: Any) -> Any:
    """A factor times a."""
    return a if isinstance(factor, int | float) and factor == 1 else a * factor


def divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """A / b, or the whole number below it or nearer to zero."""
    return {None: lambda q: q, "floor": numbers.floor, "trunc": numbers.trunc}[rounding_mode](a / b)


def clamp(a: Any, min: Any = None, max: Any = None) -> Any:
    """Return a, no less than min and no more than max."""
    above = a if min is None else np.maximum(a, min)
    return above if max is None else np.minimum(above, max)


def to(a: Any, *, dtype: Any = None, **_: Any) -> Any:
    """Return the same numbers, whatever the precision; truth, or whole numbers, if the dtype has only these."""
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return a
    return numbers.unequal(a, 0) if dtype == torch.bool else numbers.trunc(a)


ARITHMETIC: dict[Any, Function] = {
    aten.add: lambda a, b, *, alpha=1: a + times(b, alpha),
    aten.sub: lambda a, b, *, alpha=1: a - times(b, alpha),
    aten.mul: lambda a, b: a * b,
    aten.div: divide,
    aten.remainder: lambda a, b: a - b * numbers.floor(a / b),
    aten.fmod: lambda a, b: a - b * numbers.trunc(a / b),
    aten.neg: lambda a: -a,
    aten.reciprocal: lambda a: 1 / a,
    aten.pow: numbers.power,
    aten.sqrt: np.sqrt,
    aten.rsqrt: lambda a: 1 / np.sqrt(a),
    aten.lerp: lambda a, b, weight: a + weight * (b - a),
    aten.abs: np.abs,
    aten.maximum: np.maximum,
    aten.minimum: np.minimum,
    aten.clamp: clamp,
    aten.floor: numbers.floor,
    aten.ceil: numbers.ceil,
    aten.trunc: numbers.trunc,
    aten.round: numbers.round,
    aten.sign: numbers.sign,
    aten.sgn: numbers.sign,
    aten.clone: lambda a, **_: a,
    aten._to_copy: to,
    aten.fill: lambda a, value: np.broadcast_to(value, a.shape),
}

# ---- functions of one number


def gelu(a: Any, *, approximate: str = "none") -> Any:
    """A Phi(a), or with a tanh in the place of the error function."""
    if approximate == "none":
        return a * numbers.ndtr(a)
    # (1 + tanh(x)) / 2 is the sigmoid of 2 x
    return a * numbers.sigmoid((a + a * a * a * 0.044715) * (8 / arb.pi()).sqrt())


def elu(a: Any, alpha: float = 1, scale: float = 1, input_scale: Any = 1) -> Any:
    """Scale times a, or alpha (exp(input_scale a) - 1) where it is negative."""
    return pieces(0, lambda v: (v * input_scale).expm1() * alpha * scale, lambda v: v * scale)(a)


def softplus(a: Any, beta: float = 1, threshold: float = 20) -> Any:
    """log(1 + exp(beta a)) / beta, or a where beta a is above the threshold, as torch defines it."""
    z = times(a, beta)
    return pieces(threshold, numbers._softplus, lambda v: v)(z) / beta


def hardshrink(a: Any, lambd: float = 0.5) -> Any:
    """Return a, or 0 between -lambd and lambd."""
    return middle(-lambd, lambd, lambda v: v, lambda v: 0, lambda v: v)(a)


def softshrink(a: Any, lambd: float = 0.5) -> Any:
    """Return a moved by lambd towards 0, no farther."""
    return middle(-lambd, lambd, lambda v: v + lambd, lambda v: 0, lambda v: v - lambd)(a)


def logit(a: Any, eps: float | None = None) -> Any:
    """log(a / (1 - a))."""
    inside = a if eps is None else clamp(a, eps, 1 - arb(eps))
    return np.log(inside) - np.log1p(-inside)


def logarithm(base: int) -> Function:
    """Return the logarithm to a base."""
    return lambda a: np.log(a) / arb(base).log()


CURVES: dict[Any, Function] = {
    aten.exp: np.exp, aten.expm1: np.expm1, aten.exp2: lambda a: np.exp(a * arb(2).log()), aten.log: np.log,
    aten.log1p: np.log1p, aten.log2: logarithm(2), aten.log10: logarithm(10), aten.sin: np.sin, aten.cos: np.cos,
    aten.tan: numbers.tan, aten.asin: numbers.asin, aten.acos: numbers.acos, aten.atan: numbers.atan,
    aten.sinh: numbers.sinh, aten.cosh: numbers.cosh, aten.tanh: np.tanh, aten.asinh: numbers.asinh,
    aten.acosh: numbers.acosh, aten.atanh: numbers.atanh, aten.atan2: numbers.atan2, aten.erf: numbers.erf,
    aten.erfc: numbers.erfc, aten.erfinv: numbers.erfinv, aten.lgamma: numbers.lgamma,
    aten.special_ndtr: numbers.ndtr, aten.sigmoid: numbers.sigmoid, aten.logaddexp: numbers.logaddexp,
    aten.xlogy: numbers.xlogy, aten.logit: logit, aten.deg2rad: lambda a: a * (arb.pi() / 180),
    aten.rad2deg: lambda a: a * (180 / arb.pi()), aten.hypot: lambda a, b: (a * a + b * b) ** 0.5,
    aten.relu: lambda a: np.maximum(a, 0),
    aten.leaky_relu: lambda a, slope=0.01: pieces(0, lambda v: v * slope, lambda v: v)(a),
    aten.elu: elu, aten.celu: lambda a, alpha=1: elu(a, alpha, input_scale=1 / arb(alpha)), aten.gelu: gelu,
    aten.mish: lambda a: a * np.tanh(numbers.softplus(a)), aten.softplus: softplus,
    aten.log_sigmoid_forward: lambda a: (-numbers.softplus(-a), None),
    aten.hardshrink: hardshrink, aten.softshrink: softshrink,
    aten.threshold: lambda a, at, value: pieces(at, lambda v: value, lambda v: v)(a),
}  # fmt: skip

# ---- comparisons and logic, on arrays of True, False and TIE

COMPARISONS: dict[Any, Function] = {
    aten.lt: numbers.less, aten.gt: compared(lambda order: order == 1),
    aten.le: compared(lambda order: order in (-1, 0)), aten.ge: compared(lambda order: order in (0, 1)),
    aten.eq: compared(lambda order: order == 0), aten.ne: numbers.unequal,
    aten.isnan: numbers.isnan, aten.isinf: numbers.isinf, aten.isfinite: numbers.isfinite,
}  # fmt: skip

LOGIC: dict[Any, Function] = {
    aten.logical_not: numbers.negation, aten.bitwise_not: numbers.negation, aten.logical_and: numbers.both,
    aten.bitwise_and: numbers.both, aten.logical_or: numbers.either, aten.bitwise_or: numbers.either,
    aten.logical_xor: numbers.differ, aten.bitwise_xor: numbers.differ,
}  # fmt: skip
