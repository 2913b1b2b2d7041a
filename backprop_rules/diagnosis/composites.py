"""Functions of torch that are several steps to those who differentiate them: taken apart, so that each is seen."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    return _log_softmax(input, dim).exp()


def _log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    if dim is None:
        raise TypeError("the axis follows from the number of axes")
    return input - input.logsumexp(dim, keepdim=True)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * input.sigmoid()


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    unit = centred * (variance + eps).rsqrt()
    scaled = unit if weight is None else unit * weight
    return scaled if bias is None else scaled + bias


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    groups = input.reshape(input.shape[0], num_groups, -1)
    unit = _layer_norm(groups, groups.shape[-1:], eps=eps).reshape(input.shape)
    return _of_channels(unit, weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        raise TypeError("the statistics are constants")
    axes = (0, *range(2, input.ndim))
    centred = input - input.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    return _of_channels(centred * (variance + eps).rsqrt(), weight, bias)


def _of_channels(unit: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *(1,) * (unit.ndim - 2))
    scaled = unit if weight is None else unit * weight.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    unit = input * (input.square().mean(axes, keepdim=True) + eps).rsqrt()
    return unit if weight is None else unit * weight


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = input @ weight.mT
    return product if bias is None else product + bias


# By the name of the function; each takes what that takes, and raises TypeError of what it does not.
TAKEN_APART: dict[str, Callable[..., Tensor]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "silu": _silu,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "rms_norm": _rms_norm,
    "linear": _linear,
}
