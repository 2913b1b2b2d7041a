"""A fused backward of gelu(x @ w.T) in bfloat16: everything in between is kept in float32."""

import math

import torch
from torch.nn import functional

from backprop_rules import check


def slope(h):
    """The derivative of GELU."""
    return torch.erfc(h * -math.sqrt(0.5)) / 2 + h * torch.exp(-h * h / 2) / math.sqrt(2 * math.pi)


def fused(grad_y, x, w):
    wide = [t.float() for t in (grad_y, x, w)]
    grad_h = wide[0] * slope(wide[1] @ wide[2].T)
    return (grad_h @ wide[2]).to(x.dtype), (grad_h.T @ wide[1]).to(w.dtype)


def after_the_activation(grad_y, x, w):
    wide = [t.float() for t in (grad_y, x, w)]
    grad_h = wide[0] * slope(functional.gelu(wide[1] @ wide[2].T))  # the slope at the output
    return (grad_h @ wide[2]).to(x.dtype), (grad_h.T @ wide[1]).to(w.dtype)


def forward(x, w):
    return functional.gelu(x.float() @ w.float().T).to(x.dtype)


def report(backward):
    numbers = torch.Generator().manual_seed(0)
    example = torch.randn(4, 3, generator=numbers).bfloat16(), torch.randn(5, 3, generator=numbers).bfloat16()
    return check(backward, forward=forward, example=example, raise_on_failure=False)


RIGHT, WRONG = (lambda: report(fused)), (lambda: report(after_the_activation))

if __name__ == "__main__":
    print(RIGHT(), WRONG(), sep="\n\n")
