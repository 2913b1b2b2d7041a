"""Operations that choose among numbers: where radii meet, another may be chosen.

What is chosen moves no farther than the exact operands may. The gradient goes to what was chosen; where that may be
another one, each of these may get it, or lose it. `Choices` remembers among what was chosen, until the reverse pass
comes by.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from backprop_rules.evidence.allowance.operation import Operation, place_of
from backprop_rules.evidence.allowance.units import FEW, apart, wide

aten = torch.ops.aten

SMALLEST = {aten.min, aten.amin, aten.cummin}


@dataclass(frozen=True, eq=False)
class _Extreme:
    """The largest or smallest of numbers: among which, and where each is one of these and none other may be it."""

    among: tuple[tuple[Tensor, Callable[[], Tensor]], ...]
    shape: torch.Size

    def alone(self, x: Any) -> Tensor | None:
        """Return where none other may be it, if it is among these numbers."""
        for its, alone in self.among if isinstance(x, Tensor) else ():
            if x.untyped_storage() is its.untyped_storage() and place_of(x) == place_of(its):
                return alone()
        return None


class Choices:
    """What was chosen among numbers in a run, by the storages of indices, of extremes, and of masks of equality."""

    def __init__(self) -> None:
        self._indices: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._extremes: WeakIdKeyDictionary = WeakIdKeyDictionary()
        # Masks of the numbers that are their group's extreme, with the shapes of one number for each group; and their
        # counts, which are 1 or more.
        self._masks: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._counts: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def index(self, index: Tensor, by: "ByRank | SoFar") -> None:
        """Remember by what an index was chosen."""
        self._indices[index.untyped_storage()] = (index.numel(), by)

    def by(self, index: Any) -> "ByRank | SoFar | None":
        """Return by what an index was chosen; None of what is not, or not the whole of it."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            return None
        count, by = self._indices.get(index.untyped_storage(), (0, None))
        return by if count == index.numel() and index.ndim else None

    def extreme(self, y: Tensor, *among: tuple[Tensor, Callable[[], Tensor]]) -> None:
        """Remember that y is an extreme of these numbers, and where none other may be it."""
        found = _Extreme(among, y.shape)
        self._extremes.setdefault(y.untyped_storage(), {})[place_of(y)] = found

    def follow(self, x: Tensor, result: Any, move: Callable[[Tensor], Tensor]) -> None:
        """Remember that extremes were moved."""
        found = self._extreme(x)
        if found is not None and isinstance(result, Tensor):
            among = tuple((its, partial(_moved_along, move, alone)) for its, alone in found.among)
            self._extremes.setdefault(result.untyped_storage(), {})[place_of(result)] = _Extreme(among, found.shape)

    def _extreme(self, x: Any) -> _Extreme | None:
        found = self._extremes.get(x.untyped_storage()) if isinstance(x, Tensor) else None
        return None if found is None else found.get(place_of(x))

    def concern(self, values: Sequence[Any]) -> bool:
        """Say whether one of these is an extreme."""
        return any(self._extreme(x) is not None for x in values)

    def compared(self, mask: Tensor, a: Any, b: Any, ambiguous: Tensor) -> Tensor:
        """Return where a comparison is ambiguous: of an extreme with its own numbers, not where it is one alone."""
        for x, y in ((a, b), (b, a)):
            found = self._extreme(y)
            alone = None if found is None else found.alone(x)
            if found is not None and alone is not None:
                self._masks[mask.untyped_storage()] = (y.shape, found.shape)
                return ambiguous & ~alone
        return ambiguous

    def pass_on(self, packet: Any, result: Any, args: Sequence[Any]) -> None:
        """Remember what is made of the masks of extremes: copies, and the counts of each group."""
        if packet not in _OF_MASKS:
            return
        shapes = [self._masks.get(x.untyped_storage()) for x in args if isinstance(x, Tensor)]
        known = next((those for those in shapes if those is not None), None)
        if known is None:
            return
        if packet in _ADDED_UP:
            if result.shape in known:
                self._counts[result.untyped_storage()] = True
        else:
            self._masks[result.untyped_storage()] = known

    def least(self, x: Any) -> float:
        """Return the least that numbers may be: of the counts of extremes 1, of others nobody knows."""
        return float(isinstance(x, Tensor) and x.untyped_storage() in self._counts)


_ADDED_UP = {aten.sum, aten.scatter_add, aten.index_add}
_OF_MASKS = {*_ADDED_UP, aten.logical_or, aten._to_copy, aten.copy}


def _moved_along(move: Callable[[Tensor], Tensor], alone: Callable[[], Tensor]) -> Tensor:
    return move(alone())


def end_of(a: Tensor, radius: Tensor, sign: int) -> Tensor:
    """Return the most that exact numbers may be, or with a sign of -1 the least."""
    a = wide(a)
    beyond = torch.nextafter(torch.add(a, radius, alpha=sign), radius.new_tensor(sign * math.inf))
    return torch.where(radius > 0, beyond, a)


def ends(a: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the most that exact numbers may be."""
    return end_of(a, radius, -1), end_of(a, radius, 1)


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
    op.choices.extreme(op.result, (a, partial(_alone, op, a, radius, *how)))
    sign = -1 if op.func.overloadpacket in SMALLEST else 1
    return moved(op, op.result, op.func(end_of(a, radius, sign), *how))


def _alone(op: Operation, a: Tensor, radius: Tensor, dims: Any = (), keepdim: bool = False) -> Tensor:
    """Return where none but one of the numbers along dimensions may be the extreme."""
    low, high = ends(a, radius)
    if op.func.overloadpacket in SMALLEST:
        low, high = -high, -low
    along = [dims] if isinstance(dims, int) else list(dims) or list(range(a.ndim))
    may_be = high >= low.amax(along, keepdim=True)
    return (may_be.sum(along, keepdim=True) == 1).reshape(op.result.shape)


def ordered(op: Operation, a: Tensor, *how: Any, **named: Any) -> Any:
    """Numbers by their rank, of which each is no less than that of the least, and no more than that of the most."""
    several, radius = isinstance(op.result, tuple), op.operand(a, a.dtype).radius
    if radius is None:
        return (None, None) if several else None
    low, high = (op.func(x, *how, **named) for x in ends(a, radius))
    if not several:
        return moved(op, op.result, low, high)
    y, low, high = op.result[0], low[0], high[0]
    names = [argument.name for argument in op.func._schema.arguments]
    dim = {**dict(zip(names[1:], how, strict=False)), **named}.get("dim", -1)
    if op.func.overloadpacket == aten.topk and y.ndim:
        low, high = _as_ranked(y, low, high, dim)
    op.choices.index(op.result[1], ByRank(a, radius, low, high, dim))
    return moved(replace(op, result=y), y, low, high), None


def place_of_extreme(op: Operation, a: Tensor, dim: int | None = None, *_: Any) -> None:
    """The index of the largest or smallest, which may be another's."""
    radius = op.radius(a)
    if radius is not None and dim is not None:
        find = torch.amin if op.func.overloadpacket == aten.argmin else torch.amax
        low, high = ends(a, radius)
        op.choices.index(op.result, ByRank(a, radius, find(low, dim), find(high, dim), dim))


def _as_ranked(y: Tensor, low: Tensor, high: Tensor, dim: int) -> list[Tensor]:
    """Return the least and the most of each number of y, whose order may be any."""
    order, *bounds = _ranked(*(x.movedim(dim, -1) for x in (y, low, high)))
    return [torch.empty_like(x).scatter_(-1, order, x).movedim(-1, dim) for x in bounds]


def _ranked(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of the last dimension, and the least and the most of each rank; equal ones share theirs."""
    y, order = y.sort(-1)
    y = y.contiguous()
    first, last = torch.searchsorted(y, y), torch.searchsorted(y, y, right=True) - 1
    return order, low.sort(-1).values.gather(-1, first), high.sort(-1).values.gather(-1, last)


@dataclass(frozen=True, eq=False)
class ByRank:
    """An index of numbers by their rank, and the least and the most that the number of each rank may be."""

    a: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor
    dim: int

    @property
    def shape(self) -> torch.Size:
        """The shape of the numbers."""
        return self.a.shape

    def reach(self, dim: int, index: Tensor, value: Tensor, off: Tensor, base: Tensor, base_off: Tensor) -> Tensor:
        """Return what elements may get or lose of values that are put in the place of others where the index says.

        It is how far the values of the ranks that an element may have are from its own, if others may have these.
        """
        those = (x.reshape(index.shape).movedim(dim, -1) for x in (self.a.gather(dim, index), self.low, self.high))
        order, low, high = _ranked(*those)
        least, most = (x.movedim(dim, -1).contiguous() for x in ends(self.a, self.radius))
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
        least, most = ends(self.a, self.radius)
        kept = self.low.shape if self.low.ndim == self.a.ndim else self.low.unsqueeze(self.dim).shape
        low, high = self.low.reshape(kept), self.high.reshape(kept)
        for k in range(self.a.shape[self.dim]):
            one = least.narrow(self.dim, k, 1), most.narrow(self.dim, k, 1)
            may_be = ((one[0] <= high) & (one[1] >= low)).reshape(index.shape) & (index != k)
            if bool(may_be.any()):
                yield torch.where(may_be, k, index)


def contested(op: Operation, index: Any, dim: int, source: Any, base: Any = 0.0) -> Tensor | None:
    """Return what elements may get or lose of a source that is put where an index says, where others may be chosen."""
    by = op.choices.by(index)
    if by is None or by.shape != op.result.shape:
        return None
    put = [x[tuple(map(slice, index.shape))] if x.ndim else x.expand(index.shape) for x in _signed(op, source)]
    return op.either(by.reach(dim, index, *put, *(x.expand(by.shape) for x in _signed(op, base))))


def otherwise(op: Operation, a: Tensor, *how: Any) -> Tensor | None:
    """Return how far what lies where an index says may be from what does where others may be chosen."""
    farthest, x = None, op.operand(a)
    for others in _other_indices(op, how):
        off = apart(op.func(a, *others), op.result)
        off = off if x.radius is None else off + op.func(x.radius, *others)
        farthest = off if farthest is None else torch.maximum(farthest, off)
    return op.either(None if farthest is None else farthest * FEW)


def put_otherwise(op: Operation, put: Callable[..., Tensor], *how: Any) -> Tensor | None:
    """Return what places may get or lose of sizes that are put where an index says, where others may be chosen."""
    moved = [(put(*others) - put(*how)).abs() for others in _other_indices(op, how)]
    return op.either(sum(moved[1:], start=moved[0]) * FEW) if moved else None


def _other_indices(op: Operation, how: Sequence[Any]) -> Iterator[Any]:
    """Yield arguments with other indices in the place of one that was chosen."""
    leaves, spec = tree_flatten(how)
    chosen = [(k, op.choices.by(x)) for k, x in enumerate(leaves) if isinstance(x, Tensor)]
    for k, by in chosen:
        for other in by.others(leaves[k]) if by is not None and leaves[k].is_contiguous() else ():
            yield tree_unflatten([*leaves[:k], other, *leaves[k + 1 :]], spec)


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
    while step <= length.amax():
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
    if op.func.overloadpacket in SMALLEST:
        low, high = -high, -low
    op.choices.index(op.result[1], SoFar(low, high))
    bounds = (op.func(x, dim)[0] for x in ends(a, radius))
    return moved(replace(op, result=op.result[0]), op.result[0], *bounds), None


@dataclass(frozen=True, eq=False)
class SoFar:
    """An index of the largest so far, and the least and the most that each number may be."""

    low: Tensor
    high: Tensor

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

    def alone(own: bool) -> Tensor:
        (low, high), (low_s, high_s) = bounds if reduce == "amax" else [(-high, -low) for low, high in bounds]
        least = chosen(low, low_s, "amax")
        rivals = (high >= least).double() * include_self
        rivals.scatter_add_(dim, index, (high_s >= least.gather(dim, index)).double())
        return (rivals <= 1) & (include_self or not own or rivals == 0)  # of no others it is its own

    op.choices.extreme(op.result, (a, partial(alone, True)), (source, partial(alone, False)))
    return moved(op, op.result, *(chosen(x, y, reduce) for x, y in zip(*bounds, strict=True)))


# These round nothing.
FORMULAS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.amax, aten.amin, aten.max, aten.min), extreme),
    **dict.fromkeys((aten.sort, aten.topk, aten.kthvalue, aten.median, aten.nanmedian), ordered),
    **dict.fromkeys((aten.cummax, aten.cummin), running),
    **dict.fromkeys((aten.argmax, aten.argmin), place_of_extreme),
}  # fmt: skip
