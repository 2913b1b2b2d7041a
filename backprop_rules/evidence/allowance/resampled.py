"""The formulas of resampling with weights of either sign, or over many pixels: along one axis, then the other."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, plus
from backprop_rules.evidence.allowance.units import gamma
from backprop_rules.evidence.allowance.windows import with_weights
from backprop_rules.subject.ambient import all_finite

aten = torch.ops.aten

# The steepest slope of a weight by the place: of the cubic with -1/2, which is antialiased, at 5/9 of a pixel; of that
# with -3/4 it is 1.35. And the largest sum of sizes, of the cubic with -3/4.
STEEPEST, LARGEST = 25 / 18, 1.375
ROUNDED = 8  # roundings of a weight, of terms no larger than 2.5


def _weights(forward: Any, before: int, after: int, align: bool, scale: float | None) -> Tensor:
    """Return the weights of an axis, by pixel before and after: what becomes of each unit vector."""
    one_by_one = torch.eye(before, dtype=torch.float64).reshape(1, before, 1, before)  # see docs/findings.md
    found: Tensor = forward(one_by_one, [1, after], align, None, scale)[0, :, 0]
    return found


def _summed(each: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return sums with weights that are not negative: infinite where a term is that has one, and nowhere else."""
    if all_finite(each):
        return rows.T @ each @ columns
    endless = rows.T @ (~each.isfinite()).double() @ columns
    found = rows.T @ each.nan_to_num(0.0, 0.0, 0.0) @ columns
    return found.masked_fill(endless > 0, math.inf)


def _resampled(
    op: Operation, a: Tensor, forward: Any, before: Any, after: Any, align: bool, scales: Any, back: bool
) -> Tensor:
    """Return the radius of weighted sums; a place among all rounds, which is no share of it, and moves the weights."""
    pairs = zip(before, after, scales, strict=True)
    axes = [_weights(forward, n, m, align, scale).to(a.device) for n, m, scale in pairs]
    axes = [w.T for w in axes] if back else axes
    x, u = op.operand(a), op.unit.u
    # The neighbours, too, of which a place that rounds may be.
    near = [torch.nn.functional.max_pool2d((w != 0).double()[None, None], 3, 1, 1)[0, 0] for w in axes]

    sizes = [w.abs() for w in axes]
    taps = [int((w != 0).sum(0).max()) for w in axes]
    off = sum(STEEPEST * gamma(4 * (n + m), u) + gamma(ROUNDED, u) * 2.5 for n, m in zip(before, after, strict=True))
    moved = _summed(x.grown(), *near) * (off * LARGEST)
    size, varies = x.through(lambda each: _summed(each, *sizes))
    stored = 2 * sum(taps)  # the weights are, and what they are added up to
    return with_weights(op, plus(varies, moved), size, math.prod(taps), stored, narrow=back)


def forwards(op: Operation, a: Tensor, after: Any, align: bool, *scales: Any) -> Tensor:
    """Weighted sums of the pixels around each place."""
    return _resampled(op, a, op.func, a.shape[2:], after, align, scales or (None, None), False)


def backwards(op: Operation, grad: Tensor, after: Any, before: Any, align: bool, *scales: Any, forward: Any) -> Tensor:
    """For each pixel the weighted sum of the cotangents to which it gave."""
    return _resampled(op, grad, forward, before[2:], after, align, scales or (None, None), True)


NAMES = ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
FORMULAS: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name): forwards for name in NAMES},
    **{getattr(aten, f"{name}_backward"): partial(backwards, forward=getattr(aten, name)) for name in NAMES},
}
