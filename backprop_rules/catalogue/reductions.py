"""Reductions: many elements into one, and so one cotangent out to many elements."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import Dims, reduced_axes, unreduce
from backprop_rules.domain import Axes, Domain, Dtype, Flag, Param
from backprop_rules.rule import rule

REDUCTION: dict[str, Param] = {"dim": Axes(), "keepdim": Flag(), "dtype": Dtype()}


def _reduced_count(shape: tuple[int, ...], dim: Dims = None, **_: object) -> int:
    return math.prod(shape[axis] for axis in reduced_axes(dim, len(shape)))


def _define_sum(x: Any, *, dim: Dims = None, keepdim: bool = False, dtype: object = None) -> Any:
    return np.sum(x, axis=tuple(reduced_axes(dim, x.ndim)), keepdims=keepdim)


@rule(
    forward=torch.sum,
    definition=_define_sum,
    domain=Domain("...", params=REDUCTION),
    saves="",
    formula=r"y_i = \sum_j x_{ij}:\quad \bar x_{ij} = \bar y_i",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def sum(
    grad_y: Tensor, y: Tensor, x: Tensor,
    *, dim: Dims = None, keepdim: bool = False, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Sum of the elements of x, over all axes or those that dim names."""
    return unreduce(grad_y, x, dim, keepdim).to(x.dtype)


def _define_mean(x: Any, *, dim: Dims = None, keepdim: bool = False, dtype: object = None) -> Any:
    return _define_sum(x, dim=dim, keepdim=keepdim) / _reduced_count(x.shape, dim)


@rule(
    forward=torch.mean,
    definition=_define_mean,
    domain=Domain("...", params=REDUCTION, divisor=_reduced_count),
    saves="",
    formula=r"y_i = \tfrac1n \sum_{j=1}^n x_{ij}:\quad \bar x_{ij} = \tfrac1n \bar y_i",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def mean(
    grad_y: Tensor, y: Tensor, x: Tensor,
    *, dim: Dims = None, keepdim: bool = False, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Mean of the elements of x, over all axes or those that dim names."""
    n = _reduced_count(x.shape, dim)
    return (unreduce(grad_y, x, dim, keepdim) / n).to(x.dtype)
