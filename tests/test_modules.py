"""Functions as people have them: a right backward is right, and each wrong one is found out."""

import pytest
from modules import MODULES

from backprop_rules import check

WRONG = [(module, mistake) for module in MODULES for mistake in module.wrong]


def checked(module, backward):
    return check(backward, forward=module.forward, example=module.example, raise_on_failure=False, explain=False)


def test_there_are_at_least_thirty_and_each_of_its_own():
    assert len({module.name for module in MODULES}) == len(MODULES) >= 30
    assert all(1 <= len(module.wrong) <= 3 for module in MODULES)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_the_right_backward_is_right(module):
    report = checked(module, module.right)
    assert report.verdict in ("right", "convention"), str(report)


@pytest.mark.parametrize(("module", "mistake"), WRONG, ids=str)
def test_a_wrong_backward_is_found_out(module, mistake):
    report = checked(module, module.wrong[mistake])
    assert report.verdict == "wrong", str(report)
    assert not report.passed
