"""By how many ulps a result changes with what it should not depend on: reported, and judged where that is asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.native import Native
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.native import own_dtypes
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import in_dtypes, numbers_from
from backprop_rules.subject.ambient import F64, inexact, real
from backprop_rules.subject.function import NoAnswer, cloned
from backprop_rules.subject.subject import Subject


def varies(subject: Subject, point: Point, asked: Sequence[str]) -> Iterator[tuple[str, Finding]]:
    """Yield, in words and as a finding, each way in which the result changes; of those asked for."""
    try:
        here = _drawn(subject, point)
        base, batched = cloned(here.user), _batched(here)
    except NoAnswer:
        return
    for words, again in map(WAYS.__getitem__, asked):
        try:
            others = again(here)
        except NoAnswer:
            continue
        for i, (one, other) in enumerate(zip(base, others, strict=True)):
            if isinstance(one, Tensor) and isinstance(other, Tensor) and inexact(one):
                shared = one[: len(other)] if i in batched else one
                apart = ulps(shared, other[: len(shared)] if i in batched else other)
                if apart:
                    what = f"{words}, by up to {apart:.3g} ulps of {str(one.dtype).removeprefix('torch.')}"
                    told = f"the gradient of {subject.names[i]} changes {what}"
                    yield told, Finding(Kind.VARIES, point, i, detail=f": {what}")
                    break


def _drawn(subject: Subject, point: Point) -> Native:
    """Return the evidence in the own dtypes, for cotangents of all digits: of few, sums are exact in any order."""
    dtypes, numbers = own_dtypes(subject, point), numbers_from(0)
    ys = subject.function.at(point.params).y(in_dtypes(point.leaves, dtypes), None)
    grads = tuple(torch.randn(y.shape, generator=numbers, dtype=F64) if inexact(y) else None for y in ys)
    return Native(subject, replace(point, grads=grads), dtypes=dtypes)


def _batched(here: Native) -> frozenset[int]:
    """Return the leaves whose first axis, as the outputs', is the batch."""
    leaves, grads = here.given
    rows = {len(g) if g.ndim else 0 for g in grads if g is not None}
    count = rows.pop() if len(rows) == 1 else 0
    return frozenset(k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.ndim and len(x) == count > 1)


def _again(here: Native) -> Sequence[Any]:
    return cloned(here.asked(*here.given))


def _in_other_threads(here: Native) -> Sequence[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        return _again(here)
    finally:
        torch.set_num_threads(before)


def _among_rows(of: Callable[[Tensor], Tensor], here: Native) -> Sequence[Any]:
    """Return the answer for other rows beside, where by torch's own gradients these do not count."""
    point, batched = here.point, _batched(here)
    if not batched:
        return (None,) * len(point.leaves)
    leaves = tuple(of(x) if k in batched else x for k, x in enumerate(point.leaves))
    grads = tuple(None if g is None else of(g) for g in point.grads)
    other = replace(here, point=replace(point, leaves=leaves, grads=grads))
    apart = zip(here.run.gradients, other.run.gradients, strict=True)
    if not all(_same_rows(a, b) for k, (a, b) in enumerate(apart) if k in batched):
        return (None,) * len(leaves)
    # Of what is no row, as a weight, the gradient is another one: the rows together make it.
    return tuple(g if k in batched else None for k, g in enumerate(other.user))


def _same_rows(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    n = min(len(a), len(b))
    return bool((a[:n] - b[:n]).abs().max() <= 2.0**-26 * a[:n].abs().max()) if a[:n].numel() else True


def ulps(a: Tensor, b: Tensor) -> float:
    """Return how far two tensors are apart at most, in ulps of the larger number; 0 where both are the same bits."""
    if a.shape != b.shape or not a.numel():
        return 0.0
    a, b = real(a), real(b)
    size = torch.maximum(a.abs(), b.abs()).double()
    info = torch.finfo(a.dtype)
    ulp = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - precision(a.dtype))
    apart = (a.double() - b.double()).abs() / ulp.clamp_min(info.smallest_normal * info.eps)
    return float(apart.nan_to_num(0.0).max())


# What is asked for, in words, and how the answer is found again.
WAYS: dict[str, tuple[str, Callable[[Native], Sequence[Any]]]] = {
    "runs": ("from run to run", _again),
    "threads": ("with the number of threads", _in_other_threads),
    "batch": ("with another batch beside", partial(_among_rows, lambda x: x[: len(x) // 2])),
    "padding": (
        "with padding, rows of zeros, beside",
        partial(_among_rows, lambda x: torch.cat([x, torch.zeros_like(x)])),
    ),
}
