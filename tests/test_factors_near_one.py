"""In a narrow dtype a factor near 1 is smaller than what each element rounds, and no rounding all the same."""

import pytest
import torch

from backprop_rules import check

NARROW = (torch.bfloat16, torch.float16)
every_narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype)[6:])


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(x, w):
    return torch.tanh(x @ w)


def layer_backward(factor=1.0, inside=lambda x: x):
    def backward(grad_y, x, w):
        own = x.dtype
        grad_y, x, w = map(inside, (grad_y, x, w))
        y = torch.tanh(x @ w)
        d = grad_y * (1 - y * y)
        return (d @ w.mT).to(own), (factor * (x.mT @ d)).to(own)

    return backward


def asked(backward, forward, *example):
    return check(backward, forward=forward, example=example, explain=False, raise_on_failure=False)


@every_narrow
@pytest.mark.parametrize("inside", [lambda x: x, torch.Tensor.float], ids=["op by op", "in float32"])
def test_a_factor_that_no_element_shows_is_wrong(dtype, inside):
    example = drawn(0, 128, 64).to(dtype), (drawn(1, 64, 32) / 4).to(dtype)
    report = asked(layer_backward(1.003, inside), layer, *example)
    assert report.verdict == "wrong" and "the gradient of w is wrong" in str(report), str(report)
    report = asked(layer_backward(1.0, inside), layer, *example)
    assert report.verdict == "right", str(report)


def gelu(x):
    return torch.nn.functional.gelu(x, approximate="tanh")


def gelu_backward(root):
    def backward(grad_y, x):
        t = torch.tanh(root * (x + 0.044715 * x**3))
        return grad_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x))

    return backward


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_a_constant_of_as_many_digits_as_the_dtype_has_is_right(dtype):
    root = 0.79788456 if dtype == torch.float32 else 0.797885
    report = asked(gelu_backward(root), gelu, drawn(0, 40, 30).to(dtype))
    assert report.verdict == "right", str(report)


@every_narrow
def test_a_constant_of_two_digits_is_not(dtype):
    assert asked(gelu_backward(0.79), gelu, drawn(0, 40, 30).to(dtype)).verdict == "wrong"
