"""An error of our own lowers the rung and is told as ours: it ends no check, and blames nobody's code."""

import pytest
import torch

from backprop_rules import CATALOGUE, check, check_function
from backprop_rules.errors import OwnError
from backprop_rules.evidence.allowance import mode
from backprop_rules.verify import verify_rule


def broken(*_, **__):
    raise KeyError("a formula of ours")


@pytest.fixture
def _a_broken_formula(monkeypatch):
    monkeypatch.setitem(mode.FORMULAS, torch.ops.aten.sin, broken)
    monkeypatch.setitem(mode.FORMULAS, torch.ops.aten.cos, broken)


@pytest.mark.usefixtures("_a_broken_formula")
@pytest.mark.parametrize(("sign", "verdict"), [(1, "right"), (-1, "wrong")])
def test_check_answers_and_tells_of_it(sign, verdict):
    def backward(grad_y, x):
        return sign * grad_y * x.cos()

    example = (torch.tensor([0.5, -1.25, 2.0]),)
    report = check(backward, forward=lambda x: x.sin() + torch.sinc(x) * 0, example=example, raise_on_failure=False)
    assert report.verdict == verdict
    if verdict == "right":
        assert "an error of backprop_rules itself" in str(report)
        assert "KeyError" in str(report)


@pytest.mark.usefixtures("_a_broken_formula")
def test_verify_hides_it_under_no_verdict():
    with pytest.raises(OwnError, match="an error of backprop_rules itself"):
        verify_rule(CATALOGUE["sin"], examples=5)


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad_y):
        (x,) = ctx.saved_tensors
        return grad_y * x.cos()


class Halved(Sine):
    @staticmethod
    def backward(ctx, grad_y):
        return Sine.backward(ctx, grad_y) / 2


@pytest.mark.usefixtures("_a_broken_formula")
@pytest.mark.parametrize(("function", "verdict"), [(Sine, "right"), (Halved, "wrong")])
def test_check_of_a_whole_function_answers_and_tells_of_it(function, verdict):
    example = (torch.tensor([0.5, -1.25, 2.0]),)
    report = check_function(function, forward=torch.sin, example=example, raise_on_failure=False)
    assert report.verdict == verdict
    assert "an error of backprop_rules itself" in str(report)


def test_a_forward_without_a_definition_is_no_error_of_ours():
    def backward(grad_y, x):
        return 2 * grad_y * torch.polygamma(2, x)

    example = (torch.tensor([0.5, 1.25]),)
    report = check(backward, forward=torch.digamma, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert "an error of backprop_rules itself" not in str(report)
