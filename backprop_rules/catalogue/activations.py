"""Activations: what networks put between their linear layers."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import finite, in_float32
from backprop_rules.domain import REAL, Domain
from backprop_rules.rule import Convention, part, rule


@rule(
    forward=torch.relu,
    definition=lambda x: np.maximum(x, 0),
    domain=Domain("...", dtypes=REAL),
    saves="y",
    formula=r"y = \max(x, 0):\quad \bar x = \bar y\,[y > 0]",
    source="Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.3",
    conventions=(Convention("x = 0", "0: the cotangent does not pass", lambda x: x == 0, ">=1.0", ">=1.0"),),
)
def relu(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The positive part of x."""
    return torch.where(y > 0, grad_y, 0)


def _sigmoid(x: Any) -> Any:
    return part("σ", (1 + np.tanh(x / 2)) / 2)


@rule(
    forward=torch.sigmoid,
    definition=_sigmoid,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \frac{1}{1 + e^{-x}}:\quad \bar x = \sigma(x)\, \sigma(-x)\, \bar y",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 4.3",
)
@in_float32
def sigmoid(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The logistic function of x."""
    return grad_y * (torch.sigmoid(x) * torch.sigmoid(-x))  # y (1 - y) rounds to 0 far above zero


@rule(
    forward=torch.tanh,
    definition=np.tanh,
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \tanh x:\quad \bar x = \bar y\, (1 - y^2) = 4\, \sigma(2x)\, \sigma(-2x)\, \bar y",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 5.1",
)
@in_float32
def tanh(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The hyperbolic tangent of x."""
    return grad_y * (4 * (torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)))  # 1 - y^2 rounds to 0 far from zero


@rule(
    forward=lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    definition=lambda x: np.log1p(np.exp(x)),
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \ln(1 + e^x):\quad \bar x = \sigma(x)\, \bar y",
    source="Dugas et al., Incorporating Second-Order Functional Knowledge (2000), section 3",
)
@in_float32
def softplus(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The logarithm of 1 + exp(x), without the threshold that torch.nn.functional has."""
    return grad_y * torch.sigmoid(x)


@rule(
    forward=torch.nn.functional.silu,
    definition=lambda x: x * _sigmoid(x),
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = x\, \sigma(x):\quad \bar x = \sigma(x)\, (1 + x\, \sigma(-x))\, \bar y",
    source="Elfwing, Uchibe & Doya, Sigmoid-Weighted Linear Units (2018), section 2",
)
@in_float32
def silu(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """x times its logistic function."""
    return grad_y * (torch.sigmoid(x) * (1 + finite(x) * torch.sigmoid(-x)))


@rule(
    forward=torch.nn.functional.gelu,
    definition=lambda x: x * np.frompyfunc(lambda v: v.ndtr(), 1, 1)(x),
    domain=Domain("...", dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = x\, \Phi(x):\quad \bar x = (\Phi(x) + x\, \varphi(x))\, \bar y",
    source="Hendrycks & Gimpel, Gaussian Error Linear Units (2016), section 2",
)
@in_float32
def gelu(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """x times the distribution function of the normal distribution."""
    # Beyond 60, e^(-x^2 / 2) is too small to come up to a float64 by any cotangent, and x^2 might overflow.
    x = x.clamp(-60, 60)
    return grad_y * (torch.erfc(x * -math.sqrt(0.5)) / 2 + x * (torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)))
