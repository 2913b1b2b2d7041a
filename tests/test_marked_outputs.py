"""Outputs of an autograd.Function that it marks as without a gradient."""

import pytest
import torch

from backprop_rules import check_function


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
    assert check_function(Marks, example=example, raise_on_failure=False).verdict != "wrong"
    assert check_function(Marks, forward=lambda x: (2 * x, x.sin().detach()), example=example).verdict == "right"
