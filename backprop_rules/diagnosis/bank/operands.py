"""Mistakes of functions of several operands: the gradient of another one, or of one with another turned."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import Declarations, all_axes_reversed

DECLARED = Declarations()

for which in (0, -1):  # of the other operands the first, or the last
    DECLARED.mistake(
        "gradients swapped",
        "it is the gradient of another primal: the gradients are returned in the wrong order",
        where=lambda c: len(c.others) > 0,
    )(lambda c, which=which: c.gradient(primal=c.others[which]))  # type: ignore[misc]


@DECLARED.mistake("operands swapped", "it is the gradient for the primals in another order")
def _(c: Case) -> Tensor | None:
    for k in c.others:
        other = c.point.primals[k]
        if other is not None and other.shape == c.x.shape and other.dtype == c.x.dtype:
            own = list(c.point.primals)
            own[k], own[c.primal] = own[c.primal], own[k]
            return c.gradient(primals=own)
    return None


def _other_turned(c: Case, turned: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The right gradient for another operand that is turned, or is not turned where it should be."""
    for k in c.others:
        own = list(c.point.primals)
        other = own[k]
        if other is None or other.ndim < 2 or turned(other).shape != other.shape:
            continue
        own[k] = turned(other)
        found = c.gradient(primals=own)
        if found is not None and not torch.equal(found, c.right):
            return found
    return None


def _reversed_back(x: Tensor) -> Tensor:
    """What stands in the place of the transposed operand, transposed back: all axes reversed."""
    return all_axes_reversed(x).mT if x.ndim > 2 else x


DECLARED.mistake("operand not transposed", "the other operand is not transposed, or it is where it should not be")(
    partial(_other_turned, turned=lambda x: x.mT)
)
DECLARED.mistake(
    "operand reversed", "all axes of the other operand are reversed, as .T does, where two should be swapped"
)(partial(_other_turned, turned=_reversed_back))
