"""A choice that two gradients share: of the smaller of two numbers one gets what the other does not.

Where both go back to the same number, as of a ratio and of the clamped ratio, their sum does not depend on the choice:
of a radius the part that the choice is to blame for is kept with its sign, and cancels where it is added up again.
"""

import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.by_storage import ByStorage, place_of
from backprop_rules.subject.ambient import all_finite

if TYPE_CHECKING:
    from backprop_rules.evidence.allowance.declared import Declared

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a radius that one choice, of which nobody knows how it comes out, makes: with its sign."""

    place: tuple[Any, ...]
    choice: object
    size: Tensor


class Joint:
    """The parts of radii that choices make, by storage."""

    def __init__(self) -> None:
        self._parts = ByStorage()

    def keep(self, x: Tensor, choice: object, size: Tensor) -> None:
        """Remember that this part of the radius of x is due to the choice."""
        self._parts[x] = Part(place_of(x), choice, size)

    def forget(self, x: Tensor) -> None:
        """Forget what was known of what is stored where a tensor is written to."""
        if self._parts:
            self._parts.pop(x, None)

    def of(self, x: Any) -> Part | None:
        """Return the part of the radius of x that is due to one choice."""
        stored = self._parts and isinstance(x, Tensor) and x.layout == torch.strided
        found = self._parts.get(x) if stored else None
        return found if found is not None and found.place == place_of(x) else None

    def passed_on(self, packet: Any, args: Any, named: Any, result: Any, radius: Any, of: Callable[..., Any]) -> Any:
        """Return the radius of a result, smaller where the parts of its operands cancel; their sum goes with it."""
        if not self._parts or packet not in _LINEAR or not isinstance(radius, Tensor):
            return radius
        parts = [self.of(x) for x in args]
        first = next((part for part in parts if part is not None), None)
        if first is None or named:
            return radius
        size = _LINEAR[packet](first.choice, parts, args, of)
        if size is None or size.shape != result.shape:
            return radius
        self.keep(result, first.choice, size)
        if packet in _SUMS and all(part is not None for part in parts):
            apart = sum(part.size.abs() for part in parts if part is not None)
            left = (radius - apart * (1 - 2.0**-48)).clamp_min(0) + size.abs()
            return torch.where(left.isnan(), radius, left)  # of infinities
        return radius


def _factor(choice: object, parts: Any, args: Any, of: Any) -> Tensor | None:
    if parts[0] is not None and parts[1] is not None:
        return None
    part, other = (parts[0], args[1]) if parts[0] is not None else (parts[1], args[0])
    found: Tensor = part.size * other
    return found


def _sum(sign: Callable[[Any, Any], Any]) -> Callable[..., Tensor | None]:
    def size(choice: object, parts: Any, args: Any, of: Any) -> Tensor | None:
        if len(args) != 2 or any(part is not None and part.choice is not choice for part in parts):
            return None
        found: Tensor = sign(*(0.0 if part is None else part.size for part in parts))
        return found

    return size


def _is_of_a_number(args: Any) -> bool:
    return len(args) == 2 and not isinstance(args[1], Tensor)


def _where(choice: object, parts: Any, args: Any, of: Any) -> Tensor | None:
    if parts[0] is not None:
        return None
    ambiguous = of(args[0])
    sides = [torch.zeros(()) if part is None or part.choice is not choice else part.size for part in parts[1:]]
    chosen: Tensor = torch.where(args[0], sides[0], sides[1]).double()
    return chosen if ambiguous is None else torch.where(ambiguous > 0, 0.0, chosen)


# The part of the result of linear operations: of the choice, the operands' parts, the arguments, and radii.
_SUMS = (aten.add, aten.sub)
_LINEAR: dict[Any, Callable[..., Tensor | None]] = {
    aten.mul: _factor,
    aten.div: lambda choice, parts, args, of: parts[0].size / args[1] if parts[1] is None else None,
    aten.neg: lambda choice, parts, args, of: -parts[0].size,
    aten.add: _sum(operator.add),
    aten.sub: _sum(operator.sub),
    aten.rsub: lambda choice, parts, args, of: -parts[0].size if _is_of_a_number(args) else None,
    aten.where: _where,
}


class Extreme(torch.autograd.Function):
    """The smaller or the larger of two numbers, whose gradient goes to one of them, or to both in halves."""

    @staticmethod
    def forward(ctx: Any, func: Any, a: Tensor, b: Tensor, chooser: "Declared") -> Tensor:
        """Return the extreme."""
        y: Tensor = func(a, b)
        ctx.chooser = weakref.ref(chooser)  # as of a cast: the graph does not own it
        ctx.func = func
        ctx.save_for_backward(a, b)  # as torch saves them: y may be written to in place
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        """Return both gradients, by one share: what is not finite goes to one of them, as in torch."""
        a, b = ctx.saved_tensors
        with torch._C._DisableTorchDispatch():
            y = ctx.func(a, b)
            share = torch.where(a == b, 0.5, (a == y).double())
            finite = all_finite(grad_y) and not bool(y.isnan().any())
        if not finite:
            half = torch.where(a == b, grad_y / 2, grad_y)
            known = ~y.isnan()  # where one is NaN, both get it
            return None, half.masked_fill((a != y) & known, 0), half.masked_fill((b != y) & known, 0), None
        share = ctx.chooser().chosen(a, b, share, grad_y)
        return None, grad_y * share, grad_y * (1 - share), None
