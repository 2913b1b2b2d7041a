"""Tests that share what is drawn, or what is forked, run in one process: what they share is made once."""

import pytest
from grouped import by_rule

from backprop_rules import CATALOGUE

first, *_ = CATALOGUE.values()


@pytest.mark.xdist_group("of these")
def test_a_group_is_kept_together(request):
    together(request, "of these")


@by_rule([first])
def test_the_tests_of_a_rule_are_kept_together(request, rule):
    together(request, rule.name)


def together(request, group):
    """Say that xdist tells the group where it deals by groups: by what it appends to a test's name."""
    if request.config.getoption("loadgroup", False):
        words = "this pytest does not let xdist name groups: see constraints.txt"
        assert request.node.nodeid.endswith(f"@{group}"), words
