"""What the doors raise: by an interrupt, from process to process, and under which name."""

import pickle

import pytest
import torch

from backprop_rules import check, check_function
from backprop_rules.testing import assert_gradients

VECTOR = (torch.tensor([0.5, -1.25, 2.0], dtype=torch.float64),)


def test_an_interrupted_check_of_what_may_be_right_ends_as_interrupted_unless_a_report_is_wanted():
    calls = []

    def backward(grad_y, x):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return grad_y * x.cos()

    with pytest.raises(KeyboardInterrupt, match="inconclusive"):
        check(backward, forward=torch.sin, example=VECTOR)
    calls.clear()
    report = check(backward, forward=torch.sin, example=VECTOR, raise_on_failure=False)
    assert (report.verdict, report.interrupted) == ("inconclusive", True)


@pytest.mark.parametrize("at", [32, 45])  # at a point, and while a smaller counterexample is looked for
def test_after_an_interrupt_nothing_is_asked_any_longer(at):
    calls = []

    def backward(grad_y, x):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return 2 * grad_y * x.cos()

    report = check(backward, forward=torch.sin, example=VECTOR, raise_on_failure=False)
    assert (report.verdict, report.interrupted, len(calls)) == ("wrong", True, at)
    assert "likely    not looked for" in str(report)


def test_what_is_raised_is_called_as_it_is_imported_and_its_text_passes_from_process_to_process():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad_y):
            return 2 * grad_y

    doors = {
        "backprop_rules.WrongGradient": lambda: check_function(Doubled, forward=torch.clone, example=VECTOR),
        "backprop_rules.testing.WrongGradients": lambda: assert_gradients(
            torch.ones(3), forward=torch.square, primals=torch.ones(3), grad_y=torch.ones(3)
        ),
    }
    for name, door in doors.items():
        with pytest.raises(AssertionError) as caught:
            door()
        came = pickle.loads(pickle.dumps(caught.value))
        assert f"{type(came).__module__}.{type(came).__name__}" == name
        assert str(came) == str(caught.value)
