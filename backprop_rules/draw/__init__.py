"""Points drawn by Hypothesis: the only package that imports it."""

from backprop_rules.draw.bounded import bounded_points
from backprop_rules.draw.exact import exact_points
from backprop_rules.draw.search import search, tiers_of
from backprop_rules.draw.shapes import SIDES

__all__ = ["SIDES", "bounded_points", "exact_points", "search", "tiers_of"]
