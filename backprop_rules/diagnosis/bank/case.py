"""A case: a point, one of its primals, and the right rule to ask for what a mistake would return there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.point import Point

# More outputs than these would take too long to form a Jacobian of.
MANY = 300


@dataclass(frozen=True)
class Case:
    """A point, the position of a primal, and the right rule to ask for what a mistake would return."""

    point: Point
    primal: int

    @property
    def g(self) -> Tensor:
        """The cotangent."""
        return self.point.grad_y

    @cached_property
    def x(self) -> Tensor:
        """The primal."""
        x = self.point.primals[self.primal]
        assert x is not None
        return x

    @cached_property
    def y(self) -> Tensor:
        """The output."""
        return self.point.y

    @cached_property
    def right(self) -> Tensor:
        """The right gradient."""
        found = self.gradient()
        assert found is not None
        return found

    @property
    def others(self) -> list[int]:
        """The positions of the other primals that are given."""
        return [k for k in self.point.given if k != self.primal]

    def gradient(
        self,
        grad_y: Tensor | None = None,
        primals: Sequence[Tensor | None] | None = None,
        params: dict[str, Any] | None = None,
        primal: int | None = None,
    ) -> Tensor | None:
        """Return what the right rule gives for other arguments, None where it takes none such."""
        rule, point = self.point.rule.reference, self.point
        own = point.primals if primals is None else tuple(primals)
        named = dict(point.params) if params is None else params
        try:
            with torch.no_grad():
                y = point.y if primals is None and params is None else rule.forward(*own, **named)
                found = rule.gradients(self.g if grad_y is None else grad_y, y, *own, **named)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None
        return found[self.primal if primal is None else primal]

    def at(self, *, primal: Tensor) -> list[Tensor | None]:
        """Return the primals with another one in the place of this."""
        return [*self.point.primals[: self.primal], primal, *self.point.primals[self.primal + 1 :]]

    @cached_property
    def at_kink(self) -> Tensor:
        """A mask of the elements whose gradient is a set of several numbers."""
        try:
            balls = certified.certify(self.point).gradients[self.primal] or []
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
        rows = [self.gradient(unit) for unit in units]
        if any(row is None for row in rows):
            return None
        return torch.stack([row.reshape(-1) for row in rows if row is not None])
