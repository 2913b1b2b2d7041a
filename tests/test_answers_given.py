"""What was once refused is answered: several outputs, definitions that raise, forwards of the dtype, unknown ones."""

import numpy as np
import pytest
import torch

from backprop_rules import check


def vector():
    return torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64)


def verdict(backward, **asked):
    return check(backward, raise_on_failure=False, **asked).verdict


def both(x):
    return x.relu(), x * x


def of_both(grad_y, x):
    first, second = grad_y
    found = torch.zeros_like(x)
    if first is not None:
        found = found + first * (x > 0)
    return found if second is None else found + 2 * x * second


def of_the_first_alone(grad_y, x):
    return torch.zeros_like(x) if grad_y[0] is None else grad_y[0] * (x > 0)


@pytest.mark.parametrize(("backward", "wanted"), [(of_both, "right"), (of_the_first_alone, "wrong")])
def test_a_forward_of_two_outputs(backward, wanted):
    assert verdict(backward, forward=both, example=(vector(),)) == wanted


@pytest.mark.parametrize(("factor", "wanted"), [(1.0, "right"), (10.0, "wrong")])
def test_a_definition_that_exact_numbers_do_not_know(factor, wanted):
    def backward(grad_y, x):
        return factor * grad_y / (x * np.log(10))

    report = check(backward, definition=np.log10, example=(np.array([0.5, 1.25, 2.0]),), raise_on_failure=False)
    assert report.verdict == wanted
    assert report.rungs["proved"] == 0


@pytest.mark.parametrize(("added", "wanted"), [(1.0, "right"), (2.0, "wrong")])
def test_a_forward_that_reads_the_dtype(added, wanted):
    def forward(x):
        return torch.log(x + 1 + torch.finfo(x.dtype).eps)

    example = (vector().abs().float(),)

    def backward(grad_y, x):
        return grad_y / (x + added + torch.finfo(x.dtype).eps)

    assert verdict(backward, forward=forward, example=example) == wanted


@pytest.mark.parametrize(("sign", "wanted"), [(1, "right"), (-1, "wrong")])
def test_a_function_that_nobody_can_follow(sign, wanted):
    def backward(grad_y, x):
        return sign * grad_y * torch.special.modified_bessel_i1(x)

    def forward(x):
        return Bessel.apply(x)

    report = check(backward, forward=forward, example=(vector(),), raise_on_failure=False)
    assert report.verdict == wanted
    assert report.rungs["proved"] == report.rungs["allowed"] == 0
    assert wanted == "wrong" or any("modified_bessel_i0" in note for note in report.notes)


class Bessel(torch.autograd.Function):
    """The modified Bessel function of order 0, of which torch has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.special.modified_bessel_i0(x)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y * torch.special.modified_bessel_i1(*ctx.saved_tensors)


def test_a_constant_that_is_cast_and_then_written_to_is_cast_again():
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))

    def backward(grad_y, x):
        doubled = weight.to(torch.float64).mul_(2)
        plain = weight.mT.to(torch.float64)
        return (grad_y.double() @ (plain + doubled.mT) / 3).to(grad_y)

    example = (torch.randn(2, 300, generator=torch.Generator().manual_seed(1)),)
    assert check(backward, forward=lambda x: x @ weight, example=example).verdict == "right"


def test_where_torch_is_wrong_no_digits_are_counted_from_it():
    example = (torch.tensor([0.5, -1.25, 2.0]),)
    assert verdict(lambda g, x: torch.zeros_like(g), forward=lambda x: x.clamp(1.0, 1.0), example=example) == "right"


def degrees(g, x):
    return g * 180.0 / np.pi


def raises_where_it_is_singular(g, x):
    if not bool(torch.linalg.det(x) != 0):
        raise ArithmeticError("a singular matrix")
    return g * torch.linalg.inv(x).mT


@pytest.mark.parametrize(
    ("backward", "forward", "example"),
    [
        # Of NumPy code no roundings are known: it rounds once more than torch does.
        (degrees, torch.rad2deg, torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)),
        # Torch's own trigamma keeps nine digits, and differences of digamma say so.
        (lambda g, x: g * torch.special.zeta(2.0, x), torch.digamma, torch.linspace(0.4, 2, 5, dtype=torch.float64)),
        (raises_where_it_is_singular, lambda x: torch.linalg.slogdet(x)[1], torch.tensor([[2.0, 1.0], [0.5, 3.0]])),
    ],
)
def test_who_is_more_accurate_than_torch_or_rounds_once_more_is_right(backward, forward, example):
    framework = "numpy" if backward is degrees else None
    assert check(backward, forward=forward, example=(example,), framework=framework).verdict == "right"
