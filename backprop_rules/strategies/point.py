"""A point: the primals, the params and the cotangents at which a backward is asked for its gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.subject.ambient import inexact


@dataclass(frozen=True, eq=False)
class Point:
    """One call of a backward, its values in float64, and representable in the narrowest dtype asked for.

    `made` says in words how it came about, and `kind` of which kind its values are; `own` whether its sizes are the
    example's, or of that made small, `ordinary` whether its values are, `where` its size class; `relaid` is the point
    of which it has the values in another layout.
    """

    leaves: tuple[Any, ...]
    grads: tuple[Tensor | None, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    made: str = "the example"
    kind: str = "example"
    own: bool = True
    where: str = "own"
    dtypes: tuple[torch.dtype | None, ...] = ()  # in which it is to be asked as well
    spacing: float = 0.0  # of the grid on which nothing rounds; 0 where values are any
    relaid: "Point | None" = None

    @property
    def size(self) -> int:
        """The number of elements of all primals and cotangents."""
        return sum(x.numel() for x in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """The primals and cotangents that are there."""
        return [x for x in (*self.leaves, *self.grads) if isinstance(x, Tensor)]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Point":
        """Return the point with each of its tensors changed."""
        leaves, grads = (
            tuple(change(x) if isinstance(x, Tensor) else x for x in some) for some in (self.leaves, self.grads)
        )
        return replace(self, leaves=leaves, grads=grads)

    @property
    def empty(self) -> bool:
        """Whether a primal or every cotangent has no elements."""
        return any(inexact(x) and not x.numel() for x in self.leaves) or not any(
            g is not None and g.numel() for g in self.grads
        )

    @property
    def says(self) -> bool:
        """Whether it counts for a gradient: of the example's sizes, ordinary, and with a cotangent other than 0.

        Of one number, or where nothing is kept, most mistakes do not show.
        """
        return (
            self.own and self.ordinary and not self.empty and any(g is not None and bool(g.any()) for g in self.grads)
        )

    @property
    def out_of_order(self) -> bool:
        """Whether a tensor does not lie in order, or begins after its memory does."""
        return not all(x.is_contiguous() and not x.storage_offset() for x in self.tensors)

    @property
    def ordinary(self) -> bool:
        """Whether its values are ordinary: no over- or underflow on the way is to be expected."""
        return self.kind not in EXTRAORDINARY

    def without_zeros(self) -> "Point":
        """Return the point with no zero in a cotangent, that would hide what it is multiplied with."""
        return replace(self, grads=tuple(None if g is None else torch.where(g == 0, 1.0, g) for g in self.grads))

    def with_tensor(self, k: int, x: Tensor) -> "Point":
        """Return the point with another tensor in the place of the k-th among leaves and cotangents."""
        if k < len(self.leaves):
            return replace(self, leaves=(*self.leaves[:k], x, *self.leaves[k + 1 :]))
        j = k - len(self.leaves)
        return replace(self, grads=(*self.grads[:j], x, *self.grads[j + 1 :]))


FULL = "full size"  # of a large example, beside which it is made small
NOTHING_KEPT = "nothing kept"  # where a mask or a length keeps nothing, or all are alike, as not in the example
TORN_APART = "sizes torn apart"  # where an axis is not as long as those that it equals in the example
JUMP = "jump"  # a kind of values that no lower precision holds
EDGE = "near an edge"  # of forward's domain: of few digits, and asked for values alone
EVERY_BIT = "every bit"  # the same, drawn so: it is asked in its own dtypes alone
EXTRAORDINARY = ("big", "small", "wide", "tens", "hard row", "any magnitude", EVERY_BIT, EDGE)
