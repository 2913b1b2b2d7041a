"""What is done to the cotangent on its way in, before anything else: its digits, and its small elements."""

import pytest
import torch

from backprop_rules import check


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


FORWARDS = {
    "twice": lambda x: 2 * x,
    "softmax": lambda x: x.softmax(-1),
    "product": lambda x: x @ x.mT,
    "sum": lambda x: x.sum(-1),
}


def backward_of(forward, before):
    """Return torch's own gradient of what is made of the cotangent."""

    def backward(g, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(forward(x), x, before(g))[0]

    return backward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORWARDS)
def test_one_that_is_rounded_to_a_narrow_dtype_is_seen(name, dtype):
    """The cotangents had eight digits, which bfloat16 has as well."""
    forward = FORWARDS[name]
    backward = backward_of(forward, lambda g: g.to(dtype).to(g.dtype))
    report = check(backward, forward=forward, example=(numbers(6, 6),), raise_on_failure=False)
    assert report.verdict in ("inaccurate", "wrong")
    assert report.mistake is not None
    assert "narrower dtype" in report.mistake.words


@pytest.mark.parametrize("name", ["twice", "softmax", "product"])
def test_one_whose_small_elements_are_left_out_is_seen(name):
    """As a dtype of few powers of two does, with one scale for all."""
    forward = FORWARDS[name]

    def flushed(g):
        return torch.where(g.abs() < 1e-5 * g.abs().max(), 0.0, g) if g.numel() else g

    report = check(backward_of(forward, flushed), forward=forward, example=(numbers(6, 6),), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert check(backward_of(forward, lambda g: g), forward=forward, example=(numbers(6, 6),)).verdict == "right"
