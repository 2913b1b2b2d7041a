"""An RMSNorm's backward in Triton, held to its reference: under Triton's interpreter, or compiled where there is a GPU.

pip install triton && python examples/kernels/triton_rms_norm.py
"""

import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import triton
import triton.language as tl

from backprop_rules.testing import assert_gradients

EPS = 1e-6


@triton.jit
def one_row(grad_y, x, w, grad_x, grad_w, n, eps, BLOCK: tl.constexpr, FORGETS_EPS: tl.constexpr):
    """Write one row of the gradient of x, and what the row adds to that of w."""
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    inside = at < n
    gs = tl.load(grad_y + row * n + at, mask=inside, other=0.0).to(tl.float32)
    xs = tl.load(x + row * n + at, mask=inside, other=0.0).to(tl.float32)
    ws = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    square = tl.sum(xs * xs) / n
    r = 1 / tl.sqrt(square) if FORGETS_EPS else 1 / tl.sqrt(square + eps)
    hat, g = xs * r, gs * ws
    tl.store(grad_x + row * n + at, r * (g - hat * (tl.sum(g * hat) / n)), mask=inside)
    tl.store(grad_w + row * n + at, gs * hat, mask=inside)


def backward(grad_y, x, w, forgets_eps=False):
    rows, n = x.shape
    grad_x, parts = torch.empty_like(x), torch.empty(x.shape, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(n)
    one_row[(rows,)](grad_y, x, w, grad_x, parts, n, EPS, BLOCK=block, FORGETS_EPS=forgets_eps)
    return grad_x, parts.sum(0).to(w.dtype)


def reference(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def point():
    g = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(64, 200, generator=g).half() for _ in range(2))
    x[3] /= 256  # a row so small that eps counts
    return tuple(t.to(DEVICE) for t in (grad_y, x, torch.rand(200, generator=g).half() + 0.5))


def held(got):
    grad_y, x, w = point()
    return assert_gradients(got, forward=reference, primals=(x, w), grad_y=grad_y)


def RIGHT():
    return held(backward(*point()))


def WRONG():
    return held(backward(*point(), forgets_eps=True))


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
