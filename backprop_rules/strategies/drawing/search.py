"""Points that Hypothesis draws and shrinks: the search for the smallest at which a check fails."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, assume, configuration, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from backprop_rules.errors import Objection
from backprop_rules.point import Point
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bulk import TIERS, none_drawn, tiers_of
from backprop_rules.strategies.drawing.draw import Draw
from backprop_rules.strategies.drawing.shapes import SIDES
from backprop_rules.subject.silence import quiet

QUIET = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
)


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
) -> Point:
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


def search(
    rule: Rule,
    check: Callable[[Point], None],
    examples: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
    tiers: Collection[str] = tuple(TIERS),
) -> Objection | None:
    """Return the objection at the smallest point found at which the check fails, None where it never does.

    The examples are shared among the tiers that the rule has. `dtypes`, `sides` and
    `tiers` limit what is drawn. Equal seeds draw equal points. Raises InputError where none can be drawn.
    """
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    for k, tier in enumerate(own):
        share = (examples + k) // len(own)
        objection = _search(points(rule, tier, dtypes, sides), check, share, seed, rule) if share else None
        if objection:
            return objection
    return None


def _search(
    strategy: st.SearchStrategy[Point], check: Callable[[Point], None], examples: int, seed: int, rule: Rule
) -> Objection | None:
    last: list[Objection] = []

    @seeded(seed)
    @settings(QUIET, max_examples=examples)
    @given(strategy)
    def hold(point: Point) -> None:
        try:
            check(point)
        except Objection as objection:
            # Shrinking must not slip from one mistake to another, say from a wrong value to a wrong dtype.
            if not last or objection.kind == last[0].kind:
                last.append(objection)
                raise

    try:
        with quiet(), leaving_nothing_behind():
            hold()
    except Objection as objection:
        return objection
    except Unsatisfiable as error:
        raise none_drawn(rule) from error
    except Flaky:
        # The rule answers otherwise when asked again; the last failure shown is still a failure.
        return last[-1]
    return None
