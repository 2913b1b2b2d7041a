"""Convolutions, pooling and lists of tensors: what is padded, shifted, cut up or put together."""

import torch
from modules_common import Module, numbers, through_softmax
from torch.nn import functional

WINDOWS: list[Module] = []


def causal_conv(x, w):
    return functional.conv1d(functional.pad(x, (w.shape[2] - 1, 0)), w)


def windows(x, before, after, size):
    """Return every stretch of that size, of the padded sequence: one more axis, at the end."""
    return functional.pad(x, (before, after)).unfold(2, size, 1)


def causal_conv_backward(grad_y, x, w):
    size = w.shape[2]
    grad_x = torch.einsum("notk,ock->nct", windows(grad_y, 0, size - 1, size), w.flip(2))
    return grad_x, torch.einsum("not,nctk->ock", grad_y, windows(x, size - 1, 0, size))


def causal_conv_not_flipped(grad_y, x, w):
    size = w.shape[2]
    grad_x = torch.einsum("notk,ock->nct", windows(grad_y, 0, size - 1, size), w)
    return grad_x, torch.einsum("not,nctk->ock", grad_y, windows(x, size - 1, 0, size))


def causal_conv_padded_before(grad_y, x, w):
    size = w.shape[2]
    grad_x = torch.einsum("notk,ock->nct", windows(grad_y, size - 1, 0, size), w.flip(2))
    return grad_x, torch.einsum("not,nctk->ock", grad_y, windows(x, size - 1, 0, size))


WINDOWS.append(
    Module(
        "a causal convolution",
        causal_conv,
        numbers((2, 3, 6), (4, 3, 5)),
        causal_conv_backward,
        {"kernel not flipped": causal_conv_not_flipped, "cotangent padded before": causal_conv_padded_before},
    )
)


def depthwise_conv(x, w):
    return functional.conv2d(x, w, padding=w.shape[2] // 2, groups=len(w))


def depthwise_kernel(grad_y, x, w):
    """Return the gradient of the kernel, for each channel its own."""
    size, pad = w.shape[2], w.shape[2] // 2
    patches = functional.pad(x, (pad, pad, pad, pad)).unfold(2, size, 1).unfold(3, size, 1)
    return torch.einsum("nchw,nchwij->cij", grad_y, patches).unsqueeze(1)


def depthwise_conv_backward(grad_y, x, w):
    grad_x = functional.conv_transpose2d(grad_y, w, padding=w.shape[2] // 2, groups=len(w))
    return grad_x, depthwise_kernel(grad_y, x, w)


def depthwise_conv_not_flipped(grad_y, x, w):
    grad_x = functional.conv2d(grad_y, w, padding=(w.shape[2] - 1) // 2, groups=len(w))
    return grad_x, depthwise_kernel(grad_y, x, w)


def depthwise_conv_mixed(grad_y, x, w):
    grad_x, grad_w = depthwise_conv_backward(grad_y, x, w)
    return grad_x, grad_w.mean(0, keepdim=True).expand_as(w).clone()


WINDOWS.append(
    Module(
        "a depthwise convolution",
        depthwise_conv,
        numbers((1, 2, 5, 4), (2, 1, 3, 3)),
        depthwise_conv_backward,
        {"kernel not flipped": depthwise_conv_not_flipped, "channels averaged": depthwise_conv_mixed},
    )
)

POOL, STRIDE = 3, 2  # neighbouring windows share an element


def average_pool(x):
    return functional.avg_pool1d(x, POOL, stride=STRIDE, padding=1, count_include_pad=False)


def spread(shares, x, *, accumulate=True):
    """Return what each element gets from the windows that it lies in."""
    padded = shares.new_zeros((*x.shape[:-1], x.shape[-1] + 2))
    end = STRIDE * (shares.shape[-1] - 1) + 1
    for k in range(POOL):
        place = padded[..., k : k + end : STRIDE]
        place.copy_(place + shares if accumulate else shares)
    return padded[..., 1:-1]


def average_pool_backward(grad_y, x):
    counts = functional.pad(x.new_ones(x.shape[-1]), (1, 1)).unfold(0, POOL, STRIDE).sum(-1)
    return spread(grad_y / counts, x)


def average_pool_overwritten(grad_y, x):
    counts = functional.pad(x.new_ones(x.shape[-1]), (1, 1)).unfold(0, POOL, STRIDE).sum(-1)
    return spread(grad_y / counts, x, accumulate=False)


def average_pool_counts_padding(grad_y, x):
    return spread(grad_y / POOL, x)


WINDOWS.append(
    Module(
        "average pooling",
        average_pool,
        numbers((2, 3, 8)),
        average_pool_backward,
        {"overlaps overwritten": average_pool_overwritten, "padding counted": average_pool_counts_padding},
    )
)


def dense_layer(features, w):
    return torch.cat(features, 1) @ w


def dense_layer_backward(grad_y, features, w):
    grads = (grad_y @ w.mT).split([x.shape[1] for x in features], 1)
    return [grad.contiguous() for grad in grads], torch.cat(features, 1).mT @ grad_y


def dense_layer_reversed(grad_y, features, w):
    grads = (grad_y @ w.mT).split([x.shape[1] for x in reversed(features)], 1)
    return [grad.contiguous() for grad in reversed(grads)], torch.cat(features, 1).mT @ grad_y


def dense_layer_from_zero(grad_y, features, w):
    grad_all = grad_y @ w.mT
    return [grad_all[:, : x.shape[1]].clone() for x in features], torch.cat(features, 1).mT @ grad_y


WINDOWS.append(
    Module(
        "a list of tensors, concatenated",
        dense_layer,
        (list(numbers((3, 2), (3, 4), (3, 1))), *numbers((7, 5), seed=1)),
        dense_layer_backward,
        {"cut up in reversed order": dense_layer_reversed, "offset forgotten": dense_layer_from_zero},
    )
)


def scalar_mix(layers, weights, gamma):
    return gamma * sum(p * x for p, x in zip(weights.softmax(0), layers, strict=True))


def scalar_mix_backward(grad_y, layers, weights, gamma):
    p = weights.softmax(0)
    along = torch.stack([(grad_y * x).sum() for x in layers])
    grads = [gamma * share * grad_y for share in p]
    return grads, gamma * through_softmax(along, p), (p * along).sum()


def scalar_mix_diagonal(grad_y, layers, weights, gamma):
    grads, _, grad_gamma = scalar_mix_backward(grad_y, layers, weights, gamma)
    p = weights.softmax(0)
    along = torch.stack([(grad_y * x).sum() for x in layers])
    return grads, gamma * along * p * (1 - p), grad_gamma


def scalar_mix_unscaled(grad_y, layers, weights, gamma):
    _, grad_weights, grad_gamma = scalar_mix_backward(grad_y, layers, weights, gamma)
    return [share * grad_y for share in weights.softmax(0)], grad_weights, grad_gamma


WINDOWS.append(
    Module(
        "a list of layers, mixed by learned weights",
        scalar_mix,
        (list(numbers((2, 4), (2, 4), (2, 4))), *numbers((3,), (), seed=1)),
        scalar_mix_backward,
        {"diagonal of the softmax alone": scalar_mix_diagonal, "scale forgotten": scalar_mix_unscaled},
    )
)
