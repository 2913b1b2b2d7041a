"""Right backwards of normalisations."""

import torch
from right_entry import Right, into, normal, wide
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

NORMALISATIONS: dict[str, Right] = {}
right = into(NORMALISATIONS)


@right("softmax", lambda x: x.softmax(-1), normal(float32, (2, 3)))
def _(grad_y, y, x):
    g, p = wide(grad_y), wide(y)
    return (p * (g - (g * p).sum(-1, keepdim=True))).to(x.dtype)


@right("log_softmax", lambda x: x.log_softmax(-1), normal(float64, (2, 3)))
def _(grad_y, x):
    g = wide(grad_y)
    return (g - wide(x).softmax(-1) * g.sum(-1, keepdim=True)).to(x.dtype)


def standardised(x, dims, eps=1e-5):
    """Return x with mean 0 and variance 1, and what it is multiplied by for that."""
    away = x - x.mean(dims, keepdim=True)
    scale = torch.rsqrt(away.square().mean(dims, keepdim=True) + eps)
    return away * scale, scale


def through_standardised(grad, unit, scale, dims):
    centred = grad - grad.mean(dims, keepdim=True)
    return scale * (centred - unit * (grad * unit).mean(dims, keepdim=True))


def layer_norm(x, w, b):
    return functional.layer_norm(x, x.shape[-1:], w, b)


@right("layer_norm", layer_norm, normal(bfloat16, (2, 3, 4), (4,), (4,)))
def _(grad_y, x, w, b):
    g = wide(grad_y)
    unit, scale = standardised(wide(x), -1)
    grad_x = through_standardised(g * w, unit, scale, -1)
    return grad_x.to(x.dtype), (g * unit).sum((0, 1)).to(w.dtype), grad_y.sum((0, 1))


@right("rms_norm", lambda x, w: functional.rms_norm(x, x.shape[-1:], w, 1e-6), normal(float32, (2, 3, 4), (4,)))
def _(grad_y, x, w):
    g, v = wide(grad_y), wide(x)
    scale = torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6)
    unit, h = v * scale, g * w
    grad_x = scale * (h - unit * (h * unit).mean(-1, keepdim=True))
    return grad_x.to(x.dtype), (g * unit).sum((0, 1)).to(w.dtype)


def batch_norm(x, w, b):
    return functional.batch_norm(x, None, None, w, b, training=True)


@right("batch_norm", batch_norm, normal(float64, (4, 3, 2), (3,), (3,)))
def _(grad_y, x, w, b):
    g, dims = wide(grad_y), (0, 2)
    unit, scale = standardised(wide(x), dims)
    grad_x = through_standardised(g * w.reshape(1, -1, 1), unit, scale, dims)
    return grad_x.to(x.dtype), (g * unit).sum(dims).to(w.dtype), grad_y.sum(dims)


def in_groups(x):
    return x.reshape(x.shape[0], 2, x.shape[1] // 2, x.shape[2])


@right("group_norm", lambda x, w, b: functional.group_norm(x, 2, w, b), normal(float64, (2, 4, 3), (4,), (4,)))
def _(grad_y, x, w, b):
    g, dims = wide(grad_y), (2, 3)
    unit, scale = standardised(in_groups(wide(x)), dims)
    grad_x = through_standardised(in_groups(g * w.reshape(1, -1, 1)), unit, scale, dims)
    return grad_x.reshape(x.shape).to(x.dtype), (g * unit.reshape(x.shape)).sum((0, 2)).to(w.dtype), grad_y.sum((0, 2))


@right("instance_norm", functional.instance_norm, normal(float32, (2, 3, 4)))
def _(grad_y, x):
    unit, scale = standardised(wide(x), -1)
    return through_standardised(wide(grad_y), unit, scale, -1).to(x.dtype)


@right("unit_vector", lambda x: x / x.norm(dim=1, keepdim=True), normal(float64, (2, 3)))
def _(grad_y, x):
    g, v = wide(grad_y), wide(x)
    length = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    unit = v / length
    return ((g - unit * (unit * g).sum(1, keepdim=True)) / length).to(x.dtype)


@right("weight_norm", lambda v, s: s * v / v.norm(dim=1, keepdim=True), normal(float32, (3, 4), (3, 1)))
def _(grad_y, v, s):
    g, u = wide(grad_y), wide(v)
    length = torch.linalg.vector_norm(u, dim=1, keepdim=True)
    unit, h = u / length, (g * s).sum_to_size(v.shape)
    grad_v = (h - unit * (unit * h).sum(1, keepdim=True)) / length
    return grad_v.to(v.dtype), (g * unit).sum_to_size(s.shape).to(s.dtype)


def cosine(a, b):
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@right("cosine_similarity", cosine, normal(float64, (2, 3), (2, 3)))
def _(grad_y, a, b):
    g, v, w = wide(grad_y).unsqueeze(1), wide(a), wide(b)
    long_v, long_w = (torch.linalg.vector_norm(u, dim=1, keepdim=True) for u in (v, w))
    v, w = v / long_v, w / long_w
    y = (v * w).sum(1, keepdim=True)
    return (g * (w - y * v) / long_v).to(a.dtype), (g * (v - y * w) / long_w).to(b.dtype)


@right("temperature_softmax", lambda x, t: (x / t).softmax(-1), (*normal(float16, (2, 3)), torch.tensor([0.5]).half()))
def _(grad_y, x, t):
    g, v, heat = wide(grad_y), wide(x), wide(t)
    p = (v / heat).softmax(-1)
    grad_scaled = p * (g - (g * p).sum(-1, keepdim=True))
    grad_x, grad_t = grad_scaled / heat, -grad_scaled * (v / heat / heat)
    return grad_x.sum_to_size(x.shape).to(x.dtype), grad_t.sum_to_size(t.shape).to(t.dtype)
