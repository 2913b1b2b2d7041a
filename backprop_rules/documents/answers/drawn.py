"""Statements at points that Hypothesis draws and shrinks: where they are false, and evidence that they are true.

The points are whole numbers in float64, so that nothing rounds and `==` decides.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from torch import Tensor

from backprop_rules.documents.answers.claim import Evidence, Seen

POINTS = 100  # drawn in search of a counterexample, of each size; equal in every run
SIZES = (1, 2, 3)  # what a letter of a shape may stand for at most; the smaller ones are tried first
QUIET = settings(
    database=None, derandomize=True, deadline=None, max_examples=POINTS, suppress_health_check=list(HealthCheck)
)
Statement = Callable[..., bool]
Value = Callable[..., Tensor]
Point = dict[str, Tensor]


def counterexample(statement: Statement, **shapes: str) -> Point | None:
    """Return the smallest point found at which the statement is false, None where it is true at every point drawn.

    The shapes are sizes and letters, 'n d' or '2 d'; a letter stands for one size, from 1 to 3,
    wherever it occurs, and the elements are whole numbers from -4 to 4.
    """
    letters = any(not word.isdigit() for text in shapes.values() for word in text.split())
    for most in SIZES if letters else SIZES[:1]:
        with suppress(NoSuchExample):
            return find(_points(shapes, most), lambda point: not statement(**point), settings=QUIET)
    return None


def difference(computed: Value, said: Value, **shapes: str) -> Point | None:
    """Return the smallest point found at which the two values differ, None if there is none."""
    return counterexample(lambda **at: computed(*at.values()).equal(said(*at.values())), **shapes)


def everywhere(before: str = "", **shapes: str) -> Callable[[Statement], Evidence]:
    """Turn a statement into the evidence that it is true at every point drawn, told after these words."""

    def evidence_of(statement: Statement) -> Evidence:
        def evidence() -> Seen:
            found = counterexample(statement, **shapes)
            return Seen(found is None, None, before + told(found))

        return evidence

    return evidence_of


def same(before: str, computed: Value, said: Value, **shapes: str) -> Evidence:
    """Return the evidence that the two values are the same at every point drawn, told after these words."""
    return everywhere(before, **shapes)(lambda **at: computed(*at.values()).equal(said(*at.values())))


@st.composite
def _points(draw: Callable[..., Any], shapes: dict[str, str], most: int) -> Point:
    words = {word for text in shapes.values() for word in text.split()}
    sizes = {word: int(word) if word.isdigit() else draw(st.integers(1, most)) for word in sorted(words)}
    point = {}
    for name, text in shapes.items():
        shape = [sizes[word] for word in text.split()]
        count = torch.Size(shape).numel()
        numbers = draw(st.lists(st.integers(-4, 4), min_size=count, max_size=count))
        point[name] = torch.tensor(numbers, dtype=torch.float64).reshape(shape)
    return point


def told(point: Point | None) -> str:
    """Return a point as code, or that there is none."""
    if point is None:
        return "no counterexample"
    return ", ".join(f"{name} = {as_code(x)}" for name, x in point.items())


def as_code(x: Any) -> str:
    """Return a tensor as nested lists, with whole numbers without a decimal point."""
    if isinstance(x, Tensor):
        x = x.tolist()
    if isinstance(x, list):
        return f"[{', '.join(map(as_code, x))}]"
    return str(int(x)) if isinstance(x, float) and x.is_integer() else str(x)
