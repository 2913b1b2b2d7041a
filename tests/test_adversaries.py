"""Kernels that fool checkers are caught, with their kind in the message; their right twins pass."""

import re

import pytest
from adversaries import MEMORY, REPLAY, Adversary
from adversaries_of_values import BATCHES, PRECISION, RAGGED, WHICH

from backprop_rules import Report, check, check_function

EVERY = (*MEMORY, *REPLAY, *BATCHES, *RAGGED, *WHICH, *PRECISION)


def answer(adversary: Adversary, backward: object) -> Report:
    ask = check_function if isinstance(backward, type) else check
    asked = {"forward": adversary.forward, "example": adversary.example, **adversary.options}
    return ask(backward, **asked, raise_on_failure=False)


@pytest.mark.parametrize("adversary", EVERY, ids=lambda one: one.name)
def test_what_fools_checkers_is_caught_and_its_kind_told(adversary):
    report = answer(adversary, adversary.wrong())
    assert report.verdict in ("wrong", "inaccurate"), str(report)
    assert re.search(adversary.says, str(report)), str(report)


@pytest.mark.parametrize("adversary", EVERY, ids=lambda one: one.name)
def test_its_right_twin_passes(adversary):
    report = answer(adversary, adversary.right())
    assert report.verdict == "right", str(report)


@pytest.mark.parametrize("kind", [MEMORY, REPLAY, BATCHES, RAGGED, WHICH, PRECISION], ids=len)
def test_of_each_kind_there_are_three_of_our_own(kind):
    assert sum(not one.source for one in kind) >= 3
