"""How far rounding may take the forward and the gradients of a point, by running error analysis."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from backprop_rules.point import Point
from backprop_rules.rounding import RunningError


@dataclass(frozen=True, eq=False)
class Bounds:
    """A radius for y, and one for each gradient, in float64 and of its shape; complex elements have one modulus."""

    y: Tensor
    gradients: tuple[Tensor | None, ...]


@lru_cache(maxsize=2)
def bounds(point: Point, evaluations: int = 1) -> Bounds:
    """Return how far a right rule may be from the exact values: those of the catalogue's rule, in this dtype.

    With two evaluations, how far it may be from what another order of the same operations gives.
    """
    rule = point.rule.reference
    with torch.no_grad(), RunningError(evaluations) as errors:
        y = rule.forward(*point.primals, **point.params)
        gradients = rule.gradients(point.grad_y, y, *point.primals, **point.params)
    return Bounds(errors.radius(y), tuple(None if g is None else errors.radius(g) for g in gradients))
