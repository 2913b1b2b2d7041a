"""Operations that choose among numbers: where radii meet, another may be chosen.

What is chosen moves no farther than the exact operands may. The gradient goes to what was chosen; where that may be
another one, each of these may get it, or lose it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.chosen import Among
from backprop_rules.evidence.allowance.operation import Operation, plus
from backprop_rules.evidence.allowance.remade import Made, other_arguments
from backprop_rules.evidence.allowance.units import FEW, apart, largest_of, wide

aten = torch.ops.aten

SMALLEST = {aten.min, aten.amin, aten.cummin}


def end_of(a: Tensor, radius: Tensor, sign: int) -> Tensor:
    """Return the most that exact numbers may be, or with a sign of -1 the least."""
    a = wide(a)
    beyond = torch.nextafter(torch.add(a, radius, alpha=sign), radius.new_tensor(sign * math.inf))
    return torch.where(radius > 0, beyond, a)


def ends(a: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the most that exact numbers may be; NaN may be anything."""
    low, high = end_of(a, radius, -1), end_of(a, radius, 1)
    return low.nan_to_num_(-math.inf, math.inf, -math.inf), high.nan_to_num_(math.inf, math.inf, -math.inf)


def moved(op: Operation, y: Tensor, *ends: Tensor) -> Tensor:
    """Return how far y may lie from the farther of the ends."""
    off = [apart(end, y) for end in ends]
    return op.up(off[0] if len(off) == 1 else torch.maximum(*off))  # type: ignore[no-any-return]


def extreme(op: Operation, a: Tensor, *how: Any) -> Any:
    """The largest or the smallest along dimensions, which is one among many, or comes with its index."""
    if isinstance(op.result, tuple):
        return ordered(op, a, *how)
    radius = op.operand(a, a.dtype).radius
    if radius is None:
        return None
    version, func, shape = a._version, op.func, op.result.shape  # the operation knows the mode, which keeps this
    ids = partial(_numbered, shape, a.device)

    def groups() -> Tensor:
        alone = _alone(func, shape, a, radius, *how) if a._version == version else torch.zeros((), dtype=torch.bool)
        return torch.where(alone, ids(), -ids())

    op.choices.extreme(op.result, Among(a, lambda: _as_kept(ids(), a, *how).expand(a.shape), groups))
    sign = -1 if op.func.overloadpacket in SMALLEST else 1
    return moved(op, op.result, op.func(end_of(a, radius, sign), *how))


def _alone(func: Any, shape: torch.Size, a: Tensor, radius: Tensor, dims: Any = (), keepdim: bool = False) -> Tensor:
    """Return where none but one of the numbers along dimensions may be the extreme."""
    low, high = ends(a, radius)
    if func.overloadpacket in SMALLEST:
        low, high = -high, -low
    along = _along(a, dims)
    may_be = high >= low.amax(along, keepdim=True)
    return (may_be.sum(along, keepdim=True) == 1).reshape(shape)


def _numbered(shape: torch.Size, device: torch.device) -> Tensor:
    """Return numbers from 1 on in a shape."""
    return torch.arange(1, math.prod(shape) + 1, device=device).reshape(shape)


def _as_kept(x: Tensor, a: Tensor, dims: Any = (), keepdim: bool = False) -> Tensor:
    """Return x, of the shape of a reduction, as if the dimensions had been kept."""
    return x.reshape([1 if k in _along(a, dims) else n for k, n in enumerate(a.shape)])


def _along(a: Tensor, dims: Any) -> list[int]:
    """Return the dimensions of a reduction: all, if none are given."""
    return [d % a.ndim for d in ([dims] if isinstance(dims, int) else dims)] or list(range(a.ndim))


def ordered(op: Operation, a: Tensor, *how: Any, **named: Any) -> Any:
    """Numbers by their rank, of which each is no less than that of the least, and no more than that of the most."""
    several, radius = isinstance(op.result, tuple), op.operand(a, a.dtype).radius
    if radius is None:
        return (None, None) if several else None
    least, most = ends(a, radius)
    low, high = (op.func(x, *how, **named) for x in (least, most))
    if not several:
        return moved(op, op.result, low, high)
    y, low, high = op.result[0], low[0], high[0]
    names = [argument.name for argument in op.func._schema.arguments]
    dim = {**dict(zip(names[1:], how, strict=False)), **named}.get("dim", -1)
    if op.func.overloadpacket == aten.topk and y.ndim:
        low, high = _as_ranked(y, low, high, dim)
    op.choices.index(op.result[1], ByRank(least, most, y.clone(), low, high, dim))
    return moved(replace(op, result=y), y, low, high), None


def place_of_extreme(op: Operation, a: Tensor, dim: int | None = None, *_: Any) -> None:
    """The index of the largest or smallest, which may be another's."""
    radius = op.radius(a)
    if radius is None:
        return
    find = torch.amin if op.func.overloadpacket == aten.argmin else torch.amax
    low, high = ends(a, radius)
    if dim is not None:
        op.choices.index(op.result, ByRank(low, high, find(a, dim), find(low, dim), find(high, dim), dim))
    elif int(((low <= find(high)) & (high >= find(low))).sum()) > 1:  # of all: it is taken as it came out
        op.choices.leads_to(op.result)


def _as_ranked(y: Tensor, low: Tensor, high: Tensor, dim: int) -> list[Tensor]:
    """Return the least and the most of each number of y, whose order may be any."""
    order, *bounds = _ranked(*(x.movedim(dim, -1) for x in (y, low, high)))
    return [torch.empty_like(x).scatter_(-1, order, x).movedim(-1, dim) for x in bounds]


def _ranked(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of the last dimension, and the least and the most of each rank; equal ones share theirs."""
    y, order = y.nan_to_num(math.inf, math.inf, -math.inf).sort(-1)  # NaN is the largest
    y = y.contiguous()
    first, last = torch.searchsorted(y, y), torch.searchsorted(y, y, right=True) - 1
    return order, low.sort(-1).values.gather(-1, first), high.sort(-1).values.gather(-1, last)


@dataclass(frozen=True, eq=False)
class ByRank:
    """An index of numbers by their rank: the least and the most of each number, and of that of each rank, y."""

    least: Tensor
    most: Tensor
    y: Tensor
    low: Tensor
    high: Tensor
    dim: int

    @property
    def shape(self) -> torch.Size:
        """The shape of the numbers."""
        return self.least.shape

    def reach(self, dim: int, index: Tensor, value: Tensor, off: Tensor, base: Tensor, base_off: Tensor) -> Tensor:
        """Return what elements may get or lose of values that are put in the place of others where the index says.

        It is how far the values of the ranks that an element may have are from its own, if others may have these.
        """
        those = (x.reshape(index.shape).movedim(dim, -1) for x in (self.y, self.low, self.high))
        order, low, high = _ranked(*those)
        least, most = (x.movedim(dim, -1).contiguous() for x in (self.least, self.most))
        base, base_off = (x.movedim(dim, -1) for x in (base, base_off))
        first, end = torch.searchsorted(high, least), torch.searchsorted(low, most, right=True)
        contested = _covered(first, end, low.shape[-1]) > 1
        value, off, at = (x.movedim(dim, -1).gather(-1, order) for x in (value, off, index))
        own = base.scatter(-1, at, value)
        top, bottom = (_largest_between(x.where(contested, -math.inf), first, end) for x in (value + off, off - value))
        above, below = torch.maximum(top, base + base_off), torch.maximum(bottom, base_off - base)  # it may have none
        far = torch.maximum(above - own, below + own)
        return torch.where(top > -math.inf, far * FEW, 0.0).movedim(-1, dim)

    def others(self, index: Tensor) -> Iterator[Tensor]:
        """Yield the index with what may be chosen in its place, where that may be: one element after the other."""
        kept = self.low.shape if self.low.ndim == self.least.ndim else self.low.unsqueeze(self.dim).shape
        low, high = self.low.reshape(kept), self.high.reshape(kept)
        for k in range(self.least.shape[self.dim]):
            one = self.least.narrow(self.dim, k, 1), self.most.narrow(self.dim, k, 1)
            may_be = ((one[0] <= high) & (one[1] >= low)).reshape(index.shape) & (index != k)
            if bool(may_be.any()):
                yield torch.where(may_be, k, index)


def contested(op: Operation, index: Any, dim: int, source: Any, base: Any = 0.0) -> Tensor | None:
    """Return what elements may get or lose of a source that is put where an index says, where others may be chosen."""
    by = op.choices.by(index)
    if by is None:
        return None
    if isinstance(by, Made) or by.shape != op.result.shape or dim % len(by.shape) != by.dim % len(by.shape):
        return op.either(_put_elsewhere(op, by, index, dim, source, base))
    put = [x[tuple(map(slice, index.shape))] if x.ndim else x.expand(index.shape) for x in _signed(op, source)]
    return op.either(by.reach(dim, index, *put, *(x.expand(by.shape) for x in _signed(op, base))))


def _put_elsewhere(op: Operation, by: Any, index: Tensor, dim: int, source: Any, base: Any) -> Tensor:
    """Return what places may get or lose of a source that is put where an index says: in a base, or added to others."""
    value, off = (x[tuple(map(slice, index.shape))] if x.ndim else x.expand(index.shape) for x in _signed(op, source))
    if not isinstance(base, Tensor):
        found = torch.zeros(op.result.shape, dtype=torch.float64, device=op.result.device)
        for other in by.others(index):
            size = torch.where(other != index, value.abs() + off, 0.0)
            found = found.scatter_add(dim, other, size).scatter_add(dim, index, size)
        return found * FEW
    number, its = _signed(op, base)
    own = most = least = number.scatter(dim, index, value)
    under, under_off = number.gather(dim, index), its.gather(dim, index)
    for other in by.others(index):
        for places, x, far in ((other, value, off), (index, under, under_off)):
            most = most.scatter_reduce(dim, places, torch.where(other != index, x + far, -math.inf), "amax")
            least = least.scatter_reduce(dim, places, torch.where(other != index, x - far, math.inf), "amin")
    return torch.maximum(most - own, own - least) * FEW


def otherwise(op: Operation, a: Tensor, *how: Any) -> Tensor | None:
    """Return how far what lies where an index says may be from what does where others may be chosen."""
    x = op.operand(a)
    farthest = largest_of(
        plus(apart(op.func(a, *others), op.result), None if x.radius is None else op.func(x.radius, *others))
        for others in other_arguments(op.choices, how)
    )
    return op.either(None if farthest is None else farthest * FEW)


def put_otherwise(op: Operation, put: Callable[..., Tensor], *how: Any) -> Tensor | None:
    """Return what places may get or lose of sizes that are put where an index says, where others may be chosen."""
    chosen = list(other_arguments(op.choices, how))
    if not chosen:
        return None
    own = put(*how)
    moved = [(put(*others) - own).abs() for others in chosen]
    return op.either(sum(moved[1:], start=moved[0]) * FEW)


def differing(op: Operation, *how: Any) -> Tensor | None:
    """Return where a mask that is made of whole numbers may be another, as others may be chosen."""
    return largest_of((op.func(*others) != op.result).double() for others in other_arguments(op.choices, how))


def in_doubt(op: Operation, indices: Sequence[Any]) -> Tensor | None:
    """Return infinity where a mask among indices may be another, as another may be chosen."""
    dim, found = 0, None
    for index in indices:
        mask = isinstance(index, Tensor) and index.dtype == torch.bool
        radius = op.radius(index) if mask else None
        if radius is not None:
            doubt = radius.reshape((1,) * dim + radius.shape + (1,) * (op.result.ndim - dim - radius.ndim)) > 0
            found = plus(found, torch.where(doubt, math.inf, 0.0).expand(op.result.shape))
        dim += index.ndim if mask else 1
    return op.either(found)


def _signed(op: Operation, x: Any) -> tuple[Tensor, Tensor]:
    """Return numbers, and how far the exact ones may be; of complex ones 0, and how far any two may be apart."""
    its = op.operand(x)
    size = torch.as_tensor(its.size, dtype=torch.float64, device=op.result.device)
    radius = size * 0 if its.radius is None else torch.as_tensor(its.radius).expand(size.shape)
    if isinstance(x, Tensor) and x.is_complex():
        return size * 0, 2 * size + radius
    return torch.as_tensor(x, dtype=torch.float64, device=size.device), radius


def _covered(first: Tensor, end: Tensor, count: int) -> Tensor:
    """Return by how many of the ranges from `first` to before `end` each of so many places is covered."""
    steps = first.new_zeros(*first.shape[:-1], count + 1)
    ones = (end > first).to(steps.dtype)
    return steps.scatter_add_(-1, first, ones).scatter_add_(-1, end, -ones).cumsum(-1)[..., :-1]


def _largest_between(x: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Return the largest of x from `first` to before `end`: by the largest of 1, 2, 4, ... in a row."""
    found, length, step = x.new_full(first.shape, -math.inf), end - first, 1
    while length.numel() and step <= length.amax():
        last = x.shape[-1] - 1
        either = torch.maximum(*(x.gather(-1, at.clamp(0, last)) for at in (first, end - step)))
        found = torch.where((length >= step) & (length < 2 * step), either, found)
        x, step = torch.maximum(x[..., :-step], x[..., step:]), 2 * step
    return found


def running(op: Operation, a: Tensor, dim: int) -> Any:
    """The largest or the smallest so far, and its index."""
    radius = op.operand(a, a.dtype).radius
    if radius is None:
        return None, None
    low, high = ends(a, radius)
    bounds = [op.func(x, dim)[0] for x in (low, high)]
    if op.func.overloadpacket in SMALLEST:
        low, high = -high, -low
    op.choices.index(op.result[1], SoFar(low, high, dim))
    return moved(replace(op, result=op.result[0]), op.result[0], *bounds), None


@dataclass(frozen=True, eq=False)
class SoFar:
    """An index of the largest so far, and the least and the most that each number may be."""

    low: Tensor
    high: Tensor
    dim: int

    @property
    def shape(self) -> torch.Size:
        """The shape of the numbers."""
        return self.low.shape

    def reach(self, dim: int, index: Tensor, value: Tensor, off: Tensor, *_: Tensor) -> Tensor:
        """Return the values of all places up to which an element may be the largest, if another may be, too."""
        size = (value.abs() + off).movedim(dim, -1)
        most, least = self.high.movedim(dim, -1).contiguous(), self.low.movedim(dim, -1).cummax(-1).values
        first = torch.arange(most.shape[-1], device=most.device).expand(most.shape)
        end = torch.maximum(first, torch.searchsorted(least.contiguous(), most, right=True))
        contested = _covered(first, end, most.shape[-1]) > 1

        def between(x: Tensor) -> Tensor:
            sums = torch.nn.functional.pad(x.cumsum(-1), (1, 0))
            return sums.gather(-1, end) - sums.gather(-1, first)

        sums = between(torch.where(contested, size, 0.0)) + size.sum(-1, keepdim=True) * size.shape[-1] * 2.0**-51
        return torch.where(between(contested.long()) > 0, sums, 0.0).movedim(-1, dim)

    def others(self, _: Tensor) -> Iterator[Tensor]:
        """Yield nothing: what lies at the index of a largest so far is taken as it is."""
        yield from ()


def extreme_at(
    op: Operation, a: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, include_self: bool
) -> Any:
    """The largest or the smallest of what comes to each place."""
    radii = op.radii(a, source)
    if radii is None:
        return None
    used = tuple(map(slice, index.shape))
    bounds = [ends(a, radii[0]), ends(source[used], radii[1][used])]

    def chosen(x: Tensor, y: Tensor, reduce: str) -> Tensor:
        return x.scatter_reduce(dim, index, y, reduce, include_self=include_self)

    ids = partial(_numbered, a.shape, a.device)

    def groups(own: bool) -> Tensor:
        (low, high), (low_s, high_s) = bounds if reduce == "amax" else [(-high, -low) for low, high in bounds]
        least = chosen(low, low_s, "amax")
        rivals = (high >= least).double() * include_self
        rivals.scatter_add_(dim, index, (high_s >= least.gather(dim, index)).double())
        alone = (rivals <= 1) & (include_self or not own or rivals == 0)  # of no others it is its own
        return torch.where(alone, ids(), -ids())

    come = Among(source, lambda: ids().gather(dim, index), partial(groups, False))
    op.choices.extreme(
        op.result, Among(a, ids, partial(groups, True)), *([come] if source.shape == index.shape else [])
    )
    return moved(op, op.result, *(chosen(x, y, reduce) for x, y in zip(*bounds, strict=True)))


# These round nothing.
FORMULAS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.amax, aten.amin, aten.max, aten.min), extreme),
    **dict.fromkeys((aten.sort, aten.topk, aten.kthvalue, aten.median, aten.nanmedian), ordered),
    **dict.fromkeys((aten.cummax, aten.cummin), running),
    **dict.fromkeys((aten.argmax, aten.argmin), place_of_extreme),
}  # fmt: skip
