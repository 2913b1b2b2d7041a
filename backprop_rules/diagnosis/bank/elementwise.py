"""Mistakes of functions of one number each: at their ties, and where their derivative is evaluated."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import Declarations, Family, elementwise, equal, real_elementwise

DECLARED = Declarations()


def _at_ties(c: Case, passes: bool) -> Tensor | None:
    """At a kink the whole cotangent passes, or nothing; NaN is tied with nothing."""
    tied = c.at_kink & ~c.y.isnan()
    return torch.where(tied, c.g if passes else torch.zeros_like(c.g), c.right) if tied.any() else None


DECLARED.mistake(
    "strict at ties",
    "nothing passes at a tie: a strict comparison in the place of an inclusive one",
    where=real_elementwise,
    family=Family.TIES,
)(partial(_at_ties, passes=False))
DECLARED.mistake(
    "inclusive at ties",
    "the whole cotangent passes at a tie, to everyone: an inclusive comparison",
    where=real_elementwise,
    family=Family.TIES,
)(partial(_at_ties, passes=True))

# Functions whose derivative is written in terms of their output; the mistake is to evaluate it at the input.
BY_OUTPUT: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    (torch.sigmoid, lambda v: v * (1 - v)),
    (torch.tanh, lambda v: 1 - v * v),
    (torch.exp, lambda v: v),
    (torch.expm1, lambda v: v + 1),
    (torch.sqrt, lambda v: 1 / (2 * v)),
    (torch.rsqrt, lambda v: -(v**3) / 2),
    (torch.reciprocal, lambda v: -v * v),
)


@DECLARED.mistake(
    "input in the place of the output",
    "the derivative in terms of the output is evaluated at the input (the pre-activation)",
    where=real_elementwise,
)
def _(c: Case) -> Tensor | None:
    for function, slope in BY_OUTPUT:
        if equal(function(c.x), c.y):
            return c.g * slope(c.x)
    return None


@DECLARED.mistake(
    "output in the place of the input",
    "the derivative is evaluated at the output (the post-activation) in the place of the input",
    where=lambda c: elementwise(c) and c.y.dtype == c.x.dtype,
)
def _(c: Case) -> Tensor | None:
    return c.gradient(primals=c.at(primal=c.y))
