"""A forward whose last bits are others at each call draws no random numbers: its gradients are asked for."""

import pytest
import torch

from backprop_rules import check

EXAMPLE = (torch.linspace(-1, 2, 6, dtype=torch.float64),)


def restless(x, by):
    """Return what a library may give that sums in another order where memory lies otherwise."""
    return torch.sin(x) * (1 + by * torch.rand((), dtype=torch.float64)).to(x.dtype)


@pytest.mark.parametrize(("factor", "verdict"), [(1, "right"), (2, "wrong")])
def test_last_bits_are_not_drawn(factor, verdict):
    report = check(
        lambda grad_y, x: factor * grad_y * torch.cos(x),
        forward=lambda x: restless(x, 2.0**-50), example=EXAMPLE, raise_on_failure=False,
    )  # fmt: skip
    assert report.verdict == verdict, str(report)
    assert "random" not in str(report) and "state" not in str(report)


def test_what_is_drawn_is_told():
    report = check(
        lambda grad_y, x: 2 * grad_y * torch.cos(x),
        forward=lambda x: restless(x, 0.5), example=EXAMPLE, raise_on_failure=False,
    )  # fmt: skip
    assert report.verdict == "inconclusive" and "draws random numbers" in str(report)
