"""Losses: the squared errors, two of which the documents train with, and the cross-entropy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import in_float32, unbroadcast
from backprop_rules.catalogue.normalisation import define_log_softmax
from backprop_rules.domain import REAL, Choice, Domain, Index, Label
from backprop_rules.rule import part, rule

# (x - t)^2 = x^2 - 2 x t + t^2: the absolute coefficients sum to 4.
SQUARED_ERROR = Domain("..., ...", dtypes=REAL, degree=2, power=2, weight=4)


@rule(
    forward=lambda prediction, target: (prediction - target).square().sum(),
    definition=lambda prediction, target: np.sum(part("e", prediction - target) ** 2),
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
    definition=lambda prediction, target: part("e", prediction - target) ** 2 / 2,
    domain=SQUARED_ERROR,
    saves="prediction target",
    formula=r"y = \tfrac12 (\hat y - t)^2:\quad \bar{\hat y} = \bar y (\hat y - t),\quad \bar t = -\bar{\hat y}",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 5.3",
)
def half_squared_error(grad_y: Tensor, y: Tensor, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Half the squared difference of prediction and target, element by element."""
    grad = grad_y * (prediction - target)
    return unbroadcast(grad, prediction), unbroadcast(-grad, target)


REDUCTIONS = Choice(("none", "mean", "sum"))


def _reduced(losses: Any, reduction: str, count: Any) -> Any:
    """Return the losses, their sum, or their sum divided by the count."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / count


@rule(
    forward=lambda prediction, target, *, reduction="mean": _reduced(
        (prediction - target).square(), reduction, torch.broadcast_shapes(prediction.shape, target.shape).numel()
    ),
    definition=lambda prediction, target, *, reduction="mean": _reduced(
        part("e", prediction - target) ** 2, reduction, np.broadcast(prediction, target).size
    ),
    domain=Domain("..., ...", params={"reduction": REDUCTIONS}, dtypes=REAL, degree=None),
    saves="prediction target",
    formula=r"y = \tfrac1n \sum_i (\hat y_i - t_i)^2:\quad \bar{\hat y}_i = \tfrac2n \bar y (\hat y_i - t_i),\quad "
    r"\bar t_i = -\bar{\hat y}_i",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 5.3",
)
@in_float32
def mean_squared_error(
    grad_y: Tensor, y: Tensor, prediction: Tensor, target: Tensor, *, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Mean, sum, or neither, of the squared differences of prediction and target."""
    error = prediction - target
    grad = (grad_y / error.numel() if reduction == "mean" else grad_y) * (2 * error)
    return unbroadcast(grad, prediction), unbroadcast(-grad, target)


def _define_cross_entropy(x: Any, target: Any, *, reduction: str = "mean", ignore_index: int = -100) -> Any:
    kept = target != ignore_index
    picked = np.take_along_axis(define_log_softmax(x, dim=-1), np.where(kept, target, 0)[..., None], -1)[..., 0]
    return _reduced(np.where(kept, -picked, 0), reduction, np.sum(kept))


@rule(
    forward=lambda x, target, *, reduction="mean", ignore_index=-100: torch.nn.functional.cross_entropy(
        x, target, reduction=reduction, ignore_index=ignore_index
    ),
    definition=_define_cross_entropy,
    domain=Domain(
        "n? c, n?",
        params={"reduction": REDUCTIONS, "ignore_index": Label("c")},
        indices={"target": Index("c")},
        dtypes=REAL,
        degree=None,
    ),
    saves="x target",
    formula=r"y = -\tfrac1n \sum_i \ln p_{i, t_i},\ p_i = \operatorname{softmax} x_i:\quad "
    r"\bar x_{ik} = \tfrac1n \bar y\,(p_{ik} - [k = t_i])",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4",
)
@in_float32
def cross_entropy(
    grad_y: Tensor, y: Tensor, x: Tensor, target: Tensor, *, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Tensor, None]:
    """Negative logarithm of the softmax of x at the target class, averaged, summed or neither."""
    kept = target != ignore_index
    hit = torch.arange(x.shape[-1], device=x.device) == torch.where(kept, target, 0).unsqueeze(-1)
    log_p = torch.log_softmax(x, -1)
    grad = torch.where(hit, torch.expm1(log_p), torch.exp(log_p))  # p - 1 would be 0 where p is near 1
    if reduction == "mean":
        grad_y = grad_y / kept.sum()
    return torch.where(kept.unsqueeze(-1), grad * grad_y.unsqueeze(-1), 0), None
