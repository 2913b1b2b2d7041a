"""Statements and formulas at drawn points: the smallest at which they are false.

The points are whole numbers in float64, so that nothing rounds and `==` decides.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.answers.notation import holds_of
from backprop_rules.documents.answers.tools import defined

POINTS = 100  # of each size; equal in every run
SIZES = (1, 2, 3)  # what a letter of a shape may stand for at most; the smaller ones are tried first
Statement = Callable[..., bool]
Value = Callable[..., Tensor]
Point = dict[str, Tensor]


def counterexample(statement: Statement, **shapes: str) -> Point | None:
    """Return the smallest point of those drawn at which the statement is false, None where it is true at each.

    The shapes are sizes and letters, 'n d' or '2 d'; a letter stands for one size, from 1 to 3,
    wherever it occurs, and the elements are whole numbers from -4 to 4.
    """
    letters = any(not word.isdigit() for text in shapes.values() for word in text.split())
    drawn = itertools.chain(*(_drawn(tuple(shapes.items()), most) for most in (SIZES if letters else SIZES[:1])))
    return next((dict(point) for point in drawn if not statement(**point)), None)


@cache
def _drawn(shapes: tuple[tuple[str, str], ...], most: int) -> list[Point]:
    """Return points of sizes up to this one, those of small numbers first: of zeros, of ones, and drawn ones."""
    words = sorted({word for _, text in shapes for word in text.split()})
    numbers, draw, points = torch.Generator().manual_seed(most), random.Random(most), []
    for k in range(POINTS):
        sizes = {word: int(word) if word.isdigit() else draw.randint(1, most) for word in words}
        low, high = ((0, 0), (1, 1))[k] if k < 2 else (-1 - k % 4, 1 + k % 4)
        points.append({
            name: torch.randint(low, high + 1, [sizes[word] for word in text.split()], generator=numbers).double()
            for name, text in shapes
        })  # fmt: skip
    return sorted(points, key=lambda point: sum(float(x.abs().sum()) + x.numel() for x in point.values()))


def difference(computed: Value, said: Value, **shapes: str) -> Point | None:
    """Return the smallest point found at which the two values differ, None if there is none."""
    return counterexample(lambda **at: computed(*at.values()).equal(said(*at.values())), **shapes)


def untrue(formulas: str | Sequence[str], names: Callable[..., Mapping[str, Any]], **shapes: str) -> Point | None:
    """Return the smallest point at which a formula is false of the values that its names have there, None if none is.

    Where it cannot be worked out, as a product of shapes that do not fit, it is false.
    """
    every = [formulas] if isinstance(formulas, str) else formulas

    def right(**at: Tensor) -> bool:
        return defined(lambda: all(holds_of(one, names(**at)) for one in every))

    return counterexample(right, **shapes)


def told(point: Point | None) -> str:
    """Return a point as code, or that there is none."""
    if point is None:
        return "«no counterexample»"
    return ", ".join(f"{name} = {as_code(x)}" for name, x in point.items())


def as_code(x: Any) -> str:
    """Return a tensor as nested lists, with whole numbers without a decimal point."""
    if isinstance(x, Tensor):
        x = x.tolist()
    if isinstance(x, list):
        return f"[{', '.join(map(as_code, x))}]"
    return str(int(x)) if isinstance(x, float) and x.is_integer() else str(x)
