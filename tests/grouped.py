"""Tests of one rule share what is drawn of it, tests of a document its settled claims: one process has them all."""

import pytest

from backprop_rules import Rule


def of(rule: Rule) -> pytest.MarkDecorator:
    """Return the mark of a rule's tests."""
    return pytest.mark.xdist_group(rule.name)


def of_document(document: str) -> pytest.MarkDecorator:
    """Return the mark of the tests of a document's claims."""
    return pytest.mark.xdist_group(f"the claims of {document}")


def by_rule(rules):
    """Return the parametrisation of a test by rules."""
    return pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.name, marks=of(rule)) for rule in rules])
