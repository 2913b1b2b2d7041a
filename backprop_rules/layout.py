"""Memory layouts: the same values, laid out in the ways that break a backward which reads as if contiguous."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

MANY = 16  # more zeros than these are not written out
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")


def transposed(x: Tensor) -> Tensor:
    """Return x's values with the strides in reverse order, as a transposed view has them."""
    axes = tuple(reversed(range(x.ndim)))
    return x.permute(axes).contiguous().permute(axes)


def sliced(x: Tensor) -> Tensor:
    """Return x's values as every second element, from an offset, of a buffer that is NaN, or far out, elsewhere."""
    inexact = x.is_floating_point() or x.is_complex()
    gap = math.nan if inexact else True if x.dtype is torch.bool else torch.iinfo(x.dtype).max
    buffer = x.new_full([2 * n + 1 for n in x.shape] or [2], gap)
    view = buffer[(slice(1, None, 2),) * x.ndim] if x.ndim else buffer[1]
    return view.copy_(x)


def expanded_axes(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return the shape before expansion: size 1 along `axis`, or along every axis where axis is past the last."""
    return tuple(1 if axis in (i, len(shape)) else n for i, n in enumerate(shape))


def code(x: Tensor) -> str:
    """Return Python code that makes this tensor, values, dtype, device and layout, given torch and `layout`."""
    device = "" if x.device.type == "cpu" else f", device='{x.device}'"
    if x.device.type == "meta":
        return f"torch.empty({tuple(x.shape)}, dtype={x.dtype}{device})"
    stretched = [i for i, n in enumerate(x.shape) if n > 1 and x.stride(i) == 0]
    small = x[tuple(slice(0, 1) if i in stretched else slice(None) for i in range(x.ndim))]
    values = re.sub(r"\b(nan|inf)\b", r"torch.\1", str(small.tolist()))
    made = f"torch.tensor({values}, dtype={x.dtype}{device})"
    if (small.numel() == 0 and small.ndim > 1) or (small.numel() > MANY and not small.any()):
        made = f"torch.zeros({tuple(small.shape)}, dtype={x.dtype}{device})"
    if stretched:
        return f"{made}.expand({tuple(x.shape)})"
    if x.storage_offset():
        return f"layout.sliced({made})"
    return made if x.is_contiguous() else f"layout.transposed({made})"
