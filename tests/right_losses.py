"""Right backwards of losses."""

import torch
from right_entry import Right, indices, into, normal, positive, wide
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

LOSSES: dict[str, Right] = {}
right = into(LOSSES)

IGNORED = -100  # torch's word for a row that has no class


@right("cross_entropy", functional.cross_entropy, (*normal(float32, (3, 4)), indices(4, 3)))
def _(grad_y, x, target):
    counted = (target != IGNORED).unsqueeze(1)
    chosen = target.unsqueeze(1) == torch.arange(x.shape[1])
    grad_x = torch.where(counted, wide(x).softmax(1) - chosen.to(wide(x).dtype), 0)
    return (grad_x * (wide(grad_y) / counted.sum())).to(x.dtype), None


@right("nll", functional.nll_loss, (*normal(float64, (3, 4)), indices(4, 3)))
def _(grad_y, x, target):
    counted = target != IGNORED
    chosen = target.unsqueeze(1) == torch.arange(x.shape[1])
    return torch.where(chosen, -grad_y / counted.sum(), 0), None


def soft_cross_entropy(x, p):
    return -(p * x.log_softmax(-1)).sum(-1).mean()


@right("soft_cross_entropy", soft_cross_entropy, (normal(float64, (3, 4))[0], normal(float64, (3, 4))[0].softmax(-1)))
def _(grad_y, x, p):
    v, q, share = wide(x), wide(p), wide(grad_y) / x.shape[:-1].numel()
    grad_x = share * (v.softmax(-1) * q.sum(-1, keepdim=True) - q)
    return grad_x.to(x.dtype), (-share * v.log_softmax(-1)).to(p.dtype)


@right("mse", functional.mse_loss, normal(float32, (2, 3), (2, 3)))
def _(grad_y, x, t):
    grad_x = (grad_y * (2 * (wide(x) - wide(t)) / x.numel())).to(x.dtype)
    return grad_x, -grad_x


@right("bce_with_logits", functional.binary_cross_entropy_with_logits,
       (normal(bfloat16, (2, 3))[0], normal(bfloat16, (2, 3))[0].sigmoid()))  # fmt: skip
def _(grad_y, x, t):
    g = wide(grad_y) / x.numel()
    return (g * (torch.sigmoid(wide(x)) - t)).to(x.dtype), (-g * wide(x)).to(t.dtype)


def kl(x, p):
    return functional.kl_div(x, p, reduction="batchmean")


@right("kl", kl, (normal(float64, (2, 3))[0].log_softmax(1), normal(float64, (2, 3))[0].softmax(1)))
def _(grad_y, x, p):
    g, v, q = wide(grad_y) / x.shape[0], wide(x), wide(p)
    return (-g * q).to(x.dtype), (g * (q.log() + 1 - v)).to(p.dtype)


@right("poisson_nll", functional.poisson_nll_loss, (*normal(float32, (4,)), positive(float32, (4,))[0]))
def _(grad_y, x, t):
    g = wide(grad_y) / x.numel()
    return (g * (torch.exp(wide(x)) - t)).to(x.dtype), (-g * wide(x)).to(t.dtype)


def gaussian_nll(mean, log_var, t):
    return 0.5 * (log_var + (t - mean) ** 2 * torch.exp(-log_var)).sum()


@right("gaussian_nll", gaussian_nll, normal(float64, (2, 3), (2, 3), (2, 3)))
def _(grad_y, mean, log_var, t):
    precision, away = torch.exp(-wide(log_var)), wide(t) - wide(mean)
    grad_t = grad_y * away * precision
    grad_log_var = 0.5 * grad_y * (1 - away * away * precision)
    return (-grad_t).to(mean.dtype), grad_log_var.to(log_var.dtype), grad_t.to(t.dtype)


def info_nce(a, b):
    return functional.cross_entropy(a @ b.T / 0.5, torch.arange(a.shape[0]))


@right("info_nce", info_nce, normal(float32, (3, 4), (3, 4)))
def _(grad_y, a, b):
    v, w = wide(a), wide(b)
    grad_scores = (v @ w.T / 0.5).softmax(1) - torch.eye(a.shape[0], dtype=v.dtype)
    grad_scores = grad_scores * wide(grad_y) / (0.5 * a.shape[0])
    return (grad_scores @ w).to(a.dtype), (grad_scores.T @ v).to(b.dtype)


def policy_loss(log_prob, advantage):
    return -(log_prob * advantage.detach()).mean()


@right("policy_gradient", policy_loss, normal(float16, (4,), (4,)))
def _(grad_y, log_prob, advantage):
    return -grad_y * advantage / log_prob.numel(), torch.zeros_like(advantage)
