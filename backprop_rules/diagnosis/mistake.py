"""What a mistake is: a name, words, and what a backward that makes it would return in a case.

A case is a point, one of its primals, and the right rule to ask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.climb import NUMBERS
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified

# More outputs than these would take too long to form a Jacobian of.
MANY = 300


class Case:
    """A point, the position of a primal, and the right rule; x is the primal, y the output and g the cotangent."""

    def __init__(self, call: Call, primal: int) -> None:
        x = call.primals[primal]
        assert x is not None
        self.call, self.primal, self.x, self.g = call, primal, x, call.grad_y

    @property
    def y(self) -> Tensor:
        """The output."""
        return self.call.y

    @cached_property
    def right(self) -> Tensor:
        """The right gradient."""
        found = self.gradient()
        assert found is not None
        return found

    @property
    def others(self) -> list[int]:
        """The positions of the other primals that are given."""
        return [k for k in self.call.given if k != self.primal]

    def gradient(
        self,
        grad_y: Tensor | None = None,
        primals: Sequence[Tensor | None] | None = None,
        params: dict[str, Any] | None = None,
        primal: int | None = None,
    ) -> Tensor | None:
        """Return what the right rule gives for other arguments, None where it takes none such."""
        rule, call = self.call.rule.reference, self.call
        own = call.primals if primals is None else tuple(primals)
        named = dict(call.params) if params is None else params
        try:
            with torch.no_grad():
                y = call.y if primals is None and params is None else rule.forward(*own, **named)
                found = rule.gradients(self.g if grad_y is None else grad_y, y, *own, **named)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None
        return found[self.primal if primal is None else primal]

    def at(self, x: Tensor) -> Tensor | None:
        """Return what the right rule gives with another one in the place of this primal."""
        primals = self.call.primals
        return self.gradient(primals=[*primals[: self.primal], x, *primals[self.primal + 1 :]])

    @cached_property
    def at_kink(self) -> Tensor:
        """A mask of the elements whose gradient is a set of several numbers."""
        try:
            with certified.at_most(NUMBERS):
                balls = certified.certify(self.call).gradients[self.primal] or []
        except Silent:
            balls = []
        wide = [certified.is_a_set(b, torch.float64) for b in balls]
        if len(wide) != self.x.numel():
            return torch.zeros_like(self.x, dtype=torch.bool)
        return torch.tensor(wide, device=self.x.device, dtype=torch.bool).reshape(self.x.shape)

    @cached_property
    def jacobian(self) -> Tensor | None:
        """The gradient of each output, real or holomorphic: a row for each, of the primal's elements."""
        count = self.y.numel()
        if count > MANY or not count:
            return None
        units = torch.eye(count, dtype=self.g.dtype, device=self.g.device).reshape(count, *self.g.shape)
        rows = [row.reshape(-1) for unit in units if (row := self.gradient(unit)) is not None]
        return torch.stack(rows) if len(rows) == count else None


class Family(Enum):
    """What a mistake is about, where that matters to who asks."""

    FACTOR = auto()
    DIGITS = auto()  # a factor that is no simple number: told where nothing plainer is
    SIZE = auto()  # a factor that is known to be a size
    TIES = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Mistake:
    """What a backward does otherwise than the right one: a name, and words."""

    name: str
    words: str
    family: Family = Family.OTHER
    made: str = ""  # where in the backward it is first seen, if it is
    instead: str = ""  # the formula of what was differentiated otherwise


@dataclass(frozen=True)
class Known(Mistake):
    """A mistake of the bank: what a backward that makes it returns in a case, None where it cannot be made."""

    predict: Callable[[Case], Tensor | None] = field(kw_only=True)


def applies(known: Known, case: Case) -> Tensor | None:
    """Return the mistake's prediction where it can be told from the right gradient, None elsewhere."""
    try:
        found = known.predict(case)
    except (RuntimeError, IndexError):  # shapes that the mistake cannot be made with
        return None
    if found is None or found.is_complex() != case.right.is_complex():
        return None
    if found.shape == case.right.shape and torch.equal(found, case.right):
        return None
    return found
