"""How far special functions of the exact operand may lie from those of its value: by their values at the ends."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operand, Operation
from backprop_rules.evidence.allowance.units import FEW, gamma

Function = Callable[[Tensor], Tensor]
# From here on I_1(x) exp(-x) falls: its largest value is at 1.545.
FALLS = 1.56


def _change(function: Function, middle: Tensor, radius: Tensor, least: float = -math.inf) -> Tensor:
    """Return how far a function that only rises or only falls gets from its value in the middle, and what rounds."""
    low, high = middle - radius, middle + radius
    # Where these were rounded inwards, the next number: a radius may be less than the spacing of numbers.
    low = torch.where(middle - low < radius, torch.nextafter(low, low.new_tensor(-math.inf)), low).clamp_min(least)
    high = torch.where(high - middle < radius, torch.nextafter(high, high.new_tensor(math.inf)), high)
    at, *ends = map(function, (middle, low, high))
    most = torch.maximum(*((end - at).abs() for end in ends))
    return most + (FEW - 1) * torch.maximum(*(end.abs() for end in ends))


def _monotone(function: Function, x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of a function that rises, or falls, everywhere; NaN beyond its domain."""
    return _change(function, a.double(), x.radius)


def _even(function: Function, x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of a function of the size that rises, or falls, with it."""
    return _change(function, x.size, x.radius, 0.0)


def _i1e(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Its slope, I_0 - I_1 / x - I_1 times exp(-x), is at most 1/2: at 0."""
    falls, steepest = x.size - x.radius > FALLS, x.radius * 0.5 * FEW
    return torch.where(falls, torch.fmin(_even(torch.special.i1e, x, size, a), steepest), steepest)


def _scaled(x: Operand, size: Tensor, a: Tensor) -> Tensor:
    """Of exp(x^2) erfc(x), which below 0 is not known to so many digits (see `scaled_error`)."""
    low = a.double() - x.radius
    besides: Tensor = torch.special.erfcx(low) * (low.clamp_max(0).square() * gamma(4, 2.0**-53))
    return besides + _monotone(torch.special.erfcx, x, size, a)


def scaled_error(op: Operation, a: Tensor) -> Tensor:
    """Return how far exp(x^2) erfc(x) is off, which below 0 is 2 exp(x^2) less another."""
    square = a.double().clamp_max(0).square()
    besides: Tensor = op.up(op.size * (square * gamma(2, op.unit.u)))
    return op.rounded(None, op.ulps("special_erfcx")) + besides


VARIATIONS: dict[str, Callable[[Operand, Tensor, Tensor], Tensor]] = {
    "erfinv": partial(_monotone, torch.erfinv),
    "special_erfcx": _scaled,
    "special_ndtri": partial(_monotone, torch.special.ndtri),
    "i0": partial(_even, torch.special.i0),
    "special_i0e": partial(_even, torch.special.i0e),
    "special_i1": partial(_monotone, torch.special.i1),
    "special_i1e": _i1e,
}
