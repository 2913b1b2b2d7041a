"""Points of a rule's domain in bulk: drawn to be asked, not to be shrunk."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import torch

from backprop_rules.call import Call
from backprop_rules.errors import InputError
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bounded import bounded_point
from backprop_rules.strategies.drawing.draw import Draw, Refused
from backprop_rules.strategies.drawing.exact import exact_point
from backprop_rules.strategies.drawing.shapes import SIDES

TIERS = {"exact": exact_point, "bounded": bounded_point}
TRIES = 10  # to draw a point, where some are refused


def tiers_of(rule: Rule) -> tuple[str, ...]:
    """Return the tiers in which points of the rule can be drawn: exact only for polynomials."""
    return tuple(TIERS) if rule.domain.degree is not None else ("bounded",)


def drawn(
    rule: Rule,
    count: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
    tiers: Collection[str] = tuple(TIERS),
) -> Iterator[Call]:
    """Yield so many points, shared among the tiers that the rule has, each drawn when it is asked for.

    Equal seeds draw equal points. Raises InputError where none can be drawn.
    """
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    for k, tier in enumerate(own):
        share = left = (count + k) // len(own)
        draw = Draw(seed)
        for _ in range(TRIES * share):
            if not left:
                break
            call = _one(draw, tier, rule, dtypes or rule.domain.dtypes, sides)
            if call is not None:
                left -= 1
                yield call
        if share and left == share:
            raise InputError(
                f"{rule}: no point could be drawn on which nothing rounds: the sums are too long, or the degree too "
                f"high, for the dtypes asked for. Check the degree and the weight of its domain."
            )


def _one(draw: Draw, tier: str, rule: Rule, dtypes: Sequence[torch.dtype], sides: Sequence[int]) -> Call | None:
    with suppress(Refused):
        return TIERS[tier](draw, rule, dtypes, sides)
    return None
