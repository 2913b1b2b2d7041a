"""By how many ulps a result changes with what it should not depend on: reported, and judged where that is asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.native import own_dtypes
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import cast_like, in_dtypes, numbers_from, recast
from backprop_rules.subject.ambient import F64, inexact, real
from backprop_rules.subject.function import Cotangents, Function, NoAnswer, cloned
from backprop_rules.subject.subject import Subject


@dataclass(frozen=True, eq=False)
class _Call:
    """Arguments in the dtypes of a point, and the leaves whose first axis, as the outputs', is the batch."""

    function: Function
    leaves: tuple[Any, ...]
    grads: Cotangents
    batched: frozenset[int]

    def with_rows(self, of: Callable[[Tensor], Tensor]) -> "_Call":
        """Return the call with other rows: those beside them do not count, or it is none."""
        leaves = tuple(of(x) if k in self.batched else x for k, x in enumerate(self.leaves))
        grads = tuple(None if g is None else of(g) for g in self.grads)
        return replace(self, leaves=leaves, grads=grads)

    def truth(self) -> tuple[Any, ...]:
        wide = [recast(x, F64) if inexact(x) and not x.is_complex() else x for x in self.leaves]
        own = tuple(None if g is None or g.is_complex() else recast(g, F64) for g in self.grads)
        return self.function.run(wide, own, F64)[0].gradients


def varies(subject: Subject, point: Point, asked: Sequence[str]) -> Iterator[tuple[str, Finding]]:
    """Yield, in words and as a finding, each way in which the result changes; of those asked for."""
    try:
        call = _call(subject, point)
        base = _answer(subject, call)
    except NoAnswer:
        return
    for words, again in map(WAYS.__getitem__, asked):
        try:
            others = again(subject, call)
        except NoAnswer:
            continue
        for i, (one, other) in enumerate(zip(base, others, strict=True)):
            if isinstance(one, Tensor) and isinstance(other, Tensor) and inexact(one):
                shared = one[: len(other)] if i in call.batched else one
                apart = ulps(shared, other[: len(shared)] if i in call.batched else other)
                if apart:
                    what = f"{words}, by up to {apart:.3g} ulps of {str(one.dtype).removeprefix('torch.')}"
                    told = f"the gradient of {subject.names[i]} changes {what}"
                    yield told, Finding(Kind.VARIES, point, i, detail=f": {what}")
                    break


def _call(subject: Subject, point: Point) -> _Call:
    function = subject.function.at(point.params)
    leaves = tuple(x.detach() if inexact(x) else x for x in in_dtypes(point.leaves, own_dtypes(subject, point)))
    ys = function.y(leaves, None)
    # Cotangents with all of their digits: of few digits sums are exact, and come out alike in any order.
    numbers = numbers_from(0)
    drawn = (torch.randn(y.shape, generator=numbers, dtype=F64) if inexact(y) else None for y in ys)
    grads = tuple(map(cast_like, drawn, ys))
    rows = {len(y) if y.ndim else 0 for y in ys}
    count = rows.pop() if len(rows) == 1 else 0
    batched = frozenset(k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.ndim and len(x) == count > 1)
    return _Call(function, leaves, grads, batched)


def _answer(subject: Subject, call: _Call) -> tuple[Any, ...]:
    found = subject.backward(call.function, call.grads, None, call.leaves, None)
    return tuple(cloned(found))


def _in_other_threads(subject: Subject, call: _Call) -> tuple[Any, ...]:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        return _answer(subject, call)
    finally:
        torch.set_num_threads(before)


def _among_rows(of: Callable[[Tensor], Tensor], subject: Subject, call: _Call) -> tuple[Any, ...]:
    """Return the answer for other rows beside, where by torch's own gradients these do not count."""
    if not call.batched:
        return (None,) * len(call.leaves)
    other = call.with_rows(of)
    apart = zip(call.truth(), other.truth(), strict=True)
    if not all(_same_rows(a, b) for k, (a, b) in enumerate(apart) if k in call.batched):
        return (None,) * len(call.leaves)
    found = _answer(subject, other)
    # Of what is no row, as a weight, the gradient is another one: the rows together make it.
    return tuple(g if k in call.batched else None for k, g in enumerate(found))


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
WAYS: dict[str, tuple[str, Callable[[Subject, _Call], tuple[Any, ...]]]] = {
    "runs": ("from run to run", _answer),
    "threads": ("with the number of threads", _in_other_threads),
    "batch": ("with another batch beside", partial(_among_rows, lambda x: x[: len(x) // 2])),
    "padding": (
        "with padding, rows of zeros, beside",
        partial(_among_rows, lambda x: torch.cat([x, torch.zeros_like(x)])),
    ),
}
