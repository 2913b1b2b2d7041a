"""Right backwards of functions with kinks, where torch's choice is made."""

import torch
from right_entry import Right, into, normal, wide
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

KINKS: dict[str, Right] = {}
right = into(KINKS)


@right("relu", torch.relu, normal(float32, (2, 3)))
def _(grad_y, x):
    return grad_y * (x > 0)


@right("leaky_relu", lambda x: functional.leaky_relu(x, 0.1), normal(bfloat16, (2, 3)))
def _(grad_y, x):
    return torch.where(x > 0, grad_y, 0.1 * grad_y)


@right("prelu", functional.prelu, normal(float64, (2, 3, 4), (3,)))
def _(grad_y, x, w):
    slopes = w.reshape(1, -1, 1)
    grad_x = torch.where(x > 0, grad_y, slopes * grad_y)
    grad_w = torch.where(x > 0, 0, x * grad_y).sum_to_size(slopes.shape)
    return grad_x, grad_w.reshape(w.shape)


@right("elu", lambda x: functional.elu(x, 1.5), normal(float64, (2, 3)))
def _(grad_y, x):
    return torch.where(x > 0, grad_y, grad_y * 1.5 * torch.exp(x))


@right("clamp", lambda x: x.clamp(-0.5, 1), normal(float16, (2, 3)))
def _(grad_y, x):
    return torch.where((x >= -0.5) & (x <= 1), grad_y, 0)


@right("hardtanh", functional.hardtanh, normal(float32, (4,)))
def _(grad_y, x):
    return torch.where((x > -1) & (x < 1), grad_y, 0)


@right("abs", torch.abs, normal(float64, (2, 3)))
def _(grad_y, x):
    return grad_y * torch.sign(x)


@right("maximum", torch.maximum, normal(float32, (2, 3), (3,)))
def _(grad_y, x, z):
    shared = torch.where(x == z, grad_y / 2, grad_y)
    return torch.where(x < z, 0, shared).sum_to_size(x.shape), torch.where(z < x, 0, shared).sum_to_size(z.shape)


@right("minimum", torch.minimum, normal(bfloat16, (2, 3), (2, 3)))
def _(grad_y, x, z):
    shared = torch.where(x == z, grad_y / 2, grad_y)
    return torch.where(x > z, 0, shared), torch.where(z > x, 0, shared)


@right("hardswish", functional.hardswish, normal(float64, (2, 3)))
def _(grad_y, x):
    inside = (grad_y * (wide(x) / 3 + 0.5)).to(x.dtype)
    return torch.where(x <= -3, 0, torch.where(x >= 3, grad_y, inside))


@right("hardsigmoid", functional.hardsigmoid, normal(float16, (4,)))
def _(grad_y, x):
    return torch.where((x > -3) & (x < 3), grad_y / 6, 0)


@right("softshrink", functional.softshrink, normal(float32, (2, 3)))
def _(grad_y, x):
    return torch.where((x < -0.5) | (x > 0.5), grad_y, 0)


@right("softsign", functional.softsign, normal(float64, (5,)))
def _(grad_y, x):
    return grad_y / (1 + x.abs()) ** 2


@right("huber", lambda x, t: functional.huber_loss(x, t, delta=1.5), normal(float64, (2, 3), (2, 3)))
def _(grad_y, x, t):
    slope = (wide(x) - wide(t)).clamp(-1.5, 1.5)
    grad_x = grad_y * slope / x.numel()
    return grad_x.to(x.dtype), -grad_x.to(t.dtype)


@right("smooth_l1", lambda x, t: functional.smooth_l1_loss(x, t, reduction="sum"), normal(float32, (3,), (3,)))
def _(grad_y, x, t):
    grad_x = grad_y * (x - t).clamp(-1, 1)
    return grad_x, -grad_x


@right("l1_loss", functional.l1_loss, normal(bfloat16, (2, 3), (2, 3)))
def _(grad_y, x, t):
    grad_x = grad_y * torch.sign(x - t) / x.numel()
    return grad_x, -grad_x


@right("hinge_loss", lambda x, t: torch.relu(1 - x * t).mean(), normal(float64, (4,), (4,)))
def _(grad_y, x, t):
    share = torch.where(1 - x * t > 0, -grad_y / x.numel(), 0)
    return share * t, share * x


@right("where", torch.where, (torch.tensor([True, False, True]), *normal(float32, (2, 3), (3,))))
def _(grad_y, mask, x, z):
    return None, torch.where(mask, grad_y, 0).sum_to_size(x.shape), torch.where(mask, 0, grad_y).sum_to_size(z.shape)


@right("two_layers", lambda x, w, v: torch.relu(x @ w) @ v, normal(float64, (2, 3), (3, 5), (5, 4)))
def _(grad_y, x, w, v):
    hidden = x @ w
    grad_hidden = (grad_y @ v.T) * (hidden > 0)
    return grad_hidden @ w.T, x.T @ grad_hidden, hidden.clamp(min=0).T @ grad_y


def sparsemax(x):
    z = x.sort(dim=-1, descending=True).values
    total = z.cumsum(-1) - 1
    rank = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    count = (rank * z > total).sum(-1, keepdim=True)
    last = (count - 1).clamp(min=0)  # there is one, unless x is NaN
    return torch.relu(x - total.gather(-1, last) / count)


@right("sparsemax", sparsemax, normal(float64, (2, 4)))
def _(grad_y, x):
    inside = sparsemax(wide(x)) > 0
    mean = torch.where(inside, wide(grad_y), 0).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True)
    return torch.where(inside, grad_y - mean, 0).to(x.dtype)
