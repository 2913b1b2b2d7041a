"""The properties that every rule must have: one test each, over the whole catalogue, at points that they share."""

import pytest
from grouped import by_rule

from backprop_rules import CATALOGUE
from backprop_rules.properties.effort import POINTS_OF_A_RULE, PROOFS_OF_A_RULE
from backprop_rules.properties.finding import Rung
from backprop_rules.properties.of_rules import PROOFS, PROPERTIES

every_rule = by_rule(CATALOGUE.values())
ENDS = (1, 0)  # sizes of axes, and no axis at all


def expect(outcome, report, property_):
    found = [f for f in outcome.findings if f.again is property_]
    assert not found, str(report)
    calls = max(outcome.asked.values())
    off_the_grid = calls - outcome.exact
    # A sixth of the points off the grid are proved.
    least = outcome.exact + off_the_grid * PROOFS_OF_A_RULE // POINTS_OF_A_RULE if property_ in PROOFS else calls
    assert calls > 0
    assert outcome.asked[property_.__name__] >= least


@every_rule
@pytest.mark.parametrize("property_", PROPERTIES, ids=lambda p: p.__name__)
def test_every_rule(verified, rule, property_):
    expect(*verified(rule), property_)


@every_rule
@pytest.mark.parametrize("property_", PROPERTIES, ids=lambda p: p.__name__)
def test_every_rule_treats_empty_and_0d_tensors(verified, rule, property_):
    expect(*verified(rule, ENDS), property_)


@every_rule
def test_every_rule_is_right_by_the_questions_that_any_backward_is_asked(verified, rule):
    outcome, report = verified(rule)
    assert report.passed, str(report)
    assert outcome.rungs[Rung.WITNESSED] and (outcome.rungs[Rung.PROVED] or not rule.differentiable)
    assert (outcome.exact > 0) == (rule.domain.degree is not None)
