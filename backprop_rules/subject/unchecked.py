"""What torch's own kernels do not ask: they read or write past the end, and the process dies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _as_many(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> None:
    if key.ndim < 2 or value.ndim < 2 or key.shape[-2] != value.shape[-2]:
        raise ValueError(f"keys of shape {tuple(key.shape)} and values of shape {tuple(value.shape)} are not as many")


def _some_bags(input: Tensor, weight: Tensor, offsets: Any = None, *_: Any, **__: Any) -> None:
    if isinstance(offsets, Tensor) and not offsets.numel():
        raise ValueError("there are no offsets of bags")


def _known_labels(
    log_probs: Tensor, targets: Tensor, input_lengths: Any = None, target_lengths: Any = None, *_: Any, **__: Any
) -> None:
    classes = log_probs.shape[-1]
    if targets.ndim == 2 and target_lengths is not None:  # what is padded nobody reads
        lengths = torch.as_tensor(target_lengths, device=targets.device).reshape(-1, 1)
        targets = targets[torch.arange(targets.shape[1], device=targets.device) < lengths]
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise ValueError(f"targets are labels of 0 to {classes - 1}, of so many classes as there are log_probs")


def _of_all(x: Tensor) -> Tensor:
    """Return the numbers of a whole batch, which a function of one of it under vmap must not ask for."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _places(
    input: Tensor, grid: Tensor, mode: Any = "bilinear", padding_mode: Any = "zeros", *_: Any, **__: Any
) -> None:
    """Of these paddings the gradient of an image is written wherever a place that is no number is taken to be."""
    asks = mode not in ("bilinear", 0) or padding_mode in ("zeros", 0) or input.ndim != 4
    if not asks and not bool((_of_all(grid) * max(input.shape[2:])).isfinite().all()):
        raise ValueError("a place of the grid is NaN or infinite")


def _a_norm_each(v: Tensor, g: Tensor, dim: int = 0) -> None:
    if dim >= 0 and not (v.shape[dim] and g.numel() == v.shape[dim]):
        raise ValueError(f"of {v.shape[dim]} weights along axis {dim} there are {g.numel()} norms, or none")


# Where torch's own kernels read or write past the end, and the process dies, as they do not ask whether they may.
UNCHECKED: dict[Any, Callable[..., None]] = {
    torch.nn.functional.scaled_dot_product_attention: _as_many, torch.nn.functional.embedding_bag: _some_bags,
    torch.nn.functional.ctc_loss: _known_labels, torch._weight_norm: _a_norm_each,
    **dict.fromkeys((torch.nn.functional.grid_sample, torch.grid_sampler, torch.grid_sampler_2d), _places),
}  # fmt: skip
