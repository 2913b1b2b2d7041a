"""The computed radii hold the exact value and every other evaluation; they are not much wider than that."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.allowance.operation import LEAST

seeds = st.integers(0, 2**32 - 1)
SMALLEST = 2.0**-149  # of float32


def exact(x):
    array = np.empty(x.numel(), dtype=object)
    array[:] = [Fraction(v) for v in x.flatten().tolist()]
    return array.reshape(x.shape)


def held(errors, result, true):
    radius = errors.radius(result).flatten().tolist()
    pairs = zip(exact(result).ravel(), np.asarray(true).ravel(), radius, strict=True)
    return all(r == math.inf or abs(v - t) <= Fraction(r) for v, t, r in pairs)


def layered(a, b, c):
    hidden = torch.clamp(a @ b, min=0)
    return ((hidden @ c) - 1.5).square().sum()


def layered_exactly(a, b, c):
    hidden = np.maximum(a @ b, 0)
    return (((hidden @ c) - Fraction(3, 2)) ** 2).sum()


@pytest.mark.parametrize("evaluations", [1, 2])
@given(seed=seeds)
def test_the_radius_of_several_layers_holds_the_exact_value(seed, evaluations):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((3, 5), (5, 4), (4, 2)))
    with RunningError(evaluations) as errors:
        result = layered(a, b, c)
    assert held(errors, result, layered_exactly(exact(a), exact(b), exact(c)))
    # It is a bound on roundings and nothing else: with float64's 29 bits more, it is narrower by that many bits,
    # but for the second order, for which one bit is far too much.
    with RunningError(evaluations) as finer:
        wide = layered(a.double(), b.double(), c.double())
    gained = errors.radius(result).item() / finer.radius(wide).item()
    assert 2**28 < gained < 2**30


@given(seeds)
def test_the_radius_of_two_evaluations_holds_the_one_in_another_order(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 40, generator=generator), torch.randn(40, 3, generator=generator)
    order = torch.randperm(40, generator=generator)
    with RunningError(evaluations=2) as errors:
        result = a @ b
    assert ((a[:, order] @ b[order] - result).abs().double() <= errors.radius(result)).all()


@given(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32))
def test_where_a_comparison_is_ambiguous_either_branch_is_held(x, y):
    a, b = torch.tensor([x]), torch.tensor([y])
    with RunningError() as errors:
        s = a + b
        chosen = torch.where(s > x + y, s, -5.0)
        masked = s * (s > x + y)
        filled = s.masked_fill(~((s >= x + y) & (s <= x + y)), 7.0)
    true = Fraction(x) + Fraction(y)
    bound = Fraction(x + y)
    assert held(errors, chosen, [true if true > bound else -5])
    assert held(errors, masked, [true if true > bound else 0])
    assert held(errors, filled, [true if true == bound else 7])


def test_what_is_exact_is_compared_exactly():
    one, next_to_it = torch.tensor([1.0]), torch.tensor([1 + 2.0**-23])
    with RunningError() as errors:
        results = [torch.where(one >= next_to_it, 2.0, 3.0), one * (one < next_to_it), 2 * one * (one > 0) * 0.5]
        relu = torch.relu(torch.tensor([-1.0, 1.0]) * 1.1)
        mask = relu > 0
    assert all(errors.radius(result).item() == 0 for result in results)
    # What is clamped to zero from afar is zero.
    assert errors.radius(mask).tolist() == [0, 0]


def test_what_is_compared_with_a_number_between_two_floats_is_ambiguous():
    one = torch.tensor([1.0])
    with RunningError() as errors:
        result = torch.where(one < 1 + 2.0**-40, 2.0, 3.0)
    assert abs(2.0 - result.item()) <= errors.radius(result).item()


def test_moving_values_about_keeps_their_radii():
    with RunningError() as errors:
        product = torch.tensor([[1.1, 2.2]]) * 3
        moved = product.t().expand(2, 1)
        parts = product.split(1, dim=1)
    assert torch.equal(errors.radius(moved), errors.radius(product).t())
    assert torch.equal(errors.radius(parts[1]), errors.radius(product)[:, 1:])
    assert (errors.radius(moved) > 0).all()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: torch.linalg.qr(x[None]), r"aten\.linalg_qr"),
        (lambda x: x.add_(1), r"aten\.add_.*in use"),
        (lambda x: (x / 3).item(), "Python number"),
        (lambda x: bool(x / 3 == x / 3), "Python number"),
        (lambda x: (x / 3).view(torch.int32), "bits"),
        (lambda x: x[x / 3 == x / 3], "an index that is not exact"),
        (lambda x: x.index_add(0, (x / 3 > x / 3).long(), x), "an index that is not exact"),
    ],
)
def test_what_has_no_formula_is_refused(what, message):
    x = torch.ones(1)
    with pytest.raises(NotImplementedError, match=message), RunningError():
        what(x)


def test_writing_into_what_was_just_made_keeps_the_radius():
    x = torch.tensor([[1.1, 2.2], [3.3, 4.4]])
    with RunningError() as errors:
        square = x * x
        added = torch.zeros(2, 2).add_(square)
        put = torch.zeros_like(x)
        put[:, torch.tensor([1])] = square[:, :1]
    assert (errors.radius(added) >= errors.radius(square)).all()
    assert torch.equal(errors.radius(put), torch.stack([torch.zeros(2), errors.radius(square)[:, 0]], 1))


@given(st.floats(-1e30, 1e30))
@example(1e-45)
def test_a_cast_to_fewer_bits_is_a_rounding(x):
    wide = torch.tensor([x], dtype=torch.float64)
    with RunningError() as errors:
        narrow = wide.to(torch.float32)
        wide_again = narrow.to(torch.float64)
    assert held(errors, narrow, [Fraction(x)])
    assert torch.equal(errors.radius(wide_again), errors.radius(narrow))
    assert errors.radius(narrow).item() <= max(abs(x - narrow.item()) * (1 + 2.0**-40), LEAST)


def test_where_a_result_overflows_or_a_divisor_may_be_zero_anything_can_be():
    x = torch.tensor([3e38, 1.0])
    with RunningError() as errors:
        large = x * 10
        zero = (x / 3) * 3 - x
        results = [large, large - large, 1 / large, 1 / zero, zero / zero, (zero + 0).log(), large.sum(), large @ x]
    for result in results:
        assert errors.radius(result).flatten()[0] == math.inf
        assert not errors.radius(result).isnan().any()


def test_the_smallest_numbers_are_flushed_where_the_processor_flushes_them():
    x = torch.tensor([SMALLEST * 3], dtype=torch.float32)
    half = torch.tensor([2.0**-126])
    with RunningError() as precise:
        product = half * 0.75
    assert torch.set_flush_denormal(True)
    try:
        with RunningError() as errors:
            flushed, read_as_zero = half * 0.75, x * 2.0**40
        radii = [errors.radius(result).item() for result in (flushed, read_as_zero)]
    finally:
        torch.set_flush_denormal(False)
    assert precise.radius(product).item() <= SMALLEST
    assert flushed.item() == read_as_zero.item() == 0
    assert radii[0] >= 0.75 * 2.0**-126 and radii[1] >= 3 * SMALLEST * 2.0**40


@pytest.mark.parametrize("mode", ["medium", "high", "highest"])
def test_float32_products_of_reduced_precision_have_wider_radii(mode):
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        with RunningError() as errors:
            result = a @ a
    finally:
        torch.set_float32_matmul_precision(before)
    error = (result.double() - a.double() @ a.double()).abs()
    assert (error <= errors.radius(result)).all()
    # One float32 rounding for each of 64 terms is less than what one operand loses in bf16 or TF32.
    size = a.abs().double() @ a.abs().double()
    assert (errors.radius(result) <= size * {"medium": 2.0**-6, "high": 2.0**-6, "highest": 2.0**-17}[mode]).all()


def test_a_large_product_takes_a_few_products_of_its_size():
    a = torch.ones(512, 512)
    with RunningError() as errors:
        result = (a / 3) @ a
    assert errors.radius(result).shape == (512, 512)


@pytest.mark.parametrize("total", [torch.sum, torch.mean, lambda t: t @ torch.ones(3)])
def test_a_sum_that_overflows_in_another_order_may_be_anything_in_that(total):
    terms = torch.tensor([2.5e38, -2.5e38, 2.5e38])
    with RunningError() as once:
        here = total(terms)
    with RunningError(evaluations=2) as twice:
        there = total(terms)
    assert here.isfinite()
    assert once.radius(here).isfinite()
    assert twice.radius(there).isinf()


def test_a_comparison_with_what_overflowed_on_the_way_is_ambiguous():
    x = torch.tensor([3e38])
    with RunningError() as errors:
        lost = x * 10 - x * 10
        mask = lost > 0
        chosen = torch.where(mask, torch.ones(1), torch.zeros(1))
    assert lost.isnan()
    assert errors.radius(mask) > 0
    assert errors.radius(chosen) >= 1


def test_what_is_written_into_a_part_is_seen_by_all_that_look_there():
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with RunningError() as errors:
        y = x * 0.1
        row, part = y[1], y[:, 2:]
        part.mul_(0.3).add_(x[:, 2:] * 1.7)
        apart = x * 0.1
        apart = torch.cat((apart[:, :2], apart[:, 2:] * 0.3 + x[:, 2:] * 1.7), 1)
        pairs = [(y, apart), (row, apart[1]), (y.T, apart.T), (y.sum(-1), apart.sum(-1)), (part, apart[:, 2:])]
    for one, other in pairs:
        assert torch.equal(one, other)
        assert torch.equal(errors.radius(one), errors.radius(other))
