"""The search for a point at which a check fails, and its shrinking to the smallest."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from random import Random

import torch
from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from backprop_rules.errors import InputError, Objection
from backprop_rules.point import Point
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bounded import bounded_points
from backprop_rules.strategies.drawing.exact import exact_points
from backprop_rules.strategies.drawing.shapes import SIDES
from backprop_rules.strategies.drawing.values import in_bulk
from backprop_rules.subject.silence import quiet

STRATEGIES = {"exact": exact_points, "bounded": bounded_points}
TIERS = tuple(STRATEGIES)
BYTES, TRIES = 4096, 10  # of which a point is drawn, and how often where points are refused
QUIET = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
)


def tiers_of(rule: Rule) -> tuple[str, ...]:
    """Return the tiers in which points of the rule can be drawn: exact only for polynomials."""
    return TIERS if rule.domain.degree is not None else TIERS[1:]


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
    tiers: Sequence[str] = TIERS,
) -> Objection | None:
    """Return the objection at the smallest point found at which the check fails, None where it never does.

    The examples are shared among the tiers that the rule has. `dtypes`, `sides` and
    `tiers` limit what is drawn. Equal seeds draw equal points. Raises InputError where none can be drawn.
    """
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    for k, tier in enumerate(own):
        share = (examples + k) // len(own)
        objection = _search(STRATEGIES[tier](rule, dtypes, sides), check, share, seed, rule) if share else None
        if objection:
            return objection
    return None


def drawn(
    rule: Rule,
    count: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
    tiers: Sequence[str] = TIERS,
) -> list[Point]:
    """Return so many points, shared among the tiers that the rule has: drawn to be asked, not to be shrunk.

    Equal seeds draw equal points. Raises InputError where none can be drawn.
    """
    return list(one_by_one(rule, count, seed, dtypes, sides, tiers))


def one_by_one(
    rule: Rule,
    count: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
    tiers: Sequence[str] = TIERS,
) -> Iterator[Point]:
    """Yield the same points, each drawn when it is asked for: of a wrong rule the first few are all that are."""
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    for k, tier in enumerate(own):
        yield from _filled(STRATEGIES[tier](rule, dtypes, sides), (count + k) // len(own), seed, rule)


def _filled(points: st.SearchStrategy[Point], count: int, seed: int, rule: Rule) -> Iterator[Point]:
    """Yield so many points, each drawn from a string of random bytes."""
    found: list[Point] = []

    @settings(QUIET)
    @given(points)
    def keep(point: Point) -> None:
        found.append(point)

    numbers, draw = Random(seed), keep.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    for _ in range(TRIES * count):
        before = len(found)
        if before == count:
            return
        with quiet(), leaving_nothing_behind(), _many():
            draw(numbers.randbytes(BYTES))
        yield from found[before:]
    if count and not found:
        raise _none_drawn(rule)


@contextmanager
def _many() -> Iterator[None]:
    """Until the end of the block, draw values as for points that are many, and never shrunk."""
    token = in_bulk.set(True)
    try:
        yield
    finally:
        in_bulk.reset(token)


def _none_drawn(rule: Rule) -> InputError:
    return InputError(
        f"{rule}: no point could be drawn on which nothing rounds: the sums are too long, or the degree too high, "
        f"for the dtypes asked for. Check the degree and the weight of its domain."
    )


def _search(
    points: st.SearchStrategy[Point], check: Callable[[Point], None], examples: int, seed: int, rule: Rule
) -> Objection | None:
    last: list[Objection] = []

    @seeded(seed)
    @settings(QUIET, max_examples=examples)
    @given(points)
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
        raise _none_drawn(rule) from error
    except Flaky:
        # The rule answers otherwise when asked again; the last failure shown is still a failure.
        return last[-1]
    return None
