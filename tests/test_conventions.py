"""Kinks: what is declared is what is there, and the installed torch is where the declaration says it is."""

import functools
from dataclasses import replace

import pytest
import torch
from grouped import by_rule, of

from backprop_rules import CATALOGUE, check
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.evidence.kinks import DISTANCES, neighbours
from backprop_rules.evidence.oracles import ForwardMode, OneSidedDifferences, ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent, at_kinks
from backprop_rules.evidence.verdict import judge
from backprop_rules.question import Asked, question
from backprop_rules.rule import installed
from backprop_rules.strategies.drawing.bulk import drawn, tiers_of

exact = [rule for rule in CATALOGUE.values() if rule.conventions and "exact" in tiers_of(rule)]
kinked = by_rule(exact)


def parametrised(rules):
    pairs = [pytest.param(rule, c, marks=of(rule)) for rule in rules for c in rule.conventions]
    return pytest.mark.parametrize(("rule", "convention"), pairs, ids=lambda value: getattr(value, "at", str(value)))


conventions = parametrised(exact)


@functools.cache
def points_of(rule, tier):
    return list(drawn(rule, 400, tiers=[tier]))


def points_on(rule, convention, tier="exact"):
    at = [(point, convention.where(*point.primals, **point.params)) for point in points_of(rule, tier)]
    return [point.only(outputs) for point, outputs in at if outputs.any()]


@conventions
def test_the_rules_choice_lies_between_the_one_sided_derivatives(rule, convention):
    points = points_on(rule, convention)
    assert points
    for point in points:
        enclosures = OneSidedDifferences().enclosures(point)
        assert all(enclosures[i].outside(point.gradients[i]) is None for i in point.given)


@parametrised(rule for rule in CATALOGUE.values() if rule.conventions)
def test_the_rules_choice_lies_in_the_certified_hull_as_torchs_does(rule, convention):
    points = points_on(rule, convention, "bounded")
    assert points
    for point in points:
        for verdict in judge(point):
            silent = verdict.gradient is None
            assert verdict.agrees or (verdict.witness and (silent or not installed(convention.torch))), verdict


MODES = {"reverse": (ReverseMode(), "torch"), "forward": (ForwardMode(), "torch_forward")}


@conventions
@pytest.mark.parametrize("mode", MODES)
def test_the_installed_torch_makes_the_choice_exactly_where_it_is_declared_to(rule, convention, mode):
    oracle, versions = MODES[mode]
    follows = []
    for point in points_on(rule, convention):
        try:
            enclosures = oracle.enclosures(point)
        except Silent:
            continue
        follows.append(all(enclosures[i].outside(point.gradients[i]) is None for i in point.given))
    assert follows
    assert all(follows) == installed(getattr(convention, versions))


def test_versions_are_compared_as_pep_440_says():
    assert installed(">=1.0")
    assert not installed("<1.0")
    assert not installed(None)


@kinked
def test_differences_find_no_kink_that_is_not_declared(rule):
    for point in points_of(rule, "exact"):
        elsewhere = point.only(~at_kinks(point, rule.conventions))
        for enclosure in OneSidedDifferences().enclosures(elsewhere):
            assert enclosure is None or torch.equal(enclosure.lo, enclosure.hi)


def test_a_kink_of_one_element_is_crossed_whichever_it_is():
    x, g = torch.zeros(20_000, dtype=torch.float64), torch.ones(20_000, dtype=torch.float64)
    subject, points = question(lambda g, x: g * (x > 0), (None, torch.relu, None, (x,), {}, None), Asked())
    evidence = Evidence(subject, replace(next(iter(points)), leaves=(x,), grads=(g,)))
    for distance in DISTANCES:
        nearby = torch.stack([gradients[0] for _, gradients in neighbours(evidence, distance)])
        assert (nearby.amax(0) > nearby.amin(0)).all()


def first_of_a_tie(grad_y, x):
    mask = torch.zeros_like(x)
    mask[x.argmax()] = 1
    return grad_y * mask


@pytest.mark.parametrize(("asked", "verdict"), [("torch", "convention"), ("any subgradient", "right")])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_of_a_tie_is_a_choice_however_many_are_tied(asked, verdict, seed):
    example = (torch.ones(6, dtype=torch.float64),)
    options = {"convention": asked, "seed": seed, "raise_on_failure": False}
    assert check(first_of_a_tie, forward=lambda x: x.amax(), example=example, **options).verdict == verdict


def test_more_than_its_share_of_a_tie_is_no_choice():
    def twice(grad_y, x):
        return 2 * first_of_a_tie(grad_y, x)

    example = (torch.ones(6, dtype=torch.float64),)
    found = check(twice, forward=lambda x: x.amax(), example=example, raise_on_failure=False)
    assert found.verdict == "wrong"
