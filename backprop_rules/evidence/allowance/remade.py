"""What is made of a chosen index, number by number, is remade of what else may be chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from backprop_rules.evidence.allowance.units import largest_of
from backprop_rules.subject.ambient import inexact, tensors_in

if TYPE_CHECKING:
    from backprop_rules.evidence.allowance.choices import ByRank, SoFar
    from backprop_rules.evidence.allowance.chosen import Choices

aten = torch.ops.aten
# Of whole numbers and masks each result is of one number, or of some that are near each other.
NUMBER_BY_NUMBER = {
    aten.t, aten.transpose, aten.permute, aten.expand, aten.unsqueeze, aten.squeeze, aten.clone, aten.alias,
    aten.select, aten.slice, aten.view, aten._unsafe_view, aten.reshape, aten._to_copy, aten.detach, aten.flip,
    aten.repeat, aten.gather, aten.index, aten.index_select, aten.any, aten.all, aten.scatter, aten.lift_fresh,
    aten.floor_divide, aten.cat, aten.stack, aten.roll, aten.take, aten.constant_pad_nd,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Root:
    """An index that was chosen, and by what."""

    index: Tensor
    by: "ByRank | SoFar"

    def others(self) -> Iterator[Tensor]:
        """Yield what may be chosen in its place."""
        yield from self.by.others(self.index)


class Made:
    """Whole numbers, or a mask, that were made of chosen indices, each of one number or some."""

    def __init__(self, roots: Sequence[Root], remake: Callable[[Root, Tensor], Tensor]) -> None:
        self.roots, self._remake = tuple(roots), remake
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)

    def remade(self, root: Root, other: Tensor) -> Tensor:
        """Return what comes of another index in the place of one, which is asked for several times in a row."""
        before, found = self._last
        if before is not other or found is None:
            found = self._remake(root, other)
            self._last = other, found
        return found

    def others(self, _: Tensor) -> Iterator[Tensor]:
        """Yield what may come out in the place of these."""
        for root in self.roots:
            for other in root.others():
                yield self.remade(root, other)


def _known(choices: "Choices", leaves: Sequence[Any], masks: bool) -> dict[int, Any]:
    """Return by what those of the leaves were chosen, or how they were made, by place."""
    some = {
        k: choices.by(x) for k, x in enumerate(leaves) if isinstance(x, Tensor) and (masks or x.dtype != torch.bool)
    }
    return {k: by for k, by in some.items() if by is not None}


def _roots(leaves: Sequence[Any], known: Mapping[int, Any]) -> list[Root]:
    every = (by.roots if isinstance(by, Made) else (Root(leaves[k], by),) for k, by in known.items())
    return list({id(root.by): root for some in every for root in some}.values())


def _replaced(leaves: Sequence[Any], known: Mapping[int, Any], root: Root, other: Tensor) -> list[Any]:
    """Return the leaves as they come out of another index in the place of one."""
    found = list(leaves)
    for k, by in known.items():
        if isinstance(by, Made) and any(one.by is root.by for one in by.roots):
            found[k] = by.remade(root, other)
        elif by is root.by:
            found[k] = other.reshape(leaves[k].shape)
    return found


def other_arguments(choices: "Choices", how: Sequence[Any]) -> Iterator[Any]:
    """Yield arguments as they come out where another index may be chosen; masks, whose radii are known, stay."""
    leaves, spec = tree_flatten(how)
    known = _known(choices, leaves, masks=False)
    for root in _roots(leaves, known):
        for other in root.others():
            yield tree_unflatten(_replaced(leaves, known, root, other), spec)


def make(choices: "Choices", func: Any, args: Sequence[Any], named: Any, result: Any) -> None:
    """Remember that whole numbers or a mask were made of what was chosen, and how, if it is number by number."""
    if not choices.are_behind(args) or not (whole := [y for y in tensors_in(result) if not inexact(y)]):
        return
    for y in whole:
        choices.leads_to(y)
    leaves, spec = tree_flatten(args)
    one_by_one = torch.Tag.pointwise in func.tags or func.overloadpacket in NUMBER_BY_NUMBER
    known = _known(choices, leaves, masks=True) if one_by_one and isinstance(result, Tensor) else {}
    if known and choices.by(result) is None:  # what lies in the same place is known

        def remake(root: Root, other: Tensor) -> Tensor:
            found: Tensor = func(*tree_unflatten(_replaced(leaves, known, root, other), spec), **named)
            return found

        choices.make(result, Made(_roots(leaves, known), remake))


def spread(choices: "Choices", index: Any) -> Tensor | None:
    """Return how far numbers of an index may be from what else may be chosen; None of what is no such index."""
    by = choices.by(index) if isinstance(index, Tensor) and index.dtype != torch.bool else None
    others = by.others(index) if by is not None else ()
    return largest_of((other - index).abs().double() for other in others)
