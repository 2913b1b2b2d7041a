"""Right backwards of convolutions, pooling, attention and what else networks are made of."""

import torch
from right_entry import Right, into, normal, positive, wide
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

NETWORKS: dict[str, Right] = {}
right = into(NETWORKS)


def conv1d(x, w, b):
    return functional.conv1d(x, w, b, stride=2, padding=1)


@right("conv1d", conv1d, normal(float32, (2, 3, 6), (4, 3, 5), (4,)))
def _(grad_y, x, w, b):
    if not x.numel():  # where there is no channel, torch's convolution gives none either
        return torch.zeros_like(x), torch.zeros_like(w), torch.zeros_like(b)
    padded = functional.pad(x, (1, 1))
    grad_w = torch.einsum("bol,bclk->ock", grad_y, padded.unfold(2, w.shape[2], 2))
    grad_windows = torch.einsum("bol,ock->bclk", grad_y, w)
    source = torch.arange(padded.shape[2]).unfold(0, w.shape[2], 2).flatten()
    grad_x = torch.zeros_like(padded).index_add(2, source, grad_windows.flatten(2))
    return grad_x[..., 1:-1], grad_w, grad_y.sum((0, 2))


@right("conv2d", functional.conv2d, normal(float64, (2, 3, 5, 4), (4, 3, 2, 3)))
def _(grad_y, x, w):
    if not x.numel():
        return torch.zeros_like(x), torch.zeros_like(w)
    (height, width), (rows, columns) = w.shape[2:], grad_y.shape[2:]
    windows = x.unfold(2, height, 1).unfold(3, width, 1)
    grad_w = torch.einsum("bohw,bchwij->ocij", grad_y, windows)
    grad_x = torch.zeros_like(wide(x))
    for i in range(height):
        for j in range(width):
            share = torch.einsum("bohw,oc->bchw", wide(grad_y), wide(w[:, :, i, j]))
            grad_x[:, :, i : i + rows, j : j + columns] += share
    return grad_x.to(x.dtype), grad_w


@right("conv_transpose1d", functional.conv_transpose1d, normal(float64, (2, 3, 5), (3, 4, 2)))
def _(grad_y, x, w):
    windows = grad_y.unfold(2, w.shape[2], 1)
    return torch.einsum("bolk,cok->bcl", windows, w), torch.einsum("bcl,bolk->cok", x, windows)


@right(
    "depthwise_conv1d", lambda x, w: functional.conv1d(x, w, groups=x.shape[1]), normal(float32, (2, 4, 5), (4, 1, 3))
)
def _(grad_y, x, w):
    grad_w = torch.einsum("bcl,bclk->ck", grad_y, x.unfold(2, w.shape[2], 1))
    grad_x = torch.zeros_like(wide(x))
    for k in range(w.shape[2]):
        grad_x[:, :, k : k + grad_y.shape[2]] += wide(grad_y) * wide(w[:, :, k])
    return grad_x.to(x.dtype), grad_w.unsqueeze(1)


@right("avg_pool", lambda x: functional.avg_pool2d(x, 2), normal(bfloat16, (2, 3, 4, 5)))
def _(grad_y, x):
    grad_x, (rows, columns) = torch.zeros_like(x), grad_y.shape[2:]
    spread = (grad_y / 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    grad_x[:, :, : 2 * rows, : 2 * columns] = spread
    return grad_x


@right("max_pool", lambda x: functional.max_pool1d(x, 2), normal(float32, (2, 3, 5)))
def _(grad_y, x):
    grad_x, n = torch.zeros_like(x), 2 * grad_y.shape[2]
    first = x[..., 0:n:2] >= x[..., 1:n:2]
    grad_x[..., 0:n:2] = torch.where(first, grad_y, 0)
    grad_x[..., 1:n:2] = torch.where(first, 0, grad_y)
    return grad_x


@right("upsample", lambda x: functional.interpolate(x, scale_factor=2), normal(float16, (2, 3, 4)))
def _(grad_y, x):
    return grad_y.reshape(*x.shape, 2).sum(-1)


@right("pixel_shuffle", lambda x: functional.pixel_shuffle(x, 2), normal(float32, (2, 8, 3, 5)))
def _(grad_y, x):
    batch, channels, height, width = x.shape
    blocks = grad_y.reshape(batch, channels // 4, height, 2, width, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(x.shape)


def attention(q, k, v):
    return (q / q.shape[-1] ** 0.5 @ k.mT).softmax(-1) @ v


def through_attention(grad_y, q, k, v, hidden=None):
    """Return the gradients of attention in which the scores of what is hidden are minus infinity."""
    dtype, (grad_y, q, k, v) = q.dtype, map(wide, (grad_y, q, k, v))
    scale = q.shape[-1] ** 0.5
    scores = q / scale @ k.mT
    p = (scores if hidden is None else scores.masked_fill(hidden, -torch.inf)).softmax(-1)
    grad_p = grad_y @ v.mT
    grad_scores = p * (grad_p - (p * grad_p).sum(-1, keepdim=True)) / scale
    return tuple(g.to(dtype) for g in (grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_y))


@right("attention", attention, normal(float32, (2, 3, 4), (2, 5, 4), (2, 5, 6)))
def _(grad_y, q, k, v):
    return through_attention(grad_y, q, k, v)


def later(q):
    return torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)


def causal_attention(q, k, v):
    scores = q / q.shape[-1] ** 0.5 @ k.mT
    return scores.masked_fill(later(q), -torch.inf).softmax(-1) @ v


@right("causal_attention", causal_attention, normal(float64, (2, 3, 4), (2, 3, 4), (2, 3, 5)))
def _(grad_y, q, k, v):
    return through_attention(grad_y, q, k, v, later(q))


@right("fused_attention", functional.scaled_dot_product_attention, normal(bfloat16, (2, 3, 4), (2, 5, 4), (2, 5, 6)))
def _(grad_y, q, k, v):
    return through_attention(grad_y, q, k, v)


def linear_attention(q, k, v):
    return q @ (k.mT @ v)


@right("linear_attention", linear_attention, normal(float64, (2, 3, 4), (2, 5, 4), (2, 5, 6)))
def _(grad_y, q, k, v):
    grad_kv = q.mT @ grad_y
    return grad_y @ (k.mT @ v).mT, v @ grad_kv.mT, k @ grad_kv


def rotary(x, cos, sin):
    a, b = x.unflatten(-1, (2, -1)).unbind(-2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


@right("rotary", rotary, normal(float16, (2, 4, 6), (4, 3), (4, 3)))
def _(grad_y, x, cos, sin):
    a, b = x.unflatten(-1, (2, -1)).unbind(-2)
    g, h = grad_y.unflatten(-1, (2, -1)).unbind(-2)
    grad_a = (g * cos + h * sin).sum_to_size(a.shape)
    grad_b = (h * cos - g * sin).sum_to_size(b.shape)
    grad_cos, grad_sin = g * a + h * b, h * a - g * b
    return torch.cat([grad_a, grad_b], -1), grad_cos.sum_to_size(cos.shape), grad_sin.sum_to_size(sin.shape)


def weights_of(depth):
    """Return how much of the light comes from each sample: what passes those before it and not the sample itself."""
    passed = torch.exp(-functional.pad(depth[..., :-1], (1, 0)).cumsum(-1))
    return passed * -torch.expm1(-depth)


def rendered(density, step, color):
    return (weights_of(density * step).unsqueeze(-1) * color).sum(-2)


@right("volume_rendering", rendered, positive(float64, (2, 4), (2, 4), (2, 4, 3)))
def _(grad_y, density, step, color):
    dtype, (g, density, step, color) = density.dtype, map(wide, (grad_y, density, step, color))
    depth = density * step
    through = torch.exp(-depth.cumsum(-1))  # what leaves each sample
    weight, seen = weights_of(depth), (g.unsqueeze(-2) * color).sum(-1)
    behind = functional.pad((weight * seen)[..., 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)
    grad_depth = through * seen - behind
    found = (grad_depth * step, grad_depth * density, weight.unsqueeze(-1) * g.unsqueeze(-2))
    return tuple(v.to(dtype) for v in found)
