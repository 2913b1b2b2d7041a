"""Functions of several outputs with a backward of their own are asked all that those of one output are asked."""

import pytest
import torch

from backprop_rules import check_function
from backprop_rules.properties.finding import Kind

EXAMPLE = (torch.tensor([[0.5, -1.25], [2.0, 0.75]]),)


def forward(x):
    return x * x, x.exp()


class Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2, torch.exp2(x * 1.4426950408889634)

    @staticmethod
    def backward(ctx, grad_y, grad_z):
        (x,) = ctx.saved_tensors
        return 2 * x * grad_y + x.exp() * grad_z


class OtherFirst(Right):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 1.5 * x * x, x.exp()


class OtherSecond(Right):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x, x.exp() + 1e-3


class UsesUpWhatItKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x, ctx.kept = x.clone(), x.exp()
        return x * x, ctx.kept.clone()

    @staticmethod
    def backward(ctx, grad_y, grad_z):
        return 2 * ctx.x * grad_y + ctx.kept.mul_(grad_z)


class WritesIntoAnOutput(UsesUpWhatItKept):
    @staticmethod
    def forward(ctx, x):
        ctx.x, z = x.clone(), x.exp()
        ctx.kept = z.detach()
        return x * x, z


class WritesToItsArgument(Right):
    @staticmethod
    def forward(ctx, x):
        found = Right.forward(ctx, x.clone())
        x.zero_()
        return found


class OtherwiseForTheEngine(Right):
    @staticmethod
    def backward(ctx, grad_y, grad_z):
        through_autograd = torch._C._current_graph_task_id() >= 0
        return Right.backward(ctx, grad_y * (2 if through_autograd else 1), grad_z)


def in_dtype(dtype, wrong):
    """Return the right Function, but for a dtype in which it is wrong."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.of = wrong if x.dtype == dtype else Right
            return ctx.of.forward(ctx, x)

        @staticmethod
        def backward(ctx, *grads):
            return ctx.of.backward(ctx, *grads)

    return Function


def checked(function, dtype):
    return check_function(
        function, forward=forward, example=tuple(x.to(dtype) for x in EXAMPLE), raise_on_failure=False, explain=False
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_outputs_that_round_otherwise_are_right(dtype):
    assert checked(Right, dtype).verdict == "right"


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (OtherFirst, Kind.FUNCTION),
        (OtherSecond, Kind.FUNCTION),
        (UsesUpWhatItKept, Kind.SAVED),
        (WritesIntoAnOutput, Kind.SAVED),
        (WritesToItsArgument, Kind.DIRTY),
        (OtherwiseForTheEngine, Kind.ENGINE),
    ],
)
def test_what_is_wrong_beside_the_gradients_of_several_outputs_is_told(function, kind):
    found = checked(function, torch.float32)
    assert found.verdict == "wrong"
    assert found.finding.kind is kind, str(found)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [(UsesUpWhatItKept, Kind.SAVED), (WritesToItsArgument, Kind.DIRTY), (OtherwiseForTheEngine, Kind.ENGINE)],
)
def test_it_is_told_where_it_is_so_in_the_own_dtype_alone(wrong, kind):
    found = checked(in_dtype(torch.bfloat16, wrong), torch.bfloat16)
    assert found.verdict == "wrong"
    assert found.finding.kind is kind, str(found)
    assert checked(in_dtype(torch.float16, wrong), torch.bfloat16).verdict == "right"


def test_outputs_of_dicts_are_compared_by_their_keys():
    def swapped(x):
        return {"b": x.exp(), "a": x * x}

    def by_keys(x):
        return {"a": x * x, "b": x.exp()}

    assert check_function(swapped, forward=by_keys, example=EXAMPLE).verdict == "right"
    found = check_function(
        lambda x: {"b": x * x, "a": x.exp()}, forward=by_keys, example=EXAMPLE, raise_on_failure=False
    )
    assert found.verdict == "wrong"
