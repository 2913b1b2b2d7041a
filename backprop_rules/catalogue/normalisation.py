"""Normalisation: softmax and its logarithm, the logarithm of a sum of exponentials, and the layer norm."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue.broadcasting import finite, in_float32, reduced_axes, unbroadcast, unreduce
from backprop_rules.domain import REAL, Axis, Domain, Flag, Positive
from backprop_rules.rule import part, rule


def _exponentials(x: Any, dim: int) -> tuple[Any, Any, Any]:
    """Return the maximum along an axis, the exponentials of what lies below it, and their sum."""
    axes = tuple(reduced_axes(dim, x.ndim))
    top = part("m", np.max(x, axis=axes, keepdims=True))
    powers = part("e", np.exp(x - top))
    return top, powers, part("s", np.sum(powers, axis=axes, keepdims=True))


def _define_softmax(x: Any, *, dim: int) -> Any:
    _, powers, total = _exponentials(x, dim)
    return powers / total


def define_log_softmax(x: Any, *, dim: int) -> Any:
    """The logarithm of softmax, in NumPy notation."""
    top, _, total = _exponentials(x, dim)
    return x - (top + np.log(total))


def _define_logsumexp(x: Any, *, dim: int, keepdim: bool = False) -> Any:
    top, _, total = _exponentials(x, dim)
    y = top + np.log(total)
    return y if keepdim or not x.ndim else np.squeeze(y, dim)


ALONG = Domain("...", params={"dim": Axis()}, dtypes=REAL, degree=None)


@rule(
    forward=torch.softmax,
    definition=_define_softmax,
    domain=ALONG,
    saves="y",
    formula=r"y_i = \frac{e^{x_i}}{\sum_j e^{x_j}}:\quad \bar x_i = y_i (\bar y_i - \sum_j \bar y_j y_j)",
    source="Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.2",
)
@in_float32
def softmax(grad_y: Tensor, y: Tensor, x: Tensor, *, dim: int) -> Tensor:
    """The exponentials of x, divided by their sum along an axis."""
    if not y.numel():
        return torch.zeros_like(x)
    # The y_i add up to 1, so any number may be taken off grad_y: taking off the one at the largest y, whose share
    # in the sum would drown all others, leaves what is small as accurate as what is large.
    g = grad_y - grad_y.gather(dim, y.argmax(dim, keepdim=True))
    return y * (g - (g * y).sum(dim, keepdim=True))


@rule(
    forward=torch.log_softmax,
    definition=define_log_softmax,
    domain=ALONG,
    saves="y",
    formula=r"y_i = x_i - \ln \sum_j e^{x_j}:\quad \bar x_i = \bar y_i - e^{y_i} \sum_j \bar y_j",
    source="Goodfellow, Bengio & Courville, Deep Learning (2016), section 6.2",
)
@in_float32
def log_softmax(grad_y: Tensor, y: Tensor, x: Tensor, *, dim: int) -> Tensor:
    """The logarithm of softmax along an axis."""
    if not y.numel():
        return torch.zeros_like(x)
    # At the largest y the gradient is (1 - e^y) g less the others' share, and 1 - e^y, which may round to 0, is theirs.
    top = torch.zeros_like(y, dtype=torch.bool).scatter(dim, y.argmax(dim, keepdim=True), True)
    p = torch.exp(y)
    other_p, other_g = (torch.where(top, 0, some).sum(dim, keepdim=True) for some in (p, grad_y))
    return torch.where(top, grad_y * other_p - p * other_g, grad_y - p * grad_y.sum(dim, keepdim=True))


@rule(
    forward=torch.logsumexp,
    definition=_define_logsumexp,
    domain=Domain("...", params={"dim": Axis(), "keepdim": Flag()}, dtypes=REAL, degree=None),
    saves="x",
    formula=r"y = \ln \sum_j e^{x_j}:\quad \bar x_i = \frac{e^{x_i}}{\sum_j e^{x_j}}\, \bar y",
    source="Boyd & Vandenberghe, Convex Optimization (2004), section 3.1.5",
)
@in_float32
def logsumexp(grad_y: Tensor, y: Tensor, x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    """The logarithm of the sum of the exponentials of x along an axis."""
    return unreduce(grad_y, x, dim, keepdim) * torch.softmax(finite(x), dim)


def _define_layer_norm(x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5) -> Any:
    n = x.shape[-1]
    centred = part("c", x - part("μ", np.sum(x, -1, keepdims=True) / n))
    y = part("x̂", centred / part("s", (np.sum(centred * centred, -1, keepdims=True) / n + eps) ** 0.5))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@rule(
    forward=lambda x, weight=None, bias=None, *, eps=1e-5: torch.nn.functional.layer_norm(
        x, x.shape[-1:], weight, bias, eps
    ),
    definition=_define_layer_norm,
    domain=Domain("... n, n, n", params={"eps": Positive()}, dtypes=REAL, degree=None),
    saves="x weight",
    formula=r"y = w \hat x + b,\ \hat x = (x - \mu) / s,\ s = \sqrt{\sigma^2 + \epsilon}:\quad "
    r"\bar x_{ij} = (g_{ij} - \operatorname{mean}_k g_{ik} - \hat x_{ij} \operatorname{mean}_k(\hat x_{ik} g_{ik}))"
    r" / s_i\ \text{with}\ g = w \bar y,\quad \bar w_j = \sum_i \hat x_{ij} \bar y_{ij},\quad "
    r"\bar b_j = \sum_i \bar y_{ij}",
    source="Ba, Kiros & Hinton, Layer Normalization (2016), section 3 and supplement",
)
@in_float32
def layer_norm(
    grad_y: Tensor, y: Tensor, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    *, eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """x less its mean, divided by its standard deviation along the last axis, times weight, plus bias."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    normal = centred * scale
    g = grad_y if weight is None else grad_y * weight
    grad_x = scale * (g - g.mean(-1, keepdim=True) - normal * (normal * g).mean(-1, keepdim=True))
    return (
        grad_x,
        None if weight is None else unbroadcast(grad_y * normal, weight),
        None if bias is None else unbroadcast(grad_y, bias),
    )
