"""`check`, at equal numbers: another order of these is another convention, and what no order gives is wrong."""

import pytest
import torch
from test_ties_at_size import argsorted, largest, of_equal_ones, sort, tied, topk

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
