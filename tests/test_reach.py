"""How far one reverse pass is followed, and how many elements are asked for themselves."""

import math
from types import SimpleNamespace

import pytest
import torch
from real_sizes import KERNELS, stored
from test_recorded import numbers, recorded_of

from backprop_rules.evidence import systematic
from backprop_rules.evidence.at_size import Held, at_size
from backprop_rules.evidence.sensitivity import Alike, Enough, Sensitivities, Weighed, known
from backprop_rules.evidence.unseen import AT_ONCE, BLIND, BY_CHANCE, ELEMENTS, NOT_FAR, SUMMED, Unseen
from backprop_rules.testing import enclose


@pytest.mark.parametrize("precision", ["float32", "tensorcore", "eager"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.1])
def test_a_pass_ends_where_it_has_shown_enough_and_shows_no_more_than_there_is(precision, share):
    def deep(x, w):
        for _ in range(20):
            x = (x @ w).tanh()
        return x

    asked, found = recorded_of(deep, numbers(5, 7), numbers(7, 7), precision=precision)
    held = at_size(asked.question, asked.declared).gradients[0]
    about = [Weighed(0, torch.ones_like(held.truth), held.truth, held.truth.to(held.dtype))]
    whole = found.reach(about)
    enough = Enough(3.0, share * whole.within(3.0))
    shown = found.reach(about, enough)
    assert shown.worst <= whole.worst and shown.squares <= whole.squares
    if share > 1:
        assert shown == whole
    else:
        assert shown.within(3.0) > enough.far
    assert found.reach(about) == whole  # the graph is as it was


def wrongly_decided(share: float) -> float:
    """Return how likely a gradient of which this share of elements reaches 0 is put on the wrong side of a half."""
    unseen = Unseen(torch.ones(100), torch.ones(100), 0, 100)

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
    half, most = (Unseen(torch.ones(100 - lost), torch.ones(100 - lost), lost, 100) for lost in (0, 40))
    assert half.decided([True, True], 5) and half.decided([False, False], 5)
    assert not half.decided([True], 6) and not half.decided([True, False], 5)
    assert most.decided([True], 6) and not most.decided([False, False], 5)


def test_of_those_drawn_as_many_may_reach_zero_as_tell_a_share_from_a_half_by_more_than_chance():
    half, most = (Unseen(torch.ones(100 - lost), torch.ones(100 - lost), lost, 100) for lost in (0, 40))
    assert [half.have_to_be_seen(n) for n in range(8)] == [0, 0, 2, 3, 4, 4, 5, 5]
    assert not Unseen(torch.zeros(3), torch.zeros(3), 3, 3).have_to_be_seen(0)  # where storing takes all to 0
    assert sum(math.comb(7, k) for k in range(3)) <= BY_CHANCE * 2**7 < sum(math.comb(7, k) for k in range(4))
    assert not most.have_to_be_seen(7) and BY_CHANCE < (5 / 6) ** 7  # a sixth of those that are open


def test_the_smallest_of_those_drawn_of_a_narrow_gradient_are_in_no_random_sum():
    truth = torch.tensor([3.0, 1.0, -2.0, 7.0, 5.0, -4.0, 6.0], dtype=torch.float64)
    unseen = Unseen(torch.ones(7, dtype=torch.bool), torch.ones(7, dtype=torch.bool), 0, 7)
    for dtype, left_out in ((torch.float16, {1.0, 2.0}), (torch.bfloat16, {1.0, 2.0}), (torch.float32, None)):
        table = systematic._Table(0, Held(truth, 2 * truth.abs(), dtype), truth.to(dtype), 0.0)
        some = table.drawn(unseen)
        summed = {abs(float(truth[element])) for element in some.summed}
        assert len(summed) == SUMMED and len(some.elements) == 7
        assert left_out is None or not summed & left_out
        assert sum(bool(c) for c in some.random(0)) == SUMMED


class _OneDirection:
    """A norm that sees one direction alone, in which one element reaches 0 just so: there is none that says less."""

    def __init__(self, others: float) -> None:
        self.reaches = torch.tensor([1.0] + [others] * (SUMMED - 1), dtype=torch.float64)

    def reach(self, coefficients, far):
        return abs(float(coefficients[0] @ self.reaches))


@pytest.mark.parametrize("others", [0.0, 0.2, 0.5, 2.0])
def test_elements_of_which_one_reaches_zero_are_seldom_taken_for_seen(others):
    times, random = 20_000, torch.Generator().manual_seed(0)
    table = SimpleNamespace(leaf=0, off=torch.zeros(SUMMED, dtype=torch.float64))
    table.truth = torch.ones(SUMMED, dtype=torch.float64)
    norm, seen = _OneDirection(others), 0
    for _ in range(times):
        weights = 2 * torch.rand(len(NOT_FAR), SUMMED, generator=random, dtype=torch.float64) - 1
        elements = [(k,) for k in range(SUMMED)]
        some = systematic._Drawn(table, None, elements, elements, weights)
        seen += systematic._none_at_zero([some], norm)
    rate = seen / times
    assert rate <= AT_ONCE + 4 * math.sqrt(AT_ONCE / times)
    if not others:  # and little is given away: some are taken for seen by more than one count of sums
        assert rate >= AT_ONCE * (1 - sum(NOT_FAR[:-1])) - 4 * math.sqrt(AT_ONCE / times)


def test_random_sums_are_held_to_how_far_all_of_their_gradients_are_off():
    asked = []

    class Reaches:
        def __init__(self, *found):
            self.found = iter(found)

        def reach(self, coefficients, far):
            asked.append((sorted(coefficients), far))
            return next(self.found)

    def some(leaf, answer):
        table = SimpleNamespace(leaf=leaf, off=torch.tensor([answer]))
        return SimpleNamespace(table=table, random=lambda which: torch.ones(1) / (which + 1))

    one, two, three = NOT_FAR
    near = [some(0, 0.005), some(2, 0.01)]
    assert systematic._none_at_zero(near, Reaches(one))
    assert asked == [([0, 2], three)]
    assert systematic._none_at_zero(near, Reaches(2 * one, two)) and len(asked) == 3
    assert systematic._none_at_zero(near, Reaches(2 * one, three, 0.006)) and len(asked) == 6
    assert not systematic._none_at_zero(near, Reaches(2 * one, two * 1.01, 1.01 * three))  # they may reach farther
    assert not systematic._none_at_zero(near, Reaches(1.01 * three))
    assert not systematic._none_at_zero(near, Reaches(0.014))  # one is farther off than they reach
    assert not systematic._none_at_zero(near, Reaches(2 * one, 0.007))
    assert len(asked) == 13
    assert not systematic._none_at_zero([some(0, 0.0), some(2, -0.3)], Reaches())
    assert len(asked) == 13  # nothing is to be asked


def test_what_is_not_a_number_reaches_anywhere_and_what_is_beyond_a_dtype_is_not_pushed():
    assert known(math.nan) == math.inf and known(torch.tensor(-2.0)) == -2
    alike = Alike(torch.tensor([1e308, -1e308, 3.0001], dtype=torch.float64), torch.bfloat16)
    assert 0 < alike.squares(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)) < 1


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("float16", "tensorcore"), ("bfloat16", "tensorcore"), ("bfloat16", "eager")],
)
def test_elements_at_once_tell_what_each_alone_does_in_fewer_passes(dtype, precision, monkeypatch):
    kernel = next(kernel for kernel in KERNELS if kernel.name == "lstm")
    primals = [x.to(getattr(torch, dtype)) for x in kernel.make(torch.Generator().manual_seed(0), (64, 2, 32))]
    grad_y = kernel.cotangent(primals)
    got, passes = stored(kernel.fused(grad_y, *primals), primals), []
    held = enclose(kernel.forward, primals, grad_y=grad_y, precision=precision)
    find = Sensitivities.reach
    monkeypatch.setattr(Sensitivities, "reach", lambda *args: passes.append(len(args[1])) or find(*args))

    def blind() -> tuple[list[bool], list[int]]:
        passes.clear()
        return [one.blind > BLIND for one in held.agreement(got, blind="allow").gradients], [*passes]

    at_once, few = blind()
    monkeypatch.setattr(systematic, "_none_at_zero", lambda *_: False)
    one_by_one, many = blind()
    assert at_once == one_by_one
    assert set(many) == {1}
    if dtype != "bfloat16":
        assert len(few) < len(many)
        assert few[-1] == len(primals)  # those of all gradients in one pass
    else:
        assert len(few) <= len(many) + len(NOT_FAR)


def test_a_gradient_that_is_lost_in_a_difference_is_not_taken_for_seen():
    """All its roundings have one direction, so that of two elements one's reach may cancel the other's in a sum."""
    seen = 0
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        x, w = (torch.randn(64, generator=random) for _ in range(2))
        close = float((x.double() * w.double()).sum().float()) * (1 + 16 * 2.0**-24)
        held = enclose(lambda x, w=w, close=close: ((x * w).sum() - close) ** 2, (x,))
        seen += held.agreement(torch.zeros(64)).right
    assert seen <= 40 * AT_ONCE


@pytest.mark.parametrize("factor", [1.01, 1.002])
def test_small_elements_that_are_off_by_a_factor_stand_out_in_units_of_their_truth(factor):
    """The large ones are right, and farther off; so few small ones are drawn that they may be others."""
    random = torch.Generator().manual_seed(3)
    x, w, grad_y = (torch.randn(16, 16, generator=random) for _ in range(3))
    shares = torch.full((16, 16), 2.0**-40).fill_diagonal_(1.0)

    def deep(x):
        x = x * shares + 0.5
        for _ in range(40):
            x = torch.tanh(x @ w / 3)
        return x

    held = enclose(deep, (x,), grad_y=grad_y)
    assert held[0].blind > BLIND and held.agreement(held[0].truth.float()).right
    wrong = torch.where(shares == 1, held[0].truth, held[0].truth * factor)
    assert not held.agreement(wrong.float()).right
