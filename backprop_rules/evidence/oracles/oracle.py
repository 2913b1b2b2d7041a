"""What the oracles have in common: each says for which outputs it can speak, and encloses what gradient they cause."""

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.enclosure import Enclosure, real_shape
from backprop_rules.rule import Convention


class Silent(Exception):
    """An oracle has no answer at a point, through no fault of the rule: torch's own derivative raises there."""


def at_kinks(call: Call, conventions: Iterable[Convention]) -> Tensor:
    """Return a mask of y's shape: the outputs that stand on one of these kinks of the rule."""
    mask = torch.zeros_like(call.y, dtype=torch.bool)
    for convention in conventions:
        mask = mask | convention.where(*call.primals, **call.params)
    return mask


@lru_cache(maxsize=1)
def directions(call: Call) -> list[Tensor]:
    """Return for each primal that is there a batch of moves, in float64 or complex128, one batch entry a direction.

    Entry j moves one element of one primal by 1 (or, in a complex primal, by 1 or by i) and nothing else.
    The last answer is kept, since several oracles ask for it.
    """
    shapes = [real_shape(x) for x in call.tensors]
    sizes = [shape.numel() for shape in shapes]
    count = sum(sizes)
    columns = torch.eye(count, dtype=torch.float64).split(sizes, dim=1)
    moves = [c.reshape(count, *shape).clone() for c, shape in zip(columns, shapes, strict=True)]
    # view_as_complex takes no odd offset, not even of an empty tensor, and so the clones.
    return [torch.view_as_complex(m) if x.is_complex() else m for m, x in zip(moves, call.tensors, strict=True)]


def by_primal(call: Call, lo: Tensor, hi: Tensor) -> tuple[Enclosure | None, ...]:
    """Return the enclosures of the gradients from bounds for every direction, in the order of `directions`."""
    shapes = [real_shape(x) for x in call.tensors]
    sizes = [shape.numel() for shape in shapes]
    bounds = zip(shapes, lo.split(sizes), hi.split(sizes), strict=True)
    return call.per_gradient(Enclosure(low.reshape(shape), high.reshape(shape)) for shape, low, high in bounds)


def widest(value: object) -> object:
    """Return a param, a dtype to compute in made as wide as it gets."""
    if isinstance(value, torch.dtype):
        return torch.complex128 if value.is_complex else torch.float64
    return value
