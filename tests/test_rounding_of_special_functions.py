"""Special functions' radii hold the exact values, at operands of any size."""

import pytest
import torch
from exact_functions import each, roughly
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import POSITIVE, REAL, REAL_ONLY, widened, worst

from backprop_rules.evidence.allowance.units import gamma, unit
from backprop_rules.testing import WrongGradients, assert_gradients, enclose

special = torch.special
WIDE = (torch.float64, torch.float32)  # of others torch has none


def in_wide(f):
    return lambda a: f(widened(a))


def inside(a):
    """Return numbers between -1 and 1."""
    return a / (1 + abs(a))


def erfcx(v):
    """exp(v^2) erfc(v), which has neither's size."""
    return (v * v).hypgeom_u(0.5, 0.5) / arb.pi().sqrt() if v > 0 else (v * v).exp() * v.erfc()


def log_ndtr(v):
    t = v / arb(2).sqrt()
    return (erfcx(-t) / 2).log() - t * t if v < 0 else (-t.erfc() / 2).log1p()


CASES = {
    "erfinv": (lambda a: torch.erfinv(inside(a)), each(lambda v: inside(v).erfinv()), 1, REAL_ONLY),
    "erfcx": (in_wide(special.erfcx), roughly(erfcx), 1, REAL_ONLY),
    "ndtri": (
        lambda a: special.ndtri(inside(widened(a))),
        each(lambda v: arb(2).sqrt() * (2 * inside(v) - 1).erfinv()),
        1,
        POSITIVE,
    ),
    "log_ndtr": (in_wide(special.log_ndtr), roughly(log_ndtr), 1, REAL_ONLY),
    "i0": (torch.i0, roughly(lambda v: v.bessel_i(0)), 1, REAL_ONLY),
    "i0e": (in_wide(special.i0e), roughly(lambda v: abs(v).bessel_i(0, scaled=True)), 1, REAL_ONLY),
    "i1": (special.i1, roughly(lambda v: v.bessel_i(1)), 1, REAL_ONLY),
    "i1e": (special.i1e, roughly(lambda v: v.sgn() * abs(v).bessel_i(1, scaled=True)), 1, REAL_ONLY),
    "polygamma 2": (lambda a: torch.polygamma(2, widened(a)), roughly(lambda v: -2 * arb(3).zeta(v)), 1, POSITIVE),
    "polygamma 5": (lambda a: torch.polygamma(5, widened(a)), roughly(lambda v: 120 * arb(6).zeta(v)), 1, POSITIVE),
    "copysign": (torch.copysign, each(lambda v, w: -abs(v) if w < 0 else abs(v)), 2, REAL_ONLY),
    # Constants of float64 are rounded, too.
    "sinc": (torch.sinc, roughly(lambda v: (arb.pi() * v).sinc()), 1, REAL_ONLY),
    "deg2rad": (torch.deg2rad, each(lambda v: v * arb.pi() / 180), 1, REAL_ONLY),
    "rad2deg": (torch.rad2deg, each(lambda v: v * 180 / arb.pi()), 1, REAL_ONLY),
    "angle": (torch.angle, each(lambda v: arb.pi() if v < 0 else arb(0)), 1, REAL_ONLY),
}


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_radius_holds_the_exact_value(name, dtype, seed):
    worst(CASES[name], dtype, seed)


def test_the_angle_of_what_is_positive_is_nothing_whatever_rounds():
    x = torch.tensor([2.0, 0.5, -3.0, 7.0])
    held = {"forward": torch.angle, "primals": (x,), "grad_y": torch.ones(4)}
    assert assert_gradients((torch.zeros(4),), **held, y=torch.angle(x)).right
    with pytest.raises(WrongGradients, match="1 of 4 elements"):
        assert_gradients((torch.zeros(4),), **held, y=torch.angle(x) + torch.tensor([0, 1e-30, 0, 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_of_all_numbers_of_a_narrow_dtype_the_sum_of_polynomials_is_inside(dtype):
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    apart = torch.stack((x, x), -1)[:, 0]  # one by one, as those of a few numbers
    exact, u = special.i0e(x.double()), torch.finfo(dtype).eps / 2
    off = (special.i0e(apart).double() - exact).abs()
    assert bool((off <= exact * gamma(8, u) + unit(dtype).tiny).all())


@pytest.mark.parametrize("n", [168, 169, 170, 200])
def test_derivatives_of_an_order_whose_factorial_no_dtype_holds_are_taken_as_torch_has_them(n):
    x = torch.tensor([2.5, 60.0], dtype=torch.float64)
    held = enclose(lambda x: torch.polygamma(n, x), (x,), grad_y=torch.ones(2, dtype=torch.float64))[0]
    assert bool(held.truth.isfinite().all()) == bool((held.radius > 0).all()) == (n < 170)
