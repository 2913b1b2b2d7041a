"""Tensors: their values, on a grid or of any magnitude, and their memory layout."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules import layout
from backprop_rules.domain import Interval, precision
from backprop_rules.strategies.drawing.draw import Draw
from backprop_rules.strategies.drawing.shapes import Shape
from backprop_rules.strategies.grid import Grid

Numbers = np.ndarray[Any, np.dtype[np.float64]]

# Bytes in the shortest string from which a tensor is drawn.
SHORT = 64
# The bits of a wide element that its value comes from; the eight above say how many of them to drop.
LOW = np.uint64(2**56 - 1)


def tensor(draw: Draw, shape: Shape, dtype: torch.dtype, numbers: Callable[[int], Any]) -> Tensor:
    """Draw a tensor in some memory layout; `numbers(n)` gives n values, or whole numbers for indices."""
    arrangement = draw.pick(layout.LAYOUTS)
    small = shape
    if arrangement == "expanded":
        small = layout.expanded_axes(shape, draw.whole(0, len(shape)))
    parts = (*small, 2) if dtype.is_complex else small
    values = torch.from_numpy(numbers(math.prod(parts)).reshape(parts))
    x = (torch.view_as_complex(values) if dtype.is_complex else values).to(dtype)
    return layout.arranged(x, arrangement, shape)


def _bytes(draw: Draw, count: int, size: int) -> "np.ndarray[Any, Any]":
    """Draw that many numbers of `size` bytes from one string.

    Small tensors take a string of one length, so that their values outlive a change of shape in
    shrinking, and the last byte goes to the first element: shrinking moves what is not zero to the
    end of a string.
    """
    data = draw.bytes(max(SHORT, count * size))
    return np.frombuffer(data, dtype=f">u{size}")[::-1][:count]


def on_grid(draw: Draw, count: int, grid: Grid) -> Numbers:
    """Draw values of the grid; the bytes 0, 1, 2, ... are 0, 1, -1, ... times its spacing, so that they shrink."""
    choices = 2 * grid.width + 1
    size = 1 if choices <= 256 else 8
    numbers = _bytes(draw, count, size)
    ranks = ((numbers & LOW) % choices).astype(np.int64)
    sizes = (ranks + 1) >> 1
    if size == 8:
        # The first byte says how many bits to drop: a wide grid has small numbers beside large ones.
        sizes >>= (numbers >> 56).astype(np.int64) % grid.width.bit_length()
    return np.where(ranks & 1, sizes, -sizes).astype(np.float64) * grid.spacing


def indices(draw: Draw, count: int, size: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Draw whole numbers from 0 to size - 1, often the same one twice: in half of all cases 0 and 1 alone."""
    return _bytes(draw, count, 1).astype(np.int64) % max(min(size, draw.pick((2, size))), 1)


def of_any_magnitude(draw: Draw, dtype: torch.dtype, within: Interval, ties: bool = False) -> Callable[[int], Numbers]:
    """Draw a scale, and return a function that draws values around it, from subnormal to the largest finite ones.

    One in eight is a small whole number, zeros of both signs among them, so that ties and zeros occur at every scale;
    with `ties`, of twelve tensors two hold nothing else, and one holds zeros.
    """
    finfo = torch.finfo(dtype)
    bits, top = precision(dtype), math.frexp(finfo.max)[1] - 1
    bottom = math.frexp(finfo.smallest_normal)[1] - bits
    centre = draw.pick((0, 0, 0, 1, draw.whole(bottom, top)))
    # Up to the powers where a series would be cut, or where 1 + x is 1, and up to all that there are.
    spread = draw.pick((1, 3, 8, bits // 2, bits, top))
    kinds = (*((False, False),) * 9, (True, False), (True, False), (True, True))
    tied, zero = draw.pick(kinds) if ties else kinds[0]

    def numbers(count: int) -> Numbers:
        words = _bytes(draw, count, 8).astype(np.uint64)
        sign = np.where(words >> np.uint64(63), -1.0, 1.0)
        kind = (words >> np.uint64(60)) & np.uint64(7)
        offset = (words >> np.uint64(44)) & np.uint64(0xFFFF)
        fraction = (words & np.uint64(2**44 - 1)).astype(np.float64) * 2.0**-44
        # As many bits as the dtype has, so that nothing rounds but what becomes subnormal.
        mantissa = 1 + np.floor(fraction * 2.0 ** (bits - 1)) * 2.0 ** (1 - bits)
        exponent = np.clip(centre + (offset % np.uint64(2 * spread + 1)).astype(np.int64) - spread, bottom, top)
        small = (words & np.uint64(0 if zero else 3)).astype(np.float64)
        return _folded(sign * np.where((kind == 0) | tied, small, np.ldexp(mantissa, exponent)), within)

    return numbers


def _folded(x: Numbers, within: Interval) -> Numbers:
    """Return the values, those outside of the interval moved into it."""
    low, high = within
    if low == 0:
        return np.abs(x)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where((x < low) | (x > high), 1 / x, x) if within != (-math.inf, math.inf) else x
