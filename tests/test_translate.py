"""The definition that is made of a torch function holds the same numbers as the one that is written by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import arb, arb_series, ctx
from torch.nn import functional

from backprop_rules import CATALOGUE
from backprop_rules.errors import InputError
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof.balls import Number, Undecided, ball, leaves, outputs, pull_back
from backprop_rules.evidence.proof.certified import certify
from backprop_rules.evidence.proof.translate import definition_of
from backprop_rules.strategies.drawing import search

ROOT_2 = arb(2).sqrt()
ROW = [0.5625, -1.25, 2.125, -0.375, 0.75, 3.5]
R = np.array(ROW)
MATRIX = [ROW[:3], ROW[3:]]
IMAGE = np.sin(np.arange(2 * 4 * 5 * 5.0)).reshape(2, 4, 5, 5).tolist()
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 2 * 2, dtype=torch.float64).reshape(3, 4, 2, 2)


def each(function):
    return np.frompyfunc(function, 1, 1)


def evaluated(definition, *values):
    """Return the balls of y and of the gradients for a cotangent without symmetry, and y's shape."""
    tape = []
    with ctx.workprec(128):
        arrays = [leaves(np.ravel(x).tolist(), np.shape(x), tape) for x in values]
        y = definition(*arrays)
        elements = list(outputs(y))
        pull_back(y, [1 + k / 4 for k in range(len(elements))], tape)
        gradients = [leaf.adjoint for x in arrays for leaf in outputs(x)]
        return [ball(e) for e in elements] + gradients, np.shape(y)


def agree(forward, definition, *values):
    """Assert that both give balls that hold a number in common, in arrays of one shape, none of them wide."""
    (mine, shape), (theirs, known) = evaluated(definition_of(forward), *values), evaluated(definition, *values)
    assert shape == known
    for found, expected in zip(mine, theirs, strict=True):
        assert found.overlaps(expected)
        assert (found.rad() if isinstance(found, arb) else found.real.rad() + found.imag.rad()) < arb(2) ** -80


def gradient(forward, value):
    """Return the balls of y and of the gradient at a number."""
    return evaluated(definition_of(forward), value)[0]


# ---- the catalogue


@pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
def test_the_definition_that_is_made_of_a_rules_forward_agrees_with_the_rules_own(rule):
    made, compared = definition_of(rule.forward), []

    def hold(point):
        try:
            own = certify(point)
        except Silent:
            return
        found = certify(replace(point, rule=replace(rule, definition=made)))
        for expected, balls in zip((own.y, *own.gradients), (found.y, *found.gradients), strict=True):
            assert (expected is None) == (balls is None)
            for a, b in zip(expected or (), balls or (), strict=True):
                assert a.overlaps(b)
                compared.append(b.is_finite())

    search(rule, hold, 15)
    assert any(compared)


# ---- functions of one number: against the same in other words, at numbers of both signs beside every kink


def softplus(x):
    return np.log1p(np.exp(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def power_of(base, x):
    return np.exp(x * arb(base).log())


def kinked(at, below, above):
    """Return the function of numbers that is one below `at`, and another above it."""
    return each(lambda v: below(v) if v < at else above(v))


def same(x):
    return x


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


def mean(x, axis=None, keepdims=False):
    return np.sum(x, axis, keepdims=keepdims) / (x.size if axis is None else x.shape[axis])


def variance(x, axis=None, correction=1):
    squares = (x - mean(x, axis, axis is not None)) ** 2
    return np.sum(squares, axis) / ((x.size if axis is None else x.shape[axis]) - correction)


def softmax(x, axis=-1):
    return np.exp(x) / np.sum(np.exp(x), axis, keepdims=True)


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


# ---- what moves numbers, and what writes them


def written(x):
    y = x.clone()
    y[y < 0] = 0
    y[0] += 1
    y.mul_(2).relu_()
    return y


def through_views(x):
    made = torch.empty(2, 6, dtype=x.dtype)
    made[0] = x
    made[1].copy_(x * x)
    made.t()[2:4].exp_()
    made.view(-1)[5:7].zero_()
    return made.transpose(0, 1)


def through_views_in_numpy(x):
    made = np.stack([x, x * x])
    made[:, 2:4] = np.exp(made[:, 2:4])
    made[0, 5] = made[1, 0] = x[0] * 0
    return made.T


def into_a_constant(x):
    made = torch.zeros(8, dtype=x.dtype)
    made[1:7] = x
    return made + made.flip(0)


def swapped(x):
    made = x.clone()
    made[[0, 1]] = made[[1, 0]]
    return made


MOVES = {
    "in place": (written, lambda x: (np.maximum(x, 0) + np.eye(6)[0]) * 2),
    "through views": (through_views, through_views_in_numpy),
    "into a constant": (into_a_constant, lambda x: np.pad(x, 1) + np.pad(x, 1)[::-1]),
    "swapped": (swapped, lambda x: x[[1, 0, 2, 3, 4, 5]]),
    "cat": (lambda x: torch.cat([x, torch.arange(2), x * x]), lambda x: np.concatenate([x, x[:2] * 0 + [0, 1], x * x])),
    "stack": (lambda x: torch.stack([x, 2 * x], 1), lambda x: np.stack([x, 2 * x], 1)),
    "split": (lambda x: x.split(2)[1] * x.chunk(3)[2], lambda x: x[2:4] * x[4:]),
    "roll": (lambda x: x.roll(2) * x.flip(0), lambda x: np.roll(x, 2) * x[::-1]),
    "repeat": (lambda x: x.repeat(2, 2), lambda x: np.tile(x, (2, 2))),
    "expand": (lambda x: x.expand(2, 6).reshape(-1), lambda x: np.tile(x, 2)),
    "diagonal": (lambda x: torch.diag_embed(x).diagonal() * x, lambda x: x * x),
    "tril": (lambda x: torch.outer(x, x).tril(-1), lambda x: x[:, None] * x * np.tri(6, k=-1)),
    "pad": (lambda x: functional.pad(x, (1, 2), value=3.0), lambda x: np.concatenate([[3], x, [3, 3]])),
    "reflect": (lambda x: functional.pad(x[None], (2, 1), mode="reflect")[0], lambda x: np.pad(x, (2, 1), "reflect")),
    "index": (lambda x: x[torch.tensor([[0, 5], [5, 1]])], lambda x: x[[[0, 5], [5, 1]]]),
    "masked": (lambda x: x[x > 0.6], lambda x: x[[2, 4, 5]]),
    "embedding": (
        lambda x: functional.embedding(torch.tensor([1, 1, 0]), x.view(2, 3)), lambda x: x.reshape(2, 3)[[1, 1, 0]],
    ),
    "scatter_add": (
        lambda x: torch.ones(3).double().scatter_add(0, torch.tensor([0, 2, 0, 2, 2]), x),
        lambda x: 1 + np.stack([x[0] + x[2], 0 * x[0], x[1] + x[3] + x[4]]),
    ),
    "index_add": (
        lambda x: x.index_add(0, torch.tensor([1, 1]), x[:2] * x[:2], alpha=2),
        lambda x: x + 2 * np.array([0, 1, 0, 0, 0, 0]) * (x[0] * x[0] + x[1] * x[1]),
    ),
    "index_put": (
        lambda x: x.index_put((torch.tensor([1, 1]),), x[:2] * x[:2], accumulate=True),
        lambda x: x + np.array([0, 1, 0, 0, 0, 0]) * (x[0] * x[0] + x[1] * x[1]),
    ),
    "scatter": (
        lambda x: x.scatter(0, torch.tensor([2, 1]), x[4:]).scatter(0, torch.tensor([0]), 7.0),
        lambda x: np.concatenate([x[:1] * 0 + 7, x[5:], x[4:5], x[3:]]),
    ),
    "unfold": (lambda x: x.unfold(0, 3, 2), lambda x: np.stack([x[:3], x[2:5]])),
    "where": (lambda x: torch.where(x > 0, x, 0.1), kinked(0, lambda v: 0 * v + 0.1, same)),
    "equal to itself": (lambda x: torch.where(x.le(x) & x.eq(x) & x.isfinite(), x, 7.0), same),
    "masked_fill": (
        lambda x: x.masked_fill((x > 0) & ~(x > 1), 2.0), each(lambda v: 2 + 0 * v if v > 0 and not v > 1 else v),
    ),
    "times a condition": (lambda x: x * (x > 0) + (x < 3).float(), lambda x: np.maximum(x, 0) + (R < 3)),
    "vmap": (lambda x: torch.vmap(lambda row: row.sin() * row.sum())(x.view(2, 3)).view(-1), lambda x: (
        np.sin(x).reshape(2, 3) * np.sum(x.reshape(2, 3), 1, keepdims=True)).reshape(-1)),
    "control flow": (lambda x: x * 2 if (x > 3).any() and x.sum() > 0 else x, lambda x: x * 2),
    "a gradient": (torch.func.grad(lambda x: (x**3).sum()), lambda x: 3 * x * x),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_and_writes_numbers_is_the_same_in_numpy(name):
    agree(*MOVES[name], ROW)


LAYERS = {
    "linear": (torch.nn.Linear(6, 2), same),
    "lstm": (torch.nn.LSTMCell(6, 2), lambda y: y[0]),
    "conv1d": (torch.nn.Conv1d(1, 2, 3), same),
    "layer_norm": (torch.nn.LayerNorm(6), same),
    "batch_norm": (torch.nn.BatchNorm1d(6).eval(), same),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_another_dtype_are_taken_with_their_exact_values(name):
    layer, first = LAYERS[name]
    found = [
        evaluated(definition_of(lambda x, dtype=dtype: first(layer.to(dtype)(x[None]))), ROW)[0]
        for dtype in (torch.float32, torch.float64)
    ]
    assert all(a.overlaps(b) for a, b in zip(*found, strict=True))


def test_masks_and_indices_come_as_plain_arrays_and_a_missing_primal_as_none():
    made = definition_of(lambda x, mask, index, b=None, *, n: torch.where(mask, x, n)[index])
    tape = []
    x = leaves([1.0, 2.0, 3.0], (3,), tape)
    y = made(x, np.array([True, False, True]), np.array([2, 1]), None, n=0.5)
    assert [float(ball(v)) for v in outputs(y)] == [3, 0.5]


def test_holomorphic_functions_of_complex_numbers_have_complex_derivatives():
    agree(
        lambda z: (z @ z).exp() / (1 + z),
        lambda z: np.exp(z @ z) / (1 + z),
        [[0.5 + 0.25j, -0.5j], [0.125 + 0j, 0.25 - 0.5j]],
    )
    with pytest.raises(InputError, match="complex numbers"):
        gradient(lambda z: z.abs(), [1 + 1j])
    with pytest.raises(Undecided, match="conjugate"):
        gradient(lambda z: z.conj() * z, [1 + 1j])
    assert gradient(lambda x: x.conj() * x, [3.0])[1] == 6


# ---- decisions


def test_a_comparison_is_that_of_the_exact_values():
    def forward(x):
        return torch.where(x + 1 > 1, 3 * x, 5 * x) + (x + 1 > 1) * x

    y, slope = gradient(forward, [2.0**-70])
    assert slope == 4
    assert float(y) == 4 * 2.0**-70


# Where two pieces meet, the derivative holds both sides', and no others; None where the function jumps.
MEETING = {
    "relu": (torch.relu, 0, (0, 1)),
    "leaky_relu": (lambda x: functional.leaky_relu(x, 0.25), 0, (0.25, 1)),
    "elu": (functional.elu, 0, (1, 1)),
    "celu": (lambda x: functional.celu(x, 0.5), 0, (1, 1)),
    "huber": (lambda x: functional.huber_loss(x, torch.zeros(1)), 1, (1, 1)),
    "softshrink": (functional.softshrink, 0.5, (0, 1)),
    "hardswish": (functional.hardswish, -3, (-0.5, 0)),
    "a choice": (lambda x: torch.where(x > 0, x, x / 2), 0, (0.5, 1)),
    "a choice by two": (lambda x: torch.where((x >= -1) & (x <= 1), x, x.sign()), 1, (0, 1)),
    "a choice by either": (lambda x: torch.where((x < -1) | (x > 1), x.sign(), x), -1, (0, 1)),
    "a choice in place": (lambda x: x.clone().masked_fill_(~(x > 0), 0.0), 0, (0, 1)),
    "an index in place": (written, 0, (0, 2)),
    "a choice turned around": (lambda x: torch.where((x > 0).flip(0), x, 0.0), 0, None),
    "the sign": (torch.sign, 0, None),
    "floor": (torch.floor, 2, None),
    "hardshrink": (functional.hardshrink, 0.5, None),
    "softplus": (functional.softplus, 20, None),
    "a choice that jumps": (lambda x: torch.where(x > 0, x, 1), 0, None),
    "a product with a condition": (lambda x: x * (x > 0), 0, None),
    "an index": (lambda x: x[x >= 0], 0, None),
    "control flow": (lambda x: x if x > 0 else x / 2, 0, None),
    "any": (lambda x: x if (x > 0).any() else x / 2, 0, None),
    "the place of the largest": (lambda x: torch.stack([x, 2 - x]).argmax(0) * x, 1, None),
    "atan2": (lambda x: torch.atan2(x, -torch.ones(1)), 0, None),
}


@pytest.mark.parametrize("name", MEETING)
def test_where_pieces_meet_the_derivative_is_between_the_sides_and_a_jump_is_undecided(name):
    forward, at, sides = MEETING[name]
    if sides is None:
        with pytest.raises(Undecided):
            gradient(forward, [at])
        return
    *_, slope = gradient(forward, [at])
    assert slope.contains(sides[0])
    assert slope.contains(sides[1])


@pytest.mark.parametrize("name", ["elu", "celu", "huber", "leaky_relu", "softshrink", "hardswish"])
def test_where_pieces_meet_smoothly_there_is_one_derivative(name):
    forward, at, (low, high) = MEETING[name]
    *_, slope = gradient(forward, [at])
    assert not slope.contains(low - 0.01)
    assert not slope.contains(high + 0.01)


def test_a_ball_across_a_kink_holds_both_sides_and_across_a_jump_is_undecided():
    box = arb(0, 0.5)
    y, slope = gradient(lambda x: functional.leaky_relu(x, 0.25), [box])
    assert y.contains(-0.125) and y.contains(0.5)
    assert slope.contains(0.25) and slope.contains(1)
    for forward in (torch.sign, torch.floor, lambda x: torch.where(x > 0, x, x / 2)):
        with pytest.raises(Undecided):
            gradient(forward, [box])


def test_constants_are_compared_as_torch_compares_them():
    mask = torch.ones(2, 2).tril()
    agree(lambda x: x.masked_fill(mask == 0, 0.0), lambda x: x * mask.numpy(), [[1.0, 2.0], [3.0, 4.0]])
    agree(lambda x: padded(x).masked_fill(padded(x) == 0, 7.0), lambda x: np.concatenate([[7], x]), ROW)


def padded(x):
    made = torch.zeros(7, dtype=x.dtype)
    made[1:] = x
    return made


def test_where_a_constant_is_made_and_nothing_else_its_derivative_is_zero():
    y, *gradients = gradient(lambda x: torch.full((), 0.1, dtype=x.dtype), [2.0])
    assert float(y) == 0.1
    assert gradients == [0]


# ---- refusals

REFUSED = {
    "aten._linalg_det.default, which is not known": lambda x: torch.linalg.det(x.outer(x)),
    "draws random numbers": lambda x: functional.dropout(x, 0.5),
    "takes a Python number out of a tensor": lambda x: x * x.sum().item(),
    "takes values out of a tensor by numpy": lambda x: torch.from_numpy(np.sin(x.numpy())),
    "takes values out of a tensor by tolist": lambda x: x * x.tolist()[0],
    "takes values out of a tensor by tensor": lambda x: torch.tensor([x[0], 1.0]),
    "reads memory into which no operation of torch wrote": lambda x: torch.empty_like(x) + x,
    "takes the bits of a tensor": lambda x: x.view(torch.int64).double(),
    "depends on the dtype": lambda x: functional.rms_norm(x, (6,)),
    "changes the size": lambda x: x.clone().resize_(9) + 1,
    "ceil_mode": lambda x: functional.max_pool1d(x[None, None], 4, ceil_mode=True),
    "padding_idx": lambda x: functional.embedding(torch.tensor([0]), x.view(2, 3), padding_idx=0),
    "returns a tuple": lambda x: (x, x),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_known_is_refused_with_what_to_do(why):
    with pytest.raises(InputError, match=why) as refused:
        gradient(REFUSED[why], ROW)
    assert "no definition can be made of this forward, as" in str(refused.value)
    assert "`definition=`: the same function in NumPy notation" in str(refused.value)
