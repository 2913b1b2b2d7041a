"""Points that Hypothesis draws and shrinks: a strategy for the properties of a test."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from backprop_rules.call import Call
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bulk import TIERS
from backprop_rules.strategies.drawing.draw import Draw
from backprop_rules.strategies.drawing.shapes import SIDES


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
