"""Ends of functions: where kernels take numbers below the smallest normal one for 0, and where a sigmoid is 1."""

import pytest
import torch
from torch import Tensor

from backprop_rules.testing import WrongGradients, assert_gradients

NORMAL = torch.finfo(torch.float32).smallest_normal


def numbers(*shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


def flushed(x: Tensor) -> Tensor:
    return torch.where(x.abs() < NORMAL, 0.0, x)


def soft(x):
    return torch.softmax(x, -1)


def soft_in_float32(g, x):
    p = flushed(soft(x))
    return flushed(flushed(p * g) - p * (p * g).sum(-1, keepdim=True))


def erf_in_float32(g, x):
    return flushed(g * flushed(torch.exp(-x * x)) * (2 / torch.pi**0.5))


KERNELS = {"softmax": (soft, soft_in_float32, 30.0), "erf": (torch.erf, erf_in_float32, 4.0)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", KERNELS)
def test_what_is_flushed_is_right_and_what_is_larger_is_not(case, dtype):
    forward, backward, scale = KERNELS[case]
    x, g = numbers(64, 256, scale=scale).to(dtype), numbers(64, 256).to(dtype)
    made = backward(g.float(), x.float())
    live = x.double().requires_grad_()
    (truth,) = torch.autograd.grad(forward(live), live, g.double())
    lost = (made == 0) & (truth.abs() > 2.0**-148)
    assert bool(lost.any())  # else nothing is asked
    held = {"forward": forward, "primals": (x,), "grad_y": g, "blind": "allow"}
    assert assert_gradients(made.to(dtype), **held).right
    assert assert_gradients(made.to(dtype), **held, y=flushed(forward(x.float())).to(dtype)).right
    small = (truth.abs() > 2.0**-115) & (truth.abs() < 2.0**-105) & (made != 0)
    assert bool(small.any())
    with pytest.raises(WrongGradients):
        assert_gradients(torch.where(small, 0.0, made).to(dtype), **held)
    with pytest.raises(WrongGradients):  # that nothing is flushed op by op is known
        assert_gradients(made.to(dtype), **held, precision="eager")


@pytest.mark.parametrize("forward", [torch.nn.functional.silu, lambda x: x * torch.sigmoid(x)])
def test_a_factor_is_seen_where_a_sigmoid_is_1(forward):
    """What the exponential is off by, more the larger its argument, is of no account there."""
    x = 1000 * (1 + torch.rand(512, generator=torch.Generator().manual_seed(0)) / 10)
    held = {"forward": forward, "primals": (x,), "grad_y": torch.ones_like(x)}
    assert assert_gradients(torch.ones_like(x), **held).right
    with pytest.raises(WrongGradients):
        assert_gradients(torch.full_like(x, 1.002), **held)
