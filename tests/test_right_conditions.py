"""Two right conditions may come out otherwise between neighbours of float64: no choice is made by that."""

import pytest
import torch
from torch import Tensor

from backprop_rules import check

SEEDS = range(5)


def margin(a: Tensor, p: Tensor, n: Tensor) -> Tensor:
    return torch.relu(((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1) + 1).sum()


def margin_multiplied_out(grad_y: Tensor, a: Tensor, p: Tensor, n: Tensor) -> tuple[Tensor, ...]:
    inner = 2 * (a * (n - p)).sum(-1, keepdim=True) + (p * p).sum(-1, keepdim=True) - (n * n).sum(-1, keepdim=True) + 1
    g = 2 * grad_y * (inner > 0).to(a.dtype)
    return g * (n - p), -g * (a - p), g * (a - n)


def into_a_ball(x: Tensor) -> Tensor:
    return x / torch.clamp(x.norm(dim=-1, keepdim=True) / 1.5, min=1)


def into_a_ball_by_its_radius(grad_y: Tensor, x: Tensor) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    along = x / norm
    return torch.where(norm > 1.5, 1.5 * (grad_y - along * (along * grad_y).sum(-1, keepdim=True)) / norm, grad_y)


def hinge_of_spreads(x: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(x.var(0) + 1e-4)).mean()


def hinge_by_the_sum_of_squares(grad_y: Tensor, x: Tensor) -> Tensor:
    apart = x - x.mean(0)
    spread = torch.sqrt((apart**2).sum(0) / (len(x) - 1) + 1e-4)
    return -grad_y * (spread < 1).to(x.dtype) * apart / (len(x) - 1) / spread / x.shape[1]


CONDITIONS = {
    "margin": (margin, margin_multiplied_out, ((5, 4),) * 3),
    "ball": (into_a_ball, into_a_ball_by_its_radius, ((5, 4),)),
    "hinge": (hinge_of_spreads, hinge_by_the_sum_of_squares, ((6, 4),)),
}


def example(shapes, seed: int) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=draws) for shape in shapes)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_that_is_computed_otherwise_is_no_other_choice(name, seed):
    forward, backward, shapes = CONDITIONS[name]
    assert check(backward, forward=forward, example=example(shapes, seed), seed=seed).verdict == "right"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_at_the_ends_of_a_clamp_it_is_one_whatever_numbers_these_are(dtype):
    def strictly(grad_y: Tensor, x: Tensor) -> Tensor:
        return grad_y * ((x > 0.3) & (x < 0.7)).to(x.dtype)

    (x,) = example(((5, 4),), 0)
    report = check(strictly, forward=lambda x: x.clamp(0.3, 0.7), example=(x.to(dtype),), raise_on_failure=False)
    assert report.verdict == "convention"


def test_a_wrong_threshold_is_wrong():
    def wrong(grad_y: Tensor, x: Tensor) -> Tensor:
        return into_a_ball_by_its_radius(grad_y, x) * (x.norm(dim=-1, keepdim=True) < 1.9)

    report = check(wrong, forward=into_a_ball, example=example(((5, 4),), 0), raise_on_failure=False)
    assert report.verdict == "wrong"


@pytest.mark.parametrize("seed", [0, 2])
def test_what_rounds_inside_of_forward_decides_nothing_where_torchs_own_gradient_is_wrong(seed):
    """At 0 torch's own gradient through abs is 0; 1 + x rounds more than its small logarithm shows (spikingjelly)."""

    def forward(x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0) * torch.log(1.5 * x.abs() + 1)

    def backward(grad_y: Tensor, x: Tensor) -> Tensor:
        return grad_y / (1 / 1.5 + x.abs())

    x = torch.randn(3, 4, dtype=torch.float64)
    assert check(backward, forward=forward, example=(x,), raise_on_failure=False, seed=seed).verdict == "right"
    twice = check(lambda g, x: 2 * backward(g, x), forward=forward, example=(x,), raise_on_failure=False, seed=seed)
    assert twice.verdict == "wrong"
