"""What a function hides from autograd is named by its line: cut off nowhere else, the gradients are right."""

import pytest
import torch
from torch import Tensor, nn

from backprop_rules import check_function
from backprop_rules.diagnosis.hidden import ON_PURPOSE

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def statistic(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6).detach()


def without_a_graph(x: Tensor) -> Tensor:
    with torch.no_grad():
        h = x.exp()
        h = h * h
    return x * h + x.sin()


def twice(x: Tensor) -> Tensor:
    largest = x.amax(-1, keepdim=True).detach()  # hides nothing, as the softmax does not change with it
    weights = (x - largest).softmax(-1)
    return weights * x.detach() + x.cos().data * weights


def by_a_number(x: Tensor) -> Tensor:
    return x * x.exp().sum().item()


def as_a_float(x: Tensor) -> Tensor:
    return x * float(x.exp().sum())


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    def backward(ctx, grad_y):
        return 2 * grad_y


def with_a_function(x: Tensor) -> Tensor:
    return Doubled.apply(x).sin()


class Hooked(nn.Module):
    """A network with a layer that clips what comes back."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.exp()
        if h.requires_grad:
            h.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        return h.sin()


def said_of(function, x: Tensor = X) -> str:
    report = check_function(function, example=(x,), raise_on_failure=False)
    assert (report.verdict, bool(report)) == ("wrong", False)
    return report.mistake.words


@pytest.mark.parametrize(
    ("function", "hidden"),
    [
        (statistic, "`torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6).detach()`"),
        (without_a_graph, "`x.exp()`"),
    ],
)
def test_the_line_is_named_that_hides_something(function, hidden):
    words = said_of(function)
    assert words.startswith(f"hidden from autograd is {hidden} (test_hidden.py, line ")
    assert words.endswith(ON_PURPOSE)


def test_all_lines_are_named_that_are_needed_and_no_others():
    assert "`x.detach()` (" in said_of(twice)
    assert "`x.cos().data` (" in said_of(twice)
    assert "amax" not in said_of(twice)
    assert "`h * h` (" in said_of(without_a_graph)


@pytest.mark.parametrize(("function", "text"), [(by_a_number, "x.exp().sum().item()"), (as_a_float, "x.exp().sum()")])
def test_a_number_that_is_taken_of_what_has_a_gradient_is_named(function, text):
    assert f"{text}" in said_of(function)
    assert "makes a number of what has a gradient" in said_of(function)


def test_a_wrong_function_is_named_where_nothing_is_hidden():
    assert said_of(with_a_function).startswith("the backward of Doubled, an autograd.Function in it, is wrong")


def test_what_is_hidden_otherwise_is_told_as_possible():
    assert "or a hook changes a gradient" in said_of(Hooked())


class InLines(torch.autograd.Function):
    """A right Function of more lines than are asked for one by one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = x + 1
        y = y + 2
        y = y + 3
        y = y + 4
        y = y + 5
        y = y + 6
        y = y + 7
        y = y + 8
        y = y + 9
        y = y - 1
        y = y - 2
        y = y - 3
        y = y - 4
        y = y - 5
        y = y - 6
        y = y - 7
        y = y - 8
        y = y - 9
        return y.exp()

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * x.exp()


def test_of_many_lines_only_those_are_named_that_hide_something():
    words = said_of(lambda x: InLines.apply(x) * x.detach())
    assert words.startswith("hidden from autograd is `x.detach()` (test_hidden.py, line ")
    assert " and `" not in words


def test_a_number_that_only_counts_is_not_named_in_the_place_of_a_wrong_function():
    words = said_of(lambda x: Doubled.apply(x) * int((x * 0).sum().item() + 2))
    assert "item()" not in words
