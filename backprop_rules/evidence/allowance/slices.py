"""The gradients of slices, which are 0 but in the slice: added up, as a loop does it, they round nothing.

And sums of several gradients, as of what is used in several places: others may add them up in another order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.by_storage import ByStorage, place_of
from backprop_rules.evidence.allowance.operation import Radius
from backprop_rules.subject.ambient import recomputed

aten = torch.ops.aten


def _bits(shape: Any, dim: int, *which: int | None) -> tuple[int, int]:
    axis = dim % len(shape)
    return axis, sum(1 << k for k in range(*slice(*which).indices(shape[axis])))


# These put the gradient of a slice beside zeros: along which axis, and at which indices of it, as the bits of a number.
FILLED_UP: dict[Any, Callable[..., tuple[int, int]]] = {
    aten.select_backward: lambda grad, shape, dim, k: _bits(shape, dim, k, k + 1 or None, 1),
    aten.slice_backward: lambda grad, shape, dim, start, end, step: _bits(shape, dim, start, end, step),
}


@dataclass(frozen=True, eq=False)
class _Beside:
    """A tensor that is 0 but at some indices of an axis, and where it lies."""

    axis: int
    indices: int
    pointer: int
    shape: torch.Size
    strides: tuple[int, ...]

    def of(self, x: Tensor) -> tuple[int, int] | None:
        """Return the axis, and the indices, of what lies in a range of it along each axis; None of other views."""
        if x.stride() != self.strides:
            return None
        left, first = (x.data_ptr() - self.pointer) // x.itemsize, []
        for stride in self.strides:
            first.append(left // stride)
            left %= stride
        inside = all(k + m <= n for k, m, n in zip(first, x.shape, self.shape, strict=True))
        return (self.axis, self.indices >> first[self.axis]) if inside and not left else None


@dataclass(frozen=True, eq=False)
class _Terms:
    """How many terms a sum has, of some sizes together: a number for each element where some of these are 0."""

    count: Any
    size: Tensor
    own: Tensor  # the size of the sum itself
    place: Any = None

    def rounded(self) -> Any:
        """Return by how many times the unit roundoff the sum may be off, in whatever order it was taken.

        (n - 1) u times the sizes of n terms together (C.-P. Jeannerod and S. M. Rump, Improved error bounds for inner
        products in floating-point arithmetic, 2013, section 3); of two there is one order.
        """
        if not isinstance(self.count, Tensor):
            return 0.0 if self.count < 2 else self.own if self.count == 2 else (self.count - 1) * self.size
        several = torch.where(self.count == 2, self.own, (self.count - 1) * self.size)
        return torch.where(self.count < 2, 0.0, several)


def _adds_gradients() -> bool:
    """Say whether what is added now are gradients: on the way back a checkpoint runs steps of forward again."""
    return torch._C._current_graph_task_id() >= 0 and not recomputed()


class Slices:
    """The gradients of slices beside zeros, their sums, and sums of other gradients, of one run."""

    def __init__(self) -> None:
        self._known = ByStorage()  # True of those that nothing more is known of
        self._sums = ByStorage()

    def several(self, y: Tensor, a: Any, b: Any) -> tuple[Tensor, int] | None:
        """Return what a sum y of several gradients adds to what its terms are off by, times the unit roundoff.

        And how many terms there are. None of what is no such sum, or one of two.
        """
        if not _adds_gradients() or not y.numel():
            return None
        if not all(isinstance(x, Tensor) and x.shape == y.shape for x in (a, b)):
            return None
        one, other = self._terms(a), self._terms(b)
        whole = _Terms(one.count + other.count, one.size + other.size, y.abs(), place_of(y))
        self._sums[y] = whole
        if not isinstance(whole.count, Tensor) and whole.count == 2:
            return None
        return whole.rounded() - one.rounded() - other.rounded(), int(torch.as_tensor(whole.count).max())

    def _terms(self, x: Tensor) -> _Terms:
        known: _Terms | None = self._sums.get(x) if self._sums else None
        if known is not None and known.place == place_of(x):
            return known
        size = x.abs()
        return _Terms((size > 0).double() if x in self._known else 1, size, size)

    def keep(self, func: Any, args: Any, result: Any) -> None:
        """Remember a result that is the gradient of a slice, or a sum of such."""
        packet = func.overloadpacket
        if packet in FILLED_UP:
            where: tuple[int, int] | None = FILLED_UP[packet](*args)
        elif packet == aten.add and self.are_among(*args[:2]):
            where = self._apart(*args[:2])
        else:
            return
        place = result.data_ptr(), result.shape, result.stride()
        self._known[result] = True if where is None or not result.is_contiguous() else _Beside(*where, *place)

    def forget(self, x: Tensor) -> None:
        """Forget what is written to."""
        if self._known:
            self._known.pop(x)
        if self._sums:
            self._sums.pop(x)

    def are_among(self, *terms: Any) -> bool:
        """Say whether one of these is the gradient of a slice, beside zeros, or a sum of such."""
        return bool(self._known) and any(isinstance(x, Tensor) and x in self._known for x in terms)

    def lie_apart(self, *terms: Any) -> bool:
        """Say whether at each index of one axis one of two terms is 0."""
        return self.are_among(*terms) and self._apart(*terms) is not None

    def are_whole(self, func: Any, args: Any) -> bool:
        """Say whether a sum is looked at as a whole, and not block by block."""
        added = func == aten.add.Tensor
        return added and (_adds_gradients() or self.lie_apart(*args))

    def _apart(self, a: Any, b: Any) -> tuple[int, int] | None:
        """Return where the sum of two is not 0, if at each index of one axis one of them is."""
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
            return None
        known = [self._known.get(x) for x in (a, b)]
        if not all(isinstance(one, _Beside) for one in known):
            return None
        one, other = (its.of(x) for its, x in zip(known, (a, b), strict=True))
        apart = one and other and one[0] == other[0] and not one[1] & other[1]
        return (one[0], one[1] | other[1]) if apart else None

    def adds_nothing(self, radius: Callable[[Any], Radius], *terms: Any) -> Tensor | None:
        """Return where a term is exactly 0, as most of the gradient of a slice is: a sum rounds nothing there."""
        if not self.are_among(*terms):
            return None
        if self.lie_apart(*terms):
            return torch.ones((), dtype=torch.bool)
        found = None
        for x in terms:
            if isinstance(x, Tensor) and not bool(x.all()):
                off = radius(x)
                none = x == 0 if off is None else (x == 0) & (off == 0)
                found = none if found is None else found | none
        return found
