"""Torch's own backward of fifty operations, given as a forward, a backward and one call, is not objected to."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import check

# What is called, and with which shapes.
OPERATIONS = {
    "add": (lambda x, z: x + z, (2, 3), (3,)),
    "sub": (lambda x, z: x - 2 * z, (2, 3), (2, 1)),
    "mul": (lambda x, z: x * z, (2, 3), (3,)),
    "div": (lambda x, z: x / z, (2, 3), (2, 3)),
    "addcmul": (lambda x, a, b: torch.addcmul(x, a, b, value=0.5), (3,), (3,), (3,)),
    "square": (torch.square, (2, 3)),
    "cube": (lambda x: x**3, (2, 3)),
    "sqrt": (torch.sqrt, (2, 3)),
    "rsqrt": (torch.rsqrt, (2, 3)),
    "reciprocal": (torch.reciprocal, (2, 3)),
    "exp": (torch.exp, (2, 3)),
    "exp2": (torch.exp2, (2, 3)),
    "expm1": (torch.expm1, (2, 3)),
    "log": (torch.log, (2, 3)),
    "log1p": (torch.log1p, (2, 3)),
    "log2": (torch.log2, (2, 3)),
    "sin": (torch.sin, (2, 3)),
    "cos": (torch.cos, (2, 3)),
    "tanh": (torch.tanh, (2, 3)),
    "sigmoid": (torch.sigmoid, (2, 3)),
    "erf": (torch.erf, (2, 3)),
    "abs": (torch.abs, (2, 3)),
    "relu": (torch.relu, (2, 3)),
    "relu6": (functional.relu6, (2, 3)),
    "leaky_relu": (functional.leaky_relu, (2, 3)),
    "elu": (functional.elu, (2, 3)),
    "selu": (functional.selu, (2, 3)),
    "gelu": (functional.gelu, (2, 3)),
    "silu": (functional.silu, (2, 3)),
    "softplus": (functional.softplus, (2, 3)),
    "hardswish": (functional.hardswish, (2, 3)),
    "logsigmoid": (functional.logsigmoid, (2, 3)),
    "hardtanh": (functional.hardtanh, (2, 3)),
    "clamp": (lambda x: x.clamp(-0.5, 1), (2, 3)),
    "maximum": (torch.maximum, (2, 3), (2, 3)),
    "where": (torch.where, torch.tensor([True, False, True]), (3,), (3,)),
    "sum": (lambda x: x.sum(1), (2, 3)),
    "mean": (lambda x: x.mean(0), (2, 3)),
    "prod": (lambda x: x.prod(1), (2, 3)),
    "cumsum": (lambda x: x.cumsum(1), (2, 3)),
    "amax": (lambda x: x.amax(1), (2, 3)),
    "var": (lambda x: x.var(1), (2, 3)),
    "norm": (lambda x: x.norm(dim=1), (2, 3)),
    "softmax": (lambda x: x.softmax(1), (2, 3)),
    "log_softmax": (lambda x: x.log_softmax(1), (2, 3)),
    "logsumexp": (lambda x: x.logsumexp(1), (2, 3)),
    "matmul": (torch.matmul, (2, 3, 4), (4, 5)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 5)),
    "linear": (functional.linear, (2, 4), (3, 4), (3,)),
    "einsum": (lambda x, z: torch.einsum("ij,kj->ik", x, z), (2, 3), (4, 3)),
    "layer_norm": (lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b), (2, 4), (4,), (4,)),
    "mse_loss": (functional.mse_loss, (2, 3), (2, 3)),
    "cross_entropy": (functional.cross_entropy, (3, 4), torch.tensor([1, 0, 3])),
    "embedding": (functional.embedding, torch.tensor([0, 2, 2]), (3, 4)),
    "cat": (lambda x, z: torch.cat([x, z], 1), (2, 3), (2, 4)),
    "flip": (lambda x: x.flip(1), (2, 3)),
}


def by_autograd(forward):
    def backward(grad_y, *primals):
        inexact = [x.is_floating_point() for x in primals]
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(live) for x, live in zip(primals, inexact, strict=True)]
            asked = [x for x in leaves if x.requires_grad]
            found = iter(torch.autograd.grad(forward(*leaves), asked, grad_y))
        return tuple(next(found) if live else None for live in inexact)

    return backward


def called(arrays):
    numbers = torch.Generator().manual_seed(0)
    return [x if torch.is_tensor(x) else torch.randn(x, generator=numbers, dtype=torch.float64) for x in arrays]


def test_there_are_fifty():
    assert len(OPERATIONS) >= 50


@pytest.mark.parametrize("name", OPERATIONS)
def test_torchs_own_backward_is_not_objected_to(name):
    forward, *arrays = OPERATIONS[name]
    report = check(
        by_autograd(forward), forward=forward, example=called(arrays), max_examples=60, raise_on_failure=False
    )
    assert report.verdict == "right", str(report)
