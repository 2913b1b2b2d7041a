"""Powers: whole, broken and negative ones, of a number and of a tensor, and the roots."""

import math

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import finite, in_float32, unbroadcast
from backprop_rules.domain import REAL, Domain, Exponent, Interval
from backprop_rules.rule import rule

NOT_NEGATIVE: Interval = (0.0, math.inf)


@rule(
    forward=torch.square,
    definition=lambda x: x * x,
    domain=Domain("...", degree=2, power=2),
    saves="x",
    formula=r"y = x^2:\quad \bar x = 2 x^* \bar y",
    source="Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.5",
)
def square(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The square of x."""
    return grad_y * (2 * x.conj())


def _where_defined(n: float) -> Interval:
    return (-math.inf, math.inf) if n == math.floor(n) else NOT_NEGATIVE


@rule(
    forward=lambda x, *, n: torch.pow(x, n),
    definition=lambda x, *, n: x**n,
    domain=Domain(
        "...",
        params={"n": Exponent(6)},
        values={"x": _where_defined},
        degree=lambda n: max(n, 1),
        power=lambda n: max(n, 1),
        requires=(
            "a whole n from 0 to 3 for a complex base: torch multiplies up to there, and takes logarithms beyond",
            lambda x, n: n in range(4) or not x.is_complex(),
        ),
    ),
    saves="x",
    formula=r"y = x^n:\quad \bar x = n (x^{n-1})^* \bar y,\quad \bar x = 0\ \text{for}\ n = 0",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def pow(grad_y: Tensor, y: Tensor, x: Tensor, *, n: float) -> Tensor:
    """The n-th power of x, for a number n."""
    return grad_y * (n * x ** (n - 1)).conj() if n else torch.zeros_like(x)


@rule(
    forward=torch.pow,
    definition=lambda x, n: x**n,
    domain=Domain("..., ...", dtypes=REAL, values={"x": NOT_NEGATIVE}, degree=None, promotes=True),
    saves="y x n",
    formula=r"y = x^n:\quad \bar x = n x^{n-1} \bar y,\quad \bar n = y \ln(x)\, \bar y,\quad "
    r"\bar x = 0\ \text{for}\ n = 0,\quad \bar n = 0\ \text{for}\ x = 0 \le n",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3; PyTorch, issue 27134 (base 0)",
)
@in_float32
def pow_tensor(grad_y: Tensor, y: Tensor, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """x to the power n, two tensors; a negative x has a gradient where n is whole, and n has none there."""
    # With base 1 in their places, 0 * 0^(-1) and 0 * ln 0 are the zeros that they stand for.
    grad_x = grad_y * (finite(n) * torch.where((n == 0) & (1 / x).isinf(), 1, x) ** (n - 1))
    grad_n = grad_y * (y * torch.log(torch.where((x == 0) & (n >= 0), 1, x)))
    return unbroadcast(grad_x, x), unbroadcast(grad_n, n)


@rule(
    forward=torch.reciprocal,
    definition=lambda x: 1 / x,
    domain=Domain("...", degree=None),
    saves="y",
    formula=r"y = 1/x:\quad \bar x = -(y^2)^* \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def reciprocal(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """One divided by x."""
    return -grad_y * y.conj() * y.conj()


@rule(
    forward=torch.sqrt,
    definition=np.sqrt,
    domain=Domain("...", dtypes=REAL, values={"x": NOT_NEGATIVE}, degree=None),
    saves="y",
    formula=r"y = \sqrt x:\quad \bar x = \bar y / (2 y)",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def sqrt(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The square root of x."""
    return grad_y / (2 * y)


@rule(
    forward=torch.rsqrt,
    definition=lambda x: 1 / np.sqrt(x),
    domain=Domain("...", dtypes=REAL, values={"x": NOT_NEGATIVE}, degree=None),
    saves="y",
    formula=r"y = x^{-1/2}:\quad \bar x = -\tfrac12 y^3 \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
@in_float32
def rsqrt(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """One divided by the square root of x."""
    return grad_y * y * y * y * -0.5
