"""How far one reverse pass is followed, and how many elements are asked for themselves."""

import math

import pytest
import torch
from test_recorded import numbers, recorded_of

from backprop_rules.evidence.at_size import at_size
from backprop_rules.evidence.sensitivity import Enough
from backprop_rules.evidence.systematic import BLIND, ELEMENTS, _Unseen


@pytest.mark.parametrize("precision", ["float32", "tensorcore", "eager"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.1])
def test_a_pass_ends_where_it_has_shown_enough_and_shows_no_more_than_there_is(precision, share):
    def deep(x, w):
        for _ in range(20):
            x = (x @ w).tanh()
        return x

    asked, found = recorded_of(deep, numbers(5, 7), numbers(7, 7), precision=precision)
    held = at_size(asked.question, asked.declared).gradients[0]
    about = (0, torch.ones_like(held.truth), held.truth, held.truth.to(held.dtype))
    whole = found.reach(*about)
    enough = Enough(3.0, share * whole.within(3.0))
    shown = found.reach(*about, enough)
    assert shown.worst <= whole.worst and shown.squares <= whole.squares
    if share > 1:
        assert shown == whole
    else:
        assert shown.within(3.0) > enough.far
    assert found.reach(*about) == whole  # the graph is as it was


def wrongly_decided(share: float) -> float:
    """Return how likely a gradient of which this share of elements reaches 0 is put on the wrong side of a half."""
    unseen = _Unseen(torch.ones(100), torch.ones(100), 0, 100)

    def after(reached: tuple[bool, ...], likely: float) -> float:
        left = ELEMENTS - len(reached)
        if not left or unseen.decided(reached, left):
            blind = unseen.share(sum(reached), len(reached)) > BLIND
            return likely * (blind != (share > BLIND))
        return after((*reached, True), likely * share) + after((*reached, False), likely * (1 - share))

    return after((), 1.0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_few_are_asked_and_no_more_gradients_taken_for_seen_than_by_five(share):
    by_five = sum(math.comb(5, k) * min(share, 1 - share) ** k * max(share, 1 - share) ** (5 - k) for k in (3, 4, 5))
    assert wrongly_decided(share) < by_five + 1 / 200


def test_two_alike_decide_and_where_storing_takes_most_to_zero_one_that_reaches_it():
    half, most = (_Unseen(torch.ones(100 - lost), torch.ones(100 - lost), lost, 100) for lost in (0, 40))
    assert half.decided([True, True], 5) and half.decided([False, False], 5)
    assert not half.decided([True], 6) and not half.decided([True, False], 5)
    assert most.decided([True], 6) and not most.decided([False, False], 5)
