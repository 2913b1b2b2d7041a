"""Scaled dot-product attention with a causal mask, written out, and twenty wrong backwards of it."""

import math

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)


def attention(q, k, v):
    """Each query's mean of the values up to its own place, weighted by the softmax of its products with the keys."""
    scores = q @ k.mT
    scaled = scores * q.shape[-1] ** -0.5
    future = torch.ones_like(scaled, dtype=torch.bool).triu(1)
    masked = scaled.masked_fill(future, -math.inf)
    normaliser = torch.logsumexp(masked, -1, keepdim=True)
    log_weights = masked - normaliser
    weights = torch.exp(log_weights)
    return weights @ v


def inside(q, k):
    """Return the scale, where the future is, and the weights."""
    scale = q.shape[-1] ** -0.5
    future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return scale, future, (q @ k.mT * scale).masked_fill(future, -math.inf).softmax(-1)


def through_softmax(grad_log, weights):
    """Return the gradient of the masked scores from that of the logarithm of the weights."""
    return grad_log - weights * grad_log.sum(-1, keepdim=True)


def right(grad_y, q, k, v):
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


# One step.


# A multiple of what the scale does: the same factor at another line before the normaliser says as much.
@labelled(Edit("factor", "scores * "), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """It divides by d where the forward divides by the root of d."""
    _, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) / q.shape[-1]
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("unchanged", "torch.exp"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The derivative of the exponential is forgotten."""
    scale, future, weights = inside(q, k)
    grad_masked = through_softmax(grad_y @ v.mT, weights)
    grad_scores = grad_masked.masked_fill(future, 0) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("mask", "masked_fill"), wrong=("q", "k", "v"))
def _(grad_y, q, k, v):
    """The weights are computed again without the mask."""
    scale = q.shape[-1] ** -0.5
    weights = (q @ k.mT * scale).softmax(-1)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("transposed", "weights @ v"), wrong=("v",))
def _(grad_y, q, k, v):
    """The weights are not transposed for the gradient of the values."""
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights @ grad_y


@labelled(Edit("axis", "torch.logsumexp"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The softmax that is the derivative of the normaliser is over the queries."""
    scale, future, weights = inside(q, k)
    over_queries = (q @ k.mT * scale).masked_fill(future, -math.inf).softmax(-2)
    grad_scores = through_softmax(grad_y @ v.mT * weights, over_queries) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


# The same as the sign of torch.logsumexp.
@labelled(Edit("sign", "masked - normaliser"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """What goes through the normaliser is added."""
    scale, _, weights = inside(q, k)
    grad_log = grad_y @ v.mT * weights
    grad_scores = (grad_log + weights * grad_log.sum(-1, keepdim=True)) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("branch", "q @ k.mT"), wrong=("k",))
def _(grad_y, q, k, v):
    """The keys get nothing."""
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    return grad_scores @ k, torch.zeros_like(k), weights.mT @ grad_y


@labelled(Edit("other value", "q @ k.mT"), wrong=("q",))
def _(grad_y, q, k, v):
    """The gradient of the queries is made with the queries in the place of the keys."""
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    return grad_scores @ q, grad_scores.mT @ q, weights.mT @ grad_y


# The same as that the cotangent's component of the last query is left out for the values.
@labelled(Edit("index", "weights @ v"), wrong=("v",))
def _(grad_y, q, k, v):
    """The loop over the queries that adds up the gradient of the values ends one query too early."""
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    grad_v = torch.zeros_like(v)
    for row in range(q.shape[-2] - 1):
        grad_v += weights[..., row, :, None] * grad_y[..., row, None, :]
    return grad_scores @ k, grad_scores.mT @ q, grad_v


# From trackers.


# The same as that the normaliser gets nothing in the difference.
@labelled(Edit("constant", "torch.logsumexp"), wrong=("q", "k"), source="HomericIntelligence/Odyssey#2134")
def _(grad_y, q, k, v):
    """The sum over the row is missing in the derivative of the softmax."""
    scale, _, weights = inside(q, k)
    grad_scores = weights * (grad_y @ v.mT) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("not summed", "masked - normaliser"), wrong=("q", "k"), source="deeplearning4j/libnd4j#440")
def _(grad_y, q, k, v):
    """The softmax has its diagonal derivative alone, weights (1 - weights)."""
    scale, _, weights = inside(q, k)
    grad_scores = weights * (1 - weights) * (grad_y @ v.mT) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


# What reaches the masked scores directly ignores the cotangent; what reaches them through the normaliser does not.
@labelled(Edit("cotangent ignored", "masked - normaliser"), wrong=("q", "k"), source="apache/tvm#1201")
def _(grad_y, q, k, v):
    """The cotangent is missing in the first term of the derivative of the softmax."""
    scale, _, weights = inside(q, k)
    grad_log = grad_y @ v.mT * weights
    grad_scores = (weights - weights * grad_log.sum(-1, keepdim=True)) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(
    Edit("unchanged", "torch.exp"), Edit("constant", "torch.logsumexp"), wrong=("q", "k"), source="pjreddie/darknet#96"
)
def _(grad_y, q, k, v):
    """The cotangent passes the whole softmax."""
    scale, future, weights = inside(q, k)
    grad_scores = (grad_y @ v.mT).masked_fill(future, 0) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


# Two mistakes.


@labelled(Edit("constant", "torch.logsumexp"), Edit("transposed", "weights @ v"), wrong=("q", "k", "v"))
def _(grad_y, q, k, v):
    """The softmax lacks the sum over the row, and the weights are not transposed for the values."""
    scale, _, weights = inside(q, k)
    grad_scores = weights * (grad_y @ v.mT) * scale
    return grad_scores @ k, grad_scores.mT @ q, weights @ grad_y


# The mean over the keys is the sum's n-th part: a factor 1 / n at the normaliser says as much.
@labelled(Edit("mean for sum", "masked - normaliser"), Edit("unchanged", "scores * "), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The softmax takes the mean over the row for the sum, and the scale is forgotten."""
    _, _, weights = inside(q, k)
    grad_log = grad_y @ v.mT * weights
    grad_scores = grad_log - weights * grad_log.mean(-1, keepdim=True)
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("cotangent ignored", "weights @ v"), Edit("factor", "scores * "), wrong=("q", "k", "v"))
def _(grad_y, q, k, v):
    """The values get the weights alone, and the scale is applied twice."""
    scale, _, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT * weights, weights) * scale
    grad_v = weights.mT @ torch.ones_like(grad_y)
    return grad_scores @ k * scale, grad_scores.mT @ q * scale, grad_v


@labelled(Edit("transposed", "q @ k.mT"), Edit("unchanged", "torch.exp"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The gradient of the scores is transposed for the queries, not for the keys; the exponential is forgotten."""
    scale, future, weights = inside(q, k)
    grad_scores = through_softmax(grad_y @ v.mT, weights).masked_fill(future, 0) * scale
    return grad_scores.mT @ k, grad_scores @ q, weights.mT @ grad_y


@labelled(Edit("other value", "q @ k.mT"), Edit("sign", "masked - normaliser"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """Queries and keys stand in each other's place, and what goes through the normaliser is added."""
    scale, _, weights = inside(q, k)
    grad_log = grad_y @ v.mT * weights
    grad_scores = (grad_log + weights * grad_log.sum(-1, keepdim=True)) * scale
    return grad_scores @ q, grad_scores.mT @ k, weights.mT @ grad_y


# The masked scores are used twice. The same as that they get nothing in the difference.
@labelled(Edit("overwritten", "masked - normaliser"), Edit("factor", "scores * "), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The gradient through the normaliser overwrites the direct one, and it is divided by d."""
    _, _, weights = inside(q, k)
    grad_masked = grad_y @ v.mT * weights
    grad_masked = -weights * grad_masked.sum(-1, keepdim=True)
    grad_scores = grad_masked / q.shape[-1]
    return grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_y


@labelled(Edit("branch", "q @ k.mT"), Edit("axis", "torch.logsumexp"), wrong=("q", "k"))
def _(grad_y, q, k, v):
    """The queries get nothing, and the derivative of the normaliser is over the queries."""
    scale, future, weights = inside(q, k)
    over_queries = (q @ k.mT * scale).masked_fill(future, -math.inf).softmax(-2)
    grad_scores = through_softmax(grad_y @ v.mT * weights, over_queries) * scale
    return torch.zeros_like(q), grad_scores.mT @ q, weights.mT @ grad_y


ATTENTION = Forward(
    "attention",
    attention,
    (numbers(2, 4, 3), numbers(2, 4, 3, seed=1), numbers(2, 4, 5)),
    right,
    tuple(WRONG),
)
