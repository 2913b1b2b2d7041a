"""Where a number is used in several places its gradients may be added up in any order: autograd's is one of them."""

import itertools
from functools import reduce

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from backprop_rules.testing import WrongGradients, assert_gradients, enclose

TAPS, LENGTH = 5, 4000
DTYPES = [torch.float32, torch.bfloat16]


def moving(x, weights):
    """Return a moving sum: of x as a whole, which is moved."""
    return reduce(torch.add, (weights[k] * x.roll(k) for k in range(TAPS)))


def sliced(x, weights):
    """Return a moving sum by slices, whose gradients are zeros elsewhere."""
    return reduce(torch.add, (weights[k] * x[k : LENGTH - TAPS + 1 + k] for k in range(TAPS)))


def terms(grad_y, weights, forward):
    """Return the gradients of x in each of its uses."""
    if forward is moving:
        return [weights[k] * grad_y.roll(-k) for k in range(TAPS)]
    return [torch.nn.functional.pad(weights[k] * grad_y, (k, TAPS - 1 - k)) for k in range(TAPS)]


def point(forward, dtype):
    draws = torch.Generator().manual_seed(0)
    x, weights, grad_y = (torch.randn(n, generator=draws, dtype=torch.float64) for n in (LENGTH, TAPS, LENGTH))
    size = LENGTH if forward is moving else LENGTH - TAPS + 1
    return x.to(dtype), weights.to(dtype), grad_y[:size].to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("forward", [moving, sliced])
def test_every_order_is_inside(forward, dtype):
    x, weights, grad_y = point(forward, dtype)
    held = enclose(forward, (x, weights), grad_y=grad_y, precision="eager")
    known = terms(grad_y, weights, forward)
    for order in itertools.permutations(range(TAPS)):
        a, b, c, d, e = (known[k] for k in order)
        assert held["x"].contains(a + b + c + d + e).all()
        assert held["x"].contains((a + b) + ((c + d) + e)).all()


@pytest.mark.parametrize("forward", [moving, sliced])
def test_it_is_as_far_as_any_order_goes_and_no_farther(forward):
    x, weights, grad_y = point(forward, torch.float32)
    held = enclose(forward, (x, weights), grad_y=grad_y)
    known = torch.stack(terms(grad_y.double(), weights.double(), forward))
    used = held["x"].radius / (torch.finfo(torch.float32).eps / 2 * known.abs().sum(0))
    roundings = (known != 0).sum(0)  # a product each, and one less to add them up
    assert (used <= roundings + 1).all()  # and what is stored
    assert (used >= roundings - 1)[roundings > 2].all()


def test_a_term_that_is_off_by_a_thousandth_is_seen():
    x, weights, grad_y = point(moving, torch.float32)
    known = terms(grad_y, weights, moving)
    known[2] = known[2] * 1.001
    with pytest.raises(WrongGradients):
        assert_gradients((sum(known), None), forward=moving, primals=(x, weights), grad_y=grad_y)


def test_what_a_checkpoint_runs_again_on_the_way_back_adds_no_gradients():
    draws = torch.Generator().manual_seed(0)
    x, weights, grad_y = (
        torch.randn(shape, generator=draws).bfloat16() / 4 for shape in ((8, 16), (6, 16, 16), (8, 16))
    )

    def forward(x, weights):
        return reduce(lambda x, w: x + torch.tanh(x @ w), weights, x)

    def again(x, weights):
        return checkpoint(forward, x, weights, use_reentrant=False)

    plain, same = (enclose(f, (x, weights), grad_y=grad_y, precision="eager").every for f in (forward, again))
    for one, other in zip(plain, same, strict=True):
        assert torch.equal(one.radius, other.radius)
