"""What gradcheck was asked of functions in public suites, asked of `check_function`: the function against itself."""

import random

import numpy as np
import pytest
import torch
import torch.nn.utils.stateless
from torch import Tensor

from backprop_rules import InputError, WrongGradient, check_function
from backprop_rules.testing import WrongGradients, assert_gradients

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


class OfTwoOutputs(torch.autograd.Function):
    """The second one's cotangent counts `times`: 1 is right."""

    @staticmethod
    def forward(ctx, x: Tensor, times: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.times = times
        return x.sin(), x.exp()

    @staticmethod
    def backward(ctx, of_sine: Tensor, of_exponential: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return of_sine * x.cos() + ctx.times * of_exponential * x.exp(), None


def cut_off_in_one(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(x @ w.detach()).sum(-1)


def normalised_by_data(x: Tensor, w: Tensor) -> Tensor:
    return (x / x.data.square().sum(-1, keepdim=True).sqrt()) @ w


def scaled_by_a_number(x: Tensor, w: Tensor) -> Tensor:
    return (x * float(x.sum())) @ w


def through_a_rounding(x: Tensor, w: Tensor) -> Tensor:
    return (x + (x.round() - x).detach()) @ w


def without_a_gradient_of_x(x: Tensor, w: Tensor) -> Tensor:
    return (3 * x.detach() + 0 * x) @ w


W = torch.linspace(-0.7, 1.1, 20, dtype=torch.float64).reshape(4, 5)
HIDING = {
    cut_off_in_one: ("w", "hidden from autograd is `w.detach()`"),
    normalised_by_data: ("x", "hidden from autograd is `x.data`"),
    scaled_by_a_number: ("x", "`float(x.sum())`"),
    through_a_rounding: ("x", "hidden from autograd is `(x.round() - x).detach()`"),
    without_a_gradient_of_x: ("x", "hidden from autograd is `x.detach()`"),
}


@pytest.mark.parametrize("function", HIDING)
def test_given_an_example_alone_what_a_function_hides_is_no_constant(function) -> None:
    """Gradcheck calls it wrong too; beside a forward it is what its author means."""
    assert check_function(function, forward=function, example=(X, W)).verdict == "right"
    with pytest.raises(WrongGradient) as raised:
        check_function(function, example=(X, W))
    primal, line = HIDING[function]
    words = f"the gradient of {primal} is not the derivative of what the function computes"
    assert raised.value.report.verdict == "wrong"
    assert words in str(raised.value)
    assert line in str(raised.value)
    assert raised.value.finding is not None
    assert raised.value.finding.point.size <= 6  # of 47 numbers, the cotangent with them


def test_given_an_example_alone_a_wrong_backward_of_its_own_is_wrong() -> None:
    """Beside itself as a forward it is inconclusive: its derivative there is its own Function's."""
    assert check_function(OfTwoOutputs, example=(X, 1)).verdict == "right"
    report = check_function(OfTwoOutputs, example=(X, 2), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert report.finding is not None and report.finding.point.leaves[0].numel() == 1
    assert "drawn direction" not in str(report)
    own = check_function(OfTwoOutputs, forward=OfTwoOutputs.apply, example=(X, 2), raise_on_failure=False)
    assert own.verdict == "inconclusive"
    assert "the gradient that somebody's autograd.Function gives in forward is contradicted: differences" in str(own)


@pytest.mark.parametrize("function", [torch.nn.functional.hardsigmoid, torch.nn.Linear(4, 3).double()])
def test_given_an_example_alone_what_hides_nothing_is_right(function) -> None:
    """Nor is a constant of float32, as torch's own of 1 / 6, a dependence that is hidden."""
    report = check_function(function, example=(X,))
    assert report.verdict == "right"
    assert not any("hides a dependence" in note for note in report.notes)


def of_a_list(xs: list[Tensor], w: Tensor) -> Tensor:
    return xs[0] * w + xs[1].sin() * w.detach()


def test_a_function_may_take_a_list() -> None:
    some = [torch.linspace(0.1, 1, 4), torch.linspace(1, 2, 4)]
    assert check_function(of_a_list, forward=of_a_list, example=(some, some[1])).verdict == "right"
    assert check_function(lambda xs, w: xs[0] * w + xs[1].sin() * w, example=(some, some[1])).verdict == "right"
    report = check_function(of_a_list, example=(some, some[1]), raise_on_failure=False)
    assert "hidden from autograd is `w.detach()`" in report.mistake.words


def test_without_an_example_there_is_nothing_to_hold_it_against() -> None:
    with pytest.raises(InputError, match="nothing to hold the backward against"):
        check_function(cut_off_in_one)


def test_a_constant_of_float32_behind_what_has_no_formula_makes_no_other_function() -> None:
    """As a blur's kernel that is turned by an angle: the witness takes it in float64."""

    def blurred(x: Tensor) -> Tensor:
        return x * torch.special.bessel_j0(torch.tensor([0.7]) * 1.1).to(x)

    def another(x: Tensor) -> Tensor:
        return blurred(x) * (1 + 1e-9)

    assert check_function(blurred, forward=blurred, example=(X,)).verdict == "right"
    assert check_function(blurred, example=(X,)).verdict == "right"
    with pytest.raises(WrongGradient, match="its own forward gives another value there"):
        check_function(another, forward=blurred, example=(X,))


def test_a_filter_of_float32_makes_no_other_function_either() -> None:
    """As a conversion of colours has it, whose rounding is known: the witness takes its numbers in float64."""

    def mixed(x: Tensor) -> Tensor:
        return x @ torch.tensor([[0.412453, 0.357580], [0.212671, 0.715160]], dtype=torch.float32).to(x)

    def another(x: Tensor) -> Tensor:
        return x @ torch.tensor([[0.412453, 0.357581], [0.212671, 0.715160]], dtype=torch.float32).to(x)

    rows = X.reshape(6, 2)
    assert check_function(mixed, example=(rows,)).verdict == "right"
    with pytest.raises(WrongGradient, match="wrong"):
        check_function(another, forward=mixed, example=(rows,))


def test_an_output_that_has_no_gradient_is_not_asked() -> None:
    def with_a_threshold(x: Tensor) -> tuple[Tensor, Tensor]:
        threshold = x.detach().mean() / 3
        return torch.where(x > threshold, x * x, 0.0), threshold

    assert check_function(with_a_threshold, example=(X,)).verdict == "right"


def test_a_bin_that_rounding_does_not_change_is_known_in_float64() -> None:
    """As of a histogram, or a sector of a colour's hue; where rounding may change it, that is refused."""

    def looked_up(x: Tensor, table: Tensor) -> Tensor:
        return table[((x + 2) * 1.3).long().clamp(0, 4)] * x

    table, grad_y = torch.linspace(1, 2, 5, dtype=torch.float64), torch.ones_like(X)
    x, w = X.clone().requires_grad_(), table.clone().requires_grad_()
    of_x, of_w = torch.autograd.grad(looked_up(x, w), (x, w), grad_y)
    assert assert_gradients((of_x, of_w), forward=looked_up, primals=(X, table), grad_y=grad_y).right
    with pytest.raises(WrongGradients):
        assert_gradients((of_x, of_w.roll(1)), forward=looked_up, primals=(X, table), grad_y=grad_y)
    at_an_edge = torch.full_like(X, 3 / 1.3 - 2)
    with pytest.raises(InputError, match="to integers, of a number that is not exact"):
        assert_gradients((of_x, of_w), forward=looked_up, primals=(at_an_edge, table), grad_y=grad_y)


def test_a_module_that_is_called_with_other_parameters_keeps_its_own() -> None:
    """Two calls of functional_call at once would put each other's in their places."""
    layer = torch.nn.Linear(4, 3)
    own = dict(layer.named_parameters())

    def called(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    example = (torch.randn(5, 4), torch.randn(3, 4), torch.randn(3))
    for _ in range(3):
        assert check_function(called, example=example).verdict == "right"
    assert all(one is own[name] for name, one in layer.named_parameters())
    assert dict(layer.named_parameters()).keys() == own.keys()


def test_an_output_whose_shape_depends_on_the_values_ends_no_check() -> None:
    """As of matches below a ratio: a difference across such a value is none."""

    def kept(x: Tensor) -> Tensor:
        return x[x > 0.1] * 2 + x.sum()

    example = (torch.tensor([0.1 + 1e-3, -1.0, 2.0, 0.7, 0.1 - 1e-3], dtype=torch.float64),)
    check_function(kept, forward=kept, example=example, raise_on_failure=False)
    check_function(kept, example=example, raise_on_failure=False)


def test_an_output_of_as_many_elements_as_are_positive_is_right() -> None:
    """Where none is, a cotangent that was made for some is none of it: that is no point."""

    def positive(x: Tensor) -> Tensor:
        return x[x > 0].sin()

    assert check_function(positive, example=(X,)).verdict == "right"
    assert check_function(positive, forward=positive, example=(X,)).verdict == "right"
    with pytest.raises(WrongGradient, match="the gradient of x is wrong"):
        check_function(lambda x: positive(x).detach() + x[x > 0] - x[x > 0].detach(), forward=positive, example=(X,))


def test_the_outputs_of_two_dicts_go_by_their_keys() -> None:
    def in_other_order(x: Tensor) -> dict:
        return {"rest": [{"exponential": x.exp(), "sine": x.sin()}], "square": x * x}

    def forward(x: Tensor) -> dict:
        return {"square": x * x, "rest": [{"sine": x.sin(), "exponential": x.exp()}]}

    assert check_function(in_other_order, forward=forward, example=(X,)).verdict == "right"


def seeded_by_numpy(x: Tensor) -> Tensor:
    np.random.seed(0)
    y = x.exp()
    return y * torch.from_numpy(np.random.rand(*x.shape))


def seeded_by_python(x: Tensor) -> Tensor:
    random.seed(0)
    y = x.exp()
    return y * random.random()


@pytest.mark.parametrize("function", [seeded_by_numpy, seeded_by_python])
def test_whose_random_numbers_they_are_does_not_matter_in_two_threads(function) -> None:
    assert check_function(function, forward=function, example=(X,)).verdict == "right"


def test_a_module_that_is_called_with_other_parameters_by_an_older_name_is_not_called_in_two_threads() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()

    def called(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(layers, {"0.weight": w, "2.weight": v}):
            return layers(x)

    example = X, W.mT.contiguous(), W.reshape(10, 2)[:5].mT.contiguous()
    assert check_function(called, forward=called, example=example).verdict == "right"


def test_of_what_draws_random_numbers_no_digits_are_told() -> None:
    """Each run that is recorded draws others, as does each for a second derivative."""

    def dropped(x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x, 0.5) ** 2

    class Dropped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            kept = torch.nn.functional.dropout(torch.ones_like(x), 0.5)
            ctx.save_for_backward(x, kept)
            return (x * kept) ** 2

        @staticmethod
        def backward(ctx, grad_y: Tensor) -> Tensor:
            x, kept = ctx.saved_tensors
            return 2 * grad_y * x * kept * kept

    for report in (check_function(f, forward=dropped, example=(X,)) for f in (dropped, Dropped)):
        assert report.verdict == "right"
        assert "digits" not in str(report) and "second derivative" not in str(report)
        assert "no proof: forward draws random numbers" in str(report)
