"""Near an edge of forward's domain, wherever it is: a clamp there is wrong, and a right backward loses digits alone."""

import pytest
import torch

from backprop_rules import check


def root_in_the_ball(x):
    return (1 - (x * x).sum(-1)).sqrt()


def half_circle(x):
    return (1 - x * x).sqrt()


def entropy(x):
    return x * x.log() + (1 - x) * torch.log1p(-x)


def distance(u, v):
    """The hyperbolic distance in the unit ball."""
    alpha, beta = 1 - (u * u).sum(-1), 1 - (v * v).sum(-1)
    return torch.acosh(1 + 2 * ((u - v) ** 2).sum(-1) / (alpha * beta))


def of_distance(g, u, v):
    alpha, beta = 1 - (u * u).sum(-1, keepdim=True), 1 - (v * v).sum(-1, keepdim=True)
    apart = u - v
    square = (apart * apart).sum(-1, keepdim=True)
    gamma = 1 + 2 * square / (alpha * beta)
    g = 4 * g[..., None] / ((gamma * gamma - 1).sqrt() * alpha * beta)
    return g * (apart + square * u / alpha), g * (square * v / beta - apart)


CLAMPED = {
    "acosh": (lambda g, x: g / (x * x - 1).sqrt().clamp(min=0.01), torch.acosh, 1.1, 4.1),
    # https://github.com/facebookresearch/poincare-embeddings, hype/poincare.py: Acosh, eps=1e-5
    "acosh as published": (lambda g, x: g / torch.clamp(x * x - 1, min=1e-5).sqrt(), torch.acosh, 1.1, 4.1),
    "asin": (lambda g, x: g / (1 - x * x).clamp(min=1e-3).sqrt(), torch.asin, -0.9, 0.9),
    "atanh": (lambda g, x: g / (1 - x * x).clamp(min=1e-3), torch.atanh, -0.9, 0.9),
    "log1p": (lambda g, x: g / (1 + x).clamp(min=1e-3), torch.log1p, -0.9, 3.0),
    "logit": (lambda g, x: g / (x * (1 - x)).clamp(min=1e-3), torch.logit, 0.1, 0.9),
    "logit at 1": (lambda g, x: g / x + g / (1 - x).clamp(min=1e-3), torch.logit, 0.1, 0.9),
    "a half circle": (lambda g, x: -g * x / (1 - x * x).clamp(min=1e-3).sqrt(), half_circle, -0.9, 0.9),
    "the unit ball": (
        lambda g, x: -g[..., None] * x / (1 - (x * x).sum(-1, keepdim=True)).clamp(min=1e-3).sqrt(),
        root_in_the_ball,
        -0.3,
        0.3,
    ),
    "sqrt at 0": (lambda g, x: g / (2 * x.sqrt()).clamp(min=1e-3), torch.sqrt, 0.1, 4.0),
}
RIGHT = {
    "acosh": (lambda g, x: g / (x * x - 1).sqrt(), torch.acosh, 1.1, 4.1),
    "acosh of two roots": (lambda g, x: g / ((x - 1).sqrt() * (x + 1).sqrt()), torch.acosh, 1.1, 4.1),
    "acosh through sinh": (lambda g, x: g / torch.acosh(x).sinh(), torch.acosh, 1.1, 4.1),
    "acosh as a logarithm": (lambda g, x: g / (x * x - 1).sqrt(), lambda x: (x + (x * x - 1).sqrt()).log(), 1.1, 4.1),
    "asin": (lambda g, x: g / (1 - x * x).sqrt(), torch.asin, -0.9, 0.9),
    "asin through cos": (lambda g, x: g / torch.asin(x).cos(), torch.asin, -0.9, 0.9),
    "acos": (lambda g, x: -g / ((1 - x) * (1 + x)).sqrt(), torch.acos, -0.9, 0.9),
    "atanh": (lambda g, x: g / (1 - x * x), torch.atanh, -0.9, 0.9),
    "atanh as logarithms": (
        lambda g, x: g / 2 * (1 / (1 + x) + 1 / (1 - x)),
        lambda x: (torch.log1p(x) - torch.log1p(-x)) / 2,
        -0.9,
        0.9,
    ),
    "log1p": (lambda g, x: g / (1 + x), torch.log1p, -0.9, 3.0),
    "logit": (lambda g, x: g / (x - x * x), torch.logit, 0.1, 0.9),
    "entropy": (lambda g, x: g * (x.log() - (1 - x).log()), entropy, 0.1, 0.9),
    "a half circle": (lambda g, x: -g * x / (1 - x * x).sqrt(), half_circle, -0.9, 0.9),
    "the unit ball": (
        lambda g, x: -g[..., None] * x / (1 - (x * x).sum(-1, keepdim=True)).sqrt(),
        root_in_the_ball,
        -0.3,
        0.3,
    ),
    "sqrt": (lambda g, x: g * x**-0.5 / 2, torch.sqrt, 0.1, 4.0),
    "an overflow": (lambda g, x: g * (x + x.exp()).exp(), lambda x: x.exp().exp(), -2.0, 2.0),
    "softmax that overflows": (
        lambda g, x: g[..., None] * x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: x.exp().sum(-1).log(),
        -2.0,
        2.0,
    ),
}


def verdict(backward, forward, low, high, dtype, shape):
    x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    return check(backward, forward=forward, example=(x.to(dtype),), raise_on_failure=False, explain=False).verdict


@pytest.mark.parametrize("shape", [(4, 5), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
class TestNearAnEdge:
    @pytest.mark.parametrize("name", CLAMPED)
    def test_a_clamp_is_wrong(self, name, dtype, shape):
        assert verdict(*CLAMPED[name], dtype, shape) == "wrong"

    @pytest.mark.parametrize("name", RIGHT)
    def test_the_derivative_is_right(self, name, dtype, shape):
        assert verdict(*RIGHT[name], dtype, shape) == "right"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_distance_of_the_ball_is_right_and_is_wrong_with_a_clamp(dtype):
    numbers = torch.Generator().manual_seed(0)
    example = tuple((torch.rand(4, 3, dtype=torch.float64, generator=numbers) - 0.5).to(dtype) for _ in range(2))

    def clamped(g, u, v):
        grad_u, grad_v = of_distance(g, u, v)
        alpha = 1 - (u * u).sum(-1, keepdim=True)
        return torch.where(alpha < 1e-3, grad_u * alpha / 1e-3, grad_u), grad_v

    def told(backward):
        return check(backward, forward=distance, example=example, raise_on_failure=False, explain=False).verdict

    assert told(of_distance) == "right"
    assert told(clamped) == "wrong"


@pytest.mark.parametrize("name", ["sqrt at 0", "log1p"])
def test_points_of_many_shapes_have_edges_as_well(name):
    backward, forward, _, _ = CLAMPED[name]
    right = {"sqrt": lambda g, x: g / (2 * x.sqrt()), "log1p": lambda g, x: g / (1 + x)}[forward.__name__]
    assert check(backward, forward.__name__, raise_on_failure=False, explain=False).verdict == "wrong"
    assert check(right, forward.__name__, raise_on_failure=False, explain=False).verdict == "right"


def test_the_counterexample_is_small_and_lies_where_the_clamp_is_at_work():
    backward, forward, low, high = CLAMPED["acosh"]
    x = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    found = check(backward, forward=forward, example=(x,), raise_on_failure=False, explain=False).finding
    (there,) = found.point.leaves
    assert there.numel() < x.numel()
    assert 1 < float(there[found.element]) < (1 + 0.01**2) ** 0.5
