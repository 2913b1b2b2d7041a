"""Functions with a backward of their own, held against references of every kind: none is refused, and none blamed."""

import functools

import pytest
import torch
from torch.nn import functional

from backprop_rules import InputError, check, check_function


def function_of(forward, times=1.0):
    """Return an autograd.Function whose backward is torch's own of a forward, so many times."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *primals):
            ctx.save_for_backward(*primals)
            return forward(*primals)

        @staticmethod
        def backward(ctx, grad_y):
            with torch.enable_grad():
                live = [x.detach().requires_grad_() for x in ctx.saved_tensors]
                found = torch.autograd.grad(forward(*live), live, grad_y)
            return tuple(g * times for g in found) if len(found) > 1 else found[0] * times

    return Function


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


FORWARDS = {
    "max pool": (lambda x: functional.max_pool2d(x, 2), (1, 2, 6, 6)),
    "average pool": (lambda x: functional.avg_pool2d(x, 2), (1, 2, 6, 6)),
    "padding": (lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"), (1, 2, 4, 4)),
    "attention": (lambda x: functional.scaled_dot_product_attention(x, x, x), (1, 2, 4, 3)),
    "matrix exponential": (torch.matrix_exp, (3, 3)),
    "polygamma": (lambda x: torch.polygamma(1, x.abs() + 0.5), (4,)),
    "bicubic": (lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic"), (1, 1, 4, 4)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FORWARDS)
def test_a_function_is_held_against_any_reference(name, dtype):
    forward, shape = FORWARDS[name]
    example = (numbers(*shape, dtype=dtype),)
    assert check_function(function_of(forward), forward=forward, example=example).verdict == "right"
    wrong = check_function(function_of(forward, 2.0), forward=forward, example=example, raise_on_failure=False)
    assert wrong.verdict == "wrong"


def test_another_function_is_seen_where_no_formula_and_no_exact_meaning_are_known():
    def shifted(x):
        return torch.matrix_exp(x) + 1e-5

    found = check_function(
        function_of(shifted), forward=torch.matrix_exp, example=(numbers(3, 3),), raise_on_failure=False
    )
    assert found.verdict == "wrong"
    assert "has a forward that computes another function" in str(found)


def step(x):
    return (x > 0).to(x.dtype)


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return step(x)

    @staticmethod
    def backward(ctx, grad_y):
        return torch.zeros_like(grad_y)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y.clamp(-1, 1)


def test_a_reference_of_no_steps_or_without_a_gradient_is_one_too():
    assert check_function(Step, forward=step, example=(numbers(3, 4),)).verdict == "right"
    found = check_function(Clipped, forward=lambda x: x, example=(numbers(3, 4),), raise_on_failure=False)
    assert found.verdict == "wrong"
    assert "backprop_rules itself" not in str(found)


def pair(x):
    return x.amax(-1), x.amin(-1)


def test_another_number_of_outputs_is_told_by_both():
    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y, index = x.max(-1)
            ctx.mark_non_differentiable(index)
            ctx.save_for_backward(x, index)
            return y, index

        @staticmethod
        def backward(ctx, grad_y, _):
            x, index = ctx.saved_tensors
            return torch.zeros_like(x).scatter_(-1, index[:, None], grad_y[:, None])

    with pytest.raises(InputError, match="Two returns 2 tensors, and forward 1: give a forward that returns as many"):
        check_function(Two, forward=lambda x: x.amax(-1), example=(numbers(3, 5),))
    with pytest.raises(InputError, match="pair returns 2 tensors, and forward 1: give a forward that returns as many"):
        check_function(pair, forward=lambda x: x.amax(-1), example=(numbers(3, 5),))


def test_labels_beyond_the_classes_do_not_end_the_process():
    """Torch writes past the end where a drawn point has fewer classes than the closure's labels."""
    labels, lengths = torch.tensor([[1, 2]]), (torch.tensor([6]), torch.tensor([2]))

    def forward(x):
        return functional.ctc_loss(x.log_softmax(-1), labels, *lengths)

    def backward(grad_y, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(forward(x), x, grad_y)[0]

    assert check(backward, forward=forward, example=(numbers(6, 1, 4, dtype=torch.float64),)).verdict == "right"


class ByteOfTheLargest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y, index = x.max(-1)
        ctx.save_for_backward(index.to(torch.uint8))
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx, grad_y):
        (index,) = ctx.saved_tensors
        return torch.zeros(ctx.shape, dtype=grad_y.dtype).scatter_(-1, index.long()[..., None], grad_y[..., None])


@pytest.mark.parametrize("shape", [(3, 5), (3,), (2, 3, 4)])
def test_an_index_that_is_kept_in_a_byte_is_seen_from_a_small_example(shape):
    found = check_function(
        ByteOfTheLargest, forward=lambda x: x.max(-1).values, example=(numbers(*shape),), raise_on_failure=False
    )
    assert found.verdict == "wrong"
    assert found.finding.point.leaves[0].shape[-1] == 257


def test_an_example_that_looks_at_conjugates_is_as_good_as_another():
    example = (numbers(3, dtype=torch.complex128).conj(),)
    found = check_function(
        function_of(lambda z: z * z * 1.5), forward=lambda z: z * z, example=example, raise_on_failure=False
    )
    assert found.verdict == "wrong"


def test_labels_that_are_padded_may_be_any_number():
    labels, lengths = torch.tensor([[1, 2], [3, -1]]), (torch.tensor([6, 6]), torch.tensor([2, 1]))

    def forward(x):
        return functional.ctc_loss(x.log_softmax(-1), labels, *lengths)

    def backward(grad_y, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(forward(x), x, grad_y)[0]

    assert check(backward, forward=forward, example=(numbers(6, 2, 4, dtype=torch.float64),)).verdict == "right"


class SoftmaxInSingle(torch.autograd.Function):
    """As published for training in half precision: the backward casts all to float32, and returns that."""

    @staticmethod
    def forward(ctx, x):
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad_y):
        y, grad_y = ctx.saved_tensors[0].to(torch.float32), grad_y.to(torch.float32)
        return y * (grad_y - (y * grad_y).sum(-1, keepdim=True))


class ByAConstant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x @ torch.full((4, 2), 0.1).to(x.dtype)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ torch.full((2, 4), 0.1, dtype=torch.float32)


def test_a_backward_that_casts_is_not_said_to_be_that_of_another_forward():
    forward = functools.partial(torch.softmax, dim=-1)
    assert check_function(SoftmaxInSingle, forward=forward, example=(numbers(4, 6),)).verdict == "right"


def test_a_backward_that_takes_its_own_dtype_alone_is_asked_through_autograd_where_it_can_be():
    def forward(x):
        return x @ torch.full((4, 2), 0.1).to(x.dtype)

    assert check_function(ByAConstant, forward=forward, example=(numbers(3, 4),)).verdict == "right"


class LinearWithOptionalGradients(torch.autograd.Function):
    """As published: a size that the bias's gradient needs is taken where the weight requires one."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return x @ w.t() + b

    @staticmethod
    def backward(ctx, grad_y):
        x, w = ctx.saved_tensors
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_y @ w
        if ctx.needs_input_grad[1]:
            axes = list(range(grad_y.dim() - 1))
            grad_w = grad_y.flatten(0, -2).t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            grad_b = grad_y.sum(axes)
        return grad_x, grad_w, grad_b


def test_a_backward_that_raises_where_a_primal_requires_no_gradient_is_wrong():
    given = numbers(2, 3, 4), numbers(5, 4), numbers(5)
    asked = {"forward": lambda x, w, b: x @ w.t() + b, "example": given, "raise_on_failure": False}
    found = check_function(LinearWithOptionalGradients, **asked)
    assert found.verdict == "wrong"
    assert "otherwise where some other primal requires no gradient, as w: it raises UnboundLocalError" in str(found)
    assert "what one gradient needs is computed, or saved, only where another primal requires" in str(found)


class Arsinh(torch.autograd.Function):
    """As published in two libraries of hyperbolic geometry: digits are lost near 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x + (1 + x**2).sqrt()).log()

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y / (1 + x**2).sqrt()


class OffArsinh(Arsinh):
    @staticmethod
    def forward(ctx, x):
        return Arsinh.forward(ctx, x) + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_forward_that_loses_digits_computes_no_other_function(dtype):
    example = (numbers(4, 5, dtype=dtype) / 16,)
    assert check_function(Arsinh, forward=torch.asinh, example=example).verdict == "right"
    found = check_function(OffArsinh, forward=torch.asinh, example=example, raise_on_failure=False)
    assert found.verdict == "wrong" and "has a forward that computes another function" in str(found)


class LearnedStep(torch.autograd.Function):
    """A quantizer as published: its forward says of which steps it is defined."""

    @staticmethod
    def forward(ctx, w, step):
        assert step > 0, "no step"
        ctx.save_for_backward(w, step)
        return w / step

    @staticmethod
    def backward(ctx, grad_y):
        w, step = ctx.saved_tensors
        return grad_y / step, -(grad_y * w).sum().reshape(step.shape) / step**2


class Never(LearnedStep):
    @staticmethod
    def forward(ctx, w, step):
        raise ValueError("not here")


class Late(LearnedStep):
    @staticmethod
    def backward(ctx, grad_y):
        assert ctx.saved_tensors[1] < 1, "too far"
        return LearnedStep.backward(ctx, grad_y)


def test_where_its_own_forward_raises_a_function_is_not_asked():
    asked = {"forward": lambda w, step: w / step, "example": (numbers(3, 4), torch.tensor([0.3]))}
    found = check_function(LearnedStep, **asked)
    assert found.verdict == "right"
    assert "the backward is not asked where its own forward raises, AssertionError: no step (test_whole" in str(found)
    late = check_function(Late, **asked, raise_on_failure=False)
    assert late.verdict == "wrong" and "backward raises AssertionError: too far" in str(late)
    with pytest.raises(InputError, match="Never: its own forward raises ValueError: not here"):
        check_function(Never, **asked)


class LossAndNothing(torch.autograd.Function):
    """As published: a second output that is None where it is not asked for."""

    @staticmethod
    def forward(ctx, x, times):
        ctx.save_for_backward(x)
        ctx.times = times
        return x.pow(2).sum(-1), None

    @staticmethod
    def backward(ctx, grad_y, nothing):
        assert nothing is None
        return ctx.times * ctx.saved_tensors[0] * grad_y[..., None], None


@pytest.mark.parametrize("returned", [lambda y: (y, None), lambda y: y])
def test_an_output_that_is_none_needs_no_gradient(returned):
    def forward(x, times):
        return returned(x.pow(2).sum(-1))

    asked = {"forward": forward, "raise_on_failure": False}
    assert check_function(LossAndNothing, **asked, example=(numbers(3, 4), 2)).verdict == "right"
    assert check_function(LossAndNothing, **asked, example=(numbers(3, 4), 3)).verdict == "wrong"


class Exponential(torch.autograd.Function):
    """In other words: its digits are lost where its argument is large."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.exp2(x * 1.4426950408889634)

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y * ctx.saved_tensors[0].exp()


class NothingOfSmallOnes(Exponential):
    @staticmethod
    def forward(ctx, x):
        y = Exponential.forward(ctx, x)
        return torch.where(x < -9, 0, y).to(y.dtype)


class OffInItsOwnDtype(Exponential):
    @staticmethod
    def forward(ctx, x):
        return Exponential.forward(ctx, x) * (1 if x.dtype == torch.float64 else 1.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_forwards_own_operations_do_not_round_is_another_function(dtype):
    example = (10 * numbers(6, 8, dtype=torch.float32).to(dtype),)
    assert check_function(Exponential, forward=torch.exp, example=example).verdict == "right"
    for function in (NothingOfSmallOnes, OffInItsOwnDtype):
        found = check_function(function, forward=torch.exp, example=example, raise_on_failure=False, explain=False)
        assert found.verdict == "wrong" and "has a forward that computes another function" in str(found)
