"""Torch's products, in NumPy notation, for arrays of exact numbers: of matrices, and of windows of an image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flint import arb

from backprop_rules.evidence.proof.balls import as_balls
from backprop_rules.evidence.proof.translate import numbers
from backprop_rules.evidence.proof.translate.numbers import Function
from backprop_rules.evidence.proof.translate.reductions import softmax

aten = torch.ops.aten


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0, is_causal: bool = False, *, scale: Any = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q k^T / sqrt(d)) v."""
    if dropout_p or enable_gqa:
        raise NotImplementedError("with dropout, or groups")
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * (1 / arb(q.shape[-1]).sqrt() if scale is None else scale)
    if is_causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is not None:
        scores = numbers.choose(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    return np.matmul(softmax(scores, -1), v)


def _padded(a: Any, padding: Sequence[int], value: float = 0) -> Any:
    before = a.ndim - len(padding)
    width = [(0, 0)] * before + [(p, p) for p in padding]
    return as_balls(np.pad(a.view(np.ndarray), width, constant_values=value))


def _windows(a: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """Return the array with the windows' axes last."""
    n = len(kernel)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    seen: Any = np.lib.stride_tricks.sliding_window_view(a.view(np.ndarray), extent, tuple(range(a.ndim - n, a.ndim)))
    steps: Any = (..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))
    return as_balls(seen[steps])


def convolution(
    x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int,
) -> Any:  # fmt: skip
    """Cross-correlation, in groups of channels."""
    if transposed:
        raise NotImplementedError("transposed")
    n, batch = w.ndim - 2, x.shape[0]
    seen = _windows(_padded(x, padding), w.shape[2:], stride, dilation)
    out = seen.shape[2 : 2 + n]
    # (batch, group, places, channels and window) times (group, channels and window, channels out)
    seen = np.moveaxis(seen.reshape(batch, groups, -1, *seen.shape[2:]), 2, 2 + n)
    seen = seen.reshape(batch, groups, math.prod(out), -1)
    kernels = np.swapaxes(w.reshape(groups, w.shape[0] // groups, -1), 1, 2)
    found = np.swapaxes(np.matmul(seen, kernels), 2, 3).reshape(batch, w.shape[0], *out)
    return found if bias is None else found + bias.reshape(-1, *[1] * n)


def _every(value: Sequence[int] | int, n: int) -> Sequence[int]:
    named = [value] if isinstance(value, int) else list(value)
    return named * n if len(named) == 1 else named


def max_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Any, Any]:
    """The largest of each window; which one that is, is not said."""
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")
    n = len(kernel)
    padded = _padded(a, _every(padding, n), -math.inf)
    seen = _windows(padded, kernel, _every(stride or kernel, n), _every(dilation, n))
    values = np.max(seen, axis=tuple(range(-n, 0)))
    return values, np.full(values.shape, numbers.TIE)


def avg_pool(
    a: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of each window."""
    if ceil_mode:
        raise NotImplementedError("with ceil_mode")
    n = len(kernel)

    def sums(x: Any) -> Any:
        seen = _windows(_padded(x, _every(padding, n)), kernel, _every(stride or kernel, n), [1] * n)
        return np.sum(seen, axis=tuple(range(-n, 0)))

    if divisor_override:
        return sums(a) / divisor_override
    return sums(a) / (math.prod(kernel) if count_include_pad else sums(np.ones(a.shape, dtype=int)))


PRODUCTS: dict[Any, Function] = {
    aten.mm: np.matmul, aten.bmm: np.matmul, aten.scaled_dot_product_attention: attention,
    aten.convolution: convolution, aten.max_pool2d_with_indices: max_pool, aten.max_pool3d_with_indices: max_pool,
    aten.avg_pool1d: avg_pool, aten.avg_pool2d: avg_pool, aten.avg_pool3d: avg_pool,
}  # fmt: skip
