import argparse
import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

from backprop_rules import Rule
from backprop_rules.properties.of_rules import Property, check
from backprop_rules.strategies.drawing import SIDES, search
from backprop_rules.subject.devices import devices_here, weighted


def _threads(text: str) -> int:
    """Return how many threads are asked for, one or more."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of threads; torch needs 1 or more: try --threads 1")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backprop_rules")
    group.addoption("--examples", type=int, default=100, help="points drawn for each property and rule")
    group.addoption("--points-seed", type=int, default=0, help="equal seeds draw equal points")
    group.addoption("--threads", type=_threads, default=1, metavar="N", help="threads in which torch computes")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("threads"))  # one if not said: the tensors are too small for more
    settings.register_profile("backprop_rules", deadline=None)  # a first call of torch may load for seconds
    settings.load_profile("backprop_rules")


@pytest.fixture
def hold(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that raises the objection to the smallest point at which a rule lacks some properties."""

    def held(rule: Rule, *properties: Property, sides: tuple[int, ...] = SIDES, meta: bool = False) -> None:
        devices = [device for device in devices_here() if meta or device != "meta"]
        examples, seed = (request.config.getoption(name) for name in ("examples", "points_seed"))
        checked = functools.partial(check, properties=properties)
        objection = search(rule, checked, examples, seed, devices=weighted(devices), sides=sides)
        if objection:
            raise objection

    return held
