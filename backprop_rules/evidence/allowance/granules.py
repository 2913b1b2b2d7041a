"""The largest power of two of which all numbers of a tensor are multiples, and all terms of a sum of them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

DIGITS = 53
FEW = 1 << 10  # numbers that are looked at first: by these most sums are seen not to be exact


def granule_of(x: Tensor) -> float:
    """Return log2 of the largest power of two that divides all numbers of a float64 tensor; inf if all are 0."""
    part = x.reshape(-1)
    part = part[part != 0]
    if not part.numel():
        return math.inf
    mantissa, exponent = torch.frexp(part)
    whole = (mantissa.abs() * 2.0**DIGITS).long()
    return float((torch.log2((whole & -whole).double()) + exponent).min()) - DIGITS


def _first(a: Any, *_: Any) -> float:
    return granule_of(a)


def _product(a: Any, b: Any, *_: Any) -> float:
    return granule_of(a) + granule_of(b)


def _added_product(c: Any, a: Any, b: Any, *_: Any) -> float:
    return min(granule_of(c), _product(a, b))


def _convolution(a: Any, w: Any, bias: Any, *_: Any) -> float:
    return _product(a, w) if bias is None else min(_product(a, w), granule_of(bias))


def _gradients(grad: Any, a: Any, w: Any, *_: Any) -> float:
    return granule_of(grad) + min(granule_of(a), granule_of(w), 0.0)


def _added(a: Any, dim: Any, index: Any, source: Any, *_: Any) -> float:
    return min(granule_of(a), granule_of(source))


def _put(a: Any, indices: Any, values: Any, *_: Any) -> float:
    return min(granule_of(a), granule_of(values))


TERMS: dict[Any, Callable[..., float]] = {
    aten.sum: _first, aten.mean: _first, aten.cumsum: _first, aten.convolution: _convolution,
    aten.convolution_backward: _gradients, aten.index_put: _put, aten.index_add: _added, aten.scatter_add: _added,
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot), _product),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv), _added_product),
}  # fmt: skip


def granule(packet: Any, args: tuple[Any, ...], few: bool = False) -> float | None:
    """Return log2 of what divides all terms of a sum, or the terms of a few numbers; None of what is no known sum."""
    terms = TERMS.get(packet)

    def seen(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.reshape(-1)[:FEW].double() if few else x.double()

    return None if terms is None else terms(*map(seen, args))
