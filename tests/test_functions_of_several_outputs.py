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


def checked(function, dtype, forward=forward):
    return check_function(
        function, forward=forward, example=tuple(x.to(dtype) for x in EXAMPLE), raise_on_failure=False, explain=False
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_outputs_that_round_otherwise_are_right(dtype):
    assert checked(Right, dtype).verdict == "right"


def of_a_softmax(x):
    return x.softmax(-1), x.logsumexp(-1).float()


def in_float32(factor=1.0, whatever=True):
    """Return what a fused kernel is: in float32, `whatever` it is given, in another order than forward's."""

    def wide(x):
        return x.float() if whatever or x.dtype != torch.float64 else x

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            most = wide(x).amax(-1, keepdim=True)
            powers = (wide(x) - most).exp()
            sums = powers.sum(-1, keepdim=True)
            shares = powers / sums
            ctx.save_for_backward(shares)
            return shares.to(x.dtype), factor * (most + sums.log())[..., 0].float()

        @staticmethod
        def backward(ctx, grad_y, grad_z):
            (shares,) = ctx.saved_tensors
            weighed = shares * wide(grad_y)
            found = weighed - shares * weighed.sum(-1, keepdim=True) + shares * wide(grad_z)[..., None]
            return found.to(grad_y.dtype)

    return Function


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_computes_in_float32_is_right(dtype):
    for whatever in (False, True):
        found = checked(in_float32(whatever=whatever), dtype, of_a_softmax)
        assert found.verdict == "right", str(found)


def test_its_outputs_are_held_to_the_digits_of_float32():
    found = checked(in_float32(1 + 2.0**-14), torch.float32, of_a_softmax)
    assert found.finding.kind is Kind.FUNCTION, str(found)


def test_outputs_of_a_few_subnormal_numbers_may_round():
    class Small(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1e-40, x * 2

        @staticmethod
        def backward(ctx, grad_y, grad_z):
            return grad_y * 1e-40 + grad_z * 2

    assert checked(Small, torch.float32, lambda x: (x * 1e-30 * 1e-10, x * 2)).verdict == "right"


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
