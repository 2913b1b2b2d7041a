"""The catalogue: one file a chapter, in the order of a textbook. Importing it fills `CATALOGUE`."""

# In the order in which they are read, which is that of the list and of the tests.
from backprop_rules.catalogue import (  # noqa: I001
    arithmetic,
    powers,
    elementary,
    piecewise,
    activations,
    reductions,
    normalisation,
    linear_algebra,
    indexing,
    losses,
)
from backprop_rules.rule import CATALOGUE

CHAPTERS = (
    arithmetic,
    powers,
    elementary,
    piecewise,
    activations,
    reductions,
    normalisation,
    linear_algebra,
    indexing,
    losses,
)

__all__ = ["CATALOGUE", "CHAPTERS"]
