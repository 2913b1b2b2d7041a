"""Every published mistake about a rule of the catalogue is objected to."""

import pytest
from real_mistakes import MISTAKES

from backprop_rules.verify import verify_rule


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_published_mistake_is_objected_to(mistake):
    objection = verify_rule(mistake.as_rule(), examples=1000).objection
    assert objection is not None
    assert mistake.rule in str(objection)
