"""The checker is checked: every planted wrong rule is objected to, with a minimal counterexample."""

import pytest
from planted import PLANTED
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE
from backprop_rules.properties.objection import WrongGradient
from backprop_rules.properties.of_rules import check
from backprop_rules.properties.simplify import simpler
from backprop_rules.verify import verify_rule


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_a_planted_mistake_is_objected_to_with_a_minimal_counterexample(planted):
    objection = verify_rule(planted.as_rule(), examples=500).objection
    assert objection is not None
    point = objection.point
    assert sum(x.numel() for x in (*point.tensors, point.grad_y)) == planted.elements, str(objection)
    assert "The smallest counterexample found:\n    " + str(point).replace("\n", "\n    ") in str(objection)
    for other in simpler(point):
        try:
            check(other)
        except WrongGradient as still_wrong:
            assert still_wrong.kind != objection.kind, f"{other} is simpler than {point}"


def test_every_rule_has_a_planted_mistake():
    assert {planted.rule for planted in (*PLANTED, *MISTAKES)} == set(CATALOGUE)
