"""Steps that write into a tensor, in code that stores each of them in its own dtype."""

import pytest
import torch
from torch.nn import functional

from backprop_rules.testing import WrongGradients, assert_gradients

N = 4000


def summed_up(x, y):
    z = y * 1
    z += x * 1.3
    return z * y


def multiplied(x, y):
    z = torch.zeros(N, dtype=x.dtype)
    z.add_(y * 1.3)
    z.mul_(y)
    z.mul_(1.3)
    return z * y + x


def copied(x, y):
    z = torch.zeros(2, N)
    z[0] = x * 1.3
    z[1] = y
    return (z * y).sum(0)


def multiplied_and_added(x, y):
    z = y * 1
    z.addcmul_(x, x * 1.3)
    return z * y


def of_eager(forward, g, *primals):
    live = [x.detach().clone().requires_grad_() for x in primals]
    return torch.autograd.grad(forward(*live), live, g.to(forward(*live).dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("forward", [summed_up, multiplied, copied, multiplied_and_added])
def test_what_is_written_into_a_tensor_of_another_dtype_has_gradients_in_its_own(forward, dtype):
    """Several failed before: gradients were not cast back, and what was written counted as of the wider dtype."""
    torch.manual_seed(0)
    x, y, g = torch.randn(N).to(dtype), torch.randn(N), torch.randn(N)
    gradients = of_eager(forward, g, x, y)
    g = g.to(forward(x, y).dtype)
    assert_gradients(gradients, forward=forward, primals=(x, y), grad_y=g, precision="eager")
    wrong = gradients[0] * 1.01, gradients[1]
    with pytest.raises(WrongGradients):
        assert_gradients(wrong, forward=forward, primals=(x, y), grad_y=g, precision="eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_of_each_channel_may_lie_in_memory_channel_by_channel(dtype):
    """Torch looks at its own mean in other strides, by writing to where the tensor looks."""
    torch.manual_seed(0)
    x = torch.randn(4, 8, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)
    w, g = torch.randn(8, 5, dtype=dtype), torch.randn(4, 5, dtype=dtype)

    def gated(x, w):
        return (functional.adaptive_avg_pool2d(x, 1).sigmoid() * x).mean((2, 3)) @ w

    gradients = of_eager(gated, g, x, w)
    assert_gradients(gradients, forward=gated, primals=(x, w), grad_y=g, precision="eager")
    with pytest.raises(WrongGradients):
        assert_gradients((gradients[0] * 1.1, gradients[1]), forward=gated, primals=(x, w), grad_y=g, precision="eager")
