"""The grid: stencils that are exact, and widths at which nothing is rounded and beyond which something is."""

import functools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backprop_rules import CATALOGUE, Domain
from backprop_rules.domain import precision
from backprop_rules.strategies.grid import Grid, central, odd_part, refinement, room, stencil


@pytest.mark.parametrize("power", range(1, 9))
def test_stencils_differentiate_every_polynomial_up_to_their_degree(power):
    for first, last in (central(power), (-power, 0), (0, power)):
        weights, divisor = stencil(first, last)
        for degree in range(power + 1):
            derivative = Fraction(
                sum(w * k**degree for w, k in zip(weights, range(first, last + 1), strict=True)), divisor
            )
            assert derivative == (1 if degree == 1 else 0)


def test_the_central_stencil_for_degree_2_is_the_textbook_one():
    assert stencil(*central(2)) == ((-1, 0, 1), 2)


@given(st.integers(1, 40))
def test_a_one_sided_stencil_refined_does_not_cross_the_next_grid_point(power):
    assert power <= refinement(power) < 2 * power or refinement(power) == power == 1


@given(st.integers(1, 10**9))
def test_the_odd_part_is_odd_and_leaves_a_power_of_two(n):
    odd = odd_part(n)
    assert odd % 2 == 1
    assert n % odd == 0
    assert (n // odd).bit_count() == 1


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(torch.float64, 53), (torch.float32, 24), (torch.float16, 11), (torch.bfloat16, 8), (torch.complex64, 24)],
)
def test_precision_is_that_of_the_format(dtype, bits):
    assert precision(dtype) == bits


def product_sum(terms, width, dtype):
    """Return whether the sum of that many products of the largest values is exact in every prefix."""
    factors = torch.full((terms,), float(width), dtype=dtype)
    total = torch.zeros((), dtype=dtype)
    for product in factors * factors:
        total = total + product
    return total.double().item() == terms * width**2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("terms", [1, 2, 7, 16])
def test_the_width_of_a_product_leaves_sums_exact_and_16_times_as_much_does_not(dtype, terms):
    width = room(Domain("n, n", degree=2), {}, terms, [1, terms, terms], [dtype]).width
    assert width == 0 or product_sum(terms, width, dtype)
    # 16 times the width takes 8 bits more than were left free for the second derivative and the sum of two cotangents.
    assert not product_sum(terms, max(width, 1) * 16 + 1, dtype)


def test_a_sum_too_long_for_a_dtype_has_no_grid_in_it():
    space = functools.partial(room, Domain("...", divisor=lambda shape: 1), {}, 1000, [1, 1000])
    assert space([torch.bfloat16]).width == 0
    assert space([torch.float32]).width > 0


def test_float64_leaves_wide_grids_at_small_sizes():
    for rule in CATALOGUE.values():
        if rule.domain.degree is None:
            continue  # no polynomial
        params = {name: 2 if name == "n" else None for name in rule.domain.params}
        space = room(rule.domain, params, 4, [4, 4], [torch.float64], kinks=bool(rule.conventions))
        assert space.width > 2**16, rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_narrow_primal_leaves_the_cotangent_the_rest_of_the_room(dtype):
    space = room(Domain("..., ...", degree=2), {}, 4, [4, 4, 4], [dtype])
    assert space.for_cotangent(1) == space.product > space.width
    assert space.for_cotangent(space.width) >= space.width
    # Both factors at their largest, summed over the four terms and for two cotangents, still fit.
    assert 2 * space.for_cotangent(space.width) * space.width <= 2 ** precision(dtype)


def test_the_spacing_is_a_power_of_two_times_the_unit():
    assert Grid(5, 2, 3).spacing == 0.75
    assert math.log2(Grid(5, 2).spacing) == -2
