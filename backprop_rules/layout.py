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
    """Return x's values as every second element of the rows of a buffer that is NaN, or far out, elsewhere.

    Each axis starts at an offset, so that no two of them are one by their strides.
    """
    if not x.ndim:
        return x.new_full([2], _gap(x))[1].copy_(x)
    *rows, row = x.shape
    buffer = x.new_full([*(n + 1 for n in rows), 2 * row + 1], _gap(x))
    return buffer[(*(slice(1, None) for _ in rows), slice(1, None, 2))].copy_(x)


def _gap(x: Tensor) -> float:
    """Return what lies between the numbers of a layout with gaps."""
    inexact = x.is_floating_point() or x.is_complex()
    return math.nan if inexact else True if x.dtype is torch.bool else torch.iinfo(x.dtype).max


def padded(x: Tensor) -> Tensor:
    """Return x's values as rows of a buffer that is NaN, or far out, around them: each row lies in order.

    No axis goes on where the next one ends, as of a slice of wider rows.
    """
    if not x.ndim:
        return sliced(x)
    buffer = x.new_full([n + 1 for n in x.shape], _gap(x))
    return buffer[(slice(1, None),) * x.ndim].copy_(x)


def swapped(x: Tensor) -> Tensor:
    """Return x's values with the two axes before the last one swapped in memory, as heads of an attention come."""
    return x.transpose(-3, -2).contiguous().transpose(-3, -2) if x.ndim > 2 else x


def channels_last(x: Tensor) -> Tensor:
    """Return x's values with the axis of channels, the second, innermost in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


def expanded_axes(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return the shape before expansion: size 1 along `axis`, or along every axis where axis is past the last."""
    return tuple(1 if axis in (i, len(shape)) else n for i, n in enumerate(shape))


ARRANGED = {
    "transposed": transposed, "sliced": sliced, "padded": padded, "swapped": swapped, "channels_last": channels_last,
}  # fmt: skip


def arranged(x: Tensor, how: str, shape: Sequence[int]) -> Tensor:
    """Return x's values in the layout of that name, expanded ones in this shape; as they are for another name."""
    if how == "expanded":
        return x.expand(tuple(shape))
    return ARRANGED[how](x) if how in ARRANGED else x


def arrangement(x: Tensor) -> tuple[str, Tensor]:
    """Return the name of x's layout, and what is stored of it: of an axis that is expanded one element."""
    stretched = [i for i, n in enumerate(x.shape) if n > 1 and x.stride(i) == 0]
    small = x[tuple(slice(0, 1) if i in stretched else slice(None) for i in range(x.ndim))]
    if stretched:
        return "expanded", small
    if x.is_contiguous() and not x.storage_offset():
        return "contiguous", small
    in_order = x.clone(memory_format=torch.contiguous_format)
    alike = (how for how, arrange in ARRANGED.items() if _lies_as(x, arrange(in_order)))
    return next(alike, "sliced" if x.storage_offset() else "transposed"), small


def _lies_as(x: Tensor, y: Tensor) -> bool:
    return x.stride() == y.stride() and x.storage_offset() == y.storage_offset()


def reaches(x: Tensor, y: Tensor) -> bool:
    """Say whether x is broadcast to the shape of y."""
    own, other = x.shape, y.shape
    return own == other or stretches(own, other)  # the same, as most are


def stretches(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Say whether one shape is broadcast to another."""
    pairs = zip(reversed(shape), reversed(other), strict=False)
    return len(shape) <= len(other) and all(n in (1, m) for n, m in pairs)


def code(x: Tensor | None) -> str:
    """Return Python code that makes this tensor, values, dtype, device and layout, given torch and `layout`."""
    if x is None:
        return "None"
    device = "" if x.device.type == "cpu" else f", device='{x.device}'"
    if x.device.type == "meta":
        return f"torch.empty({tuple(x.shape)}, dtype={x.dtype}{device})"
    how, small = arrangement(x)
    values = re.sub(r"\b(nan|inf)\b", r"torch.\1", str(small.tolist()))
    made = f"torch.tensor({values}, dtype={x.dtype}{device})"
    if (small.numel() == 0 and small.ndim > 1) or (small.numel() > MANY and not small.any()):
        made = f"torch.zeros({tuple(small.shape)}, dtype={x.dtype}{device})"
    if how == "expanded":
        return f"{made}.expand({tuple(x.shape)})"
    return made if how == "contiguous" else f"layout.{how}({made})"


def with_imports(lines: Sequence[str]) -> list[str]:
    """Return lines of such code, below the imports that they need."""
    laid_out = any("layout." in line for line in lines)
    return ["import torch", *["from backprop_rules import layout"] * laid_out, *lines]
