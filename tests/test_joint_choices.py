"""Of two numbers that may be the smaller one, one gets the gradient that the other does not."""

import pytest
import torch
from torch import Tensor

from backprop_rules.testing import WrongGradients, assert_gradients, enclose

DTYPES = (torch.float32, torch.bfloat16)


def first(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a <= b, a, b)


def second(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a < b, a, b)


def policy(least, log: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    ratio = torch.exp(log - old)
    return -least(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def policy_as_a_loss(least, log: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    ratio = torch.exp(log - old)
    return -least(advantage * ratio, advantage * torch.clamp(ratio, 0.8, 1.2)).sum() / 7


def clipped_from_both_sides(least, log: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    ratio = torch.exp(log - old)
    inner = least(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return torch.where(advantage < 0, -least(-inner, -3 * advantage), inner).mean()


def value(least, new: Tensor, old: Tensor, returns: Tensor) -> Tensor:
    clipped = old + (new - old).clamp(-0.2, 0.2)
    return -0.5 * least(-((new - returns) ** 2), -((clipped - returns) ** 2)).mean()


def of_other_slopes(least, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Where the choice counts, for one tie in three."""
    turned = 2 * a.sin() - torch.where(torch.arange(len(a)) % 3 > 0, b, a.sin().detach())
    return (least(a.sin(), turned) * c).sum()


def of_two(least, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    near = torch.where(torch.arange(len(a)) % 2 > 0, b, a.detach())
    return (1 - least(a.exp(), near.exp() / (1 + c.square() - c * c)) * c).sum()


CANCEL = (policy, policy_as_a_loss, clipped_from_both_sides, value)
COUNT = (of_other_slopes, of_two)


def primals(dtype: torch.dtype, seed: int, n: int = 300) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(seed)
    old, moves, factor = (torch.randn(n, generator=draws) for _ in range(3))
    return tuple(x.to(dtype) for x in (old + 0.15 * moves, old, factor))


def gradients(loss, least, some: tuple[Tensor, ...], dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    live = [x.to(dtype or x.dtype).detach().requires_grad_() for x in some]
    y = loss(least, *live)
    return tuple(g.to(x.dtype) for g, x in zip(torch.autograd.grad(y, live), some, strict=True))


def asked(loss, some: tuple[Tensor, ...]) -> dict:
    return {
        "forward": lambda *x: loss(torch.minimum, *x),
        "primals": some,
        "grad_y": torch.ones((), dtype=some[0].dtype),
    }


def name(x) -> str:
    return getattr(x, "__name__", str(x))


@pytest.mark.parametrize("least", [torch.minimum, first, second], ids=name)
@pytest.mark.parametrize("loss", [*CANCEL, *COUNT], ids=name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whichever_gets_it_is_right(loss, least, dtype):
    for seed in range(4):
        some = primals(dtype, seed)
        got = gradients(loss, least, some, torch.float32)
        assert_gradients(got, **asked(loss, some), blind="allow")


@pytest.mark.parametrize("loss", CANCEL, ids=name)
def test_where_both_go_back_to_the_same_number_nothing_is_blind(loss):
    some = primals(torch.float32, 5)
    held = enclose(lambda *x: loss(torch.minimum, *x), some, grad_y=torch.ones(()))
    truth = gradients(loss, torch.minimum, tuple(x.double() for x in some))
    for radius, right in zip(held.radius, truth, strict=True):
        within = radius[right != 0] / right[right != 0].abs()
        assert within.quantile(0.9) < 1e-4


@pytest.mark.parametrize("loss", CANCEL, ids=name)
@pytest.mark.parametrize("share", [0.5, 1.01, 2.0])
def test_a_share_of_the_gradient_where_nothing_was_clipped_is_wrong(loss, share):
    some = primals(torch.float32, 6)
    grad, *others = gradients(loss, torch.minimum, some)
    inside = (some[0] - some[1]).abs() < 0.15
    with pytest.raises(WrongGradients):
        assert_gradients((torch.where(inside, grad * share, grad), *others), **asked(loss, some), blind="allow")


@pytest.mark.parametrize("loss", COUNT, ids=name)
def test_where_the_choice_counts_either_may_get_it(loss):
    some = primals(torch.float32, 7)
    held = enclose(lambda *x: loss(torch.minimum, *x), some, grad_y=torch.ones(()))
    one, other = (gradients(loss, least, some)[0] for least in (first, second))
    differ = (one - other).abs() > 1e-3 * one.abs()
    assert differ.any()
    radius = held.radius[0]
    assert bool((radius[differ] > (one - other).abs().double()[differ] / 3).all())
    assert bool((radius[~differ] < 1e-2).any())


class Halved(torch.autograd.Function):
    """The same number, whose gradient is halved in place."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, grad_y):
        grad = grad_y * 1.0
        return grad.mul_(0.5)


@pytest.mark.parametrize("least", [torch.minimum, first, second], ids=name)
def test_what_is_written_in_place_does_not_cancel(least):
    def loss(least, x: Tensor) -> Tensor:
        e = x.exp() / 3 * 3
        return least(Halved.apply(e), e).sum()

    (x,) = (primals(torch.float32, 8)[0],)
    assert_gradients(gradients(loss, least, (x,)), **asked(loss, (x,)), blind="allow")


@pytest.mark.parametrize("function", [torch.minimum, torch.maximum, torch.max])
def test_where_a_number_is_nan_both_get_it_as_in_torch(function):
    some = torch.tensor([torch.nan, 1.0, 2.0, torch.nan]), torch.tensor([1.0, 3.0, 1.0, torch.nan])
    live = [x.clone().requires_grad_() for x in some]
    got = torch.autograd.grad(function(*live).sum(), live)
    assert_gradients(got, forward=lambda a, b: function(a, b).sum(), primals=some)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("extreme", [torch.minimum, torch.max])
def test_what_is_chosen_may_be_written_to_in_place(extreme, dtype: torch.dtype) -> None:
    """As an image's conversion clamps it; torch saves what is compared, and not the result."""

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return extreme(x, w).clamp_(-1.0, 1.0) * x

    draws = torch.Generator().manual_seed(0)
    x, w, grad_y = (torch.randn(7, dtype=dtype, generator=draws) for _ in range(3))
    x.requires_grad_()
    w.requires_grad_()
    got = torch.autograd.grad(forward(x, w), (x, w), grad_y)
    assert assert_gradients(got, forward=forward, primals=(x, w), grad_y=grad_y).right
    with pytest.raises(WrongGradients):
        assert_gradients((got[0], -got[1]), forward=forward, primals=(x, w), grad_y=grad_y)
