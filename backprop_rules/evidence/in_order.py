"""Operations by themselves: how far each is off, of exact operands, and sums in an order that terms do not change."""

import math
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.declared import Declared
from backprop_rules.evidence.allowance.mode import FORMULAS
from backprop_rules.evidence.allowance.operation import Operand, as_computed, plus
from backprop_rules.evidence.allowance.precision import DeclaredOperation
from backprop_rules.evidence.allowance.units import FALSE_ALARMS

aten = torch.ops.aten
# That many roundings of one size add up to as much in the same direction as they do by chance at the stated rate.
ALIKE = math.sqrt(2 * math.log(2 / FALSE_ALARMS))


def _squared(x: Any) -> Any:
    return x.double().square() if isinstance(x, Tensor) and not x.is_complex() else Operand(x, None).size ** 2


def nothing_of(_: Any) -> None:
    """Of numbers that are exact."""


class Summing(DeclaredOperation):
    """A sum in an order that does not depend on its terms: their partial sums are no larger than that makes them.

    Of n terms a_k with the sum S, in random order, the mean of the squared partial sums is S^2 / 3 + sum(a_k^2) / 6 in
    the limit, by the variance of sampling without replacement. Here an operand's size is its square.
    """

    def operand(self, x: Any, dtype: torch.dtype | None = None, flushed: bool = False) -> Operand:
        """Return the square of a term."""
        return Operand(_squared(super().operand(x, dtype, flushed).value), None)

    def factor(self, x: Tensor) -> Operand:
        """Return the square of a factor."""
        return self.operand(x)

    def weight(self, factor: float) -> float:
        """Return the square of a number by which all terms are multiplied."""
        return factor**2

    def summed(
        self, varies: Any, size: Tensor, length: int, underflows: float = 0, narrow: bool = False, divisor: float = 1
    ) -> Tensor:
        """Return how far the sum is off where every addition rounds, or cuts off, in the same direction.

        Of few terms any order may be as bad as the worst, in which a partial sum of k of them is at most sqrt(k) times
        the root of their squares' sum: of n roundings, the n partial sums from two terms on, or of n terms these n - 1
        and the terms, sum k over them to n (n + 3) / 2 at most. Then it is that, or how far roundings of sums in random
        order, and of the terms, reach by `ALIKE` standard deviations.
        """
        squares = torch.as_tensor(size / divisor)
        partial: Tensor = _squared(self.result).div_(3).add_(squares, alpha=(length + 1) / max(1, length) / 6)
        if length < ALIKE**2:
            likely = (partial * length + squares).sqrt_().mul_(ALIKE)
            likely = torch.minimum(likely, (squares * ((length + 3) / 2)).sqrt_().mul_(length))
            partial = torch.maximum(partial.sqrt_().mul_(length), likely)
        else:
            partial = partial.sqrt_().mul_(length)
        return partial.mul_(self.unit.u).add_(length * self.unit.tiny)


class _Alone(DeclaredOperation):
    """An operation by itself, of exact operands."""

    @property
    def met_behind(self) -> bool:
        return True

    def several(self, a: Any, b: Any) -> None:
        """Of one addition by itself nobody asks what was added up before."""


class InOrder(Declared):
    """While it is entered, sums on the way are taken in an order that does not depend on their terms."""

    def _operation(self, func: Any, result: Any, args: Any) -> DeclaredOperation:
        """Return the operation: each by itself, of which nobody asks what dtype its results have elsewhere."""
        kept = self.declared.kept or self.default
        named = (func, result, self._radius, self._evaluations, self._flushes, as_computed, self.choices)
        return _Alone(*named, self.declared, kept, self, args)

    def _by_formula(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        if func.overloadpacket not in (aten.sum, aten.mean):
            return super()._by_formula(func, result, args, named)
        kept = self.declared.kept or self.dtype_of(result)
        op = Summing(func, result, nothing_of, 1, False, as_computed, self.choices, self.declared, kept, self)
        terms = self._radius(args[0])
        varies = None if terms is None else func(terms, *args[1:], **named)
        return plus(FORMULAS[func.overloadpacket](op, *args, **named), varies)

    def _special(self, result: Tensor, radius: Tensor, total: float) -> Tensor | None:
        """Return a radius: what is exact in the dtype in which it is computed may still round when it is stored."""
        return super()._special(result, radius, total) if total else radius
