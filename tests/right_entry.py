"""What a right backward is: with its forward, one call of it, and how such a call is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Right:
    """A right handwritten backward of a forward, and one call of that, whose structure other calls share."""

    forward: Function
    example: tuple[Tensor, ...]
    backward: Function


def into(entries: dict[str, Right]) -> Callable[..., Callable[[Function], Function]]:
    """Return a decorator that keeps a backward among these entries."""

    def right(name: str, forward: Function, example: Sequence[Tensor]) -> Callable[[Function], Function]:
        def keep(backward: Function) -> Function:
            assert name not in entries, name
            entries[name] = Right(forward, tuple(example), backward)
            return backward

        return keep

    return right


def normal(dtype: torch.dtype, *shapes: Sequence[int]) -> list[Tensor]:
    """Return an array of each shape; one generator, so that no two of a call are alike."""
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=numbers, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
            for shape in shapes]  # fmt: skip


def positive(dtype: torch.dtype, *shapes: Sequence[int]) -> list[Tensor]:
    return [x.abs() + 0.25 for x in normal(dtype, *shapes)]


def indices(below: int, *shape: int) -> Tensor:
    """Return indices that come more than once, in no order."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 5 + 3) % 7 % below).reshape(shape)


def wide(x: Tensor) -> Tensor:
    """Return x in float32 if it has fewer bits, as kernels do before they sum or subtract."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
