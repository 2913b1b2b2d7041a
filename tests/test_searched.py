"""The place of a number among bounds that were computed: another one where rounding reaches across, and it is known."""

import pytest
import torch

from backprop_rules import InputError
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.testing import WrongGradients, assert_gradients

F64 = torch.float64


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_place_that_rounding_may_give_is_farther_off_than_is_said(seed, right):
    draws = torch.Generator().manual_seed(seed)
    bounds, off_bounds, off = (torch.rand(n, generator=draws, dtype=F64) for n in (12, 12, 40))
    bounds, off_bounds, off = bounds.sort().values, 0.1 * off_bounds, 0.1 * off
    x = torch.rand(40, generator=draws, dtype=F64)
    with RunningError() as errors:
        errors.keep(bounds, off_bounds)
        errors.keep(x, off)
        places, others = torch.searchsorted(bounds, x, right=right), torch.bucketize(x, bounds, right=right)
    assert torch.equal(errors.radius(places), errors.radius(others))
    farthest = torch.zeros(40)
    for _ in range(300):
        moved, at = (
            y + radius * (2 * torch.rand(y.shape, generator=draws, dtype=F64) - 1).sign()
            for y, radius in ((bounds, off_bounds), (x, off))
        )
        farthest = torch.maximum(farthest, (torch.searchsorted(moved.sort().values, at, right=right) - places).abs())
    assert (farthest <= errors.radius(places)).all()
    assert farthest.any() and (errors.radius(places) == 0).any()


def looked_up(x, weights, table):
    """Return the number of a table for the share in which x lies, of shares that are learned."""
    ends = torch.softmax(weights, -1).cumsum(-1).detach()
    return table[torch.searchsorted(ends, x.detach())] * x


def test_a_table_is_looked_up_where_the_place_is_certain_and_refused_where_it_is_not():
    weights, table = torch.tensor([0.3, -0.2, 0.9, 0.1]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    ends = torch.softmax(weights.double(), -1).cumsum(-1)
    inside, at_a_bound = ((ends[:1] + ends[1:2]) / 2).float(), ends[1:2].float()
    for x, certain in ((inside, True), (at_a_bound, False)):
        got = table[1:2].clone(), torch.zeros(4), torch.zeros(4).index_fill(0, torch.tensor(1), float(x))
        if certain:
            assert assert_gradients(got, forward=looked_up, primals=(x, weights, table), grad_y=torch.ones(1)).right
            with pytest.raises(WrongGradients):
                assert_gradients(
                    (*got[:2], got[2].roll(1)), forward=looked_up, primals=(x, weights, table), grad_y=torch.ones(1)
                )
        else:
            with pytest.raises(InputError, match="an index that is not exact"):
                assert_gradients(got, forward=looked_up, primals=(x, weights, table), grad_y=torch.ones(1))


def spaced(x, weights, heights):
    """Return a piecewise linear function of x between ends that are learned."""
    ends = torch.nn.functional.pad(torch.softmax(weights, -1).cumsum(-1), (1, 0))
    k = (torch.searchsorted(ends.detach(), x.detach(), right=True) - 1).clamp(0, len(weights) - 1)
    share = (x - ends[k]) / (ends[k + 1] - ends[k])
    return heights[k] + share * (heights[k + 1] - heights[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interpolation_between_learned_ends_is_held(dtype):
    draws = torch.Generator().manual_seed(0)
    x, weights, heights, grad_y = (torch.rand(n, generator=draws).to(dtype) for n in (200, 8, 9, 200))
    live = [a.float().requires_grad_() for a in (x, weights, heights)]
    got = [g.to(dtype) for g in torch.autograd.grad(spaced(*live), live, grad_y.float())]
    assert assert_gradients(got, forward=spaced, primals=(x, weights, heights), grad_y=grad_y).right
    wrong = (got[0], got[1], got[2].flip(0))
    with pytest.raises(WrongGradients):
        assert_gradients(wrong, forward=spaced, primals=(x, weights, heights), grad_y=grad_y)
