"""How far special functions of the exact operand may lie from those of its value: by their values at the ends."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operand, Operation
from backprop_rules.evidence.allowance.units import FEW, ULPS, gamma, left_of

aten = torch.ops.aten

# From here on I_1(x) exp(-x) falls: its largest value is at 1.545.
FALLS = 1.56


def _change(name: str, middle: Tensor, radius: Tensor, least: float = -math.inf) -> Tensor:
    """Return how far a function that only rises or only falls gets from its value in the middle, and what rounds."""
    low, high = middle - radius, middle + radius
    # Where these were rounded inwards, the next number: a radius may be less than the spacing of numbers.
    inwards = left_of(middle, -radius, low) < 0, left_of(middle, radius, high) > 0
    low = torch.where(inwards[0], torch.nextafter(low, low.new_tensor(-math.inf)), low).clamp_min(least)
    high = torch.where(inwards[1], torch.nextafter(high, high.new_tensor(math.inf)), high)
    at, *ends = map(getattr(aten, name), (middle, low, high))
    most = torch.maximum(*((end - at).abs() for end in ends))
    # Both are off by the ulps that are documented in float64, on any device.
    off = gamma(2 * 2 * max(ULPS[name][1::2]), 2.0**-53)
    return most + off * torch.maximum(*(end.abs() for end in ends))


def _monotone(name: str, x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of a function that rises, or falls, everywhere; NaN beyond its domain."""
    return _change(name, a.double(), x.radius)


def _even(name: str, x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of a function of the size that rises, or falls, with it."""
    return _change(name, x.size, x.radius, 0.0)


def _i1e(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Its slope, I_0 - I_1 / x - I_1 times exp(-x), is at most 1/2: at 0."""
    falls, steepest = x.size - x.radius > FALLS, x.radius * 0.5 * FEW
    return torch.where(falls, torch.fmin(_even("special_i1e", x, size, a), steepest), steepest)


def _scaled(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of exp(x^2) erfc(x), which below 0 is not known to so many digits (see `scaled_error`)."""
    low = a.double() - x.radius
    besides: Tensor = torch.special.erfcx(low) * (low.clamp_max(0).square() * gamma(4, 2.0**-53))
    return besides + _monotone("special_erfcx", x, size, a)


def scaled_error(op: Operation, a: Tensor) -> Tensor:
    """Return how far exp(x^2) erfc(x) is off, which below 0 is 2 exp(x^2) less another."""
    square = a.double().clamp_max(0).square()
    besides: Tensor = op.up(op.size * (square * gamma(2, op.unit.u)))
    return op.rounded(None, op.ulps("special_erfcx")) + besides


VARIATIONS: dict[str, Callable[[Operand, Tensor, Tensor], Tensor]] = {
    **{name: partial(_monotone, name) for name in ("erfinv", "special_ndtri", "special_i1")},
    **{name: partial(_even, name) for name in ("i0", "special_i0e")},
    "special_erfcx": _scaled,
    "special_i1e": _i1e,
}
