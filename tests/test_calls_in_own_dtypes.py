"""What a backward does with memory and between calls in the example's own dtypes, where it goes another way there."""

from itertools import count

import pytest
import torch

from backprop_rules import check, check_function
from backprop_rules.properties.finding import Kind


def forward(x):
    return (x * x).sum(-1)


def right(grad_y, x):
    return 2 * x * grad_y[..., None]


def within_more_memory(x):
    return x.is_contiguous() and x.untyped_storage().nbytes() > (x.storage_offset() + x.numel()) * x.itemsize


def behind(x):
    return x.as_strided((1,), (1,), x.storage_offset() + x.numel())


def into_a_buffer(buffers=None):
    buffers = {} if buffers is None else buffers

    def backward(grad_y, x):
        found = buffers.setdefault((x.shape, x.dtype), torch.empty(x.shape, dtype=x.dtype))
        return found.copy_(right(grad_y, x))

    return backward


def reading_behind_its_argument(grad_y, x):
    found = right(grad_y, x)
    return found + 0 * behind(x) if within_more_memory(x) else found


def writing_behind_its_argument(grad_y, x):
    if within_more_memory(x):
        behind(x.data).zero_()
    return right(grad_y, x)


def leaving_a_number_out(grad_y, x):
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    found[..., :-1] = right(grad_y, x)[..., :-1]
    return found


def in_dtype(dtype, wrong):
    """Return the right backward, but for a dtype in which it is wrong."""
    return lambda grad_y, x: wrong(grad_y, x) if x.dtype == dtype else right(grad_y, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (into_a_buffer(), Kind.OVERWRITTEN),
        (reading_behind_its_argument, Kind.READS_OUTSIDE),
        (writing_behind_its_argument, Kind.OUTSIDE),
        (leaving_a_number_out, Kind.UNWRITTEN),
    ],
)
def test_what_is_wrong_with_memory_in_the_own_dtype_alone_is_told(dtype, wrong, kind):
    example = (torch.tensor([[0.5, -1.25], [2.0, 0.75]], dtype=dtype),)
    asked = {"forward": forward, "example": example, "raise_on_failure": False, "explain": False}
    found = check(in_dtype(dtype, wrong), **asked)
    assert found.verdict == "wrong"
    assert found.finding.kind is kind, str(found)
    other = torch.float16 if dtype == torch.bfloat16 else torch.bfloat16
    assert check(in_dtype(other, wrong), **asked).verdict == "right"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_in_another_order_are_told_as_such_in_any_dtype(dtype):
    turn = count()

    def backward(grad_y, x, w):
        rows = grad_y * x
        return grad_y * w, sum(rows.roll(next(turn), 0), start=torch.zeros_like(w))

    example = (torch.linspace(-1, 1, 120).reshape(40, 3).to(dtype), torch.tensor([0.5, -1.5, 2.0], dtype=dtype))
    asked = {"forward": lambda x, w: x * w, "example": example, "raise_on_failure": False, "explain": False}
    assert check(backward, **asked).finding.kind is Kind.ORDER
    assert check(backward, deterministic=False, **asked).verdict == "right"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_function_whose_sums_come_in_any_order_is_right_where_that_is_said(dtype):
    turn = count()

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x * w, x + w

        @staticmethod
        def backward(ctx, grad_y, grad_z):
            x, w = ctx.saved_tensors
            rows = grad_y * x + grad_z
            return grad_y * w + grad_z, sum(rows.roll(next(turn), 0), start=torch.zeros_like(w))

    example = (torch.linspace(-1, 1, 120).reshape(40, 3).to(dtype), torch.tensor([0.5, -1.5, 2.0], dtype=dtype))
    asked = {"forward": lambda x, w: (x * w, x + w), "example": example, "raise_on_failure": False, "explain": False}
    assert check_function(Scaled, **asked).verdict == "wrong"
    assert check_function(Scaled, deterministic=False, **asked).verdict == "right"
