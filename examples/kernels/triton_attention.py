"""Attention in Triton, forward and backward, as fused kernels have it: online softmax, and P recomputed.

The gradient of the scores needs the sums of P dP along the keys; the kernel takes those of o grad_y, which are the same
but for rounding, as o was stored. What that loses is allowed wherever a reference multiplies by a softmax.

    pip install triton && python examples/kernels/triton_attention.py
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

BLOCK = 32


@triton.jit
def forward_rows(q, k, v, o, lse, length, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    """Write o, and the logarithm of the sum of the exponentials, for a block of queries, keys block by block."""
    head, rows, cols = tl.program_id(1) * length, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    place = (head + rows)[:, None] * D + cols[None, :]
    qs = tl.load(q + place)
    most = tl.full((BLOCK,), -float("inf"), tl.float32)
    total, out = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        there = (head + start + tl.arange(0, BLOCK))[:, None] * D + cols[None, :]
        s = tl.dot(qs, tl.trans(tl.load(k + there))) * scale
        larger = tl.maximum(most, tl.max(s, 1))
        p, shrunk = tl.exp(s - larger[:, None]), tl.exp(most - larger)
        total = total * shrunk + tl.sum(p, 1)
        out = out * shrunk[:, None] + tl.dot(p.to(q.dtype.element_ty), tl.load(v + there))
        most = larger
    tl.store(o + place, (out / total[:, None]).to(q.dtype.element_ty))
    tl.store(lse + head + rows, most + tl.log(total))


@triton.jit
def backward_rows(q, k, v, grad_y, lse, delta, grad_q, length, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    """Write the gradient of a block of queries."""
    head, rows, cols = tl.program_id(1) * length, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    place = (head + rows)[:, None] * D + cols[None, :]
    qs, gs, ls, ds = (
        tl.load(q + place),
        tl.load(grad_y + place),
        tl.load(lse + head + rows),
        tl.load(delta + head + rows),
    )
    found = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        there = (head + start + tl.arange(0, BLOCK))[:, None] * D + cols[None, :]
        ks = tl.load(k + there)
        p = tl.exp(tl.dot(qs, tl.trans(ks)) * scale - ls[:, None])
        grad_s = p * (tl.dot(gs, tl.trans(tl.load(v + there))) - ds[:, None])
        found += tl.dot(grad_s.to(q.dtype.element_ty), ks)
    tl.store(grad_q + place, (found * scale).to(q.dtype.element_ty))


@triton.jit
def backward_columns(
    q,
    k,
    v,
    grad_y,
    lse,
    delta,
    grad_k,
    grad_v,
    length,
    scale,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    STOPS: tl.constexpr,
):
    """Write the gradients of a block of keys and values; with STOPS the last block of queries is left out."""
    head, rows, cols = tl.program_id(1) * length, tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    place = (head + rows)[:, None] * D + cols[None, :]
    ks, vs = tl.load(k + place), tl.load(v + place)
    of_k, of_v = tl.zeros((BLOCK, D), tl.float32), tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length - STOPS * BLOCK, BLOCK):
        own = head + start + tl.arange(0, BLOCK)
        there = own[:, None] * D + cols[None, :]
        qs, gs = tl.load(q + there), tl.load(grad_y + there)
        p = tl.exp(tl.dot(qs, tl.trans(ks)) * scale - tl.load(lse + own)[:, None])
        of_v += tl.dot(tl.trans(p.to(q.dtype.element_ty)), gs)
        grad_s = p * (tl.dot(gs, tl.trans(vs)) - tl.load(delta + own)[:, None])
        of_k += tl.dot(tl.trans(grad_s.to(q.dtype.element_ty)), qs)
    tl.store(grad_k + place, (of_k * scale).to(q.dtype.element_ty))
    tl.store(grad_v + place, of_v.to(q.dtype.element_ty))


def fused(grad_y, q, k, v, stops=False):
    """Return the output and the gradients."""
    (heads, length, width), scale = q.shape, q.shape[-1] ** -0.5
    o, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    grid, sizes = (length // BLOCK, heads), {"D": width, "BLOCK": BLOCK}
    forward_rows[grid](q, k, v, o, lse, length, scale, **sizes)
    delta = (o.float() * grad_y.float()).sum(-1)
    grads = tuple(torch.empty_like(x) for x in (q, k, v))
    backward_rows[grid](q, k, v, grad_y, lse, delta, grads[0], length, scale, **sizes)
    backward_columns[grid](q, k, v, grad_y, lse, delta, *grads[1:], length, scale, **sizes, STOPS=stops)
    return o, grads


def reference(q, k, v):
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def point():
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 64, 32, generator=g).half().to(DEVICE) for _ in range(4))


def held(stops):
    grad_y, *primals = point()
    o, got = fused(grad_y, *primals, stops=stops)
    return assert_gradients(got, forward=reference, primals=primals, grad_y=grad_y, y=o)


def RIGHT():
    return held(stops=False)


def WRONG():
    return held(stops=True)


if __name__ == "__main__":
    print(WRONG() if "--wrong" in sys.argv else RIGHT())
