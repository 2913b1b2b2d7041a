"""Reductions: many elements into one, and so one cotangent out to many elements."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import Dims, in_float32, reduced_axes, unreduce
from backprop_rules.domain import REAL, Axes, Axis, Choice, Domain, Dtype, Flag, Param, Whole
from backprop_rules.rule import Convention, part, rule

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


def _define_prod(x: Any, *, dim: int, keepdim: bool = False) -> Any:
    return np.prod(x, axis=tuple(reduced_axes(dim, x.ndim)), keepdims=keepdim)


@rule(
    forward=torch.prod,
    definition=_define_prod,
    domain=Domain("...", params={"dim": Axis(), "keepdim": Flag()}, dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \prod_j x_j:\quad \bar x_i = \bar y \prod_{j \ne i} x_j",
    source="Griewank & Walther, Evaluating Derivatives (2008), section 3.3 (Speelpenning's product)",
)
@in_float32
def prod(grad_y: Tensor, y: Tensor, x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    """Product of the elements of x along an axis; its gradient is not ȳ y / x where x is zero."""
    rows = torch.atleast_1d(x)
    one = torch.ones_like(rows.sum(dim, keepdim=True))
    before, after = (
        torch.cat((one, some), dim).cumprod(dim).narrow(dim, 0, rows.shape[dim]) for some in (rows, rows.flip(dim))
    )
    return unreduce(grad_y, x, dim, keepdim) * (before * after.flip(dim)).reshape(x.shape)


def _define_var(x: Any, *, dim: int, correction: int = 1, keepdim: bool = False) -> Any:
    axes, n = tuple(reduced_axes(dim, x.ndim)), _reduced_count(x.shape, dim)
    centred = part("d", x - part("μ", np.sum(x, axis=axes, keepdims=True) / n))
    return np.sum(centred * centred, axis=axes, keepdims=keepdim) / (n - correction)


@rule(
    forward=torch.var,
    definition=_define_var,
    domain=Domain(
        "...",
        params={"dim": Axis(), "correction": Whole(2), "keepdim": Flag()},
        dtypes=REAL,
        degree=None,
        requires=(
            "more elements along the axis than the correction",
            lambda x, dim, correction=1, keepdim=False: _reduced_count(x.shape, dim) > correction,
        ),
    ),
    saves="x",
    formula=r"y = \tfrac{1}{n - c} \sum_j (x_j - \mu)^2:\quad \bar x_i = \tfrac{2}{n - c} (x_i - \mu)\, \bar y",
    source="Bishop, Pattern Recognition and Machine Learning (2006), section 1.2.4",
)
@in_float32
def var(grad_y: Tensor, y: Tensor, x: Tensor, *, dim: int, correction: int = 1, keepdim: bool = False) -> Tensor:
    """Variance of the elements of x along an axis, with n - correction in the place of n."""
    n = _reduced_count(x.shape, dim)
    return unreduce(grad_y, x, dim, keepdim) * ((x - x.mean(dim, keepdim=True)) / ((n - correction) / 2))


def _define_norm(x: Any, *, p: float, dim: Dims = None, keepdim: bool = False) -> Any:
    axes = tuple(reduced_axes(dim, x.ndim))
    if p == 1:
        return np.sum(np.abs(x), axis=axes, keepdims=keepdim)
    return (
        np.max(np.abs(x), axis=axes, keepdims=keepdim) if p > 2 else np.sum(x * x, axis=axes, keepdims=keepdim) ** 0.5
    )


def _at_zero_or_tie(x: Tensor, *, p: float, dim: Dims = None, keepdim: bool = False) -> Tensor:
    axes = reduced_axes(dim, x.ndim)
    zero = x == 0
    if p == 1:
        return zero.sum(axes, keepdim=keepdim) > 0
    largest = x.abs() == x.abs().amax(axes, keepdim=True) if x.numel() else zero
    return (zero.logical_not().sum(axes, keepdim=keepdim) == 0) | ((largest.sum(axes, keepdim=keepdim) > 1) & (p > 2))


@rule(
    forward=lambda x, *, p, dim=None, keepdim=False: torch.linalg.vector_norm(x, p, dim, keepdim),
    definition=_define_norm,
    domain=Domain(
        "...",
        params={"p": Choice((2, 1, math.inf)), "dim": Axes(), "keepdim": Flag()},
        dtypes=REAL,
        degree=None,
        requires=("at least one element for p = inf", lambda x, p, dim=None, keepdim=False: p <= 2 or x.numel() > 0),
    ),
    saves="y x",
    formula=r"y = \|x\|_p:\quad \bar x = \bar y\,\operatorname{sign} x,\quad \bar y\, x / y,\quad "
    r"\bar y\,\operatorname{sign}(x_i)\, [|x_i| = y] / \#\{j: |x_j| = y\}\quad \text{for}\ p = 1, 2, \infty",
    source="Boyd & Vandenberghe, Subgradients (2022), sections 2 and 3",
    conventions=(
        Convention("x = 0, or a tie for p = inf", "0; tied elements share", _at_zero_or_tie, ">=1.9", ">=1.11"),
    ),
)
@in_float32
def norm(grad_y: Tensor, y: Tensor, x: Tensor, *, p: float, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The p-norm of the elements of x, for p = 1, 2 or inf."""
    g, y = unreduce(grad_y, x, dim, keepdim), unreduce(y, x, dim, keepdim)
    if p == 1:
        return g * torch.sign(x)
    if p == 2:
        # Divided by the largest element, squares neither overflow nor vanish; of infinities only the sign is left.
        axes = reduced_axes(dim, x.ndim)
        largest = x.abs().amax(axes, keepdim=True) if x.numel() else x
        u = torch.where(x.isinf(), torch.sign(x), x / torch.where(largest == 0, 1, largest))
        size = torch.sqrt((u * u).sum(axes, keepdim=True))
        return g * (u / torch.where(size == 0, 1, size))
    tied = x.abs() == y
    return torch.where(tied, g * torch.sign(x) / tied.sum(reduced_axes(dim, x.ndim), keepdim=True), 0)
