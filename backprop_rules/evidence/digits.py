"""Whether a gradient has lost digits in a dtype that torch keeps there."""

import math

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import largest
from backprop_rules.subject.ambient import F32, all_finite


def has_lost_digits(got: Tensor, theirs: Tensor, truth: Tensor, dtype: torch.dtype, nearby: float = 0.0) -> Tensor:
    """Return where `got` has lost digits that torch keeps in the dtype, beside the largest element of the truth.

    Torch keeps -log2(their error / scale) bits of the dtype's p, and the backward loses more of these: from p/2 on,
    the middle between as accurate as torch and nothing kept, its formula is to blame, and not the dtype. Below float32
    half of the digits are so few that a longer sum loses them too: there, none is kept where torch keeps half. `nearby`
    is torch's error at neighbours, where it is not exact by luck.
    """
    if all_finite(truth, got, theirs):
        said = torch.ones((), dtype=torch.bool, device=truth.device)
    else:
        said = truth.isfinite() & got.isfinite() & theirs.isfinite()
        truth, got, theirs = (torch.where(said, x, 0.0) for x in (truth, got, theirs))
    scale, unit = largest(truth), 2.0 ** -precision(dtype)
    if not has_digits(scale, dtype):
        return torch.zeros_like(truth, dtype=torch.bool)
    error = (got - truth).abs()
    torchs = max(largest(theirs - truth), unit * scale, nearby)
    lost = torchs * unit**-0.5
    if precision(dtype) < precision(F32):
        lost = scale if lost <= scale else torch.inf
    return error.ge(lost) & said


def has_digits(size: float, dtype: torch.dtype) -> bool:
    """Say whether a number of this size has the dtype's digits, and the product of two such in float32 any."""
    return size >= max(float(torch.finfo(dtype).tiny), math.sqrt(torch.finfo(F32).tiny))
