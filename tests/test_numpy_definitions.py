"""Definitions by NumPy's transforms, systems, differences and orders are followed, and told from wrong gradients."""

import numpy as np
import pytest

from backprop_rules import check


def filtered(x, gains):
    """Return a signal filtered in frequency."""
    return np.fft.irfft(np.fft.rfft(x) * gains, x.shape[-1])


def through_filter(grad_y, x, gains, times=1):
    n = x.shape[-1]
    spectrum, ours = np.fft.rfft(x), np.fft.rfft(grad_y)
    whole = np.full(
        len(gains), 2.0
    )  # of each frequency there are two, but of the first and of the last of an even size
    whole[0] = 1
    whole[-1] = 2 if n % 2 else 1
    return np.fft.irfft(ours * gains, n), times * (whole * (ours * spectrum.conj()).real).sum(0) / n


def solved(a, b):
    return np.linalg.solve(a, b)


def through_solved(grad_y, a, b, times=1):
    z = np.linalg.solve(a.T, grad_y)
    return -times * np.outer(z, np.linalg.solve(a, b)), z


def rough(x, weights):
    """Return how much what is in order jumps, weighed."""
    return np.sum(weights * np.diff(np.sort(x)) ** 2)


def through_rough(grad_y, x, weights, times=1):
    order, jumps = np.argsort(x), np.diff(np.sort(x))
    sides, found = 2 * times * grad_y * weights * jumps, np.zeros_like(x)
    found[order[1:]] += sides
    found[order[:-1]] -= sides
    return found, grad_y * jumps**2


DRAWS = np.random.default_rng(0)
FUNCTIONS = {
    "filter": (filtered, through_filter, (DRAWS.normal(size=(3, 8)), DRAWS.normal(size=5)), {3: (2, 3), 8: 8, 5: 5}),
    "system": (solved, through_solved, (DRAWS.normal(size=(3, 3)), DRAWS.normal(size=3)), None),
    "jumps": (rough, through_rough, (DRAWS.normal(size=6), DRAWS.normal(size=5)), {6: 6, 5: 5}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_right_backward_is_right(name):
    definition, backward, example, sizes = FUNCTIONS[name]
    options = {} if sizes is None else {"sizes": sizes}
    report = check(
        backward,
        definition=definition,
        example=example,
        convention="any subgradient",
        raise_on_failure=False,
        **options,
    )
    assert report.verdict == "right", str(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_factor_is_seen(name):
    definition, backward, example, sizes = FUNCTIONS[name]
    options = {} if sizes is None else {"sizes": sizes}
    report = check(
        lambda grad_y, *xs: backward(grad_y, *xs, times=2),
        definition=definition, example=example, raise_on_failure=False, explain=False, **options,
    )  # fmt: skip
    assert report.verdict == "wrong", str(report)
