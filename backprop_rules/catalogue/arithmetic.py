"""Arithmetic: addition, subtraction, multiplication and division, with broadcasting and type promotion."""

import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import in_float32, unbroadcast
from backprop_rules.domain import Domain, Factor
from backprop_rules.rule import rule

# A factor a + ib with |a|, |b| <= 3 multiplies a component by 3 twice and adds the two: at most 6, and 1 for x itself.
# It may come in quarters, of which there are four times as many.
SCALED = Domain("..., ...", params={"alpha": Factor(3)}, weight=4 * 7, promotes=True)


@rule(
    forward=torch.add,
    definition=lambda x, z, *, alpha=1: x + alpha * z,
    domain=SCALED,
    saves="",
    formula=r"y = x + \alpha z:\quad \bar x = \bar y,\quad \bar z = \alpha^* \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def add(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor, *, alpha: complex = 1) -> tuple[Tensor, Tensor]:
    """Sum of x and alpha times z."""
    return unbroadcast(grad_y, x), unbroadcast(grad_y * alpha.conjugate(), z)


@rule(
    forward=torch.sub,
    definition=lambda x, z, *, alpha=1: x - alpha * z,
    domain=SCALED,
    saves="",
    formula=r"y = x - \alpha z:\quad \bar x = \bar y,\quad \bar z = -\alpha^* \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def sub(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor, *, alpha: complex = 1) -> tuple[Tensor, Tensor]:
    """Difference of x and alpha times z."""
    return unbroadcast(grad_y, x), unbroadcast(-grad_y * alpha.conjugate(), z)


@rule(
    forward=torch.mul,
    definition=lambda x, z: x * z,
    domain=Domain("..., ...", degree=2, promotes=True),
    saves="x z",
    formula=r"y = x z:\quad \bar x = \bar y z^*,\quad \bar z = \bar y x^*",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3; "
    "for complex operands Kreutz-Delgado, The Complex Gradient Operator (2009)",
)
def mul(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Product of x and z, element by element."""
    return unbroadcast(grad_y * z.conj(), x), unbroadcast(grad_y * x.conj(), z)


@rule(
    forward=torch.div,
    definition=lambda x, z: x / z,
    domain=Domain("..., ...", degree=None, promotes=True),
    saves="y z",
    formula=r"y = x / z:\quad \bar x = \bar y / z^*,\quad \bar z = -\bar x y^*",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
@in_float32
def div(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """x divided by z, element by element."""
    grad_x = grad_y / z.conj()
    return unbroadcast(grad_x, x), unbroadcast(-grad_x * y.conj(), z)


@rule(
    forward=torch.neg,
    definition=lambda x: -x,
    domain=Domain("..."),
    saves="",
    formula=r"y = -x:\quad \bar x = -\bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def neg(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The negative of x."""
    return -grad_y
