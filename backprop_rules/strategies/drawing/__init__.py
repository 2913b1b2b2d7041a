"""Points drawn by Hypothesis: the only package that imports it."""

from backprop_rules.strategies.drawing.bounded import bounded_points
from backprop_rules.strategies.drawing.exact import exact_points
from backprop_rules.strategies.drawing.search import drawn, one_by_one, search, tiers_of
from backprop_rules.strategies.drawing.shapes import SIDES

__all__ = ["SIDES", "bounded_points", "drawn", "exact_points", "one_by_one", "search", "tiers_of"]
