"""Linear algebra: products of vectors, matrices and batches of them."""

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import unbroadcast
from backprop_rules.domain import Domain
from backprop_rules.rule import rule


@rule(
    forward=torch.matmul,
    definition=np.matmul,
    domain=Domain("... m? n, ... n p?", degree=2),
    saves="a b",
    formula=r"Y = A B:\quad \bar A = \bar Y B^H,\quad \bar B = A^H \bar Y",
    source="Giles, Collected Matrix Derivative Results (2008), section 2.2",
)
def matmul(grad_y: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix product; a vector a is a row, a vector b is a column, and batch axes broadcast."""
    rows = a.unsqueeze(0) if a.ndim == 1 else a
    columns = b.unsqueeze(1) if b.ndim == 1 else b
    if b.ndim == 1:
        grad_y = grad_y.unsqueeze(-1)
    if a.ndim == 1:
        grad_y = grad_y.unsqueeze(-2)
    grad_a = unbroadcast(grad_y @ columns.mH, rows)
    grad_b = unbroadcast(rows.mH @ grad_y, columns)
    return grad_a.reshape(a.shape), grad_b.reshape(b.shape)


@rule(
    forward=torch.nn.functional.linear,
    definition=lambda x, w, b=None: x @ w.T if b is None else x @ w.T + b,
    domain=Domain(
        "... n, k? n, k",
        degree=2,
        weight=2,
        requires=("no b with a vector w: torch has none there", lambda x, w, b=None: w.ndim == 2 or b is None),
    ),
    saves="x w",
    formula=r"Y = X W^\top + b:\quad \bar X = \bar Y W^*,\quad \bar W = \bar Y^\top X^*,\quad \bar b = \sum_i \bar Y_i",
    source="Giles, Collected Matrix Derivative Results (2008), section 2.2",
)
def linear(
    grad_y: Tensor, y: Tensor, x: Tensor, w: Tensor, b: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x times the transpose of w, plus b if given; every axis of x but the last is a batch axis."""
    rows, g = (w, grad_y) if w.ndim == 2 else (w.unsqueeze(0), grad_y.unsqueeze(-1))
    grad_w = torch.einsum("...k,...n->kn", g, x.conj())
    return g @ rows.conj(), grad_w.reshape(w.shape), None if b is None else unbroadcast(grad_y, b)
