"""A cumulative product whose reverse pass is sums where no factor is 0, as torch's is, and is recorded as these."""

from typing import Any

import torch
from torch import Tensor


class _ByItsSums(torch.autograd.Function):
    """The product, with the gradient x̄ᵢ = Σ_{j ≥ i} ȳⱼ yⱼ / xᵢ: a graph of torch's own goes place by place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        """Return the products."""
        with torch._C.DisableTorchFunction():
            y = x.cumprod(dim)
        ctx.dim = dim
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        """Return the gradient."""
        x, y = ctx.saved_tensors
        return (grad_y * y).flip(ctx.dim).cumsum(ctx.dim).flip(ctx.dim) / x, None


def cumprod(args: Any, named: Any) -> Tensor | None:
    """Return the product of factors that are not 0, of which a graph is made; None of any other, and of other calls."""
    several, x = len(args) + len(named) != 2, args[0] if args else None
    dim = args[1] if len(args) > 1 else named.get("dim")
    if several or not isinstance(x, Tensor) or not isinstance(dim, int) or not x.is_floating_point():
        return None
    with torch._C._DisableTorchDispatch():
        plain = x.requires_grad and torch.is_grad_enabled() and bool(x.detach().all())
    return _ByItsSums.apply(x, dim) if plain else None  # type: ignore[no-untyped-call]
