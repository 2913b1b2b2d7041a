"""Operations on exact numbers that need more than the numbers: choices, and what is written or added at places."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.evidence.proof.translate.arguments import inexact
from backprop_rules.evidence.proof.translate.numbers import choose

if TYPE_CHECKING:
    from backprop_rules.evidence.proof.translate.mode import Exactly

aten = torch.ops.aten


def _where(mode: "Exactly", condition: Tensor, a: Any, b: Any) -> Any:
    def read(x: Any) -> Any:
        return x if not isinstance(x, Tensor) else mode.numbers(x) if inexact(x) else mode.truths(x)

    return choose(mode.truths(condition), read(a), read(b))


def _index_put(mode: "Exactly", a: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Any:
    if accumulate:
        places = torch.arange(a.numel()).reshape(a.shape)
        chosen = places[tuple(slice(None) if i is None else _settled(mode, i) for i in indices)]
        return _added(mode, a, chosen, np.broadcast_to(mode.numbers(values), tuple(chosen.shape)))
    mask = indices[0]
    if len(indices) == 1 and mask.dtype == torch.bool and mode.holds(mask) and values.numel() == 1:
        full = mode.truths(mask).reshape(*mask.shape, *[1] * (a.ndim - mask.ndim))
        return choose(full, mode.numbers(values).reshape(()), mode.numbers(a))
    return mode.moved(aten.index_put.default, (a, indices, values), {})


def _settled(mode: "Exactly", index: Tensor) -> Tensor:
    mode.numbers(index)  # Undecided if it is not certain
    return index


def _added(mode: "Exactly", a: Tensor, places: Tensor, source: Any) -> Any:
    """Return a with the source added at places, which count its elements."""
    made = mode.numbers(a).view(np.ndarray).copy().reshape(-1)
    for place, value in zip(places.flatten().tolist(), source.view(np.ndarray).flat, strict=True):
        made[place] = made[place] + value
    return made.reshape(a.shape)


def _scatter_add(mode: "Exactly", a: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
    places = torch.arange(a.numel()).reshape(a.shape)
    taken = mode.numbers(source)[tuple(slice(0, n) for n in index.shape)]
    return _added(mode, a, places.gather(dim, _settled(mode, index)), taken)


def _embedding(
    mode: "Exactly", weight: Tensor, index: Tensor, padding_idx: int = -1, by_freq: bool = False, sparse: bool = False
) -> Any:
    if padding_idx >= 0 and bool((index == padding_idx).any()):
        raise NotImplementedError("a padding_idx has a gradient of zero, and no derivative")
    return mode.moved(aten.embedding.default, (weight, index), {})


SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.where: _where, aten.index_put: _index_put, aten.scatter_add: _scatter_add,
    aten.embedding: _embedding,
}  # fmt: skip
