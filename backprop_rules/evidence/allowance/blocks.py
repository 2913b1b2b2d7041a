"""An operation block by block: what is separate in its leading dimensions is found in the processor's cache."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# Numbers whose radius is found at a time: with the radii of operands and what is made on the way, some MiB.
BLOCK = 1 << 18
# What is separate in all dimensions but those named by the argument in this place.
ALONG = {aten._softmax: 1, aten._log_softmax: 1, aten._softmax_backward_data: 2, aten._log_softmax_backward_data: 2}
# What is separate in all dimensions but the last ones, of a shape that is named by the argument in this place.
NORMALISED = {aten.native_layer_norm: 1, aten.native_layer_norm_backward: 2}


# Of a norm these arguments have the separate dimensions; weights, that may be shaped as if they had, are whole.
CUT = {aten.native_layer_norm: (0,), aten.native_layer_norm_backward: (0, 1, 3, 4)}


def cut_in(func: Any, args: Any) -> Sequence[int]:
    """Return the places of the arguments that are cut into blocks."""
    return CUT.get(func.overloadpacket, range(len(args)))


def separate(func: Any, result: Tensor, args: Any) -> int:
    """Return how many leading dimensions of a result are separate: of a pointwise operation, all."""
    if torch.Tag.pointwise in func.tags:
        return result.ndim
    if func.overloadpacket in ALONG:
        return int(args[ALONG[func.overloadpacket]]) % result.ndim
    if func.overloadpacket in NORMALISED:
        return result.ndim - len(args[NORMALISED[func.overloadpacket]])
    return 0


def blocks(shape: torch.Size, axes: int) -> Iterator[tuple[slice, ...]]:
    """Yield slices of the leading dimensions that make blocks of about BLOCK numbers."""
    inner = math.prod(shape[1:])
    if not axes or not shape or 0 < shape.numel() <= BLOCK:
        yield ()
    elif inner >= BLOCK and axes > 1:
        for k in range(shape[0]):
            for rest in blocks(shape[1:], axes - 1):
                yield slice(k, k + 1), *rest
    else:
        step = max(1, BLOCK // max(1, inner))
        for k in range(0, shape[0], step):
            yield (slice(k, k + step),)


def part_of(x: Any, shape: torch.Size, block: tuple[slice, ...], axes: int) -> Any:
    """Return the part of an operand that a block of the result is made of: the whole where it is broadcast."""
    if not isinstance(x, Tensor):
        return x
    missing = len(shape) - x.ndim
    if axes == len(shape):  # pointwise: aligned at the end
        own = [s if x.shape[k - missing] != 1 else slice(None) for k, s in enumerate(block) if k >= missing]
        return x[tuple(own)]
    # Otherwise what has the leading dimensions is cut, and weights are whole.
    return x[block] if x.shape[:axes] == shape[:axes] else x
