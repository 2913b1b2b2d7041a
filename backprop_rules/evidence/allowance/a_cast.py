"""A cast of a reference, as autograd sees it."""

import weakref
from typing import Any

import torch
from torch import Tensor


class Cast(torch.autograd.Function):
    """A cast, whose gradient is in the new dtype first, and then cast back.

    The graph does not own the mode, which keeps where autograd meets its steps: that circle nobody would collect.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mode: Any, own: torch.dtype, dtype: torch.dtype) -> Any:
        """Return x as it is stored in a dtype."""
        ctx.mode, ctx.own, ctx.dtype = weakref.ref(mode), own, dtype
        return mode.stored(x, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Return the gradient as it is stored in that dtype, and in x's own."""
        mode = ctx.mode()
        return mode.stored(mode.stored(grad, ctx.dtype), ctx.own), None, None, None
