"""Losses: the two squared errors that the documents train with."""

import numpy as np
from torch import Tensor

from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import REAL, Domain
from backprop_rules.rule import rule

# (x - t)^2 = x^2 - 2 x t + t^2: the absolute coefficients sum to 4.
SQUARED_ERROR = Domain("..., ...", dtypes=REAL, degree=2, power=2, weight=4)


@rule(
    forward=lambda prediction, target: (prediction - target).square().sum(),
    definition=lambda prediction, target: np.sum((prediction - target) ** 2),
    domain=SQUARED_ERROR,
    saves="prediction target",
    formula=r"y = \sum_i (\hat y_i - t_i)^2:\quad \bar{\hat y}_i = 2 \bar y (\hat y_i - t_i),\quad "
    r"\bar t_i = -\bar{\hat y}_i",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 5.3",
)
def sum_of_squared_errors(grad_y: Tensor, y: Tensor, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the squared differences of prediction and target."""
    grad = grad_y * (2 * (prediction - target))
    return unbroadcast(grad, prediction), unbroadcast(-grad, target)


@rule(
    forward=lambda prediction, target: (prediction - target).square() / 2,
    definition=lambda prediction, target: (prediction - target) ** 2 / 2,
    domain=SQUARED_ERROR,
    saves="prediction target",
    formula=r"y = \tfrac12 (\hat y - t)^2:\quad \bar{\hat y} = \bar y (\hat y - t),\quad \bar t = -\bar{\hat y}",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 5.3",
)
def half_squared_error(grad_y: Tensor, y: Tensor, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Half the squared difference of prediction and target, element by element."""
    grad = grad_y * (prediction - target)
    return unbroadcast(grad, prediction), unbroadcast(-grad, target)
