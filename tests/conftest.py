"""Processes that tests of several files share: each runs the programs of all of them, in forks of itself."""

from collections.abc import Iterator

import pytest
from processes import Forked, forked

# A first check loads what is loaded late, and Hypothesis then reads all of the package, to know its constants.
EVERYTHING = """
import torch
from backprop_rules import check, cli, verify
verify.warm_up(torch.get_num_threads())
check(lambda grad_y, x: grad_y, forward=torch.neg, example=(torch.ones(2),), raise_on_failure=False)
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
