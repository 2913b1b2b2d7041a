"""Where the worst case says nothing of any element, as of a long filter, elements are asked for themselves."""

import math

import pytest
import torch

from backprop_rules.testing import WrongGradients, assert_gradients

STEPS, STATES = 20, 4


def likelihood(logarithm):
    """Return the logarithm of how likely a Kalman filter finds what is seen."""

    def filtered(seen, moves, noise, error):
        mean, spread, total = seen.new_zeros(STATES), torch.eye(STATES, dtype=seen.dtype), 0.0
        for y in seen:
            mean, spread = moves @ mean, moves @ spread @ moves.T + noise
            of_y, off = spread + error, y - mean
            gain = torch.linalg.solve(of_y.T, spread.T).T
            total = total - (off @ torch.linalg.solve(of_y, off) + logarithm(of_y)) / 2
            mean, spread = mean + gain @ off, spread - gain @ spread
        return total

    return filtered


def by_cholesky(a):
    return 2 * torch.linalg.cholesky(a).diagonal().log().sum()


def with_a_choice(*primals):
    """Return it beside what may come out either way, of another path, which hardly counts."""
    sizes = primals[2].diagonal().exp()
    return likelihood(by_cholesky)(*primals) + 1e-3 * torch.relu(sizes - sizes.detach().amin()).sum()


def point():
    draws = torch.Generator().manual_seed(0)
    seen, moves, *halves = (torch.randn(n, STATES, generator=draws) for n in (STEPS, *[STATES] * 3))
    spreads = [half @ half.T / STATES + torch.eye(STATES) for half in halves]
    return seen, 0.3 * moves, *spreads


def own_gradients(forward, primals):
    live = [x.clone().requires_grad_() for x in primals]
    return torch.autograd.grad(forward(*live), live)


@pytest.mark.parametrize("logarithm", [torch.logdet, by_cholesky])
def test_a_long_filter_is_seen(logarithm):
    forward, primals = likelihood(logarithm), point()
    got = own_gradients(forward, primals)
    assert assert_gradients(got, forward=forward, primals=primals).right
    with pytest.raises(WrongGradients, match="off systematically"):
        assert_gradients((got[0], got[1] * 1.01, *got[2:]), forward=forward, primals=primals)


def test_a_choice_of_another_path_hides_nothing():
    primals = point()
    got = own_gradients(with_a_choice, primals)
    assert assert_gradients(got, forward=with_a_choice, primals=primals).right
    with pytest.raises(WrongGradients, match="off systematically"):
        assert_gradients((got[0], got[1] * 1.01, *got[2:]), forward=with_a_choice, primals=primals)


def test_a_negative_determinant_has_no_logarithm():
    a = torch.diag(torch.tensor([-1.0, 2.0, 3.0]))
    assert math.isnan(torch.logdet(a))
    with pytest.raises(WrongGradients):
        assert_gradients(torch.linalg.inv(a).T, forward=torch.logdet, primals=[a])
