"""The catalogue: one file a chapter, in the order of a textbook. Importing it fills `CATALOGUE`."""

from backprop_rules.catalogue import arithmetic, elementwise, reductions, linear_algebra, losses  # noqa: I001
from backprop_rules.rule import CATALOGUE

CHAPTERS = (arithmetic, elementwise, reductions, linear_algebra, losses)

__all__ = ["CATALOGUE", "CHAPTERS"]
