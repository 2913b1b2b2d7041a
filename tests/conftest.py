"""What tests of several files share: processes that run programs in forks of themselves, and the settled claims."""

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from processes import Forked, forked

from backprop_rules.documents.answers import report

# A first check loads what is loaded late, and so does a first run of pytest, whose plugins rewrite what they load.
EVERYTHING = """
import contextlib
import io
import os
import tempfile
import pytest
import torch
from backprop_rules import check, cli, verify
from backprop_rules.subject import garbage
verify.warm_up(torch.get_num_threads())
check(lambda grad_y, x: grad_y, forward=torch.neg, example=(torch.ones(2),), raise_on_failure=False)
with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
    pytest.main([nothing, "-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:backprop_rules"])
garbage.set_aside()
"""


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    """Each test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


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


@pytest.fixture(scope="session")
def settled() -> Callable[[str], list[report.Settled]]:
    """Return a function that settles the claims of a document, once for all tests of it."""
    return functools.cache(lambda document: list(report.settled(document)))
