"""The catalogue: one file a chapter, in the order of a textbook. Importing it fills `CATALOGUE`."""

# In the order in which they are read, which is that of the list and of the tests.
from backprop_rules.catalogue import arithmetic, elementwise, reductions, linear_algebra, losses  # noqa: I001
from backprop_rules.rule import CATALOGUE

CHAPTERS = (arithmetic, elementwise, reductions, linear_algebra, losses)

__all__ = ["CATALOGUE", "CHAPTERS"]
