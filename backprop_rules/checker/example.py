"""From one example call to a domain: which sizes vary together, which dtypes are asked for, what is a mask."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import COMPLEX, REAL, Choice, Domain, Index, Mask
from backprop_rules.errors import InputError


def generalised(
    name: str,
    primals: Sequence[str],
    example: Sequence[Any],
    params: Mapping[str, Any],
    forward: Callable[..., Any],
) -> Domain:
    """Return the domain that one call of a function is an example of.

    Axes of equal size keep equal sizes, whatever these are; each axis of size 1 is an axis of its own.
    What the forward refuses is outside of the domain. The dtypes are those of the example, for each primal its
    own if forward does not take all primals in each of them.
    """
    tensors = [_checked(name, primal, x) for primal, x in zip(primals, example, strict=True)]
    inexact = [x.dtype for x in tensors if x.dtype in REAL + COMPLEX]
    if not inexact:
        raise InputError(f"{name}: the example has no floating-point or complex array, and so no gradient.")
    dtypes = tuple(dict.fromkeys(inexact))
    takes = _takes(forward)
    indices = {
        primal: Mask() if x.dtype is torch.bool else Index(_axis_of(name, primal, k, tensors, params, takes))
        for k, (primal, x) in enumerate(zip(primals, tensors, strict=True))
        if x.dtype in (torch.bool, torch.int64)
    }
    in_one = ([x.to(d) if x.dtype in dtypes else x for x in tensors] for d in dtypes)
    return Domain(
        shapes=", ".join(map(" ".join, _axes(tensors))),
        params={key: Choice((value,)) for key, value in params.items()},
        dtypes=dtypes,
        indices=indices,
        degree=None,
        promotes=len(dtypes) > 1,
        own_dtypes=() if all(takes(*alike, **params) for alike in in_one) else tuple(x.dtype for x in tensors),
        requires=("what its forward takes", takes),
    )


def _checked(name: str, primal: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name}: {primal} of the example is {x!r} ({type(x).__name__}); an example holds the arrays that forward "
            f"takes. What is no array goes into params, as in params={{'dim': 1}}."
        )
    if x.dtype not in (*REAL, *COMPLEX, torch.bool, torch.int64):
        raise InputError(
            f"{name}: {primal} of the example has dtype {x.dtype}, which has no gradient. Convert it, as in "
            f"{primal}.double(), or to torch.int64 if it holds indices."
        )
    return x


def _axis_of(
    name: str,
    primal: str,
    k: int,
    tensors: Sequence[Tensor],
    params: Mapping[str, Any],
    takes: Callable[..., bool],
) -> str:
    """Return the axis into which a primal of integers points: forward takes its last index, and not one more."""
    sizes = {
        n: size
        for names, x in zip(_axes(tensors), tensors, strict=True)
        for n, size in zip(names, x.shape, strict=True)
    }

    def fits(index: int) -> bool:
        return takes(*(torch.full_like(x, index) if j == k else x for j, x in enumerate(tensors)), **params)

    for axis, size in sizes.items():
        if size and fits(size - 1) and not fits(size):
            return axis
    raise InputError(
        f"{name}: {primal} of the example has dtype torch.int64, which has no gradient, and forward does not take it "
        f"as indices into an axis of another array. Convert it, as in {primal}.double()."
    )


def _axes(tensors: Sequence[Tensor]) -> list[list[str]]:
    """Return the names of the axes: n3 n4 and n4 n5 for the shapes (3, 4) and (4, 5)."""
    ones = itertools.count(1)
    return [[f"one{next(ones)}" if size == 1 else f"n{size}" for size in x.shape] for x in tensors]


def _takes(forward: Callable[..., Any]) -> Callable[..., bool]:
    def takes(*primals: Tensor | None, **params: Any) -> bool:
        try:
            with torch.no_grad():
                y = forward(*primals, **params)
        except Exception:  # whatever it raises, it does not take this
            return False
        return isinstance(y, Tensor) and y.dtype in REAL + COMPLEX

    return takes
