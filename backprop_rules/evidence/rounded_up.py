"""How far operations are off, in float32 and rounded up: half of the memory, and no error becomes smaller."""

import math
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import plus
from backprop_rules.subject.ambient import F32

# Larger than what two roundings in float32 make smaller, of normal numbers.
UP_IN_F32 = 1 + 2.0**-22


def above(error: Any) -> Tensor | None:
    """Return errors in float32, rounded up: none becomes smaller, and 0 stays 0. What is too large stays in float64."""
    if error is None:
        return None
    exact = torch.as_tensor(error)
    near = exact.float() * UP_IN_F32
    least, most = map(float, near.aminmax()) if near.numel() else (1.0, 1.0)
    if not most < math.inf:
        return exact.double()
    short = near < exact if least < torch.finfo(F32).smallest_normal else None  # most are 0, and none falls short
    if short is None or not bool(short.any()):
        return near
    return torch.where(short, torch.nextafter(near, near.new_tensor(torch.inf)), near)


def added(*errors: Tensor | None) -> Tensor | None:
    """Return the sum of errors in float32, rounded up."""
    known = [error for error in errors if error is not None]
    return plus(*known).mul_(UP_IN_F32) if len(known) > 1 else next(iter(known), None)
