import argparse
import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

from backprop_rules import Rule, verify
from backprop_rules.properties.effort import POINTS_OF_A_RULE
from backprop_rules.properties.outcome import Outcome
from backprop_rules.report.report import Report
from backprop_rules.subject import garbage


def _threads(text: str) -> int:
    """Return how many threads are asked for, one or more."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of threads; torch needs 1 or more: try --threads 1")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backprop_rules")
    group.addoption("--examples", type=int, default=POINTS_OF_A_RULE, help="points drawn for each rule")
    group.addoption("--points-seed", type=int, default=0, help="equal seeds draw equal points")
    group.addoption("--threads", type=_threads, default=1, metavar="N", help="threads in which torch computes")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("threads"))  # one if not said: the tensors are too small for more
    settings.register_profile("backprop_rules", deadline=None)  # a first call of torch may load for seconds
    settings.load_profile("backprop_rules")


def pytest_collection_finish() -> None:
    garbage.set_aside()  # the tests and all that they load, of which each check would have all gone through again


Verified = Callable[..., tuple[Outcome, Report]]


@pytest.fixture(scope="session")
def verified(request: pytest.FixtureRequest) -> Verified:
    """Return a function that verifies a rule, once for all tests that share its points."""
    examples, seed = (request.config.getoption(name) for name in ("examples", "points_seed"))

    @functools.cache
    def once(rule: Rule, sides: tuple[int, ...] = ()) -> tuple[Outcome, Report]:
        return verify.verified(rule, examples, seed, sides=sides)

    return once
