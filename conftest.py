import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

from backprop_rules import Rule, verify
from backprop_rules.properties.effort import POINTS_OF_A_RULE
from backprop_rules.properties.outcome import Outcome
from backprop_rules.report.report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backprop_rules")
    group.addoption("--examples", type=int, default=POINTS_OF_A_RULE, help="points drawn for each rule")
    group.addoption("--points-seed", type=int, default=0, help="equal seeds draw equal points")


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the tensors are too small for more
    settings.register_profile("backprop_rules", deadline=None)  # a first call of torch may load for seconds
    settings.load_profile("backprop_rules")


Verified = Callable[..., tuple[Outcome, Report]]


@pytest.fixture(scope="session")
def verified(request: pytest.FixtureRequest) -> Verified:
    """Return a function that verifies a rule, once for all tests that share its points."""
    examples, seed = (request.config.getoption(name) for name in ("examples", "points_seed"))

    @functools.cache
    def once(rule: Rule, sides: tuple[int, ...] = ()) -> tuple[Outcome, Report]:
        return verify.verified(rule, examples, seed, sides=sides)

    return once
