"""What rules share: broadcasting and reducing undone for the gradient, float32 inside, infinity kept from zero."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.layout import reaches

Dims = int | tuple[int, ...] | None


def unbroadcast(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient for x from the gradient for x broadcast: summed over the axes that x was stretched along.

    The gradient of a real x is real, and it has x's dtype whatever dtype the other operand brought in.
    """
    if not (isinstance(grad, Tensor) and isinstance(x, Tensor) and reaches(x, grad)):
        # No InputError, which ends a check: in a backward that is asked this is its own error, and a finding.
        got = [f"of shape {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in (grad, x)]
        raise ValueError(
            f"unbroadcast: grad is {got[0]}, x is {got[1]}: give two tensors, the gradient of what x was broadcast to, "
            "and then x."
        )
    shape, own, dtype = grad.shape, x.shape, x.dtype
    if shape == own and grad.dtype == dtype:
        return grad
    added = len(shape) - len(own)
    stretched = [i for i, n in enumerate(shape) if i < added or own[i - added] == 1 != n]
    if stretched:
        grad = grad.sum(stretched, keepdim=True)
    if grad.is_complex() and not dtype.is_complex:
        grad = grad.real
    return grad.reshape(own).to(dtype)


def reduced_axes(dim: Dims, ndim: int) -> list[int]:
    """Return the axes that `dim` names, in ascending order; a 0-d tensor has none."""
    named = range(ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return sorted(axis % ndim for axis in named) if ndim else []


def unreduce(grad_y: Tensor, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """Return grad_y at every element of x that was reduced into it: the adjoint of a sum over `dim`."""
    if not keepdim:
        for axis in reduced_axes(dim, x.ndim):
            grad_y = grad_y.unsqueeze(axis)
    return grad_y.expand(x.shape)


def in_float32(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a backward of several operations compute float16 and bfloat16 in float32, and round its gradients once.

    Otherwise each operation would round to 11 or 8 bits, and a square would overflow at 256.
    """

    def wide(x: Tensor | None) -> Tensor | None:
        return x.float() if x is not None and x.dtype in (torch.float16, torch.bfloat16) else x

    @functools.wraps(backward)
    def computed(grad_y: Tensor, y: Tensor, *primals: Tensor | None, **params: Any) -> Any:
        found = backward(wide(grad_y), wide(y), *map(wide, primals), **params)
        single = isinstance(found, Tensor)
        gradients = tuple(
            g if g is None or x is None or g.dtype == x.dtype else g.to(x.dtype)
            for g, x in zip((found,) if single else found, primals, strict=True)
        )
        return gradients[0] if single else gradients

    return computed


def finite(x: Tensor) -> Tensor:
    """Return x with the largest finite number for infinity, as a factor of what is 0 there: inf * 0 would be NaN."""
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)
