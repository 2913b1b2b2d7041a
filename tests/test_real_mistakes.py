"""Every published mistake about a rule of the catalogue is objected to."""

import pytest
from real_mistakes import MISTAKES

from backprop_rules.verify import verified

# A wrong rule is asked no more once it is found out: most are at the first few points.
POINTS = 400


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_published_mistake_is_objected_to(mistake):
    _, report = verified(mistake.as_rule(), POINTS)
    assert report.verdict not in ("right", "inconclusive"), str(report)
    assert str(report).startswith(f"{mistake.rule}: ")
