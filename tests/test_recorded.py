"""What is recorded of a run: how far each operation is off, by the values that it had, and sums together."""

import pytest
import torch
from torch import Tensor

from backprop_rules.errors import OwnError
from backprop_rules.evidence import recorded
from backprop_rules.evidence.at_size import at_size
from backprop_rules.evidence.sensitivity import Reach, Sensitivities
from backprop_rules.testing import ONES, _asked


def recorded_of(forward, *primals: Tensor, precision: str | None = None):
    asked = _asked(forward, primals, ONES, None, precision, ())
    return asked, Sensitivities(asked.question.runs[0], asked.declared)


def reach(forward, *primals: Tensor, precision: str | None = None) -> Reach:
    """Return how far roundings take the sum of the first gradient's elements."""
    asked, found = recorded_of(forward, *primals, precision=precision)
    held = at_size(asked.question, asked.declared).gradients[0]
    return found.reach(0, torch.ones_like(held.truth), held.truth, held.truth.to(held.dtype))


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def test_what_is_written_over_later_counts_with_the_values_that_it_had():
    def kept(x: Tensor, w: Tensor) -> Tensor:
        return ((x @ w) * 3).sin()

    def written_over(x: Tensor, w: Tensor) -> Tensor:
        h = x @ w
        y = (h * 3).sin()
        h.mul_(0)
        return y

    one, other = (reach(f, numbers(6, 5), numbers(5, 7), precision="eager") for f in (kept, written_over))
    assert one == other and one.squares > 0


def test_a_cast_that_is_written_over_counts_as_it_was():
    def kept(x: Tensor) -> Tensor:
        return (x.bfloat16() * 3.0).sin()

    def written_over(x: Tensor) -> Tensor:
        return x.bfloat16().mul_(3.0).sin()

    one, other = (reach(f, numbers(50, dtype=torch.float32), precision="eager") for f in (kept, written_over))
    assert one == other and one.squares > 0


class TwiceUsed(torch.autograd.Function):
    """The identity, whose backward uses a sum of cotangents again before it is complete."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        two = grad + grad.sin()
        three = two + grad.cos()
        return two * three


class OnceUsed(TwiceUsed):
    """The same, of which nothing is a chain of sums."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        two = grad + grad.sin()
        return two * (grad.cos() - -two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sum_that_is_used_before_it_is_complete_counts_by_itself(dtype):
    twice, once = (reach(lambda x, f=f: f.apply(x).tanh(), numbers(40, dtype=dtype)) for f in (TwiceUsed, OnceUsed))
    assert abs(twice.worst / once.worst - 1) < 2.0**-20 and abs(twice.squares - once.squares) <= once.squares * 2.0**-20


def kept_of_a_loop() -> int:
    """Return how many errors of the shape of a weight are kept, of a loop of twenty steps."""

    def loop(x: Tensor, w: Tensor) -> Tensor:
        return sum((x[t] @ w).sin() for t in range(20))

    _, found = recorded_of(loop, numbers(20, 3, 4, dtype=torch.float32), numbers(4, 4, dtype=torch.float32))
    return sum(error is not None and error.shape == (4, 4) for step in found._steps for error in step.errors)


def test_of_a_loop_what_its_sums_are_off_by_is_kept_once(monkeypatch):
    assert kept_of_a_loop() == 1
    monkeypatch.setattr(Sensitivities, "_added_up", lambda _, steps: list(steps))  # as they were kept on the way
    assert kept_of_a_loop() == 20 + 1  # the terms, and the sum so far


def test_an_error_of_our_own_is_told_as_ours(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(recorded, "above", broken)
    with pytest.raises(OwnError, match=r"an error of backprop_rules itself.*ZeroDivisionError: of ours"):
        reach(torch.sin, numbers(5))


def test_errors_are_rounded_up_and_zeros_stay():
    exact = torch.tensor([0.0, 1.0 + 2.0**-40, 2.0**-170, 1e300, 0.1], dtype=torch.float64)
    above = recorded.above(exact)
    assert above.dtype == torch.float32
    assert above[0] == 0 and bool((above[1:].double() > exact[1:]).all())
    assert bool((recorded.added(above, above).double() >= 2 * above.double()).all())
    assert recorded.added(torch.tensor([1.0]), torch.tensor([2.0**-30])) > 1
