"""What was chosen among numbers in a run, and of what: remembered by storage, until the reverse pass comes by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.by_storage import ByStorage, place_of
from backprop_rules.evidence.allowance.operation import Operation
from backprop_rules.subject.ambient import inexact, tensors_in

if TYPE_CHECKING:
    from backprop_rules.evidence.allowance.choices import ByRank, SoFar
    from backprop_rules.evidence.allowance.remade import Made

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Among:
    """Numbers of which something is the extreme of each group: the group of each, and of the extremes theirs.

    Groups are counted from 1 on; that of an extreme is below 0 where more than one of the numbers may be it.
    """

    numbers: Tensor
    own: Callable[[], Tensor]
    groups: Callable[[], Tensor]

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Among":
        """Return the same of extremes that were moved."""
        return replace(self, groups=lambda: move(self.groups()))


class Choices:
    """What was chosen among numbers in a run, by the storages of indices, of extremes, and of masks of equality.

    `taken` names the first operation that took an index or a mask as it came out, though it may be another.
    """

    def __init__(self) -> None:
        self.taken = ""
        self._indices = ByStorage()
        self._made = ByStorage()
        self._led_to = ByStorage()  # what was made of what was chosen, in any way
        self._extremes = ByStorage()
        # Masks of the numbers that are their group's extreme, with the groups; and their counts, which are 1 or more.
        self._masks = ByStorage()
        self._counts = ByStorage()
        self.factored: list[tuple[Tensor, Tensor]] = []  # factors, and how far the matrix may be off that they are of

    def __bool__(self) -> bool:
        """Whether anything was chosen."""
        return bool(self._indices or self._made or self._led_to or self._extremes)

    def forget(self, x: Tensor) -> None:
        """Forget what was chosen where a tensor is written to."""
        for known in (self._indices, self._made, self._led_to, self._extremes, self._masks, self._counts):
            known.pop(x, None)

    def index(self, index: Tensor, by: "ByRank | SoFar") -> None:
        """Remember by what an index was chosen."""
        self._indices[index] = (index.numel(), by)

    def by(self, index: Any) -> "ByRank | SoFar | Made | None":
        """Return by what an index was chosen, the whole of it in its order, or how it was made; None of others."""
        if not isinstance(index, Tensor) or not (self._indices or self._made) or inexact(index):
            return None
        count, by = self._indices.get(index, (0, None))
        whole = index.dtype == torch.int64 and count == index.numel() and index.ndim and index.is_contiguous()
        found: ByRank | SoFar | Made | None = by if whole else self._made.get(index, {}).get(place_of(index))
        return found

    def make(self, result: Tensor, made: "Made") -> None:
        """Remember how whole numbers or a mask were made of what was chosen."""
        self._made.setdefault(result, {})[place_of(result)] = made

    def explain(self, mask: Tensor, radius: Tensor) -> bool:
        """Say whether a mask is in doubt by what may be chosen alone."""
        by = self.by(mask)
        left = radius > 0
        for other in by.others(mask) if by is not None else ():
            left = left & (other == mask)
        return by is not None and not bool(left.any())

    def tell(self, func: Any) -> None:
        """Remember that an operation took what was made of a choice as it came out, if it is the first."""
        self.taken = self.taken or str(func).removesuffix(".default")

    def leads_to(self, result: Tensor) -> None:
        """Remember that whole numbers or a mask were made of what was chosen, in any way."""
        self._led_to[result] = True

    def are_behind(self, values: Any) -> bool:
        """Say whether one of these was chosen, or made of what was."""
        if not (self._indices or self._made or self._led_to):
            return False
        some = [x for x in tensors_in(values) if not inexact(x)]
        return any(self.by(x) is not None or x in self._led_to for x in some)

    def extreme(self, y: Tensor, *among: Among) -> None:
        """Remember among which numbers y is the extreme of each group."""
        self._extremes.setdefault(y, {})[place_of(y)] = among

    def follow(self, x: Tensor, result: Any, move: Callable[[Tensor], Tensor]) -> None:
        """Remember that extremes were moved."""
        found = self._extreme(x)
        if found and isinstance(result, Tensor):
            moved = tuple(one.moved(move) for one in found)
            self._extremes.setdefault(result, {})[place_of(result)] = moved

    def _extreme(self, x: Any) -> tuple[Among, ...]:
        found = self._extremes.get(x, {}) if isinstance(x, Tensor) else {}
        return found.get(place_of(x), ()) if found else ()

    def concern(self, values: Sequence[Any]) -> bool:
        """Say whether one of these is an extreme, or made of what was chosen."""
        return any(self._extreme(x) or self.by(x) for x in values)

    def compared(self, op: Operation, a: Any, b: Any, ambiguous: Tensor) -> Tensor:
        """Return where a comparison is ambiguous: of an extreme with its own group, not where one alone may be it."""
        for x, y in ((a, b), (b, a)):
            for among in self._extreme(y) if isinstance(x, Tensor) else ():
                its = among.numbers
                if x.untyped_storage() is not its.untyped_storage() or place_of(x) != place_of(its):
                    continue
                own, groups = among.own(), among.groups()
                if op.func.overloadpacket == aten.eq and bool((groups.abs() == own).all()):
                    self._masks[op.result] = (place_of(op.result), own)
                return ambiguous & (groups != own)
        return ambiguous

    def _groups(self, mask: Any) -> Tensor | None:
        place, own = self._masks.get(mask, (None, None)) if isinstance(mask, Tensor) else (None, None)
        return own if own is not None and place == place_of(mask) else None

    def pass_on(self, packet: Any, result: Any, args: Sequence[Any]) -> None:
        """Remember what is made of the masks of extremes: copies, and the counts of each group."""
        if packet not in _OF_MASKS or not isinstance(result, Tensor):
            return
        known = [own for own in map(self._groups, args) if own is not None]
        if not known:
            return
        if packet not in _ADDED_UP:
            self._masks[result] = (place_of(result), known[0])
        elif _counts_groups(packet, result, args, known):
            self._counts[result] = True

    def least(self, x: Any) -> float:
        """Return the least that numbers may be: of the counts of extremes 1, of others nobody knows."""
        return float(isinstance(x, Tensor) and x in self._counts)


_ADDED_UP = {aten.sum, aten.scatter_add, aten.index_add}
_OF_MASKS = {*_ADDED_UP, aten.logical_or, aten._to_copy, aten.copy}


def _counts_groups(packet: Any, result: Tensor, args: Sequence[Any], known: Sequence[Tensor]) -> bool:
    """Say whether each sum is over the whole of one group, of masks whose groups these are."""
    if packet == aten.sum:
        dims = list(args[1]) if len(args) > 1 and args[1] else list(range(known[0].ndim))
        first = known[0].amin(dims)
        return bool((first == known[0].amax(dims)).all()) and first.unique().numel() == first.numel()
    places = torch.arange(1, result.numel() + 1, device=result.device).reshape(result.shape)
    come = places.gather(args[1], args[2]) if packet == aten.scatter_add else places.index_select(args[1], args[2])
    return len(known) == 2 and torch.equal(known[0], places) and torch.equal(known[1], come)
