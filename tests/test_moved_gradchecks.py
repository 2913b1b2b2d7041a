"""What gradcheck was asked of functions in public suites, asked of `check_function`: the function against itself."""

import pytest
import torch
from torch import Tensor

from backprop_rules import WrongGradient, check_function

X = torch.linspace(-1.5, 2.0, 12, dtype=torch.float64).reshape(3, 4)


def in_lists(x: Tensor) -> list:
    return [x.sin(), [x.exp().sum(), x * x]]


def in_a_dict(x: Tensor) -> dict:
    return {"sine": x.sin(), "rows": 3, "positive": x > 0, "exponential": x.exp()}


def beside_a_constant(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sin(), torch.ones(3)


def sometimes_a_constant(x: Tensor) -> Tensor:
    return x.relu().sum() if bool((x > 0).any()) else torch.zeros((), dtype=x.dtype)


@pytest.mark.parametrize("function", [in_lists, in_a_dict, beside_a_constant, sometimes_a_constant])
def test_a_function_may_return_what_gradcheck_takes(function) -> None:
    assert check_function(function, forward=function, example=(X,)).verdict == "right"


def test_what_is_in_a_list_is_held_too() -> None:
    def wrong(x: Tensor) -> list:
        return [x.sin(), [x.exp().sum(), x * x.detach()]]

    with pytest.raises(WrongGradient, match="the gradient of x is wrong"):
        check_function(wrong, forward=in_lists, example=(X,))


def test_what_seeds_and_draws_is_not_asked_in_two_threads() -> None:
    """All threads share the state of the random numbers, whatever the sampler is called."""

    def scaled(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return x.exp() * torch.distributions.Gamma(torch.ones_like(x), 1.0).sample()

    assert check_function(scaled, forward=scaled, example=(X,)).verdict == "right"
