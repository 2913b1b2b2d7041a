"""What a point is made of: what Hypothesis draws, and the plan of those that are always tried first."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

LAYOUTS = ("", "", "", "transposed", "sliced")
COTANGENTS = ("normal", "normal", "integers", "constant", "one", "big", "small")
VALUES = ("normal", "near", "integers", "zeros among", "normal", "wide", "small", "big")


@dataclass(frozen=True)
class Recipe:
    """What a point is made of: numbers that stand for its sizes, its kind of values, layout, cotangent, and a seed."""

    sizes: tuple[int, ...] = ()
    values: str = "normal"
    layout: str = ""
    cotangent: str = "normal"
    seed: int = 0


# At the example's own sizes, the plainest first: what most mistakes show at, and what ties, zeros, strides need.
PLAN = (
    Recipe(values="example"),
    Recipe(values="normal"),
    Recipe(values="near"),
    Recipe(values="integers", cotangent="integers"),
    Recipe(values="normal", layout="transposed"),
    Recipe(values="normal", layout="sliced", cotangent="sliced"),
    Recipe(values="normal", cotangent="constant"),
    Recipe(values="normal", cotangent="big"),
    Recipe(values="near", cotangent="small"),
    Recipe(values="big"),
    Recipe(values="small"),
    Recipe(values="wide"),
    Recipe(values="zeros among", cotangent="integers"),
    Recipe(values="ones"),
    Recipe(values="zero"),
    Recipe(values="integers", cotangent="integers"),
    Recipe(values="near", layout="transposed", cotangent="transposed"),
    Recipe(values="normal", cotangent="one"),
    Recipe(values="integers", cotangent="one"),
)


@lru_cache(maxsize=16)
def recipes(count: int, seed: int) -> tuple[Recipe, ...]:
    """Return so many recipes, drawn by Hypothesis: they are the same for every subject, whose sizes they index."""
    return tuple(_drawn(count, seed)) if count else ()


def _drawn(count: int, seed: int) -> Iterator[Recipe]:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from backprop_rules.strategies.drawing.search import leaving_nothing_behind

    pick = st.sampled_from
    strategy = st.builds(
        Recipe,
        st.tuples(*[st.integers(0, 7)] * 6),
        pick(VALUES),
        pick(LAYOUTS),
        pick(COTANGENTS),
        st.integers(0, 2**32 - 1),
    )
    found: list[Recipe] = []

    @seeded(seed)
    @settings(
        database=None,
        deadline=None,
        max_examples=count,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(recipe: Recipe) -> None:
        found.append(recipe)

    with leaving_nothing_behind():
        keep()
    yield from found[:count]
