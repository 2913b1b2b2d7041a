"""The line of the backward: the one where the right value would mend what is wrong, and no line that is right."""

import functools
import inspect

import pytest
import torch
from torch.nn import functional

from backprop_rules import check, check_function


def values(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def asked(backward, forward, *example):
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert not any("error of backprop_rules itself" in note for note in report.notes)
    return report.mistake


def line_of(function, text):
    source, first = inspect.getsourcelines(function)
    (number,) = (first + k for k, line in enumerate(source) if text in line)
    return number


def stretched(x, w):
    return (3 * x).exp() * w


def twice_in_a_chain(g, x, w):
    e = (3 * x).exp()
    ge = g * w * 2  # the mistake
    gz = ge * e
    return gz * 3, g * e


def turned(x, w):
    return torch.tanh(x).T @ w


def not_turned_back(g, x, w):
    u = torch.tanh(x)
    gu = g @ w.T  # the mistake
    return gu * (1 - u * u), u @ g


def with_a_number(x, w):
    return x * w * x.sum().sin()


def sine_for_cosine(g, x, w):
    s = x.sum().sin()
    along = (g * x * w).sum()
    ga = along * s  # the mistake
    return g * w * s + ga, g * x * s


def running(x):
    return torch.cumsum(x.exp(), 0)


def from_the_start(g, x):
    ge, total = torch.zeros_like(x), torch.zeros_like(x[0])
    for k in range(len(x)):
        total = total + g[k]
        ge[k] = total  # the mistake
    return ge * x.exp()


LINES = {
    "a factor in a chain": (twice_in_a_chain, stretched, (3, 2), (3, 2)),
    "numbers that only move": (not_turned_back, turned, (4, 4), (4, 4)),
    "one number": (sine_for_cosine, with_a_number, (3,), (3,)),
    "a write into a slice": (from_the_start, running, (4,)),
}


@pytest.mark.parametrize("case", LINES)
def test_the_first_line_is_told_where_the_right_value_mends_the_gradients(case):
    backward, forward, *shapes = LINES[case]
    mistake = asked(backward, forward, *(values(*shape) for shape in shapes))
    assert f"(backward, line {line_of(backward, '# the mistake')})" in mistake.made


def shared(x, w, v, q):
    u = torch.tanh(x)
    return 3 * (u * w) + u * v * q


def used_by_two_right_gradients(g, x, w, v, q):
    u = torch.tanh(x)
    p = g * u
    return (3 * g * w + g * v * q) * (1 - u * u), p, p * q, p * v


def test_a_value_that_right_gradients_need_is_not_told():
    mistake = asked(used_by_two_right_gradients, shared, *(values(3) for _ in range(4)))
    assert mistake.made == ""


def grown(x, w):
    return x.exp() * w


def of_vmap(g, x, w):
    return torch.func.vmap(lambda a, c: a * c * 3)(g, w) * x.exp(), g * x.exp()


def of_jacrev(g, x, w):
    return (g * w * 3) @ torch.func.jacrev(torch.exp)(x), g * x.exp()


def of_a_sparse_one(g, x, w):
    return (g * w * 3).to_sparse().to_dense() * x.exp(), g * x.exp()


@pytest.mark.parametrize("backward", [of_vmap, of_jacrev, of_a_sparse_one])
def test_values_that_cannot_be_read_cost_no_name(backward):
    assert asked(backward, grown, values(3), values(3)).name == "factor 3"


def three_times(g, w):
    return g * w * 3


class Called:
    def __call__(self, g, x, w):
        e = x.exp()
        return three_times(g, w) * e, g * e


def logged(function):
    def wrapper(*args):
        return function(*args)

    return wrapper


@logged
def decorated(g, x, w):
    e = x.exp()
    return three_times(g, w) * e, g * e


def with_more(g, x, w, more):
    e = x.exp()
    return three_times(g, w) * e * more, g * e


def test_a_helper_is_told_with_the_line_that_calls_it():
    helper = line_of(three_times, "return g * w * 3")
    for backward in (Called(), decorated, functools.partial(with_more, more=1)):
        made = asked(backward, grown, values(3), values(3)).made
        assert made.startswith(f"`g * w * 3` (backward, line {helper}, called in line "), made
    own = line_of(Called.__call__, "three_times(g, w)")
    assert f"called in line {own})" in asked(Called(), grown, values(3), values(3)).made


# ---- the formula


def complex_product(x, w):
    return torch.exp(x) @ w


def without_a_conjugate(g, x, w):
    e = torch.exp(x)
    return (g @ w.mT) * e.conj(), e.mH @ g


def test_of_complex_numbers_the_formula_has_its_conjugates():
    example = values(2, 3, dtype=torch.complex128), values(3, 2, dtype=torch.complex128)
    assert "Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ" in asked(without_a_conjugate, complex_product, *example).instead


def power_of_two(x, w):
    return torch.pow(2.0, x) * w


def without_the_logarithm(g, x, w):
    p = torch.pow(2.0, x)
    return g * w * p, g * p


def by_tanh(x, w):
    return functional.gelu(x * w, approximate="tanh").exp()


def gelu_held_linear(g, x, w):
    y = by_tanh(x, w)
    return g * y * w, g * y * x


@pytest.mark.parametrize(("backward", "forward"), [(without_the_logarithm, power_of_two), (gelu_held_linear, by_tanh)])
def test_no_formula_of_another_function_is_told(backward, forward):
    instead = asked(backward, forward, values(3), values(3)).instead
    assert "n xⁿ⁻¹" not in instead
    assert "Φ" not in instead


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return stretched(x, w)

    @staticmethod
    def backward(ctx, g):
        return twice_in_a_chain(g, *ctx.saved_tensors)


def test_of_a_function_no_line_of_torchs_is_told():
    report = check_function(Doubled, forward=stretched, example=(values(3), values(3)), raise_on_failure=False)
    wrong, call = line_of(twice_in_a_chain, "the mistake"), line_of(Doubled, "return twice_in_a_chain")
    assert f"(backward, line {wrong}, called in line {call})" in str(report), str(report)
