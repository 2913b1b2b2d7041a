"""Points that Hypothesis draws and shrinks: the smallest at which something shows."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from random import Random
from typing import Any

import torch
from hypothesis import Phase, assume, configuration, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from backprop_rules.call import Call
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bulk import TIERS, tiers_of
from backprop_rules.strategies.drawing.draw import Draw
from backprop_rules.strategies.drawing.shapes import SIDES
from backprop_rules.subject.silence import quiet

QUIET = settings(database=None, deadline=None, phases=(Phase.generate, Phase.shrink), print_blob=False)


class Shrinking(Draw):
    """Draws by Hypothesis, within one of its strategies."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def whole(self, first: int, last: int) -> int:
        """Draw an integer."""
        found: int = self._draw(_integers(first, last))
        return found

    def bytes(self, length: int) -> bytes:
        """Draw a string."""
        found: bytes = self._draw(st.binary(min_size=length, max_size=length))
        return found

    def assume(self, condition: object) -> None:
        """Reject the example."""
        assume(condition)


@cache
def _integers(first: int, last: int) -> st.SearchStrategy[int]:
    return st.integers(first, last)


@st.composite
def points(
    draw: Any, rule: Rule, tier: str, dtypes: Sequence[torch.dtype] | None = None, sides: Sequence[int] = SIDES
) -> Call:
    """Draw a point of a tier, which Hypothesis can shrink: shapes, params, dtypes, layouts, values and a cotangent."""
    return TIERS[tier](Shrinking(draw), rule, dtypes or rule.domain.dtypes, sides)


@contextmanager
def leaving_nothing_behind() -> Iterator[None]:
    """Until the end of the block, let Hypothesis keep its files in a folder that is gone when the process ends."""
    before = vars(configuration).get("__hypothesis_home_directory")
    configuration.set_hypothesis_home_dir(_home())
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(before)


@cache
def _home() -> str:
    folder = tempfile.mkdtemp(prefix="backprop-rules-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def smallest(
    rule: Rule,
    shows: Callable[[Call], Any],
    examples: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
) -> Call | None:
    """Return the smallest point found at which something shows, None where it does not among so many of each tier.

    Equal seeds find equal points.
    """
    for tier in tiers_of(rule):
        asked = settings(QUIET, max_examples=examples // len(tiers_of(rule)))
        with quiet(), leaving_nothing_behind(), suppress(NoSuchExample):
            return find(points(rule, tier, dtypes, sides), shows, settings=asked, random=Random(seed))
    return None
