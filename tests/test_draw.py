"""What is drawn: every kind of shape, dtype, layout and tie, and points that shrink to the simplest one."""

import functools
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from grouped import by_rule

from backprop_rules import CATALOGUE
from backprop_rules.domain import COMPLEX, REAL
from backprop_rules.evidence.oracles.oracle import at_kinks
from backprop_rules.properties import effort
from backprop_rules.question import of_the_catalogue
from backprop_rules.strategies.drawing import bulk
from backprop_rules.strategies.drawing.bulk import tiers_of
from backprop_rules.strategies.of_rules import call_that_fits, widened
from backprop_rules.strategies.shrink import plainer, shrunk
from backprop_rules.strategies.shrink_rules import smaller_of_a_rule
from backprop_rules.subject.ambient import quiet

exact = [rule for rule in CATALOGUE.values() if "exact" in tiers_of(rule)]
# Shapes and layouts are drawn from the signature of the shapes alone.
signatures = {r.domain.shapes: r for r in CATALOGUE.values()}.values()
every_signature = by_rule(signatures)
every_rule = by_rule(CATALOGUE.values())


@pytest.fixture(autouse=True)
def without_words():
    with quiet():
        yield


@functools.cache
def of_a_tier(rule, tier):
    """Return as many points as any test asks for: fewer are the first of these."""
    most = (1200 if rule in signatures else 400) // len(tiers_of(rule))
    return list(bulk.drawn(rule, max(most, 400) if tier == "exact" else most, tiers=[tier]))


def drawn(rule, examples=400, tiers=("exact", "bounded")):
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    return [p for k, tier in enumerate(own) for p in of_a_tier(rule, tier)[: (examples + k) // len(own)]]


@every_signature
def test_fewer_points_are_the_first_of_more(rule):
    assert list(map(str, bulk.drawn(rule, 30))) == list(map(str, drawn(rule, 30)))


@every_rule
def test_every_dtype_of_the_domain_is_drawn(rule):
    assert {x.dtype for point in drawn(rule) for x in point.tensors} == set(rule.domain.dtypes)


@every_signature
def test_every_layout_is_drawn_of_primals_and_cotangents(rule):
    seen = Counter()
    for point in drawn(rule, 1200):
        for role, tensors in (("primal", point.tensors), ("cotangent", (point.grad_y,))):
            for x in tensors:
                seen[role, "contiguous"] += x.is_contiguous() and x.numel() > 1
                seen[role, "stride 0"] += any(n > 1 and s == 0 for n, s in zip(x.shape, x.stride(), strict=True))
                seen[role, "offset"] += x.storage_offset() > 0
                seen[role, "transposed"] += x.ndim > 1 and x.mT.is_contiguous() and not x.is_contiguous()
    missing = {key for key, count in seen.items() if not count}
    # A rule whose y is always 0-d can only be given an offset, and a vector cannot be transposed.
    most = max(point.y.ndim for point in drawn(rule, 100))
    impossible = {("cotangent", "transposed")} | (
        {("cotangent", "stride 0"), ("cotangent", "contiguous")} if not most else set()
    )
    assert missing <= (impossible if most < 2 else set())


@every_signature
def test_empty_tensors_and_sides_of_one_are_drawn(rule):
    points = drawn(rule)
    assert any(x.numel() == 0 for point in points for x in point.tensors) or rule.domain.requires
    assert any(1 in x.shape for point in points for x in point.tensors)
    if "..." in [shape.strip() for shape in rule.domain.shapes.split(",")]:
        assert any(x.ndim == 0 for point in points for x in point.tensors)


@by_rule(r for r in CATALOGUE.values() if r.domain.shapes.count("...") > 1)
def test_primals_that_broadcast_are_drawn_in_different_shapes(rule):
    points = drawn(rule)
    assert any(len({x.ndim for x in point.tensors}) > 1 for point in points)
    assert any(
        x.shape != point.tensors[0].shape and x.ndim == point.tensors[0].ndim for point in points for x in point.tensors
    )


@every_rule
def test_every_optional_primal_is_left_out_and_given(rule):
    points = drawn(rule, 100)
    for i, name in enumerate(rule.primals):
        given = {point.primals[i] is not None for point in points}
        assert given == ({True, False} if name in rule.optional else {True})


@by_rule(rule for rule in exact if rule.conventions)
def test_ties_are_drawn_on_purpose(rule):
    points = drawn(rule, tiers=["exact"])
    for convention in rule.conventions:
        ties = sum(bool(convention.where(*point.primals, **point.params).any()) for point in points)
        assert ties >= len(points) / 50, convention.at
    assert sum(bool(at_kinks(point, rule.conventions).any()) for point in points) >= len(points) / 5


@by_rule(exact)
def test_wide_and_narrow_grids_are_drawn(rule):
    points = drawn(rule, tiers=["exact"])
    sizes = [x.abs().max().item() / point.spacing for point in points for x in point.tensors if x.numel()]
    assert max(sizes) > 1000
    assert min(sizes) == 0


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_values_of_any_magnitude_are_drawn(dtype):
    finfo = torch.finfo(dtype)
    points = bulk.drawn(CATALOGUE["neg"], 1000, tiers=["bounded"], dtypes=[dtype])
    tensors = [torch.view_as_real(p.tensors[0]) if dtype.is_complex else p.tensors[0] for p in points]
    values = torch.cat([x.flatten().double() for x in tensors])
    assert values.isfinite().all()
    assert values.abs().max() > finfo.max / 4
    assert ((values != 0) & (values.abs() < finfo.smallest_normal)).any()
    assert {torch.signbit(v).item() for v in values[values == 0]} == {True, False}
    assert max(len(set(torch.frexp(x.flatten())[1].tolist())) for x in tensors) > 10


@every_rule
def test_values_lie_where_the_domain_says(rule):
    for point in drawn(rule, 200, tiers=["bounded"]):
        for i, x in zip(point.given, point.tensors, strict=True):
            low, high = rule.domain.interval(rule.primals[i], point.params)
            assert x.is_complex() or ((low <= x) & (x <= high)).all()


@every_rule
def test_equal_seeds_draw_equal_points_and_others_do_not(rule):
    first, again, other = (list(map(str, bulk.drawn(rule, 30, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


def smallest(rule, calls):
    """Return what the smallest of the calls shrinks to, where every point shows what is looked for."""
    first = min(
        calls, key=lambda call: (any(not x.numel() for x in call.tensors), sum(x.numel() for x in call.tensors))
    )
    subject, evaluations = of_the_catalogue(rule, rule.domain.dtypes), iter(range(effort.SHRINKS_OF_A_RULE))
    ways = (partial(smaller_of_a_rule, rule, subject.function, subject.constants), plainer)

    def again(point):
        return point if call_that_fits(rule, point) is not None and not point.empty else None

    start = replace(widened(first), spacing=0.0)  # off the grid, whose numbers are small
    found = shrunk(start, lambda point: point, again, ways, lambda: next(evaluations, None) is not None)
    return call_that_fits(rule, found)


@every_rule
def test_what_every_point_shows_shrinks_to_zeros_of_side_one(rule):
    point = smallest(rule, bulk.drawn(rule, 20, dtypes=[torch.float64]))
    assert all(x.numel() == 1 for x in point.tensors)
    for x in (*point.tensors, point.grad_y):
        assert x.dtype == torch.float64
        assert x.is_contiguous()
        assert not x.any()
