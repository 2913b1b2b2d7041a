"""A Function that refuses what requires a gradient, where forward detaches it: published ones do, of masks."""

import pytest
import torch

from backprop_rules import InputError, check, check_function


class Dropped(torch.autograd.Function):
    """As icefall's MulForDropout3."""

    @staticmethod
    def forward(ctx, x, mask, scale):
        assert not mask.requires_grad
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return x * mask * scale

    @staticmethod
    def backward(ctx, grad_y):
        (mask,) = ctx.saved_tensors
        return grad_y * mask * ctx.scale, None, None


class Kernel(torch.autograd.Function):
    """As gpytorch's RBFCovariance."""

    @staticmethod
    def forward(ctx, a, b, length):
        if any(ctx.needs_input_grad[:2]):
            raise RuntimeError("no gradients by a and b")
        apart = (a[:, None] - b).pow(2).sum(-1)
        ctx.save_for_backward(apart, length)
        return torch.exp(-apart / length**2 / 2)

    @staticmethod
    def backward(ctx, grad_y):
        apart, length = ctx.saved_tensors
        return None, None, (grad_y * torch.exp(-apart / length**2 / 2) * apart / length**3).sum().reshape(length.shape)


class Halved(Kernel):
    @staticmethod
    def backward(ctx, grad_y):
        return None, None, Kernel.backward(ctx, grad_y)[2] / 2


def of_kernel(a, b, length):
    return torch.exp(-(a.detach()[:, None] - b.detach()).pow(2).sum(-1) / length**2 / 2)


POINTS = torch.linspace(-1, 1, 8).reshape(4, 2), torch.linspace(1, -0.5, 6).reshape(3, 2), torch.tensor([0.7])


@pytest.mark.parametrize("door", [check_function, check])
def test_what_forward_detaches_is_detached_for_a_function_that_wants_it(door):
    mask = (torch.arange(20.0).reshape(4, 5) % 3 > 0).float()
    dropped = door(Dropped, forward=lambda x, m, scale: x * m.detach() * scale, example=(mask + 1, mask, 1.5))
    assert dropped.verdict == "right" and "Dropped is applied with m detached, as in forward" in str(dropped)
    kernel = door(Kernel, forward=of_kernel, example=POINTS)
    assert kernel.verdict == "right" and "Kernel is applied with a and b detached, as in forward" in str(kernel)
    wrong = door(Halved, forward=of_kernel, example=POINTS, raise_on_failure=False)
    assert wrong.verdict == "wrong" and "is applied with a and b detached" in str(wrong)


def test_a_refusal_stays_one_where_forward_detaches_nothing():
    def forward(a, b, length):
        return torch.exp(-(a[:, None] - b).pow(2).sum(-1) / length**2 / 2)

    with pytest.raises(InputError, match="its own forward raises RuntimeError: no gradients by a and b"):
        check_function(Kernel, forward=forward, example=POINTS)
