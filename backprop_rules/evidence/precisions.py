"""The dtypes of a point's leaves in a precision, and in which the higher rungs are climbed."""

import torch

from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import F64, at, inexact
from backprop_rules.subject.subject import Subject

ELEMENTS = 1 << 15  # of a point that an allowance is computed for


def in_precision(point: Point, dtype: torch.dtype) -> list[torch.dtype | None]:
    """Return the dtypes of the leaves in a precision."""
    return [at(dtype, x) if inexact(x) else None for x in point.leaves]


def precise(subject: Subject, point: Point) -> list[torch.dtype | None]:
    """Return the dtypes to climb the higher rungs in: float64, or the example's own if forward takes no other."""
    if subject.rule is not None and subject.rule.domain.own_dtypes:
        return [x.dtype if inexact(x) else None for x in subject.example]
    return in_precision(point, F64)
