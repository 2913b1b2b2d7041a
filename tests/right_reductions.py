"""Right backwards of sums, products, maxima and the like along an axis."""

import torch
from right_entry import Right, into, normal, positive, wide
from torch import bfloat16, float16, float32, float64

REDUCTIONS: dict[str, Right] = {}
right = into(REDUCTIONS)


@right("sum", lambda x: x.sum(1), normal(float16, (2, 3, 4)))
def _(grad_y, x):
    return grad_y.unsqueeze(1).expand_as(x)


@right("mean", lambda x: x.mean(-1), normal(bfloat16, (2, 3)))
def _(grad_y, x):
    return (grad_y / x.shape[-1]).unsqueeze(-1).expand_as(x)


@right("mean_of_two_axes", lambda x: x.mean((0, 2), keepdim=True), normal(float64, (2, 3, 4)))
def _(grad_y, x):
    return grad_y.expand_as(x) / (x.shape[0] * x.shape[2])


@right("var", lambda x: x.var(1), normal(float64, (2, 4)))
def _(grad_y, x):
    v = wide(x)
    away = v - v.mean(1, keepdim=True)
    return (grad_y.unsqueeze(1) * 2 * away / (x.shape[1] - 1)).to(x.dtype)


@right("std", lambda x: x.std(1), normal(float32, (2, 4)))
def _(grad_y, y, x):
    v = wide(x)
    away = v - v.mean(1, keepdim=True)
    scale = torch.where(y == 0, 0, wide(grad_y) / wide(y)) / (x.shape[1] - 1)
    return (scale.unsqueeze(1) * away).to(x.dtype)


@right("norm", lambda x: torch.linalg.vector_norm(x, dim=1), normal(float64, (2, 3)))
def _(grad_y, y, x):
    length = y.unsqueeze(1)
    return torch.where(length == 0, 0, grad_y.unsqueeze(1) * (x / length))


@right("sum_of_squares", lambda x: (x * x).sum(), normal(float16, (2, 3)))
def _(grad_y, x):
    return 2 * grad_y * x


@right("logsumexp", lambda x: x.logsumexp(1), normal(float32, (2, 3)))
def _(grad_y, x):
    return grad_y.unsqueeze(1) * x.softmax(1)


def products_of_the_others(x):
    """Return for each element the product of the others along the last axis: without division, as one may be 0."""
    before, after = torch.ones_like(x), torch.ones_like(x)
    before[..., 1:] = x[..., :-1].cumprod(-1)
    after[..., :-1] = x[..., 1:].flip(-1).cumprod(-1).flip(-1)
    return before * after


@right("prod", lambda x: x.prod(-1), normal(float64, (2, 4)))
def _(grad_y, x):
    return (grad_y.unsqueeze(-1) * products_of_the_others(wide(x))).to(x.dtype)


@right("amax", lambda x: x.amax(1), normal(float32, (2, 3)))
def _(grad_y, y, x):
    largest = x == y.unsqueeze(1)
    return torch.where(largest, (grad_y / largest.sum(1)).unsqueeze(1), 0)


@right("amin", lambda x: x.amin((0, 1)), normal(bfloat16, (2, 3)))
def _(grad_y, y, x):
    smallest = x == y
    return torch.where(smallest, grad_y / smallest.sum(), 0)


@right("cumsum", lambda x: x.cumsum(1), normal(float64, (2, 4)))
def _(grad_y, x):
    return grad_y.flip(1).cumsum(1).flip(1)


@right("cumprod", lambda x: x.cumprod(-1), positive(float64, (2, 4)))
def _(grad_y, x):
    # By Horner's rule from the right: nothing is divided by x, which may be 0.
    g, v = wide(grad_y), wide(x)
    before, found = torch.ones_like(v), torch.empty_like(v)
    before[..., 1:] = v[..., :-1].cumprod(-1)
    later = torch.zeros_like(g[..., 0]) if x.shape[-1] else g
    for k in reversed(range(x.shape[-1])):
        later = g[..., k] + later
        found[..., k] = before[..., k] * later
        later = later * v[..., k]
    return found.to(x.dtype)


@right("logcumsumexp", lambda x: x.logcumsumexp(1), normal(float64, (2, 4)))
def _(grad_y, x):
    # Element i comes into every output j from i on, with the weight exp(x_i - y_j), which is at most 1.
    v = wide(x)
    weights = torch.exp(v.unsqueeze(2) - v.logcumsumexp(1).unsqueeze(1)).triu()
    return (weights @ wide(grad_y).unsqueeze(2)).squeeze(2).to(x.dtype)


def recurrence(decay, x):
    states = [torch.zeros_like(x[:, 0])]
    for t in range(x.shape[1]):
        states.append(decay[:, t] * states[-1] + x[:, t])
    return torch.stack(states[1:], 1)


@right("linear_recurrence", recurrence, normal(float32, (2, 4), (2, 4)))
def _(grad_y, y, decay, x):
    grad_decay, grad_x = torch.zeros_like(decay), torch.empty_like(x)
    carried = torch.zeros_like(grad_y[:, 0])
    for t in reversed(range(x.shape[1])):
        carried = grad_y[:, t] + carried
        grad_x[:, t] = carried
        if t:
            grad_decay[:, t] = carried * y[:, t - 1]
        carried = carried * decay[:, t]
    return grad_decay, grad_x
