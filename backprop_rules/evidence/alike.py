"""What rounding the numbers of a tensor to a narrow dtype may do, those of which that round alike together."""

import math

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.units import power_below, unit


class Alike:
    """The numbers of one tensor that round alike: those with equal digits, whatever their sign and exponent."""

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        mantissa, _ = torch.frexp(x)
        self._pushed = half_an_ulp(x, dtype) * mantissa.sign()
        found, self._which = torch.unique(mantissa.abs().reshape(-1), return_inverse=True)
        self._count = found.numel()
        self._known = stored_by(x, dtype)

    def bias(self, sensitivity: Tensor) -> float:
        """Return |sum(s (rounded x - x))|: numbers that lie close together, or below the smallest, round one way."""
        return abs(float((sensitivity * self._known).sum()))

    def squares(self, sensitivity: Tensor) -> float:
        """Return sum((s half an ulp)^2), the sensitivities of those that round alike added before."""
        pushed = (sensitivity * self._pushed).reshape(-1)
        sums = torch.zeros(self._count, dtype=pushed.dtype, device=pushed.device)
        return float(sums.index_add_(0, self._which, pushed).square().sum())


def stored_by(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much rounding to a dtype changes numbers; 0 of what overflows there, of which elements tell."""
    return (x.to(dtype).to(x) - x).nan_to_num_(0.0, 0.0, 0.0)


def half_an_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far rounding to nearest may take numbers in a dtype; 0 of those that it has, as 1 of a softmax."""
    half = power_below(x).mul_(2.0 ** -precision(dtype)).clamp_min_(unit(dtype).tiny)
    rounds = (x.to(dtype) - x).sign_().abs_()
    return half.mul_(rounds) if math.isfinite(float(half.sum())) else torch.where(rounds > 0, half, 0.0)
