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


def cumprod(input: Tensor, dim: int, *, dtype: torch.dtype | None = None, out: Any = None) -> Tensor:
    """Return torch's cumulative product; of factors that are not 0 with a graph of few steps."""
    plain = dtype is None and out is None and input.is_floating_point() and input.requires_grad
    with torch._C._DisableTorchDispatch():
        nonzero = plain and bool(input.detach().all())
    if nonzero:
        found: Tensor = _ByItsSums.apply(input, dim)  # type: ignore[no-untyped-call]
        return found
    with torch._C.DisableTorchFunction():
        return torch.cumprod(input, dim, dtype=dtype)
