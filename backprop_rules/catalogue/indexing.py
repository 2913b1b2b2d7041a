"""Indexing: elements placed elsewhere, and the gradient brought back, added up where an element was taken twice."""

import numpy as np
import torch
from torch import Tensor

from backprop_rules.domain import Axis, Domain, Index
from backprop_rules.rule import rule


@rule(
    forward=torch.transpose,
    definition=lambda x, *, dim0, dim1: np.swapaxes(x, dim0, dim1) if x.ndim else x,
    domain=Domain("...", params={"dim0": Axis(), "dim1": Axis()}),
    saves="",
    formula=r"Y = X^\top:\quad \bar X = \bar Y^\top",
    source="Giles, Collected Matrix Derivative Results (2008), section 2.2",
)
def transpose(grad_y: Tensor, y: Tensor, x: Tensor, *, dim0: int, dim1: int) -> Tensor:
    """x with two of its axes swapped."""
    return grad_y.transpose(dim0, dim1)


@rule(
    forward=lambda x, z: torch.cat((x, z), 1),
    definition=lambda x, z: np.concatenate((x, z), 1),
    domain=Domain("p m q, p n q"),
    saves="",
    formula=r"Y = (X \mid Z):\quad (\bar X \mid \bar Z) = \bar Y",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def concatenate(grad_y: Tensor, y: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """z after x, along the middle of three axes."""
    grad_x, grad_z = grad_y.split([x.shape[1], z.shape[1]], 1)
    return grad_x, grad_z


def _scattered(grad_y: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """Return grad_y added up at the index along the middle axis, the sums formed in float32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros_like(x, dtype=wide).scatter_add(1, index, grad_y.to(wide)).to(x.dtype)


@rule(
    forward=lambda x, index: torch.gather(x, 1, index),
    definition=lambda x, index: np.take_along_axis(x, index, 1),
    domain=Domain("p m q, p k q", indices={"index": Index("m")}),
    saves="index",
    formula=r"y_{ikj} = x_{i, n(i,k,j), j}:\quad \bar x_{imj} = \sum_{k:\, n(i,k,j) = m} \bar y_{ikj}",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def gather(grad_y: Tensor, y: Tensor, x: Tensor, index: Tensor) -> tuple[Tensor, None]:
    """The elements of x that the index picks along the middle one of three axes."""
    return _scattered(grad_y, x, index), None


@rule(
    forward=lambda x, index: torch.index_select(x, 1, index),
    definition=lambda x, index: np.take(x, index, 1),
    domain=Domain("p m q, k", indices={"index": Index("m")}),
    saves="index",
    formula=r"y_{ikj} = x_{i, n(k), j}:\quad \bar x_{imj} = \sum_{k:\, n(k) = m} \bar y_{ikj}",
    source="Griewank & Walther, Evaluating Derivatives (2008), chapter 3",
)
def index_select(grad_y: Tensor, y: Tensor, x: Tensor, index: Tensor) -> tuple[Tensor, None]:
    """The slices of x that the index picks along the middle one of three axes."""
    return _scattered(grad_y, x, index.reshape(1, -1, 1).expand(grad_y.shape)), None
