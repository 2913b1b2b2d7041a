"""How a wrong backward of a public tracker is kept: what is wrong, where it was reported, its forward and one call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Reported:
    """A wrong backward, restated from a report: `where` is the tracker and the number in it."""

    what: str
    where: str
    forward: Function
    example: tuple[Any, ...]
    wrong: Function

    def __str__(self) -> str:
        return f"{self.what} ({self.where})"


def into(kept: list[Reported]) -> Callable[..., Callable[[Function], Function]]:
    """Return a decorator that keeps a wrong backward in a list."""

    def reported(what: str, where: str, forward: Function, *example: Any) -> Callable[[Function], Function]:
        def keep(wrong: Function) -> Function:
            kept.append(Reported(what, where, forward, example, wrong))
            return wrong

        return keep

    return reported


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed + sum(shape)))


def complexes(*shape: int, seed: int = 0) -> Tensor:
    """Return normal complex numbers."""
    return numbers(*shape, seed=seed, dtype=torch.complex128)


def torchs_own(forward: Function) -> Function:
    """Return torch's own backward of a forward: what a right twin of a wrong one would return."""

    def backward(grad_y: Tensor, *primals: Any) -> list[Any]:
        live = [
            x.detach().requires_grad_() if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) else x
            for x in primals
        ]
        with torch.enable_grad():
            y = forward(*live)
        asked = [x for x in live if isinstance(x, Tensor) and x.requires_grad]
        left = iter(torch.autograd.grad(y, asked, grad_y, allow_unused=True, materialize_grads=True))
        return [next(left) if isinstance(x, Tensor) and x.requires_grad else None for x in live]

    return backward
