"""The way to a smaller point: first its sizes, then its layout, then its values; each step counted."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import mended, relaid
from backprop_rules.subject.ambient import F64, inexact, real
from backprop_rules.subject.constants import Constants
from backprop_rules.subject.function import Function, NoPoint

ONE_BY_ONE = 24  # elements that are made plainer one by one
T = TypeVar("T")
Steps = Callable[[Point], Iterator[Point]]


def shrunk(
    best: T,
    at: Callable[[T], Point],
    again: Callable[[Point], T | None],
    ways: Iterable[Steps],
    left: Callable[[], bool],
) -> T:
    """Return what is found again at a point that no step makes simpler, as long as effort is left."""
    for steps in ways:
        found = True
        while found:
            found, simple = False, [*simplicity(at(best))]
            for point in steps(at(best)):
                if not is_less(simplicity(point), simple):
                    continue
                if not left():
                    return best
                other = again(point)
                if other is not None:
                    best, found = other, True
                    break
    return best


def simplicity(point: Point) -> Iterator[int]:
    """Yield how simple a point is, smaller being simpler: its elements, its layouts, and the values in it."""
    tensors = point.tensors
    yield point.size + sum(x.dim() for x in tensors)
    yield sum(not x.is_contiguous() or bool(x.storage_offset()) for x in tensors)
    yield sum(_cost(x) for x in tensors if inexact(x))


def is_less(one: Iterator[int], other: Sequence[int]) -> bool:
    """Say whether numbers come before others, as tuples of them do; of the one no more are asked for than tell."""
    return next((a < b for a, b in zip(one, other, strict=True) if a != b), False)


def _cost(x: Tensor) -> int:
    """Return 0 for a zero, 1 for a one, 2 for a minus one, 3 for a whole number, 4 for another."""
    x = real(x)
    cost = torch.where(x == 0, 0, torch.where(x == 1, 1, torch.where(x == -1, 2, torch.where(x == x.round(), 3, 4))))
    return int(cost.sum())


def smaller(function: Function, point: Point, constants: Constants) -> Iterator[Point]:
    """Yield points of smaller sizes: one size cut wherever it stands, the largest first."""
    axes = [x.shape for x in point.leaves if isinstance(x, Tensor)]
    sizes = sorted({n for shape in axes for n in shape if n > 1}, reverse=True)
    for n in (n for n in sizes if n not in constants.sizes):
        for kept in cuts_of(n):
            if constants.allow(n, len(kept)):
                yield from _kept(function, point, n, kept, constants.kept)


def cuts_of(n: int) -> Iterator[Sequence[int]]:
    """Yield the indices to keep of n: one, two, a half, all but one."""
    for target in dict.fromkeys((1, 2, n // 2, n - 1)):
        if 0 < target < n:
            yield from (range(start, start + target) for start in dict.fromkeys((0, n - target)))
    for index in reversed(range(n if 1 < n <= ONE_BY_ONE else 0)):
        yield [k for k in range(n) if k != index]


def _kept(function: Function, point: Point, n: int, kept: Sequence[int], fixed: frozenset[int]) -> Iterator[Point]:
    """Yield the point with these indices alone, of every axis of size n."""
    leaves = tuple(_narrowed(x, n, kept) for x in point.leaves)
    leaves = tuple(
        mended(x, own) if isinstance(x, Tensor) and (k in fixed or not inexact(x)) else x
        for k, (x, own) in enumerate(zip(leaves, point.leaves, strict=True))
    )
    leaves = tuple(
        x % len(kept) if isinstance(x, Tensor) and not inexact(x) and x.dtype != torch.bool and _indexes(x, n) else x
        for x in leaves
    )
    yield from refitted(function, point, leaves, lambda g: [_narrowed(g, n, kept)])


def refitted(
    function: Function, point: Point, leaves: Sequence[Any], cuts: Callable[[Tensor], Iterable[Tensor]] = lambda g: [g]
) -> Iterator[Point]:
    """Yield the point with smaller leaves, which forward takes, and with each cotangent that fits among its cuts."""
    try:
        y = function.at(point.params).y(leaves, F64)
    except NoPoint:
        return
    if len(y) == len(point.grads):
        pairs = zip(point.grads, y, strict=True)
        each = [[None] if g is None else _fitted(cuts(g), g, tuple(out.shape)) for g, out in pairs]
        for grads in itertools.product(*each):
            yield replace(point, leaves=tuple(leaves), grads=grads, own=False)


def _indexes(x: Tensor, n: int) -> bool:
    return bool(x.numel()) and int(x.min()) >= 0 and int(x.max()) < n


def _narrowed(x: Any, n: int, kept: Sequence[int]) -> Any:
    if not isinstance(x, Tensor) or n not in x.shape:
        return x
    for dim, size in enumerate(x.shape):
        if size == n:
            x = x.index_select(dim, torch.tensor(list(kept), device=x.device))
    return x.clone(memory_format=torch.contiguous_format)


def _fitted(cuts: Iterable[Tensor], g: Tensor, shape: tuple[int, ...]) -> Sequence[Tensor]:
    """Return cotangents for outputs of another shape: cut as the primals, or with fewer axes, at the front, or ones."""
    if found := [cut for cut in cuts if tuple(cut.shape) == shape]:
        return found
    if g.numel() == math.prod(shape):
        return [g.reshape(shape)]
    if g.dim() != len(shape) or any(n > m for n, m in zip(shape, g.shape, strict=True)):
        return [torch.ones(shape, dtype=g.dtype, device=g.device)]
    return [g[tuple(slice(0, n) for n in shape)].contiguous()]


def plainer(point: Point, fixed: frozenset[int] = frozenset()) -> Iterator[Point]:
    """Yield points of plainer layout and values: contiguous, tensors of one number or whole ones, then elements.

    The leaves that are `fixed` keep their numbers.
    """
    numbered = [(k, x) for k, x in enumerate((*point.leaves, *point.grads)) if isinstance(x, Tensor) and inexact(x)]
    free = {k: x for k, x in numbered if k not in fixed}
    for k, x in numbered:
        if not x.is_contiguous() or x.storage_offset():
            yield point.with_tensor(k, x.clone(memory_format=torch.contiguous_format))
    for number in (0.0, 1.0):  # all primals at once: what shows at a tie of two is gone when one moves
        leaves = tuple(torch.full_like(x, number) if k in free else x for k, x in enumerate(point.leaves))
        yield replace(point, leaves=leaves)
    for k, x in free.items():
        for plain in (torch.zeros_like(x), torch.ones_like(x), _rounded(x)):
            if not torch.equal(plain, x):
                yield point.with_tensor(k, relaid(plain, x))
    for k, x in free.items():
        if 0 not in x.stride() and x.numel() <= ONE_BY_ONE:
            yield from _element_by_element(point, k, x)


def _rounded(x: Tensor) -> Tensor:
    return torch.complex(x.real.round(), x.imag.round()) if x.is_complex() else x.round()


def _element_by_element(point: Point, k: int, x: Tensor) -> Iterator[Point]:
    flat = x.flatten()
    for e in range(flat.numel()):
        value = flat[e].item()
        if value == 0 or isinstance(value, complex):
            plain: tuple[Any, ...] = () if value == 0 else (0.0, 1.0, 1j)
        elif not math.isfinite(value):
            plain = ()
        else:
            plain = (0.0, 1.0, math.copysign(1.0, value), math.copysign(2.0, value))[: 4 if value % 1 else 3]
        for one in plain:
            if one != value:
                changed = flat.clone()
                changed[e] = one
                yield point.with_tensor(k, relaid(changed.reshape(x.shape), x))
