"""What torch's own kernels for the CPU keep in a narrow dtype on the way, where others keep float32."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.units import FEW, factorial, gamma, unit

aten = torch.ops.aten

# Their sums: those of the weight's and the bias's gradient, and those of overlapping windows.
SUMS_NARROW = (aten.native_layer_norm_backward, aten.max_pool2d_with_indices_backward)

# Their results have the dtype of the first operand, whatever the others have.
OF_THE_FIRST = {
    aten.native_layer_norm, aten.native_layer_norm_backward, aten.native_batch_norm, aten.native_batch_norm_backward,
    aten.native_group_norm, aten.native_group_norm_backward, aten.index_put, aten.scatter, aten.copy,
}  # fmt: skip
# Sums with weights that are not negative, which are stored, as are their products.
WEIGHTED = {getattr(aten, name) for name in (
    "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d", "_adaptive_avg_pool3d_backward",
    *(f"{name}{n}d_backward" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
)}  # fmt: skip
INTERPOLATED = {getattr(aten, f"upsample_{name}{which}") for name in ("linear1d", "bilinear2d", "trilinear3d")
                for which in ("", "_backward")}  # fmt: skip

# Their parts, each of which is stored: what is added up, too. Found by each kernel's results beside those in float64.
ROUNDED_INSIDE = {getattr(aten, name) for name in (
    "glu_backward", "huber_loss", "huber_loss_backward", "mse_loss", "mse_loss_backward", "soft_margin_loss",
    "soft_margin_loss_backward", "smooth_l1_loss", "smooth_l1_loss_backward",
    "binary_cross_entropy", "binary_cross_entropy_backward",
    "binary_cross_entropy_with_logits", "nll_loss2d_forward", "nll_loss2d_backward", "linalg_cross", "addr", "renorm",
    "logit", "logit_backward", "sigmoid_backward", "xlogy", "special_xlog1py", "logsumexp", "index_reduce",
    "embedding_dense_backward", "_embedding_bag_backward", "_embedding_bag_per_sample_weights_backward",
    "_unsafe_masked_index_put_accumulate", "unfold_backward", "col2im",
    "upsample_bicubic2d", *(f"grid_sampler_{n}d{way}" for n in (2, 3) for way in ("", "_backward")),
    "_trilinear", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "replication_pad1d_backward", "replication_pad2d_backward",
    "replication_pad3d_backward", "avg_pool2d_backward", "avg_pool3d_backward", "index_put", "index_add", "addbmm",
)} | WEIGHTED - {aten._adaptive_avg_pool2d} | INTERPOLATED  # fmt: skip


def _logarithm(args: Any, result: Tensor, dtype: torch.dtype) -> float:
    """Return how far a log softmax is off by its sum, of at most n, that is kept narrow, and its logarithm."""
    u, count = unit(dtype).u, args[0].shape[args[1]] if args[0].ndim else 1
    return u * (1 + 2 * u) * (1 + math.log(max(1, count)))


def _quotient(args: Any, result: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far a likelihood's gradient is off by the cotangent over the sum of weights, that is kept narrow."""
    weight, used = args[3], unit(dtype)
    largest = 1.0 if weight is None else float(weight.abs().max())
    lost = (result.abs() * (used.u * (1 + 2 * used.u))).clamp_min_(used.tiny * max(1.0, largest))
    return torch.where(result == 0, 0.0, lost)


# By how many roundings the factor of a batch norm is off: its variance is stored before its root, which halves that.
FACTOR = 3 / 2


def _batch_norm(args: Any, result: Any, dtype: torch.dtype) -> list[Tensor | None]:
    """Return how far a batch norm is off by its mean and its factor, which are stored before they are used."""
    a, weight, bias = args[:3]
    y, mean, factor = (x if k == 0 else x.reshape(1, -1, *[1] * (a.ndim - 2)) for k, x in enumerate(result))
    scale, u = factor if weight is None else factor * weight.reshape(mean.shape), unit(dtype).u
    sizes = (mean * scale).abs() + FACTOR * (y if bias is None else y - bias.reshape(mean.shape)).abs()
    return [sizes * (u * (1 + 8 * u)), None, None]


def _batch_norm_backward(args: Any, result: Any, dtype: torch.dtype) -> list[Tensor | None]:
    """Return how far a batch norm's gradients are off by its mean and its factor, which were stored."""
    grad, a, weight, *_, train, _, _ = args
    if not train:
        return [None, None, None]
    along, dims, u = (1, -1, *[1] * (a.ndim - 2)), [0, *range(2, a.ndim)], unit(dtype).u * (1 + 8 * unit(dtype).u)
    mean, factor = (x.reshape(along) for x in args[5:7])
    z, scale = (a - mean) * factor, factor if weight is None else (factor * weight.reshape(along)).abs()
    off = ((factor * mean).abs() + FACTOR * z.abs()).mul_(u)
    moved, toward = (grad.abs() * off).sum(dims), (grad * z).mean(dims, keepdim=True).abs()
    size = grad.numel() // max(1, moved.numel())
    first = scale * (off * toward + z.abs() * moved.reshape(along) / size)
    return [
        None if result[0] is None else first + result[0].abs() * (FACTOR * u),
        None if result[1] is None else moved,
        None,
    ]


def _convolution(args: Any, result: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return how far a transposed convolution is off by its columns."""
    a, weight, _, stride, padding, dilation, transposed, _, groups = args
    return _columns(a, weight, result, (stride, padding, dilation, groups), dtype) if transposed else None


def _convolution_backward(args: Any, result: Any, dtype: torch.dtype) -> list[Tensor | None]:
    """Return how far the gradients are off: the input's by its columns, the others by sums over the samples."""
    grad, a, weight, sizes, stride, padding, dilation, transposed, more, groups, mask = args
    lost: list[Tensor | None] = [None, None, None]
    if mask[0] and not transposed:
        lost[0] = _columns(grad, weight, result[0], (stride, padding, dilation, groups), dtype)
    if mask[1]:
        how, only = (weight, sizes, stride, padding, dilation, transposed, more, groups), [False, True, False]
        parts = (aten.convolution_backward(grad[k : k + 1], a[k : k + 1], *how, only)[1].abs() for k in range(len(a)))
        lost[1] = _added(sum(parts, torch.zeros_like(weight)), len(a), dtype)
    if mask[2]:
        lost[2] = _added(grad.sum(list(range(2, grad.ndim))).abs().sum(0), len(a), dtype)
    return lost


def _columns(g: Tensor, weight: Tensor, like: Tensor, how: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """Return how far sums are off of columns, one for each place of the kernel, that are stored and added narrow."""
    kernel, spatial, groups = weight.shape[2:], g.shape[2:], how[3]
    stride, padding, dilation = (list(x) * (len(kernel) // len(x)) for x in how[:3])  # torch takes one for all axes
    lasts = [d * (k - 1) + s * (m - 1) for d, k, s, m in zip(dilation, kernel, stride, spatial, strict=True)]
    room = [max(n + 2 * p, last + 1) for n, p, last in zip(like.shape[2:], padding, lasts, strict=True)]
    sizes = like.new_zeros(*like.shape[:2], *room)
    grouped = g.reshape(len(g), groups, g.shape[1] // groups, math.prod(spatial))
    weights = weight.reshape(groups, -1, *weight.shape[1:]).flatten(3)
    for k, place in enumerate(itertools.product(*map(range, kernel))):
        column = (weights[..., k].mT @ grouped).reshape(*like.shape[:2], *spatial)
        starts = [j * d for j, d in zip(place, dilation, strict=True)]
        at = [slice(b, b + s * (m - 1) + 1, s) for b, s, m in zip(starts, stride, spatial, strict=True)]
        sizes[(slice(None), slice(None), *at)] += column.abs()
    inside = [slice(p, p + n) for p, n in zip(padding, like.shape[2:], strict=True)]
    return _added(sizes[(slice(None), slice(None), *inside)], math.prod(kernel), dtype)


def _added(sizes: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return how far a sum is off of so many terms, of these sizes together, each of which is stored and added."""
    used = unit(dtype)
    return sizes.mul_(gamma(count + 1, used.u)).add_(torch.where(sizes > 0, 2 * count * used.tiny, 0.0))


def _likelihood(args: Any, result: Any, dtype: torch.dtype) -> list[Any]:
    """Return how far the sum, or the mean, of negative likelihoods is off that is kept narrow."""
    a, target, weight, reduction, ignored = args
    rows = (a if a.ndim < 3 else a.movedim(1, -1)).reshape(-1, a.shape[-1 if a.ndim < 3 else 1])
    at = target.reshape(-1, 1)
    counts = at != ignored
    at = torch.where(counts, at, 0)
    weights = counts.to(a.dtype) if weight is None else counts * weight[at]
    sizes = (rows.gather(1, at) * weights).abs().sum()
    if reduction == 0 or not len(rows):
        return [None, None]
    return [(sizes / weights.sum().abs() if reduction == 1 else sizes) * gamma(len(rows) + 2, unit(dtype).u), None]


def _factorial(args: Any, result: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far a polygamma is off by what its factor n! is multiplied with, which was stored."""
    used = unit(dtype)
    return result.abs() * (used.u * (1 + 2 * used.u)) + used.tiny * factorial(args[0])


def _chebyshev(args: Any, result: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far a sum of Chebyshev's polynomials is off that is kept narrow, as of tensors of a few numbers.

    By at most 6.4 u, of all numbers of either dtype.
    """
    return result.abs() * gamma(8, unit(dtype).u)


# What is lost besides, by the arguments of an operation, its result, and the dtype.
KEPT_NARROW: dict[Any, Callable[[Any, Any, torch.dtype], Any]] = {
    aten._log_softmax: _logarithm, aten.nll_loss_backward: _quotient,
    aten.nll_loss_forward: _likelihood, aten.nll_loss2d_forward: _likelihood,
    aten._native_batch_norm_legit: _batch_norm, aten.native_batch_norm_backward: _batch_norm_backward,
    aten.polygamma: _factorial, aten.special_i0e: _chebyshev,
    aten.convolution: _convolution, aten.convolution_backward: _convolution_backward,
}  # fmt: skip


def besides(func: Any, args: Any, result: Any, dtype: torch.dtype) -> Sequence[Any]:
    """Return what each result of an operation loses besides, None where that is nothing."""
    lost = KEPT_NARROW[func.overloadpacket](args, result, dtype) if func.overloadpacket in KEPT_NARROW else None
    return lost if isinstance(lost, list) else [lost] * (len(result) if isinstance(result, tuple | list) else 1)


# These store a Python number, and a tensor of one number beside larger ones, in the dtype of the others. Of the first
# ones the formula of the operation has that of a Python number.
_IN_FORMULAS = {aten.add, aten.sub, aten.rsub, aten.pow}
_OF_NUMBERS = {*_IN_FORMULAS, aten.remainder, aten.fmod, aten.atan2, aten.hypot}


def of_numbers(
    func: Any, args: Any, named: Any, result: Any, dtype: torch.dtype, lone: Callable[[Tensor], bool], every: bool
) -> Any:
    """Return what an operation loses by storing numbers, None where that is nothing.

    `lone` says which tensors are such numbers of a wider dtype; `every` that Python numbers count of all operations.
    """
    if func.overloadpacket not in _OF_NUMBERS:
        return None
    python = every or func.overloadpacket not in _IN_FORMULAS

    def kept(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(dtype).to(x.dtype) if x.ndim < result.ndim and not x.ndim and lone(x) else x
        return torch.tensor(x, dtype=dtype).item() if isinstance(x, float) and python else x

    others, its = [kept(x) for x in args], {name: kept(x) for name, x in named.items()}
    if all(a is b or a == b for a, b in zip((*others, *its.values()), (*args, *named.values()), strict=True)):
        return None
    other = func(*others, **its)
    return torch.where(other == result, 0.0, (other - result).abs() * FEW)
