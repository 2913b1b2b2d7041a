"""NumPy's indices for tensors: what they select, and where in the flattened array that is."""

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.subject.frameworks.carried import tensor_of


def indices(key: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """Return an index whose arrays are tensors."""
    made = [_index(k, device) for k in key]
    if any(isinstance(k, Tensor) for k in made):
        # NumPy counts a number among the index arrays, torch not: it decides where their axes go.
        made = [torch.tensor([k], device=device) if isinstance(k, int) else k for k in made]
    return tuple(made)


def _index(k: Any, device: torch.device) -> Any:
    if isinstance(k, list):
        k = tensor_of(np.asarray(k, dtype=None if k else np.int64))
    if isinstance(k, Tensor) and k.ndim == 0 and k.dtype != torch.bool:
        return int(k.item())
    if isinstance(k, bool) or (isinstance(k, Tensor) and k.ndim == 0):
        raise NotImplementedError("True and False as an index are not supported on tensors")
    if isinstance(k, Tensor):
        return k.to(device) if k.dtype == torch.bool else k.to(device, torch.int64)
    if isinstance(k, slice):
        return slice(*(None if part is None else operator.index(part) for part in (k.start, k.stop, k.step)))
    return k


def backwards(key: tuple[Any, ...]) -> bool:
    """Say whether a slice steps backwards, as torch's cannot."""
    return any(isinstance(k, slice) and k.step is not None and k.step < 0 for k in key)


def positions(key: tuple[Any, ...], shape: torch.Size, device: torch.device) -> Tensor:
    """Return where in the flattened array the elements are."""
    if not backwards(key):
        return torch.arange(shape.numel(), device=device).reshape(shape)[key]
    if any(isinstance(k, Tensor) for k in key):
        raise NotImplementedError("an index array beside a slice that steps backwards is not supported on tensors")
    numbers = np.arange(shape.numel()).reshape(shape)[key]
    return torch.from_numpy(numbers.copy()).to(device)
