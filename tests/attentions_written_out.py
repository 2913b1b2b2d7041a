"""Attention as people write it out, each a function of q, k and v."""

import math

import torch


def by_matmul(q, k, v):
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def in_float32(q, k, v):
    """As in a test of a kernel: cast up, and back in the end."""
    high = [x.float() for x in (q, k, v)]
    shares = torch.einsum("bhtd,bhsd->bhts", *high[:2]).mul(q.shape[-1] ** -0.5).softmax(dim=-1)
    return torch.einsum("bhts,bhsd->bthd", shares, high[2]).to(q.dtype).transpose(1, 2)


def with_casts(q, k, v):
    """As in a model's library: the softmax in float32, cast before it is multiplied, and dropout of nothing."""
    weights = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    weights = torch.nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = torch.nn.functional.dropout(weights, p=0.0, training=True)
    return torch.matmul(weights, v)


def of_matrices(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return torch.bmm(torch.bmm(q, k.mT).div(math.sqrt(q.shape[-1])).softmax(2), v).unflatten(0, (2, 3))


def masked(q, k, v):
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~seen, -1e9)
    return torch.where(seen, scores.softmax(-1), 0.0) @ v


def masked_by_the_shares(q, k, v):
    """The shares are multiplied by a mask, and the product is called by names."""
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=q.dtype).tril()
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(seen == 0, -torch.inf)
    shares = torch.where(seen == 0, 0.0, seen * scores.softmax(-1)).nan_to_num()
    return torch.matmul(input=shares, other=v)


def head_by_head(q, k, v):
    heads = [torch.mm((a @ b.mT * a.shape[-1] ** -0.5).softmax(-1), c)
             for a, b, c in zip(*(x.flatten(0, 1) for x in (q, k, v)), strict=True)]  # fmt: skip
    return torch.stack(heads).unflatten(0, q.shape[:2])


def stored_in_order(q, k, v):
    """What is moved before it is cast is stored all the same."""
    y = by_matmul(*(x.float() for x in (q, k, v)))
    return y.transpose(1, 2).contiguous().to(q.dtype).transpose(1, 2)


def scores_of(q, k):
    return (q @ k.mT).float() * q.shape[-1] ** -0.5


def by_exponentials(q, k, v):
    """The largest score is taken off, and has a gradient, which is 0."""
    scores = scores_of(q, k)
    exponentials = (scores - scores.amax(-1, keepdim=True)).exp()
    return ((exponentials / (exponentials.sum(-1, keepdim=True) + 1e-20)) @ v.float()).to(q.dtype)


def by_the_inverse(q, k, v):
    scores = scores_of(q, k)
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values.detach())
    return ((exponentials * (1 / exponentials.sum(-1, keepdim=True))) @ v.float()).to(q.dtype)


def divided_in_the_end(q, k, v):
    """As kernels go forward: the product first, and what it is divided by."""
    scores = scores_of(q, k)
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return (exponentials @ v.float() / exponentials.sum(-1, keepdim=True)).to(q.dtype)


def by_logarithms(q, k, v):
    scores = scores_of(q, k)
    return (torch.exp(scores - scores.logsumexp(-1)[..., None]) @ v.float()).to(q.dtype)


def by_log_softmax(q, k, v):
    return (scores_of(q, k).log_softmax(-1).exp() @ v.float()).to(q.dtype)


def beside_a_sink(q, k, v):
    """A further score that no value belongs to is cut off."""
    shares = torch.cat([scores_of(q, k), torch.full((*q.shape[:-1], 1), -40.0)], -1).softmax(-1)
    return (shares[..., :-1] @ v.float()).to(q.dtype)


def with_dots(q, k, v):
    shares = torch.einsum("...td,...sd->...ts", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("...ts,...sd->...td", shares, v)


def by_baddbmm(q, k, v):
    shares = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).flatten(0, 1)
    return torch.baddbmm(torch.zeros((), dtype=q.dtype), shares, v.flatten(0, 1), beta=0).unflatten(0, q.shape[:2])


def by_linear(q, k, v):
    linear = torch.nn.functional.linear
    heads = [linear(linear(a, b).mul(a.shape[-1] ** -0.5).softmax(-1), c.mT)
             for a, b, c in zip(*(x.flatten(0, 1) for x in (q, k, v)), strict=True)]  # fmt: skip
    return torch.stack(heads).unflatten(0, q.shape[:2])


WRITTEN_OUT = [
    by_exponentials,
    by_the_inverse,
    divided_in_the_end,
    by_logarithms,
    by_log_softmax,
    beside_a_sink,
    with_dots,
    by_baddbmm,
    by_linear,
    by_matmul,
    in_float32,
    with_casts,
    of_matrices,
    masked,
    masked_by_the_shares,
    head_by_head,
    stored_in_order,
]
