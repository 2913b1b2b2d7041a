"""Sparse fills of small whole numbers, of which every sum is exact in any order."""

from typing import Any

import torch

from backprop_rules.subject.ambient import inexact

LARGEST = 2  # in size: a product of a few such numbers has few digits


def sparse_like(x: Any, density: float, numbers: torch.Generator, columns: tuple[int, int] = (0, 1)) -> Any:
    """Return a tensor like x of whole numbers from -2 to 2, of which about this share is not 0; others as they are.

    No row is all zeros, so that a row that is forgotten is seen. `columns` (k, n) leaves numbers in every n-th column
    alone, from k: rows of tensors with other ones are orthogonal.
    """
    if not inexact(x):
        return x
    u = 2 * torch.rand(x.shape, generator=numbers) - 1  # its sign, and whether it is small, say everything
    size = u.abs()
    made = (size.lt(density).float() + size.lt(density / LARGEST)).mul_(u.sign())
    if x.ndim and x.shape[-1]:
        first, step = columns if columns[0] < x.shape[-1] else (0, 1)
        if step > 1:
            made *= torch.zeros(x.shape[-1]).index_fill(0, torch.arange(first, x.shape[-1], step), 1.0)
        places = torch.arange(first, x.shape[-1], step)
        at = places[torch.randint(0, len(places), (*x.shape[:-1], 1), generator=numbers)]
        one, here = torch.where(u.gather(-1, at) < 0, -1.0, 1.0), made.gather(-1, at)
        made.scatter_(-1, at, torch.where(here == 0, one, here))
    return made.to(x.dtype).to(x.device)
