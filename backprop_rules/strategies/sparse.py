"""Sparse fills of small whole numbers, of which every sum is exact in any order."""

from typing import Any

import torch
from torch import Tensor

from backprop_rules.subject.ambient import inexact

LARGEST = 2  # in size: a product of a few such numbers has few digits


def sparse_like(x: Any, density: float, numbers: torch.Generator, columns: tuple[int, int] = (0, 1)) -> Any:
    """Return a tensor like x of whole numbers from -2 to 2, of which about this share is not 0; others as they are.

    No row is all zeros, so that a row that is forgotten is seen. `columns` (k, n) leaves numbers in every n-th column
    alone, from k: rows of tensors with other ones are orthogonal.
    """
    if not inexact(x):
        return x
    whole = torch.randint(1, LARGEST + 1, x.shape, generator=numbers).double()
    signs = 1 - 2 * torch.randint(0, 2, x.shape, generator=numbers)
    kept = torch.rand(x.shape, generator=numbers) < density
    if x.ndim and x.shape[-1]:
        first, step = columns if columns[0] < x.shape[-1] else (0, 1)
        places = torch.arange(first, x.shape[-1], step)
        kept &= torch.zeros(x.shape[-1], dtype=torch.bool).index_fill(0, places, True)
        at = places[torch.randint(0, len(places), (*x.shape[:-1], 1), generator=numbers)]
        kept = kept.scatter(-1, at, True)
    made: Tensor = (whole * signs * kept).to(x.dtype).to(x.device)
    return made
