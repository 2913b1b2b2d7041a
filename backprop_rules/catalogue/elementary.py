"""Elementary functions, element by element, and the error function."""

import math

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import in_float32
from backprop_rules.domain import REAL, Domain
from backprop_rules.rule import rule


@rule(
    forward=torch.exp,
    definition=np.exp,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="y",
    formula=r"y = e^x:\quad \bar x = y \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def exp(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The exponential of x."""
    return grad_y * y


@rule(
    forward=torch.expm1,
    definition=np.expm1,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = e^x - 1:\quad \bar x = e^x \bar y",
    source="DLMF, NIST Digital Library of Mathematical Functions, section 4.2",
)
def expm1(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The exponential of x, less one."""
    return grad_y * torch.exp(x)  # y + 1 would be 0 far below zero


@rule(
    forward=torch.log,
    definition=np.log,
    domain=Domain("...", dtypes=REAL, values={"x": (0.0, math.inf)}, degree=None),
    saves="x",
    formula=r"y = \ln x:\quad \bar x = \bar y / x",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def log(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The natural logarithm of x."""
    return grad_y / x


@rule(
    forward=torch.log1p,
    definition=np.log1p,
    domain=Domain("...", dtypes=REAL, values={"x": (-1.0, math.inf)}, degree=None),
    saves="x",
    formula=r"y = \ln(1 + x):\quad \bar x = \bar y / (1 + x)",
    source="DLMF, NIST Digital Library of Mathematical Functions, section 4.2",
)
def log1p(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The natural logarithm of 1 + x."""
    return grad_y / (1 + x)


@rule(
    forward=torch.sin,
    definition=np.sin,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \sin x:\quad \bar x = \cos(x)\, \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def sin(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The sine of x."""
    return grad_y * torch.cos(x)


@rule(
    forward=torch.cos,
    definition=np.cos,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \cos x:\quad \bar x = -\sin(x)\, \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def cos(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The cosine of x."""
    return -grad_y * torch.sin(x)


@rule(
    forward=torch.erf,
    definition=np.frompyfunc(lambda x: x.erf(), 1, 1),
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \operatorname{erf} x:\quad \bar x = \tfrac{2}{\sqrt\pi} e^{-x^2} \bar y",
    source="DLMF, NIST Digital Library of Mathematical Functions, section 7.2",
)
@in_float32
def erf(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The error function of x."""
    # Beyond 40, e^(-x^2) is too small to come up to a float64 by any cotangent, and x^2 might overflow.
    x = x.clamp(-40, 40)
    return grad_y * (2 / math.sqrt(math.pi) * torch.exp(-x * x))
