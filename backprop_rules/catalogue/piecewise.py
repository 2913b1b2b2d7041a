"""Piecewise linear functions, with their kinks: the larger, the smaller, the one between, the absolute value."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import REAL, Bound, Domain, Mask
from backprop_rules.rule import Convention, rule

Number = float | None


@rule(
    forward=torch.abs,
    definition=np.abs,
    domain=Domain("...", dtypes=REAL),
    saves="x",
    formula=r"y = |x|:\quad \bar x = \bar y\,\operatorname{sign} x",
    source="Boyd & Vandenberghe, Subgradients (2022), section 3.1",
    conventions=(Convention("x = 0", "0: the middle of -1 and 1", lambda x: x == 0, ">=1.0", ">=1.0"),),
)
def abs(grad_y: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The absolute value of x."""
    return grad_y * torch.sign(x)


def _tie(x: Tensor, z: Tensor) -> Tensor:
    return x == z


@rule(
    forward=torch.maximum,
    definition=np.maximum,
    domain=Domain("..., ...", dtypes=REAL),
    saves="x z",
    formula=r"y = \max(x, z):\quad \bar x = \bar y\,([x > z] + \tfrac12 [x = z]),\quad "
    r"\bar z = \bar y\,([z > x] + \tfrac12 [x = z])",
    source="Boyd & Vandenberghe, Subgradients (2022), section 3.4",
    conventions=(Convention("x = z", "one half each", _tie, ">=1.7", ">=1.11"),),
)
def maximum(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of x and z."""
    half = torch.where(x == z, grad_y / 2, 0)
    return unbroadcast(torch.where(x > z, grad_y, half), x), unbroadcast(torch.where(z > x, grad_y, half), z)


@rule(
    forward=torch.minimum,
    definition=np.minimum,
    domain=Domain("..., ...", dtypes=REAL),
    saves="x z",
    formula=r"y = \min(x, z):\quad \bar x = \bar y\,([x < z] + \tfrac12 [x = z]),\quad "
    r"\bar z = \bar y\,([z < x] + \tfrac12 [x = z])",
    source="Boyd & Vandenberghe, Subgradients (2022), section 3.4",
    conventions=(Convention("x = z", "one half each", _tie, ">=1.7", ">=1.11"),),
)
def minimum(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller of x and z."""
    half = torch.where(x == z, grad_y / 2, 0)
    return unbroadcast(torch.where(x < z, grad_y, half), x), unbroadcast(torch.where(z < x, grad_y, half), z)


@rule(
    forward=torch.where,
    definition=np.where,
    domain=Domain("..., ..., ...", indices={"condition": Mask()}, promotes=True),
    saves="condition",
    formula=r"y = [c]\, x + [\lnot c]\, z:\quad \bar x = [c]\, \bar y,\quad \bar z = [\lnot c]\, \bar y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 14",
)
def where(grad_y: Tensor, y: Tensor, condition: Tensor, x: Tensor, z: Tensor) -> tuple[None, Tensor, Tensor]:
    """x where the condition holds, z elsewhere."""
    grad_x, grad_z = torch.where(condition, grad_y, 0), torch.where(condition, 0, grad_y)
    return None, unbroadcast(grad_x, x), unbroadcast(grad_z, z)


def _interval(x: Tensor, min: Tensor | Number, max: Tensor | Number) -> tuple[Tensor, Tensor]:
    def bound(value: Tensor | Number, absent: float) -> Tensor:
        return value if isinstance(value, Tensor) else x.new_tensor(absent if value is None else value)

    return bound(min, -math.inf), bound(max, math.inf)


def _on_bound(x: Tensor, min: Tensor | Number = None, max: Tensor | Number = None) -> Tensor:
    low, high = _interval(x, min, max)
    return ((x == low) | (x == high)) & (low < high)


def _on_one_of_two_bounds(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    return _on_bound(x, min, max) & (min is not None and max is not None)


def _on_the_only_bound(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    return _on_bound(x, min, max) & (min is None or max is None)


def _on_both_bounds(x: Tensor, min: Tensor | Number = None, max: Tensor | Number = None) -> Tensor:
    low, high = _interval(x, min, max)
    return (x == low) & (x == high)


def _below_both_bounds(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    low, high = _interval(x, min, max)
    return (x < low) & (low == high)


def _define_clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    above = x if min is None else np.maximum(x, min)
    return above if max is None else np.minimum(above, max)


CONSTANT = "0: y is max for every x near it, so the gradient of x is zero"


@rule(
    forward=torch.clamp,
    definition=_define_clamp,
    domain=Domain(
        "...",
        params={"min": Bound(), "max": Bound()},
        dtypes=REAL,
        requires=("at least one of min and max", lambda x, min=None, max=None: (min, max) != (None, None)),
    ),
    saves="x",
    formula=r"y = \min(\max(x, a), b):\quad \bar x = \bar y\,[a \le x \le b]\,[a < b]",
    source="PyTorch, pull request 7049 (the closed interval) and issue 195931 (open from 2.14 on)",
    conventions=(
        Convention("x = min or x = max", "1: the cotangent passes at a bound", _on_bound, "<2.14", "<2.14"),
        Convention("x = min = max", CONSTANT, _on_both_bounds, ">=2.14", ">=2.14"),
    ),
)
def clamp(grad_y: Tensor, y: Tensor, x: Tensor, *, min: Number = None, max: Number = None) -> Tensor:
    """x limited to the interval from min to max, two numbers; where min > max, y is max."""
    low, high = _interval(x, min, max)
    return torch.where((low <= x) & (x <= high) & (low < high), grad_y, 0)


@rule(
    forward=torch.clamp,
    definition=_define_clamp,
    domain=Domain(
        "..., ..., ...",
        dtypes=REAL,
        requires=("at least one of min and max", lambda x, min=None, max=None: min is not None or max is not None),
    ),
    saves="x min max",
    formula=r"y = \min(\max(x, a), b):\quad \bar x = \bar y\,[a \le x \le b]\,[a < b],\quad "
    r"\bar a = \bar y\,[x < a < b],\quad \bar b = \bar y\,[x > b \lor a > b \lor x = a = b]",
    source="PyTorch, pull requests 52695 and 74042 (tensor bounds), 191142 (ties are split from 2.14 on)",
    conventions=(
        Convention("x = min or x = max", "1 for x, 0 for the bound", _on_one_of_two_bounds, "<2.14", "<2.14"),
        Convention("x = the only bound", "1 for x, 0 for the bound", _on_the_only_bound, "<2.14", None),
        Convention("x < min = max", "0 for both bounds", _below_both_bounds, "<2.14", None),
        Convention("x = min = max", "0 for x and min, 1 for max, which y is for every x", _on_both_bounds, None, None),
    ),
)
def clamp_tensor(
    grad_y: Tensor, y: Tensor, x: Tensor, min: Tensor | None = None, max: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x limited to the interval from min to max, two tensors; where min > max, y is max."""
    low, high = _interval(x, min, max)
    grad_x = torch.where((low <= x) & (x <= high) & (low < high), grad_y, 0)
    grad_min = torch.where((x < low) & (low < high), grad_y, 0)
    grad_max = torch.where((x > high) | (low > high) | ((x == low) & (low == high)), grad_y, 0)
    return (
        unbroadcast(grad_x, x),
        None if min is None else unbroadcast(grad_min, min),
        None if max is None else unbroadcast(grad_max, max),
    )
