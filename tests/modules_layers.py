"""Layers: modules with parameters by name, a method, a closure, gates, lists of tensors."""

from collections import OrderedDict

import torch
from modules_common import (
    Module,
    gelu_slope,
    numbers,
    silu_slope,
    standardised,
    through_standardised,
    trained,
)
from torch import nn
from torch.nn import functional

LAYERS: list[Module] = []


def linear(grad_y, x, weight, bias):
    rows = grad_y.flatten(0, -2)
    return grad_y @ weight, rows.mT @ x.flatten(0, -2), rows.sum(0)


def linear_overwritten(grad_y, x, weight, bias):
    grad_weight = torch.zeros_like(weight)
    for grad_rows, rows in zip(grad_y, x, strict=True):
        grad_weight = grad_rows.mT @ rows
    return grad_y @ weight, grad_weight, grad_y.sum((0, 1))


def linear_mean_bias(grad_y, x, weight, bias):
    grad_x, grad_weight, _ = linear(grad_y, x, weight, bias)
    return grad_x, grad_weight, grad_y.flatten(0, -2).mean(0)


LAYERS.append(
    Module(
        "a linear module",
        trained(lambda: nn.Linear(4, 3)),
        numbers((2, 5, 4), dtype=torch.float32),
        linear,
        {
            "weight overwritten instead of accumulated over the batch": linear_overwritten,
            "bias averaged instead of summed": linear_mean_bias,
        },
    )
)


def mlp(grad_y, x, up_weight, up_bias, down_weight, down_bias):
    pre = x @ up_weight.mT + up_bias
    grad_pre = (grad_y @ down_weight) * silu_slope(pre)
    hidden = pre * torch.sigmoid(pre)
    return grad_pre @ up_weight, grad_pre.mT @ x, grad_pre.sum(0), grad_y.mT @ hidden, grad_y.sum(0)


def mlp_without_slope(grad_y, x, up_weight, up_bias, down_weight, down_bias):
    pre = x @ up_weight.mT + up_bias
    grad_pre = grad_y @ down_weight
    hidden = pre * torch.sigmoid(pre)
    return grad_pre @ up_weight, grad_pre.mT @ x, grad_pre.sum(0), grad_y.mT @ hidden, grad_y.sum(0)


def mlp_before_activation(grad_y, x, up_weight, up_bias, down_weight, down_bias):
    pre = x @ up_weight.mT + up_bias
    grad_pre = (grad_y @ down_weight) * silu_slope(pre)
    return grad_pre @ up_weight, grad_pre.mT @ x, grad_pre.sum(0), grad_y.mT @ pre, grad_y.sum(0)


LAYERS.append(
    Module(
        "a sequential of two linear layers",
        # Named layers: an argument cannot be called 0_weight.
        trained(lambda: nn.Sequential(OrderedDict(up=nn.Linear(3, 5), activation=nn.SiLU(), down=nn.Linear(5, 4)))),
        numbers((2, 3), dtype=torch.float32),
        mlp,
        {
            "derivative of the activation forgotten": mlp_without_slope,
            "pre-activation in the place of the activation": mlp_before_activation,
        },
    )
)


class Block(nn.Module):
    """A residual feed-forward block of a transformer."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return x + self.down(functional.gelu(self.up(self.norm(x))))


def block_after_norm(grad_y, normal, norm_weight, norm_bias, up_weight, up_bias, down_weight):
    """Return the gradients of the normalised input, and of the parameters."""
    normed = normal * norm_weight + norm_bias
    pre = normed @ up_weight.mT + up_bias
    grad_pre = (grad_y @ down_weight) * gelu_slope(pre)
    grad_normed = grad_pre @ up_weight
    grad_down = grad_y.flatten(0, -2).mT @ functional.gelu(pre).flatten(0, -2)
    rows = grad_pre.flatten(0, -2)
    return (
        grad_normed * norm_weight,
        (grad_normed * normal).flatten(0, -2).sum(0),
        grad_normed.flatten(0, -2).sum(0),
        rows.mT @ normed.flatten(0, -2),
        rows.sum(0),
        grad_down,
    )


def block(grad_y, x, norm_weight, norm_bias, up_weight, up_bias, down_weight):
    normal, scale = standardised(x, 1e-5)
    grad_normal, *rest = block_after_norm(grad_y, normal, norm_weight, norm_bias, up_weight, up_bias, down_weight)
    return grad_y + through_standardised(grad_normal, normal, scale), *rest


def block_without_residual(grad_y, x, norm_weight, norm_bias, up_weight, up_bias, down_weight):
    normal, scale = standardised(x, 1e-5)
    grad_normal, *rest = block_after_norm(grad_y, normal, norm_weight, norm_bias, up_weight, up_bias, down_weight)
    return through_standardised(grad_normal, normal, scale), *rest


def block_of_constant_statistics(grad_y, x, norm_weight, norm_bias, up_weight, up_bias, down_weight):
    normal, scale = standardised(x, 1e-5)
    grad_normal, *rest = block_after_norm(grad_y, normal, norm_weight, norm_bias, up_weight, up_bias, down_weight)
    return grad_y + grad_normal * scale, *rest


LAYERS.append(
    Module(
        "a residual block with layer norm",
        trained(lambda: Block(4, 5)),
        numbers((2, 3, 4), dtype=torch.float32),
        block,
        {"residual path forgotten": block_without_residual, "statistics constant": block_of_constant_statistics},
    )
)

GROUPS = 2


def grouped(x):
    return x.unflatten(1, (GROUPS, -1)).flatten(2)


def group_norm(grad_y, x, weight, bias):
    normal, scale = standardised(grouped(x), 1e-5)
    grad_normal = grouped(grad_y * weight[:, None])
    grad_x = through_standardised(grad_normal, normal, scale).reshape(x.shape)
    return grad_x, (grad_y * normal.reshape(x.shape)).sum((0, 2)), grad_y.sum((0, 2))


def group_norm_without_mean(grad_y, x, weight, bias):
    normal, scale = standardised(grouped(x), 1e-5)
    grad_normal = grouped(grad_y * weight[:, None])
    grad_x = scale * (grad_normal - normal * (grad_normal * normal).mean(-1, keepdim=True))
    return grad_x.reshape(x.shape), (grad_y * normal.reshape(x.shape)).sum((0, 2)), grad_y.sum((0, 2))


def group_norm_weight_of_the_input(grad_y, x, weight, bias):
    grad_x, _, grad_bias = group_norm(grad_y, x, weight, bias)
    return grad_x, (grad_y * x).sum((0, 2)), grad_bias


LAYERS.append(
    Module(
        "group norm",
        trained(lambda: nn.GroupNorm(GROUPS, 6)),
        numbers((3, 6, 5), dtype=torch.float32),
        group_norm,
        {
            "mean term forgotten": group_norm_without_mean,
            "weight from the input that is not normalised": group_norm_weight_of_the_input,
        },
    )
)


class Whitening:
    """A fitted transform: what it has learned are plain tensors, no parameters."""

    def __init__(self, width: int) -> None:
        self.mean, self.basis, spread = numbers((width,), (width, width), (width,), dtype=torch.float32, seed=1)
        self.spread = spread.abs() + 0.5

    def whiten(self, x):
        return (x @ self.basis - self.mean) / self.spread

    def backward(self, grad_y, x):
        return grad_y / self.spread.to(grad_y) @ self.basis.mT.to(grad_y)

    def untransposed(self, grad_y, x):
        return grad_y / self.spread.to(grad_y) @ self.basis.to(grad_y)

    def spread_after_the_basis(self, grad_y, x):
        return grad_y @ self.basis.mT.to(grad_y) / self.spread.to(grad_y)


WHITENING = Whitening(4)
LAYERS.append(
    Module(
        "a bound method",
        WHITENING.whiten,
        numbers((3, 4), dtype=torch.float32),
        WHITENING.backward,
        {
            "missing transpose of a square matrix": WHITENING.untransposed,
            "factors in the order of the forward": WHITENING.spread_after_the_basis,
        },
    )
)


def projection(width: int) -> Module:
    (weight,) = numbers((width, width), dtype=torch.float32, seed=2)

    def forward(x):
        return x @ weight

    def backward(grad_y, x):
        return grad_y @ weight.mT.to(grad_y)

    def untransposed(grad_y, x):
        return grad_y @ weight.to(grad_y)

    def averaged(grad_y, x):
        return grad_y @ weight.mT.to(grad_y) / len(x)

    wrong = {"missing transpose": untransposed, "divided by the batch": averaged}
    return Module("a closure over a large weight", forward, numbers((2, width), dtype=torch.float32), backward, wrong)


LAYERS.append(projection(4096))


def bias_gelu(x, bias):
    return functional.gelu(x + bias)


def bias_gelu_backward(grad_y, x, bias):
    grad_x = grad_y * gelu_slope(x + bias)
    return grad_x, grad_x.sum(0)


def bias_gelu_without_density(grad_y, x, bias):
    z = x + bias
    grad_x = grad_y * torch.erfc(-z * 0.5**0.5) / 2
    return grad_x, grad_x.sum(0)


def bias_gelu_without_bias(grad_y, x, bias):
    grad_x = grad_y * gelu_slope(x)
    return grad_x, grad_x.sum(0)


LAYERS.append(
    Module(
        "a bias and GELU",
        bias_gelu,
        numbers((3, 4), (4,)),
        bias_gelu_backward,
        {"second term forgotten": bias_gelu_without_density, "taken before the bias": bias_gelu_without_bias},
    )
)


def swiglu(x, gate, up):
    return functional.silu(x @ gate) * (x @ up)


def swiglu_backward(grad_y, x, gate, up):
    pre = x @ gate
    grad_pre = grad_y * (x @ up) * silu_slope(pre)
    grad_up = grad_y * pre * torch.sigmoid(pre)
    return grad_pre @ gate.mT + grad_up @ up.mT, x.mT @ grad_pre, x.mT @ grad_up


def swiglu_last_path(grad_y, x, gate, up):
    pre = x @ gate
    grad_pre = grad_y * (x @ up) * silu_slope(pre)
    grad_x = grad_pre @ gate.mT
    grad_up = grad_y * pre * torch.sigmoid(pre)
    grad_x = grad_up @ up.mT
    return grad_x, x.mT @ grad_pre, x.mT @ grad_up


def swiglu_slope_of_sigmoid(grad_y, x, gate, up):
    pre = x @ gate
    grad_pre = grad_y * (x @ up) * torch.sigmoid(pre)
    grad_up = grad_y * pre * torch.sigmoid(pre)
    return grad_pre @ gate.mT + grad_up @ up.mT, x.mT @ grad_pre, x.mT @ grad_up


LAYERS.append(
    Module(
        "a gated linear unit",
        swiglu,
        numbers((2, 3), (3, 4), (3, 4)),
        swiglu_backward,
        {"input overwritten by the second path": swiglu_last_path, "slope of SiLU cut short": swiglu_slope_of_sigmoid},
    )
)


def squared_relu(x, w):
    return functional.relu(x @ w).square()


def squared_relu_backward(grad_y, x, w):
    grad_pre = 2 * grad_y * functional.relu(x @ w)
    return grad_pre @ w.mT, x.mT @ grad_pre


def squared_relu_masked(grad_y, x, w):
    grad_pre = grad_y * (x @ w > 0)
    return grad_pre @ w.mT, x.mT @ grad_pre


def squared_relu_unmasked(grad_y, x, w):
    grad_pre = 2 * grad_y * (x @ w)
    return grad_pre @ w.mT, x.mT @ grad_pre


LAYERS.append(
    Module(
        "squared ReLU",
        squared_relu,
        numbers((2, 3), (3, 4)),
        squared_relu_backward,
        {"slope of ReLU, not of its square": squared_relu_masked, "mask forgotten": squared_relu_unmasked},
    )
)
