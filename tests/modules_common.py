"""What the modules are made of: the class, numbers for examples, and steps that several backwards share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Module:
    """A forward as people have it, one call of it, its right backward, and wrong ones by their mistakes."""

    name: str
    forward: Function
    example: tuple[Any, ...]
    right: Function
    wrong: Mapping[str, Function]

    def __str__(self) -> str:
        return self.name


def numbers(*shapes: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a tensor of normal numbers for each shape."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(tuple(shape), dtype=dtype, generator=generator) for shape in shapes)


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module whose parameters are no longer the ones and zeros that hide a mistake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


def given(grad_y: Sequence[Tensor | None], y: Sequence[Tensor]) -> list[Tensor]:
    """Return a cotangent for each output: zeros where there is none."""
    return [torch.zeros_like(out) if grad is None else grad for grad, out in zip(grad_y, y, strict=True)]


def sigmoid_slope(x: Tensor) -> Tensor:
    """Return the derivative of the sigmoid: 1 - sigmoid(x) would lose its digits for large x."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh_slope(y: Tensor) -> Tensor:
    """Return the derivative of tanh where its value is y: 1 - y² would round before it subtracts."""
    return (1 - y) * (1 + y)


def silu_slope(x: Tensor) -> Tensor:
    """Return the derivative of x * sigmoid(x)."""
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def gelu_slope(x: Tensor) -> Tensor:
    """Return the derivative of x Φ(x): erfc keeps the digits of Φ in the lower tail."""
    density = torch.exp(-x * x / 2) * (2 * torch.pi) ** -0.5
    return torch.erfc(-x * 0.5**0.5) / 2 + x * density


def through_softmax(grad_p: Tensor, p: Tensor) -> Tensor:
    """Return the gradient of the logits of a softmax over the last axis."""
    return p * (grad_p - (grad_p * p).sum(-1, keepdim=True))


def standardised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x without mean and of variance 1 along the last axis, and what it was scaled by."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred * scale, scale


def through_standardised(grad_y: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of what was standardised: the mean and the variance depend on it too."""
    return scale * (grad_y - grad_y.mean(-1, keepdim=True) - y * (grad_y * y).mean(-1, keepdim=True))


def unit(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x divided by its norm along the last axis, and that norm, which is at least eps."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)
    return x / norm, norm


def through_unit(grad_y: Tensor, y: Tensor, norm: Tensor, eps: float) -> Tensor:
    """Return the gradient of what was divided by its norm, which is a constant where it was clamped."""
    along = y * (grad_y * y).sum(-1, keepdim=True)
    return (grad_y - torch.where(norm > eps, along, 0)) / norm
