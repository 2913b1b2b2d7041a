"""The logarithm of the gamma function and its derivatives, of what is positive: elsewhere they have poles."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, Radius
from backprop_rules.evidence.allowance.units import FEW, factorial, gamma

aten = torch.ops.aten
SLOPE = 2.0**-900  # far from where float64 loses digits to underflow


def _with_slope(op: Operation, a: Tensor, error: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the radius of a function whose slope has its largest size at an end of any interval of positive numbers.

    Torch has these functions in float64 to much more digits than `slope` is asked for.
    """
    radius: Radius = op.operand(a).radius
    x = a.double()
    if radius is None:
        return torch.where(x > 0, error, math.inf)
    low, high = (torch.where(x - radius > 0, end, 1.0) for end in (x - radius, x + radius))  # below 0 it takes hours
    most = torch.maximum(slope(low).abs(), slope(high).abs()) * (1 + 2.0**-16)
    varies = radius * most
    # A slope of no more than 2 / x^2 is lost below what float64 has, and what comes of a large radius is not.
    varies = torch.where(most < SLOPE, torch.maximum(varies, 2 * (radius / low) / low), varies)
    return torch.where(x - radius > 0, op.up(varies + error), math.inf)


def log_gamma(op: Operation, a: Tensor) -> Tensor:
    """The logarithm of the gamma function, documented in ulps; its slope grows from below 0 to above."""
    return _with_slope(op, a, op.rounded(None, op.ulps("lgamma")), torch.digamma)


def digamma(op: Operation, a: Tensor) -> Tensor:
    """Its derivative: of x + 10 at most by a series that begins with a logarithm, less the inverses of x, x + 1, ..."""
    above = torch.digamma(a.double() + 10)
    terms = above.abs() + 2 * (above - torch.digamma(a.double())).abs() + 1
    error = op.up(terms * gamma(16 + 2 * op.ulps("log"), op.unit.u)) + op.rounded(None)
    return _with_slope(op, a, error, lambda x: torch.polygamma(1, x))


def polygamma(op: Operation, n: int, a: Tensor) -> Tensor:
    """The second derivative: squares of inverses, and from x + 6 on a series whose next term is 1 / (30 x^9).

    The derivative of order n is n! times a sum of powers 1 / (x + k)^(n + 1), of which ten are taken one by one and the
    rest by Euler & Maclaurin's series of twelve terms, with n! as the exponential of its logarithm.
    """
    if n > 1:
        roundings = 32 + 2 * (op.ulps("pow") + op.ulps("exp") + op.ulps("lgamma") * max(1.0, math.lgamma(n + 1)))
        error = op.up(op.size * gamma(roundings, op.unit.u)) + op.rounded(None)
        # The power may underflow, of which x times as much is added in the end.
        error = error + 8 * factorial(n) * op.unit.tiny * (1 + op.operand(a).grown())
        return _with_slope(op, a, error, lambda x: torch.polygamma(n + 1, x))
    left_out = 2 / (30 * (a.double().clamp_min(0) + 6) ** 9)  # in float64, and here
    error = op.up(op.size * gamma(24, op.unit.u)) * FEW + left_out + op.rounded(None)
    return _with_slope(op, a, error, lambda x: torch.polygamma(2, x))


FORMULAS: dict[Any, Callable[..., Any]] = {aten.lgamma: log_gamma, aten.digamma: digamma, aten.polygamma: polygamma}
