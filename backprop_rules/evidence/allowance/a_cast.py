"""A cast of a reference, as autograd sees it."""

from typing import Any

import torch
from torch import Tensor


class Cast(torch.autograd.Function):
    """A cast, whose gradient is in the new dtype first, and then cast back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mode: Any, own: torch.dtype, dtype: torch.dtype) -> Any:
        """Return x as it is stored in a dtype."""
        ctx.mode, ctx.own, ctx.dtype = mode, own, dtype
        return mode.stored(x, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the gradient as it is stored in that dtype, and in x's own."""
        return ctx.mode.stored(ctx.mode.stored(grad, ctx.dtype), ctx.own), None, None, None
