"""`check`, at equal numbers: another order of these is another convention, and what no order gives is wrong."""

import pytest
import torch
from test_ties_at_size import argsorted, largest, of_equal_ones, sort, tied, topk
from torch.nn import functional

from backprop_rules import check

EXAMPLES = {
    "float32, with ties": (4 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))).round() / 4,
    "bfloat16": torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "float64": torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).double(),
}
WRONG = {
    "a factor": lambda x, g: g * 1.01,
    "all get all": of_equal_ones,
    "none gets any": lambda x, g: torch.where(tied(x), 0.0, g).to(g.dtype),
    "a neighbour gets it": lambda x, g: g.roll(1, -1),
}


def backward_of(choose, way, wrong=lambda x, g: g):
    """Return the backward of what breaks ties in a way, and what is made of it."""

    def backward(grad_y, x):
        live = x.detach().requires_grad_()
        with torch.enable_grad():
            y = choose(live, way)
        return wrong(x.detach(), torch.autograd.grad(y, live, grad_y)[0])

    return backward


def verdict(backward, choose, example, convention):
    asked = {"forward": choose, "example": (example,), "convention": convention}
    return check(backward, **asked, raise_on_failure=False).verdict


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize(("choose", "way"), [(sort, "mixed"), (argsorted, "last"), (topk, "mixed"), (largest, "last")])
def test_another_order_of_equal_numbers_is_another_convention(choose, way, example):
    backward = backward_of(choose, way)
    assert verdict(backward, choose, EXAMPLES[example], "torch") == "convention"
    assert verdict(backward, choose, EXAMPLES[example], "any subgradient") == "right"


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("choose", [sort, largest], ids=lambda f: f.__name__)
def test_what_no_order_gives_is_wrong(choose, name, example):
    backward = backward_of(choose, "last", WRONG[name])
    assert verdict(backward, choose, EXAMPLES[example], "any subgradient") == "wrong"


def in_narrow_dtypes(factor):
    """Return what makes a gradient wrong in narrow dtypes alone."""
    return lambda x, g: g * factor if x.dtype in (torch.bfloat16, torch.float16) else g


def sharpest(x, way=""):
    """Return the largest times a sum, of which each element has a gradient, tied or not."""
    return (x * x).sum(-1) * largest(x, way)


@pytest.mark.parametrize("way", ["", "last"])
def test_what_is_wrong_in_narrow_dtypes_alone_is_told_whatever_breaks_ties(way):
    example = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    for factor in (-1, 0, 2):
        backward = backward_of(sharpest, way, in_narrow_dtypes(factor))
        assert verdict(backward, sharpest, example, "any subgradient") == "wrong"
    assert verdict(backward_of(sharpest, way), sharpest, example, "any subgradient") == "right"


@pytest.mark.parametrize("way", ["", "last"])
def test_digits_that_are_lost_in_narrow_dtypes_are_told_whatever_breaks_ties(way):
    backward = backward_of(topk, way, in_narrow_dtypes(-1))
    example = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert verdict(backward, topk, example, "any subgradient") != "right"
    assert verdict(backward_of(topk, way), topk, example, "any subgradient") == "right"


def of_windows(given):
    """Return the backward of a largest of windows of 3 x 3, each of which shares out its cotangent among equals."""

    def backward(grad_y, x):
        grad_x = torch.zeros_like(x)
        for n, (i, j) in enumerate((i, j) for i in range(x.shape[0] - 2) for j in range(x.shape[1] - 2)):
            window = x[i : i + 3, j : j + 3]
            shares = torch.zeros_like(window)
            equal = window == window.max()
            shares[equal] = given(n, int(equal.sum())).to(x)
            grad_x[i : i + 3, j : j + 3] += grad_y[i, j] * shares
        return (grad_x,)

    return backward


# What a window gives to its equals: all to one, to another in each window, or shares of each size.
GIVEN = {
    "one": lambda n, equal: torch.eye(equal)[7 * n % equal],
    "alike": lambda n, equal: torch.full((equal,), 1 / equal),
    "shares": lambda n, equal: torch.arange(1, equal + 1) / (equal * (equal + 1) / 2),
}
PLANE = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [1, 1, 0, 1, 1], [0, 1, 0, 0, 1.0]])


@pytest.mark.parametrize("how", GIVEN)
def test_each_window_may_choose_for_itself_and_share(how):
    def forward(x):
        return functional.max_pool2d(x[None, None], 3, 1)[0, 0]

    options = {"forward": forward, "example": (PLANE,), "raise_on_failure": False}
    assert check(of_windows(GIVEN[how]), **options).verdict == "convention"
    assert check(of_windows(lambda n, equal: 1.25 * GIVEN[how](n, equal)), **options).verdict == "wrong"
