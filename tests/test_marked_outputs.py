"""Outputs of an autograd.Function that it marks as without a gradient."""

import pytest
import torch

from backprop_rules import InputError, check_function


class Marks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        beside = x.sin()
        ctx.mark_non_differentiable(beside)
        return 2 * x, beside

    @staticmethod
    def backward(ctx, grad_y, _):
        return 2 * grad_y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_function_that_marks_an_output_is_not_wrong_by_a_proof_of_its_own_forward(dtype):
    example = (torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype),)
    assert check_function(Marks, example=example).verdict == "right"
    assert check_function(MarksWrongly, example=example, raise_on_failure=False).verdict != "right"
    assert check_function(Marks, forward=lambda x: (2 * x, x.sin().detach()), example=example).verdict == "right"


class MarksWrongly(Marks):
    @staticmethod
    def backward(ctx, grad_y, _):
        return 3 * grad_y


@pytest.mark.parametrize(("function", "verdict"), [(Marks, "right"), (MarksWrongly, "wrong")])
def test_an_output_that_it_marks_has_no_gradient_whatever_forward_says(function, verdict):
    example = (torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),)
    report = check_function(function, forward=lambda x: (2 * x, x.sin()), example=example, raise_on_failure=False)
    assert report.verdict == verdict, report
    marks = f"{function.__name__} marks output 1 as without a gradient, as if forward detached it"
    assert marks in str(report)
    assert "marks" not in str(check_function(Double, forward=lambda x: (2 * x, x.sin()), example=example))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x, x.sin()

    @staticmethod
    def backward(ctx, grad_y, grad_z):
        (x,) = ctx.saved_tensors
        return 2 * grad_y + grad_z * x.cos()


class First(torch.autograd.Function):
    """The largest of each row, and where it is: whole numbers have no cotangent, and None is passed in its place."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        y, index = x.max(-1, keepdim=True)
        ctx.save_for_backward(index, x)
        ctx.mark_non_differentiable(index)
        return y, index

    @staticmethod
    def backward(ctx, grad_y, grad_index):
        assert grad_index is None
        index, x = ctx.saved_tensors
        return torch.zeros_like(x).scatter(-1, index, grad_y)


class AddsNone(First):
    @staticmethod
    def backward(ctx, grad_y, grad_index):
        return First.backward(ctx, grad_y + grad_index.sum(), None)


def test_of_whole_numbers_a_function_gets_what_the_engine_passes():
    example = (torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),)
    held = {"forward": lambda x: tuple(x.max(-1, keepdim=True)), "example": example}
    assert check_function(First, **held).verdict == "right"
    assert check_function(First, example=example).verdict == "right"
    with pytest.raises(InputError, match="'NoneType' object has no attribute 'sum'"):
        check_function(AddsNone, **held)
