"""Ties that overlap: a number may win in one window and lose in the next, as each window chooses for itself."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import check


def forward(x):
    return torch.stack([x[:16].amax(), x[4:20].amax()])


def to(*places):
    """Return a backward that sends each window's gradient to one of its largest numbers, or to several."""

    def backward(g, x):
        found = torch.zeros_like(x)
        for window, at, grad in ((x[:16], 0, g[0]), (x[4:20], 4, g[1])):
            ties = (window == window.max()).nonzero().reshape(-1)
            for k in places:
                found[at + ties[k]] += grad
        return found

    return backward


def shared(g, x):
    """Torch's own: in equal parts."""
    found = torch.zeros_like(x)
    for window, at, grad in ((x[:16], 0, g[0]), (x[4:20], 4, g[1])):
        ties = (window == window.max()).double()
        found[at : at + 16] += grad * ties / ties.sum()
    return found


def last_of_a_pool(g, x):
    n, c, h, w = x.shape
    found = torch.zeros_like(x)
    for i in range((h - 3) // 2 + 1):
        for j in range((w - 3) // 2 + 1):
            window = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3)
            flat = x[(..., *window)].reshape(n, c, 9)
            last = functional.one_hot(8 - flat.flip(-1).argmax(-1), 9)
            found[(..., *window)] += (last * g[:, :, i, j, None]).reshape(n, c, 3, 3)
    return found


OF_TWO = {"forward": forward, "example": (torch.randn(20, dtype=torch.float64),), "sizes": {20: 20}}
OF_A_POOL = {"forward": lambda x: functional.max_pool2d(x, 3, 2), "example": (torch.randn(2, 3, 7, 7).double(),)}


@pytest.mark.parametrize(
    ("backward", "held"),
    [(to(0), OF_TWO), (to(-1), OF_TWO), (last_of_a_pool, OF_A_POOL)],
    ids=["first", "last", "pool"],
)
def test_one_of_many_is_a_choice_and_no_mistake(backward, held):
    assert check(backward, **held, raise_on_failure=False).verdict == "convention"
    assert check(backward, **held, convention="any subgradient").verdict == "right"


def test_torchs_own_choice_is_right():
    assert check(shared, **OF_TWO).verdict == "right"


@pytest.mark.parametrize("places", [(0, 0), (0, -1), ()], ids=["twice", "first and last", "none"])
def test_more_or_less_than_the_gradient_is_wrong(places):
    assert check(to(*places), **OF_TWO, convention="any subgradient", raise_on_failure=False).verdict == "wrong"


def negative_to_all(g, x):
    """What is negative goes to all ties, as a whole."""
    found = torch.zeros_like(x)
    for window, at, grad in ((x[:16], 0, g[0]), (x[4:20], 4, g[1])):
        ties = (window == window.max()).double()
        found[at : at + 16] += grad * ties if grad < 0 else grad * ties / ties.sum()
    return found


def test_a_tie_is_shared_whatever_the_sign_of_the_cotangent():
    assert check(negative_to_all, **OF_TWO, convention="any subgradient", raise_on_failure=False).verdict == "wrong"
