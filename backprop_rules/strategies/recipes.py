"""What a point is made of: what is drawn, and the plan of those that are always tried first."""

from collections.abc import Iterator
from dataclasses import dataclass

from backprop_rules.strategies.drawing.draw import Draw

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


# What looks at the innermost stride alone takes rows of wider rows for an array in order: of a large example these are
# tried as well, `ROWS`. Cotangents come expanded along one axis from a sum over it.
OUT_OF_ORDER = (
    Recipe(values="normal", layout="padded", cotangent="padded"),
    Recipe(values="near", layout="swapped", cotangent="swapped"),
    Recipe(values="normal", layout="channels_last", cotangent="channels_last"),
    Recipe(values="normal", cotangent="alike in rows"),
    Recipe(values="normal", layout="alike rows", cotangent="alike rows"),
)
ROWS = ("padded",)
SOME = "some left out"  # of masks of the example that leave out nothing: of others there is no such point
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
    Recipe(values="wide", cotangent="wide"),
    Recipe(values="zeros among", cotangent="integers"),
    Recipe(values="ones"),
    Recipe(values="zero"),
    Recipe(values="integers", cotangent="integers"),
    Recipe(values="near", layout="transposed", cotangent="transposed"),
    Recipe(values="normal", cotangent="one"),
    Recipe(values="integers", cotangent="one"),
    Recipe(values="hard row"),
    *OUT_OF_ORDER,
    Recipe(values="tens"),
    Recipe(values=SOME),
)
# Layouts of a large example at its own size, beside its own: each takes a call, and the small are asked in all.
LAID_OUT = ("transposed", "sliced", "padded")


def recipes(count: int, seed: int) -> Iterator[Recipe]:
    """Yield so many drawn recipes: equal seeds draw the same for every subject, whose sizes they index."""
    draw = Draw(seed)
    for _ in range(count):
        sizes = tuple(draw.whole(0, 7) for _ in range(6))
        yield Recipe(sizes, draw.pick(VALUES), draw.pick(LAYOUTS), draw.pick(COTANGENTS), draw.whole(0, 2**32 - 1))
