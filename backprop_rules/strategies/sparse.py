"""Sparse fills of small whole numbers, of which every sum is exact in any order."""

from typing import Any

import torch
from torch import Tensor

from backprop_rules.subject.ambient import inexact

LARGEST = 2  # in size: a product of a few such numbers has few digits


def sparse_like(x: Any, density: float, numbers: torch.Generator) -> Any:
    """Return a tensor like x of whole numbers from -2 to 2, of which about this share is not 0; others as they are.

    No row is all zeros, so that a row that is forgotten is seen.
    """
    if not inexact(x):
        return x
    whole = torch.randint(1, LARGEST + 1, x.shape, generator=numbers).double()
    signs = 1 - 2 * torch.randint(0, 2, x.shape, generator=numbers)
    kept = torch.rand(x.shape, generator=numbers) < density
    if x.ndim:
        at = torch.randint(0, x.shape[-1], (*x.shape[:-1], 1), generator=numbers) if x.shape[-1] else None
        kept = kept if at is None else kept.scatter(-1, at, True)
    made: Tensor = (whole * signs * kept).to(x.dtype).to(x.device)
    return made
