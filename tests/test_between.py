"""Examples and primals with numbers, names and None beside the arrays: these stay what they are, in their places."""

import functools
from enum import Enum

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from backprop_rules import InputError, WrongGradient, check, check_function
from backprop_rules.testing import WrongGradients, assert_gradients, exact_inputs


def power(x, p, w, mode="times"):
    y = (x.abs() + 0.5) ** p
    return y * w if mode == "times" else y + w


def grad_x(grad_y, x, p, w):
    return grad_y * w * p * (x.abs() + 0.5) ** (p - 1) * x.sign()


def grad_w(grad_y, x, p):
    return grad_y * (x.abs() + 0.5) ** p


def in_its_place(grad_y, x, p, w):
    return grad_x(grad_y, x, p, w), None, grad_w(grad_y, x, p)


def without_a_none(grad_y, x, p, w):
    return grad_x(grad_y, x, p, w), grad_w(grad_y, x, p)


def last(grad_y, x, w, p):
    return grad_x(grad_y, x, p, w), grad_w(grad_y, x, p)


def by_name_alone(grad_y, x, w, *, p):
    return grad_x(grad_y, x, p, w), grad_w(grad_y, x, p)


def of_all(grad_y, *arguments):
    return in_its_place(grad_y, *arguments)


def of_arrays(grad_y, x, w):
    return in_its_place(grad_y, x, 3.0, w)


def with_y(grad_y, x, y, p, w):
    return grad_y * y * p / (x.abs() + 0.5) * x.sign(), None, grad_w(grad_y, x, p)


def called_otherwise(g, a, exponent, b):
    return in_its_place(g, a, exponent, b)


IN_PLACES = (in_its_place, without_a_none, of_all, with_y, called_otherwise)
BACKWARDS = (*IN_PLACES, last, by_name_alone, of_arrays)


class Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, w, mode):
        ctx.save_for_backward(x, w)
        ctx.p = p
        return power(x, p, w, mode)

    @staticmethod
    def backward(ctx, grad_y):
        x, w = ctx.saved_tensors
        return grad_x(grad_y, x, ctx.p, w), None, grad_w(grad_y, x, ctx.p), None


class Half(Power):
    @staticmethod
    def backward(ctx, grad_y):
        first, *others = Power.backward(ctx, grad_y)
        return first / 2, *others


class Keeping(Power):
    """Its backward is right, and keeps what it needs where the next forward does."""

    @staticmethod
    def forward(ctx, x, p, w, mode):
        Keeping.kept = x, p, w
        return power(x, p, w, mode) * 1

    @staticmethod
    def backward(ctx, grad_y):
        x, p, w = Keeping.kept
        return grad_x(grad_y, x, p, w), None, grad_w(grad_y, x, p), None


def example():
    return torch.randn(3, 4), 3.0, torch.randn(3, 4)


@pytest.mark.parametrize("backward", BACKWARDS, ids=lambda f: f.__name__)
def test_a_number_stands_where_a_backward_takes_it(backward):
    assert check(backward, forward=power, example=example()).verdict == "right"


@pytest.mark.parametrize("backward", [f for f in BACKWARDS if f is not of_arrays], ids=lambda f: f.__name__)
def test_a_backward_that_is_given_another_number_is_wrong(backward):
    x, _, w = example()
    report = check(backward, forward=lambda x, p, w: power(x, p + 1, w), example=(x, 3.0, w), raise_on_failure=False)
    assert report.verdict == "wrong"


CALLS = {
    "a number called y": (lambda g, x, y: (g * y, None), lambda x, y: x * y, (3.0,)),
    "a number called y, by name": (lambda g, x, *, y: g * y, lambda x, y: x * y, (3.0,)),
    "another option of the backward's own": (lambda g, x, eps=1e-6: g * 3.0, lambda x, p: x * p, (3.0,)),
    "by name in a dict": (lambda g, x, p: {"x": g * p, "p": None}, lambda x, p: x * p, (3.0,)),
    "in forward's order": (lambda g, p, x: (g * p, None), lambda x, p: x * p, (3.0,)),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_value_goes_to_no_other_argument(case):
    backward, forward, values = CALLS[case]
    assert check(backward, forward=forward, example=(torch.randn(3, 4), *values)).verdict == "right"


def test_a_backward_of_all_arguments_whose_first_is_called_y_is_given_no_output():
    x, w = torch.randn(3, 4), torch.randn(3, 4)
    assert check(lambda g, y, *r: (g * r[0], g * y), forward=lambda a, b: a * b, example=(x, w)).verdict == "right"


def test_a_gradient_of_a_number_is_not_dropped():
    x, p, w = example()
    with pytest.raises(InputError, match=r"2 gradients are returned, and not None for what is no array, 3\.0"):
        check(lambda g, x, p: (g * p, 99.0), forward=lambda x, p: x * p, example=(x, p))
    with pytest.raises(InputError, match=r"not None for what is no array, 3\.0"):
        assert_gradients((x, 7.0, w), forward=power, primals=(x, p, w), grad_y=x)
    given = x, np.float64(2)
    report = check(lambda g, x, p: (g * p, g), forward=lambda x, p: x * p, example=given, raise_on_failure=False)
    assert report.verdict == "wrong" and report.subject.names == ("x", "p")  # NumPy's numbers are arrays


def test_the_counterexample_shows_the_number_where_it_stands():
    report = check(
        lambda grad_y, x, p, w: in_its_place(grad_y, x, p - 1, w), forward=power, example=(*example(), "times"),
        raise_on_failure=False,
    )  # fmt: skip
    assert "    backward(grad_y, x, 3.0, w)\n" in str(report)
    assert "power(x, 3.0, w, 'times')" in str(report)


@pytest.mark.parametrize("door", [check, check_function], ids=lambda f: f.__name__)
def test_a_function_is_applied_to_all_of_them(door):
    given = (*example(), "times")
    assert door(Power, forward=power, example=given).verdict == "right"
    assert door(Half, forward=power, example=given, raise_on_failure=False).verdict == "wrong"
    assert "another forward" in str(door(Keeping, forward=power, example=given, raise_on_failure=False))


class Reversed(torch.autograd.Function):
    """A gradient reversal as published, whose options have defaults."""

    @staticmethod
    def forward(ctx, x, coeff=1.0, dim=-1):
        ctx.coeff = coeff
        return x.cumsum(dim)

    @staticmethod
    def backward(ctx, grad_y):
        return -ctx.coeff * grad_y.flip(-1).cumsum(-1).flip(-1), None, None


REVERSED = {
    "under other names": lambda x, c, d: ((1 + c) * x).detach().cumsum(d) - c * x.cumsum(d),
    "one of them by its name": lambda x, c, dim: ((1 + c) * x).detach().cumsum(dim) - c * x.cumsum(dim),
}


@pytest.mark.parametrize("name", REVERSED)
def test_a_function_is_applied_to_the_examples_numbers_and_not_to_its_defaults(name):
    given = torch.randn(3, 4), 0.3, -1
    assert check_function(Reversed, forward=REVERSED[name], example=given).verdict == "right"


def test_a_number_by_name_behind_an_option_of_the_backwards_own_goes_to_its_name():
    def backward(grad_y, x, eps=0.0, dim=-1):
        return grad_y.flip(dim).cumsum(dim).flip(dim) + eps

    given = torch.randn(3, 4), 0
    assert check(backward, forward=lambda x, dim: x.cumsum(dim), example=given).verdict == "right"


def test_a_function_that_torch_runs_is_called_with_all_of_them():
    assert check_function(power, forward=power, example=example()).verdict == "right"


def test_none_stands_for_what_is_left_out():
    def backward(grad_y, x, w, b=None):
        return grad_y @ w, grad_y.T @ x

    given = torch.randn(3, 4), torch.randn(5, 4), None
    assert check(backward, forward=torch.nn.functional.linear, example=given).verdict == "right"


def test_numpy_and_jax_are_given_it_as_well():
    x, p, w = example()

    def of_numpy(grad_y, x, p, w):
        size = np.abs(x) + 0.5
        return grad_y * w * p * size ** (p - 1) * np.sign(x), None, grad_y * size**p

    def of_jax(grad_y, x, p, w):
        size = jnp.abs(x) + 0.5
        return grad_y * w * p * size ** (p - 1) * jnp.sign(x), None, grad_y * size**p

    def definition(x, p, w):
        return (np.abs(x) + 0.5) ** p * w

    assert check(of_numpy, definition=definition, example=(x.numpy(), p, w.numpy())).verdict == "right"
    arrays = (jnp.asarray(x.numpy()), p, jnp.asarray(w.numpy()))
    assert check(of_jax, forward=power, example=arrays).verdict == "right"


def test_gradients_are_held_beside_numbers():
    x, p, w = example()
    g = torch.randn(3, 4)
    right = in_its_place(g, x, p, w)
    for got in (right, right[::2], {"x": right[0], "w": right[2]}):
        assert assert_gradients(got, forward=power, primals=(x, p, w), grad_y=g, also=without_a_none).right
    with pytest.raises(WrongGradients, match="The gradient of w is wrong"):
        assert_gradients((right[0], None, 2 * right[2]), forward=power, primals=(x, p, w), grad_y=g)


def test_exact_inputs_have_the_number_in_its_place():
    primals, _, _ = exact_inputs(lambda x, n, w: n * x @ w, (torch.randn(3, 4), 2, torch.randn(4, 5)))
    assert primals[1] == 2 and primals[2].shape == (4, 5)


def test_what_is_neither_is_refused():
    x, p, w = example()
    with pytest.raises(InputError, match="or lists of these, but not in one list with arrays"):
        check(in_its_place, forward=power, example=(x, [p, w]))
    with pytest.raises(InputError, match="beside which numbers, names and None may stand"):
        assert_gradients((x, None, w), forward=power, primals=(x, {1.0}, w), grad_y=x)
    with pytest.raises(InputError, match=r"lambda x, w: module\(x, 3.0, w\)"):
        check(in_its_place, forward=torch.nn.Linear(4, 4), example=(x, p))


class WithDefaults(torch.autograd.Function):
    """What a real kernel's Function takes beside its arrays: more than one number, most with defaults."""

    @staticmethod
    def forward(ctx, x, w, p, offset=0.0, mode="plus", in_place=True):
        ctx.save_for_backward(x, w)
        ctx.p, ctx.mode, ctx.in_place = p, mode, in_place
        return power(x, p, w, mode) + offset

    @staticmethod
    def backward(ctx, grad_y):
        x, w = ctx.saved_tensors
        assert ctx.mode == "times" and not ctx.in_place
        return grad_x(grad_y, x, ctx.p, w), grad_w(grad_y, x, ctx.p), None, None, None, None


@pytest.mark.parametrize("name", ["p", "exponent"])
def test_a_whole_function_is_called_as_the_example_says_whatever_forward_calls_its_constants(name):
    scope = {"power": power}
    exec(f"def forward(x, w, {name}, off, how, inside): return power(x, {name}, w, how) + off", scope)
    example = (torch.randn(3, 4), torch.randn(3, 4), 3.0, 0.5, "times", False)
    report = check_function(WithDefaults, forward=scope["forward"], example=example, raise_on_failure=False)
    assert report.verdict == "right", str(report)


def test_a_custom_vjp_takes_numbers_that_jax_is_not_to_differentiate():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def total(x, axis):
        return jax.scipy.special.logsumexp(x, axis=axis)

    def forth(x, axis):
        return total(x, axis), x

    def softly(axis, x, g):
        return (jax.nn.softmax(x, axis=axis) * jnp.expand_dims(g, axis),)

    def half(axis, x, g):
        return (softly(axis, x, g)[0] / 2,)

    given = {"forward": lambda x, axis: x.logsumexp(axis), "example": (jnp.ones((3, 4)), -1)}
    total.defvjp(forth, softly)
    assert check_function(total, **given).verdict == "right"
    total.defvjp(forth, half)
    assert check_function(total, **given, raise_on_failure=False).verdict == "wrong"


class Side(Enum):
    """What a function may be told by."""

    SAME = 1
    TWICE = 2


def blurred(x: torch.Tensor, size: tuple[int, int], sigma: list[float], side: Side) -> torch.Tensor:
    kernel = x.new_ones(1, 1, *size) * (sigma[0] * sigma[1] * side.value)
    return torch.nn.functional.conv2d(x, kernel)


def of_blurred(grad_y, x, size, sigma, side):
    kernel = grad_y.new_ones(1, 1, *size) * (sigma[0] * sigma[1] * side.value)
    return torch.nn.functional.conv_transpose2d(grad_y, kernel), None, None, None


def test_a_kernels_size_and_a_choice_stay_what_they_are():
    others = (2, 3), [0.5, 1.5], Side.TWICE
    x, g = torch.randn(1, 1, 5, 6), torch.randn(1, 1, 4, 4)
    assert check(of_blurred, forward=blurred, example=(x, *others)).verdict == "right"
    assert assert_gradients(of_blurred(g, x, *others), forward=blurred, primals=(x, *others), grad_y=g).right
    with pytest.raises(WrongGradient, match=r"\(2, 3\), \[0.5, 1.5\], Side.TWICE\)"):
        check(lambda g, x, *rest: (2 * of_blurred(g, x, *rest)[0],), forward=blurred, example=(x, *others))


@pytest.mark.parametrize("nothing", [(), [], {}])
def test_what_is_empty_stands_in_its_place_as_what_is_full(nothing) -> None:
    """An empty padding, say; None may come back for it, or nothing of the same kind."""

    def doubled(x: torch.Tensor, pads) -> torch.Tensor:
        return x * (2 + len(pads))

    for back in (None, nothing):
        report = check(lambda g, x, pads: (g * 2, back), forward=doubled, example=(torch.ones(2, 3), nothing))  # noqa: B023
        assert report.verdict == "right"
        assert not any("raises" in note for note in report.notes)
