"""The checker is checked: every planted wrong rule is objected to, with a minimal counterexample."""

import pytest
from planted import PLANTED
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE
from backprop_rules.verify import verified

# A wrong rule is asked no more once it is found out: most are at the first few points.
POINTS = 400


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_planted_mistake_is_objected_to_with_a_minimal_counterexample(planted):
    _, report = verified(planted.as_rule(), POINTS)
    assert report.verdict not in ("right", "inconclusive")
    size = report.finding.point.size
    assert size == planted.elements, f"@plant says {planted.elements} elements, and the smallest has {size}:\n{report}"
    assert report.counterexample in str(report).replace("\n    ", "\n")


def test_every_rule_has_a_planted_mistake():
    assert {planted.rule for planted in (*PLANTED, *MISTAKES)} == set(CATALOGUE)
