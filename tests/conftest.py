"""Processes that tests of several files share: each runs the programs of all of them, in forks of itself."""

from collections.abc import Iterator

import pytest
from processes import Forked, forked

EVERYTHING = """
import torch
from backprop_rules import check, cli, verify
from backprop_rules.diagnosis import naming
from backprop_rules.strategies import drawing
verify.warm_up(torch.get_num_threads())
"""


@pytest.fixture(scope="session")
def torch_alone() -> Iterator[Forked]:
    """Return a process that has loaded torch, and nothing of ours."""
    with forked("import torch") as process:
        yield process


@pytest.fixture(scope="session")
def all_loaded() -> Iterator[Forked]:
    """Return a process that has loaded what the commands and the checks need."""
    with forked(EVERYTHING) as process:
        yield process
