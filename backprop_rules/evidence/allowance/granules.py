"""The largest power of two of which all numbers of a tensor are multiples, and all terms of a sum of them."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backprop_rules.subject.ambient import real

aten = torch.ops.aten

DIGITS = 53
LARGEST = 1023  # the exponent of a number of float64
FEW = 8  # numbers that are looked at first: by these most sums are seen not to be exact


def granule_of(x: Tensor) -> float:
    """Return log2 of the largest power of two that divides all numbers of a float64 tensor; inf if all are 0."""
    part = x.reshape(-1)
    if part.numel() > FEW:
        of_few = granule_of(part[:FEW])
        if -LARGEST <= of_few <= 0 and torch.equal(scaled := part * 2.0**-of_few, scaled.trunc()):
            return of_few  # what divides the first divides all
    part = part[part != 0]
    if not part.numel():
        return math.inf
    mantissa, exponent = torch.frexp(part)
    whole = (mantissa.abs() * 2.0**DIGITS).long()
    return float((torch.log2((whole & -whole).double()) + exponent).min()) - DIGITS


def granule_of_few(x: Tensor) -> float:
    """Return the same of the first numbers, one by one: that is quicker."""
    least = math.inf
    for number in x.reshape(-1)[:FEW].tolist():
        if number and math.isfinite(number):
            mantissa, exponent = math.frexp(number)
            whole = int(mantissa * 2.0**DIGITS)
            least = min(least, (whole & -whole).bit_length() - 1 + exponent - DIGITS)
    return least


# The terms of a sum: products of the arguments in these places. What is None adds nothing.
TERMS: dict[Any, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((aten.sum, aten.mean, aten.cumsum, aten.embedding_dense_backward), ((0,),)),
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot), ((0, 1),)),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), ((0,), (1, 2))),
    **dict.fromkeys((aten.index_add, aten.scatter_add), ((0,), (3,))),
    aten.index_put: ((0,), (2,)),
    aten.convolution: ((0, 1), (2,)),
    aten.convolution_backward: ((0, 1), (0, 2), (0,)),
}


def granule(packet: Any, args: tuple[Any, ...], few: bool = False) -> float | None:
    """Return log2 of what divides all terms of a sum, or the terms of a few numbers; None of what is no known sum."""

    @cache
    def divides(place: int) -> float:
        x = args[place]
        if x is None:
            return math.inf
        x = real(x)
        return granule_of_few(x) if few else granule_of(x.double())

    terms = TERMS.get(packet)
    return None if terms is None else min(sum(map(divides, term)) for term in terms)
