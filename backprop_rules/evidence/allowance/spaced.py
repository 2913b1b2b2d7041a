"""The formulas of constants that torch makes of a few numbers: lines, powers of a base, and windows."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, Radius
from backprop_rules.evidence.allowance.units import FEW, unit

aten = torch.ops.aten


def spaced(op: Operation, start: float, end: float, *_: Any, **__: Any) -> Tensor:
    """Numbers from one to another: the step, its multiple and the sum round, each by no more than the larger end."""
    off = 4 * unit(op.dtype).u  # narrow kernels store them between
    return op.total(None, torch.full_like(op.size, off * max(abs(start), abs(end))), off)


def counted(op: Operation, *args: Any, **_: Any) -> Radius:
    """Numbers a step apart: exact as multiples of a power of two, of few enough digits."""
    start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    finest = max(float(x).as_integer_ratio()[1] for x in (start, step))
    exact = op.whole or max(abs(start), abs(end)) * finest <= 1 / unit(op.dtype).u
    return None if exact else spaced(op, start, end)


def spaced_by_factors(op: Operation, start: float, end: float, steps: int, base: float = 10.0, **_: Any) -> Tensor:
    """Powers of a base, of exponents from one number to another."""
    off = 4 * op.unit.u * max(abs(start), abs(end)) * abs(math.log(base)) * FEW if base > 0 else math.inf
    return op.rounded(op.size * math.expm1(off), op.ulps("pow"))


def window(op: Operation, *_: Any, **__: Any) -> Tensor:
    """Sums of cosines of at most one turn, or lines: none is off by 16 u.

    The argument, of at most 2 pi, is off by 2 u in proportion, a cosine by 2 ulps, their factors, of 1 together, and
    sums by 3 u; of twice the argument there is a share of 0.08.
    """
    return torch.full_like(op.size, 16 * unit(op.dtype).u)


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.arange: counted, aten.linspace: spaced, aten.logspace: spaced_by_factors,
    **dict.fromkeys((aten.fft_fftfreq, aten.fft_rfftfreq), lambda op, *_, **__: op.rounded(None, 2)),
    **{getattr(aten, f"{name}_window"): window for name in ("hann", "hamming", "bartlett", "blackman")},
}  # fmt: skip
