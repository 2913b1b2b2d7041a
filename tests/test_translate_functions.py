"""The definition that is made of a torch function holds the same numbers as the function in other words."""

import numpy as np
import pytest
import torch
from exact_numbers import (
    IMAGE,
    MATRIX,
    ROOT_2,
    ROW,
    WEIGHT,
    R,
    agree,
    each,
    kinked,
    mean,
    same,
    sigmoid,
    softmax,
    softplus,
)
from flint import arb, arb_series
from torch.nn import functional

from backprop_rules.evidence.proof.balls import Number, leaves, outputs, pull_back
from backprop_rules.evidence.proof.translate import definition_of

# ---- functions of one number: at numbers of both signs beside every kink


def power_of(base, x):
    return np.exp(x * arb(base).log())


CURVES = {
    "tan": (torch.tan, lambda x: np.sin(x) / np.cos(x)),
    "atan": (lambda x: x.atan().tan(), same),
    "asin": (lambda x: (x / 4).asin().sin(), lambda x: x / 4),
    "acos": (lambda x: (x / 4).acos().cos(), lambda x: x / 4),
    "atan2": (lambda x: torch.tan(torch.atan2(x, x.exp())), lambda x: x / np.exp(x)),
    "sinh": (torch.sinh, lambda x: (np.exp(x) - np.exp(-x)) / 2),
    "cosh": (torch.cosh, lambda x: (np.exp(x) + np.exp(-x)) / 2),
    "asinh": (lambda x: x.asinh().sinh(), same),
    "acosh": (lambda x: (x.exp() + 1).acosh().cosh(), lambda x: np.exp(x) + 1),
    "atanh": (lambda x: x.tanh().atanh(), same),
    "exp2": (torch.exp2, lambda x: power_of(2, x)),
    "log2": (lambda x: (x.square() + 1).log2(), lambda x: np.log(x * x + 1) / arb(2).log()),
    "log10": (lambda x: (x.square() + 1).log10(), lambda x: np.log(x * x + 1) / arb(10).log()),
    "a power of 3": (lambda x: 3**x, lambda x: power_of(3, x)),
    "erfc": (torch.erfc, lambda x: 1 - each(Number.erf)(x)),
    "erfinv": (lambda x: (x / 2).erf().erfinv(), lambda x: x / 2),
    "ndtr": (torch.special.ndtr, lambda x: (1 + each(Number.erf)(x / ROOT_2)) / 2),
    "lgamma": (lambda x: (x.square() + 2).lgamma() - (x.square() + 1).lgamma(), lambda x: np.log(x * x + 1)),
    "rad2deg": (torch.rad2deg, lambda x: x * 180 / arb.pi()),
    "logit": (lambda x: x.sigmoid().logit(), same),
    "xlogy": (lambda x: torch.xlogy(x, x.exp() + 1), lambda x: x * np.log(np.exp(x) + 1)),
    "lerp": (lambda x: x.lerp(x * x, 0.75), lambda x: x / 4 + x * x * 0.75),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=3), lambda x: x + 3 * x * x),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.exp(), value=3), lambda x: x + 3 * x / np.exp(x)),
    "hypot": (lambda x: torch.hypot(x, 2 * x + 1), lambda x: np.sqrt(x * x + (2 * x + 1) ** 2)),
    "remainder": (lambda x: x % 2, lambda x: x - 2 * np.floor(R / 2)),
    "fmod": (lambda x: x.fmod(2), lambda x: x - 2 * np.trunc(R / 2)),
    "steps": (
        lambda x: x * (x.floor() + 2 * x.ceil() + 4 * (x + 0.25).round() + 8 * x.trunc() + 16 * x.sign() + x.long()),
        lambda x: x * (np.floor(R) + 2 * np.ceil(R) + 4 * np.round(R + 0.25) + 9 * np.trunc(R) + 16 * np.sign(R)),
    ),
    "gelu": (functional.gelu, lambda x: x * (1 + each(Number.erf)(x / ROOT_2)) / 2),
    "gelu with tanh": (
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: x * (1 + np.tanh((2 / arb.pi()).sqrt() * (x + 0.044715 * x**3))) / 2,
    ),
    "relu6": (functional.relu6, lambda x: np.minimum(np.maximum(x, 0), 6)),
    "hardtanh": (functional.hardtanh, lambda x: np.minimum(np.maximum(x, -1), 1)),
    "hardsigmoid": (functional.hardsigmoid, lambda x: np.clip((x + 3) / 6, 0, 1)),
    "hardswish": (functional.hardswish, lambda x: x * np.clip((x + 3) / 6, 0, 1)),
    "leaky_relu": (functional.leaky_relu, kinked(0, lambda v: 0.01 * v, same)),
    "prelu": (lambda x: functional.prelu(x, torch.tensor([0.25]).double()), kinked(0, lambda v: v / 4, same)),
    "elu": (lambda x: functional.elu(x, 0.5), kinked(0, lambda v: v.expm1() / 2, same)),
    "celu": (lambda x: functional.celu(x, 2), kinked(0, lambda v: (v / 2).expm1() * 2, same)),
    "selu": (
        functional.selu,
        kinked(0, lambda v: v.expm1() * 1.6732632423543772 * 1.0507009873554805, lambda v: v * 1.0507009873554805),
    ),
    "silu": (functional.silu, lambda x: x * sigmoid(x)),
    "mish": (functional.mish, lambda x: x * np.tanh(softplus(x))),
    "softplus": (lambda x: functional.softplus(x, 2, 5), kinked(2.5, lambda v: (2 * v).exp().log1p() / 2, same)),
    "logsigmoid": (functional.logsigmoid, lambda x: -softplus(-x)),
    "softsign": (functional.softsign, lambda x: x / (1 + np.abs(x))),
    "tanhshrink": (functional.tanhshrink, lambda x: x - np.tanh(x)),
    "hardshrink": (functional.hardshrink, each(lambda v: v if abs(v) > 0.5 else 0 * v)),
    "softshrink": (functional.softshrink, lambda x: np.maximum(x - 0.5, 0) + np.minimum(x + 0.5, 0)),
    "threshold": (lambda x: functional.threshold(x, 1, 7), kinked(1, lambda v: 7 + 0 * v, same)),
    "a rounding to another dtype": (lambda x: (x.float() / 3).half().double(), lambda x: x / 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_a_function_of_one_number_is_the_same_in_other_words(name):
    forward, definition = CURVES[name]
    agree(forward, definition, ROW)


SERIES = ["tan", "sinh", "asinh", "acosh", "atanh", "asin", "acos", "erfinv", "mish", "gelu", "softplus", "elu"]


@pytest.mark.parametrize("name", SERIES)
def test_second_derivatives_are_the_same_in_other_words(name):
    forward, definition = CURVES[name]
    values = [arb_series([v, 1], prec=2) for v in ROW]
    agree_in_series(definition_of(forward), definition, values)


def agree_in_series(made, definition, values):
    found = []
    for one in (made, definition):
        tape = []
        x = leaves(values, (len(values),), tape)
        pull_back(one(x), [1] * len(values), tape)
        found.append([leaf.adjoint for leaf in outputs(x)])
    for a, b in zip(*found, strict=True):
        assert all(part.contains(0) for part in (arb_series([a]) - b if isinstance(a, arb) else a - b).coeffs())


# ---- reductions, products and normalisations


def variance(x, axis=None, correction=1):
    squares = (x - mean(x, axis, axis is not None)) ** 2
    return np.sum(squares, axis) / ((x.size if axis is None else x.shape[axis]) - correction)


def attention(x):
    return softmax(x @ x.T / arb(3).sqrt()) @ x


def cross_correlation(x, w, step):
    rows, columns = ((n - 2) // step + 1 for n in x.shape[2:])
    places = [(step * i, step * j) for i in range(rows) for j in range(columns)]
    windows = np.stack([x[:, :, i : i + 2, j : j + 2].reshape(len(x), -1) for i, j in places], 1)
    found = windows @ w.reshape(len(w), -1).T
    return np.swapaxes(found, 1, 2).reshape(len(x), len(w), rows, columns)


def pooled(reduce):
    return lambda x: reduce(x[..., :4, :4].reshape(2, 4, 2, 2, 2, 2).swapaxes(3, 4).reshape(2, 4, 2, 2, 4), axis=4)


def group_norm(x, groups):
    rows = x.reshape(len(x) * groups, -1)
    normal = (rows - mean(rows, 1, True)) / np.sqrt(variance(rows, 1, 0) + 1e-5)[:, None]
    return normal.reshape(x.shape)


def channelwise(x):
    rows = np.moveaxis(x, 1, 0).reshape(4, -1)
    normal = (rows - mean(rows, 1, True)) / np.sqrt(variance(rows, 1, 0) + 1e-5)[:, None]
    return np.moveaxis(normal.reshape(4, 2, 5, 5), 0, 1)


ARRAYS = {
    "mean": (lambda x: x.mean(0), lambda x: mean(x, 0), MATRIX),
    "var": (lambda x: x.var(), variance, MATRIX),
    "std": (lambda x: x.std(1, correction=0), lambda x: np.sqrt(variance(x, 1, 0)), MATRIX),
    "var_mean": (lambda x: torch.stack(torch.var_mean(x, 0)), lambda x: np.stack([variance(x, 0), mean(x, 0)]), MATRIX),
    "prod": (lambda x: x.prod(1, True), lambda x: np.prod(x, 1, keepdims=True), MATRIX),
    "amax": (lambda x: x.amax((0, 1)), np.max, MATRIX),
    "max along": (lambda x: x.max(1).values, lambda x: np.max(x, 1), MATRIX),
    "max at": (lambda x: x.gather(0, x.max(0, True).indices), lambda x: np.max(x, 0, keepdims=True), MATRIX),
    "min": (lambda x: x.min() * x.argmin(), lambda x: np.min(x) * np.argmin(np.array(MATRIX)), MATRIX),
    "median": (torch.median, lambda x: x[0, 0], MATRIX),
    "sort": (
        lambda x: (x.sort(1, descending=True).values * x.sort(1).indices),
        lambda x: np.array([[x[0, 2], x[0, 0], x[0, 1]], [x[1, 2], x[1, 1], x[1, 0]]]) * [[1, 0, 2], [0, 1, 2]],
        MATRIX,
    ),
    "topk": (lambda x: x.topk(2).values, lambda x: x[[[0], [1]], [[2, 0], [2, 1]]], MATRIX),
    "cummax": (lambda x: x.cummax(1).values, lambda x: np.maximum.accumulate(x, 1), MATRIX),
    "3-norm": (lambda x: x.norm(3, 0), lambda x: np.sum(np.abs(x) ** 3, 0) ** (1 / arb(3)), MATRIX),
    "logsumexp": (lambda x: x.logsumexp((0, 1)), lambda x: np.log(np.sum(np.exp(x))), MATRIX),
    "softmax": (lambda x: x.softmax(0), lambda x: softmax(x, 0), MATRIX),
    "softmin": (lambda x: functional.softmin(x, 1), lambda x: softmax(-x, 1), MATRIX),
    "log_softmax": (lambda x: x.log_softmax(-1), lambda x: np.log(softmax(x)), MATRIX),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), lambda x: np.log(np.cumsum(np.exp(x), 1)), MATRIX),
    "logaddexp": (lambda x: torch.logaddexp(x, 2 * x), lambda x: np.log(np.exp(x) + np.exp(2 * x)), MATRIX),
    "cumsum": (lambda x: x.cumsum(1), lambda x: np.cumsum(x, 1), MATRIX),
    "cumprod": (lambda x: x.cumprod(1), lambda x: np.multiply.accumulate(x, 1), MATRIX),
    "einsum": (lambda x: torch.einsum("ij,kj->ki", x, x * x), lambda x: (x * x) @ x.T, MATRIX),
    "addmm": (
        lambda x: torch.addmm(x[:, :2], x, x.t(), beta=3, alpha=0.5), lambda x: 3 * x[:, :2] + x @ x.T / 2, MATRIX,
    ),
    "baddbmm": (lambda x: torch.baddbmm(x[None, :, :2], x[None], x.t()[None]), lambda x: (x[:, :2] + x @ x.T)[None],
                MATRIX),
    "outer": (lambda x: torch.outer(x[0], x[1]), lambda x: x[0][:, None] * x[1], MATRIX),
    "cdist": (lambda x: torch.cdist(x[:1], x[1:]), lambda x: np.sqrt(np.sum((x[:1] - x[1:]) ** 2, 1))[None], MATRIX),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x[None], x[None], x[None])[0], attention, MATRIX,
    ),
    "normalize": (functional.normalize, lambda x: x / np.sqrt(np.sum(x * x, 1, keepdims=True)), MATRIX),
    "rms_norm": (
        lambda x: functional.rms_norm(x, (3,), eps=0.5),
        lambda x: x / np.sqrt(np.sum(x * x, 1, keepdims=True) / 3 + 0.5), MATRIX,
    ),
    "group_norm": (lambda x: functional.group_norm(x, 2), lambda x: group_norm(x, 2), IMAGE),
    "instance_norm": (functional.instance_norm, lambda x: group_norm(x, 4), IMAGE),
    "batch_norm": (lambda x: functional.batch_norm(x, None, None, training=True), channelwise, IMAGE),
    "conv2d": (
        lambda x: functional.conv2d(x[:, :2], WEIGHT[:, :2], stride=2),
        lambda x: cross_correlation(x[:, :2], WEIGHT[:, :2].numpy(), 2), IMAGE,
    ),
    "conv2d with padding": (
        lambda x: functional.conv2d(x, WEIGHT, padding=1),
        lambda x: cross_correlation(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), WEIGHT.numpy(), 1), IMAGE,
    ),
    "conv1d with dilation, in groups": (
        lambda x: functional.conv1d(x[:, :, 0], WEIGHT[:2, :2, 0], dilation=3, groups=2),
        lambda x: np.stack([
            np.sum(x[:, 2 * g : 2 * g + 2, 0, :2] * WEIGHT[g, :2, 0, :1].numpy(), 1)
            + np.sum(x[:, 2 * g : 2 * g + 2, 0, 3:] * WEIGHT[g, :2, 0, 1:].numpy(), 1) for g in (0, 1)
        ], 1), IMAGE,
    ),
    "max_pool2d": (lambda x: functional.max_pool2d(x, 2), pooled(np.max), IMAGE),
    "avg_pool2d": (lambda x: functional.avg_pool2d(x, 2), lambda x: pooled(np.sum)(x) / 4, IMAGE),
    "adaptive_avg_pool2d": (lambda x: functional.adaptive_avg_pool2d(x, 1), lambda x: np.sum(x, (2, 3), keepdims=True)
                            / 25, IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_a_function_of_arrays_is_the_same_in_other_words(name):
    agree(*ARRAYS[name])


# ---- losses

TARGET = torch.tensor([[0.25, 0.5, 1.0], [0.0, 0.625, 0.125]], dtype=torch.float64)
T = TARGET.numpy()
CLASSES = torch.tensor([2, 0])


def huber(d, delta):
    return each(lambda v: v * v / 2 if abs(v) < delta else delta * (abs(v) - delta / 2))(d)


LOSSES = {
    "mse_loss": (lambda x: functional.mse_loss(x, TARGET), lambda x: mean((x - T) ** 2)),
    "l1_loss": (lambda x: functional.l1_loss(x, TARGET, reduction="sum"), lambda x: np.sum(np.abs(x - T))),
    "huber_loss": (lambda x: functional.huber_loss(x, TARGET, delta=0.5), lambda x: mean(huber(x - T, 0.5))),
    "smooth_l1_loss": (
        lambda x: functional.smooth_l1_loss(x, TARGET, beta=0.5), lambda x: mean(huber(x - T, 0.5)) * 2
    ),
    "binary_cross_entropy": (
        lambda x: functional.binary_cross_entropy(x.sigmoid(), TARGET),
        lambda x: -mean(T * np.log(sigmoid(x)) + (1 - T) * np.log(1 - sigmoid(x))),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: functional.binary_cross_entropy_with_logits(x, TARGET), lambda x: mean(softplus(x) - T * x)
    ),
    "nll_loss": (
        lambda x: functional.nll_loss(x, CLASSES, torch.tensor([0.5, 1, 2]).double()),
        lambda x: -(2 * x[0, 2] + 0.5 * x[1, 0]) / 2.5,
    ),
    "cross_entropy": (
        lambda x: functional.cross_entropy(x, CLASSES, ignore_index=0), lambda x: -np.log(softmax(x))[0, 2]
    ),
    "kl_div": (lambda x: functional.kl_div(2 * x, x.exp(), reduction="sum"), lambda x: np.sum(-x * np.exp(x))),
    "soft_margin_loss": (lambda x: functional.soft_margin_loss(x, TARGET), lambda x: mean(softplus(-T * x))),
    "multi_margin_loss": (
        lambda x: functional.multi_margin_loss(x, CLASSES, reduction="sum"),
        lambda x: np.sum(np.maximum(1 - x[[0, 1], [2, 0]][:, None] + x, 0) * [[1, 1, 0], [0, 1, 1]]) / 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_same_in_other_words(name):
    agree(*LOSSES[name], MATRIX)
