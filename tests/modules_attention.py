"""Attention: multi-head, grouped, windowed, biased and capped, with its logsumexp, and rotary embeddings."""

import torch
from modules_common import Module, given, numbers, through_softmax, trained
from torch import nn
from torch.nn import functional

ATTENTION: list[Module] = []

HEADS = 2
MULTIHEAD = trained(lambda: nn.MultiheadAttention(4, HEADS, batch_first=True))


def split(x):
    """Return the heads of an embedding as an axis before the positions."""
    return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)


def merged(x):
    return x.transpose(-3, -2).flatten(-2)


def multihead(grad_y, y, query, key, value):
    grad_out, grad_weights = given(grad_y, y)
    weights = [w.detach().to(query) for w in MULTIHEAD.in_proj_weight.chunk(3)]
    biases = [b.detach().to(query) for b in MULTIHEAD.in_proj_bias.chunk(3)]
    q, k, v = (split(x @ w.mT + b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    scale = q.shape[-1] ** -0.5
    p = (q @ k.mT * scale).softmax(-1)
    grad_mixed = split(grad_out @ MULTIHEAD.out_proj.weight.detach().to(query))
    grad_scores = scale * through_softmax(grad_mixed @ v.mT + grad_weights.unsqueeze(-3) / HEADS, p)
    grads = grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_mixed
    return tuple(merged(grad) @ w for grad, w in zip(grads, weights, strict=True))


def multihead_without_weights(grad_y, y, query, key, value):
    return multihead((grad_y[0], None), y, query, key, value)


def multihead_not_averaged(grad_y, y, query, key, value):
    grad_out, grad_weights = given(grad_y, y)
    return multihead((grad_out, grad_weights * HEADS), y, query, key, value)


def multihead_swapped(grad_y, y, query, key, value):
    grad_query, grad_key, grad_value = multihead(grad_y, y, query, key, value)
    return grad_query, grad_value, grad_key


ATTENTION.append(
    Module(
        "multi-head attention, its inputs alone",
        MULTIHEAD,
        numbers((2, 3, 4), (2, 5, 4), (2, 5, 4), dtype=torch.float32),
        multihead,
        {
            "cotangent of the attention weights ignored": multihead_without_weights,
            "heads summed where they are averaged": multihead_not_averaged,
            "key and value swapped": multihead_swapped,
        },
    )
)


def attention_with_logsumexp(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    lse = scores.logsumexp(-1)
    return torch.exp(scores - lse.unsqueeze(-1)) @ v, lse


def flash_backward(grad_y, y, q, k, v):
    (out, lse), (grad_out, grad_lse) = y, given(grad_y, y)
    scale = q.shape[-1] ** -0.5
    p = torch.exp(q @ k.mT * scale - lse.unsqueeze(-1))
    delta = (grad_out * out).sum(-1) - grad_lse
    grad_scores = scale * p * (grad_out @ v.mT - delta.unsqueeze(-1))
    return grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_out


def flash_without_logsumexp(grad_y, y, q, k, v):
    return flash_backward((grad_y[0], None), y, q, k, v)


def flash_sign_of_logsumexp(grad_y, y, q, k, v):
    grad_out, grad_lse = given(grad_y, y)
    return flash_backward((grad_out, -grad_lse), y, q, k, v)


def flash_scaled_once(grad_y, y, q, k, v):
    grad_q, grad_k, grad_v = flash_backward(grad_y, y, q, k, v)
    return grad_q, grad_k * q.shape[-1] ** 0.5, grad_v


ATTENTION.append(
    Module(
        "attention with its logsumexp",
        attention_with_logsumexp,
        numbers((2, 3, 4), (2, 5, 4), (2, 5, 6)),
        flash_backward,
        {
            "cotangent of the logsumexp ignored": flash_without_logsumexp,
            "sign of the logsumexp": flash_sign_of_logsumexp,
            "scale of the key's gradient forgotten": flash_scaled_once,
        },
    )
)


def grouped_queries(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def grouped_queries_backward(grad_y, q, k, v):
    groups, scale = (k.shape[-3], -1), q.shape[-1] ** -0.5
    queries, grads, keys, values = q.unflatten(-3, groups), grad_y.unflatten(-3, groups), k[:, :, None], v[:, :, None]
    hidden = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    p = (queries @ keys.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    grad_scores = scale * through_softmax(grads @ values.mT, p)
    grad_k, grad_v = (grad_scores.mT @ queries).sum(2), (p.mT @ grads).sum(2)
    return (grad_scores @ keys).flatten(1, 2), grad_k, grad_v


def grouped_queries_interleaved(grad_y, q, k, v):
    swap = (-1, k.shape[-3])
    found = grouped_queries_backward(*(x.unflatten(1, swap).transpose(1, 2).flatten(1, 2) for x in (grad_y, q)), k, v)
    return found[0].unflatten(1, swap[::-1]).transpose(1, 2).flatten(1, 2), *found[1:]


def grouped_queries_last_head(grad_y, q, k, v):
    group = q.shape[-3] // k.shape[-3]
    last = [x[:, group - 1 :: group] for x in (grad_y, q)]
    return grouped_queries_backward(grad_y, q, k, v)[0], *grouped_queries_backward(*last, k, v)[1:]


ATTENTION.append(
    Module(
        "grouped query attention",
        grouped_queries,
        numbers((1, 4, 3, 5), (1, 2, 3, 5), (1, 2, 3, 5)),
        grouped_queries_backward,
        {
            "heads grouped by stride": grouped_queries_interleaved,
            "overwritten by the last head of a group": grouped_queries_last_head,
        },
    )
)


def distances(q):
    """Return how far each position looks back: negative where it would look ahead."""
    at = torch.arange(q.shape[-2], device=q.device)
    return at[:, None] - at


def alibi_weights(q, k, slopes):
    back = distances(q)
    scores = q @ k.mT * q.shape[-1] ** -0.5 - slopes[:, None, None] * back
    return scores.masked_fill(back < 0, -torch.inf).softmax(-1)


def alibi(q, k, v, slopes):
    return alibi_weights(q, k, slopes) @ v


def alibi_backward(grad_y, q, k, v, slopes):
    p = alibi_weights(q, k, slopes)
    grad_scores = through_softmax(grad_y @ v.mT, p)
    scaled = grad_scores * q.shape[-1] ** -0.5
    return scaled @ k, scaled.mT @ q, p.mT @ grad_y, -(grad_scores * distances(q)).sum((1, 2))


def alibi_sign(grad_y, q, k, v, slopes):
    grad_q, grad_k, grad_v, grad_slopes = alibi_backward(grad_y, q, k, v, slopes)
    return grad_q, grad_k, grad_v, -grad_slopes


def alibi_without_bias(grad_y, q, k, v, slopes):
    return *alibi_backward(grad_y, q, k, v, torch.zeros_like(slopes))[:3], alibi_backward(grad_y, q, k, v, slopes)[3]


ATTENTION.append(
    Module(
        "attention with learned linear biases",
        alibi,
        numbers((2, 5, 3), (2, 5, 3), (2, 5, 4), (2,)),
        alibi_backward,
        {"sign of the slopes": alibi_sign, "weights without the bias": alibi_without_bias},
    )
)

SPAN = 2  # positions that a query sees, itself and those before it


def window_backward(grad_y, q, k, v, hidden):
    scale = q.shape[-1] ** -0.5
    p = (q @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    grad_scores = scale * through_softmax(grad_y @ v.mT, p)
    return grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_y


def sliding_window(q, k, v):
    back = distances(q)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill((back < 0) | (back >= SPAN), -torch.inf)
    return scores.softmax(-1) @ v


def sliding_window_backward(grad_y, q, k, v):
    back = distances(q)
    return window_backward(grad_y, q, k, v, (back < 0) | (back >= SPAN))


def sliding_window_only_causal(grad_y, q, k, v):
    return window_backward(grad_y, q, k, v, distances(q) < 0)


def sliding_window_one_wider(grad_y, q, k, v):
    back = distances(q)
    return window_backward(grad_y, q, k, v, (back < 0) | (back > SPAN))


ATTENTION.append(
    Module(
        "sliding window attention",
        sliding_window,
        numbers((5, 3), (5, 3), (5, 4)),
        sliding_window_backward,
        {"window forgotten": sliding_window_only_causal, "window one wider": sliding_window_one_wider},
    )
)

CAP = 2.0


def capped(q, k, v):
    scores = CAP * torch.tanh(q @ k.mT * (q.shape[-1] ** -0.5 / CAP))
    return scores.softmax(-1) @ v


def capped_backward(grad_y, q, k, v):
    scale = q.shape[-1] ** -0.5
    ratio = q @ k.mT * (scale / CAP)
    p = (CAP * torch.tanh(ratio)).softmax(-1)
    # 1 - tanh² would lose its digits where the cap is reached.
    grad_scores = scale * through_softmax(grad_y @ v.mT, p) / torch.cosh(ratio).square()
    return grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_y


def capped_without_slope(grad_y, q, k, v):
    scale = q.shape[-1] ** -0.5
    p = (CAP * torch.tanh(q @ k.mT * (scale / CAP))).softmax(-1)
    grad_scores = scale * through_softmax(grad_y @ v.mT, p)
    return grad_scores @ k, grad_scores.mT @ q, p.mT @ grad_y


def capped_divided_twice(grad_y, q, k, v):
    grad_q, grad_k, grad_v = capped_backward(grad_y, q, k, v)
    return grad_q / CAP, grad_k / CAP, grad_v


ATTENTION.append(
    Module(
        "attention with capped logits",
        capped,
        numbers((2, 3, 4), (2, 5, 4), (2, 5, 6)),
        capped_backward,
        {"slope of the cap forgotten": capped_without_slope, "divided by the cap once more": capped_divided_twice},
    )
)


def turned(x, direction=1):
    """Return x with its halves turned against each other, by an angle for each position and pair."""
    half = x.shape[-1] // 2
    # Angles in float32, whatever x is, as in the models that are in use.
    speeds = 10.0 ** -(torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angles = torch.arange(len(x), dtype=torch.float32, device=x.device)[:, None, None] * speeds
    cos, sin = angles.cos().to(x.dtype), direction * angles.sin().to(x.dtype)
    first, second = x.unflatten(-1, (2, -1)).unbind(-2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def rotary(q, k):
    return turned(q), turned(k)


def rotary_backward(grad_y, q, k):
    return tuple(turned(grad, -1) for grad in given(grad_y, (q, k)))


def rotary_forwards(grad_y, q, k):
    return tuple(turned(grad) for grad in given(grad_y, (q, k)))


def rotary_key_left_out(grad_y, q, k):
    return rotary_backward(grad_y, q, k)[0], given(grad_y, (q, k))[1].clone()


ATTENTION.append(
    Module(
        "rotary embeddings of queries and keys",
        rotary,
        numbers((3, 5, 4), (3, 2, 4)),
        rotary_backward,
        {"turned forwards once more": rotary_forwards, "key not turned back": rotary_key_left_out},
    )
)
