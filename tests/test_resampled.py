"""Resampling by cubic and antialiased weights: what is infinite reaches the pixels around it, and no others."""

import math

import pytest
import torch
from torch.nn import functional

from backprop_rules.evidence.allowance.resampled import LARGEST, STEEPEST
from backprop_rules.testing import WrongGradients, assert_gradients

KINDS = {
    "cubic": {"mode": "bicubic"},
    "antialiased, cubic": {"mode": "bicubic", "antialias": True},
    "antialiased": {"mode": "bilinear", "antialias": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_far_from_an_infinite_cotangent_all_is_held(kind):
    def forward(x):
        return functional.interpolate(x, size=(9, 8), **KINDS[kind]).square()

    random = torch.Generator().manual_seed(0)
    x, grad_y = torch.randn(3, 2, 12, 12, generator=random), torch.randn(3, 2, 9, 8, generator=random)
    grad_y[0, 0, 4, 4] = math.inf
    live = x.clone().requires_grad_()
    got = torch.autograd.grad(forward(live), live, grad_y)[0]
    held = {"forward": forward, "primals": (x,), "grad_y": grad_y}
    assert_gradients((got,), **held)
    got[0, 0, 0] *= 1.5
    with pytest.raises(WrongGradients, match="12 of 864 elements are farther off"):
        assert_gradients((got,), **held)


@pytest.mark.parametrize("antialias", [False, True])
def test_no_weight_is_steeper_and_no_sum_of_their_sizes_larger(antialias):
    pixels = torch.zeros(1, 1, 1, 11, dtype=torch.float64)
    pixels[..., 5] = 1.0
    fine = functional.interpolate(pixels, size=(1, 11 * 720), mode="bicubic", antialias=antialias)[0, 0, 0]
    assert float(fine.diff().abs().max()) * 720 <= STEEPEST
    assert float(fine.reshape(11, 720).abs().sum(0).max()) <= LARGEST
