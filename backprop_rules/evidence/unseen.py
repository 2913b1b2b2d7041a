"""Which elements the worst case does not tell from 0, and how many of these have to be asked for themselves.

How far right implementations take a sum sum(c_e g_e) of a gradient's elements is a norm N(c) of its coefficients: a sum
of sizes, and of roots of sums of squares, of what is linear in them. So at any one c there is an n with N(c) = <n, c>,
and N >= |<n, .>| everywhere. Right implementations reach 0 at e where N(1_e / |t_e|) >= 1. One reverse pass can tell
that they reach it at none of several elements, of one gradient or of many: in a sum with random weights,

    c = sum(w_k 1_k / |t_k|),    w_k independent, each equally likely anywhere from -1 to 1,

<n, c> = a w_k + b, where b is of the other weights and a >= 1, if N(1_k / |t_k|) >= 1 for any k; then N(c) <= r happens
with a probability of at most r, and in m such sums with r^m. The weights are the same in every run, as verdicts are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.units import NARROW, half_an_ulp, lost_in
from backprop_rules.evidence.at_size import Held

# Above this share of elements that may be 0 as well, nothing was proved of a gradient: of most of it.
BLIND = 0.5
# Elements of a gradient that are drawn, where the worst case is too far out to say anything; none at which storing the
# result alone reaches 0: there nothing can be said. Asked one by one, it is decided on which side of a half those are
# that reach 0 where the rest cannot change it, or where so many were drawn of a share of exactly a half with a
# probability of at most `BY_CHANCE`: two alike. That is wrong as often as the larger part of five: of a share of 0.6 in
# 31 of 100 gradients, of 0.8 in 6, of 0.9 in 1.
ELEMENTS = 7
BY_CHANCE = 1 / 4
# With this probability at most a gradient is taken for seen by random sums, though one of their elements reaches 0; so
# often at most, too, none of them is among the half of the elements that do: of float32. Of narrow dtypes so few are as
# decide one by one, that is with `BY_CHANCE`.
AT_ONCE = 1 / 20
SUMMED = math.ceil(math.log2(1 / AT_ONCE))
# How far one random sum may reach at most, or each of two, or of three.
NOT_FAR = tuple((AT_ONCE / 3) ** (1 / sums) for sums in (1, 2, 3))


@dataclass(frozen=True, eq=False)
class Unseen:
    """Of a gradient's elements whose worst case holds 0, of `total` that are not 0: `lost` by storing, or still `open`.

    `wide` has those of all that are farther off than storing reaches, which is not the most of their worst case.
    """

    open: Tensor
    wide: Tensor
    lost: int
    total: int

    @cached_property
    def _opens(self) -> int:
        return int(self.open.count_nonzero())

    def share(self, reached: int, asked: int) -> float:
        """Return the share of elements at which 0 is reached, if it is at so many of the open ones asked."""
        return (self.lost + self._opens * reached / max(1, asked)) / max(1, self.total)

    def drawn(self, random: torch.Generator) -> list[int]:
        """Return the numbers of some open elements; none where those that are lost are most."""
        if self.share(0, 1) > BLIND:
            return []
        places = torch.nonzero(self.open.reshape(-1)).reshape(-1)
        drawn = torch.randperm(len(places), generator=random)[:ELEMENTS]
        return [int(k) for k in places[drawn.to(places.device)]]

    def have_to_be_seen(self, drawn: int) -> int:
        """Return of how many of so many it has to be known that none reaches 0, for less than half to: 0 if of none."""
        may = [n for n in range(math.floor(self._even * drawn) + 1) if self._by_chance(n, drawn) <= BY_CHANCE]
        return drawn - max(may, default=drawn)

    @cached_property
    def _even(self) -> float:
        """The share of the open ones that makes `BLIND` of all."""
        return min(1.0, max(0.0, (BLIND * self.total - self.lost) / max(1, self._opens)))

    def decided(self, reached: Sequence[bool], left: int) -> bool:
        """Say whether the share is on its side of `BLIND` by more than chance, or whatever comes of those left."""
        least, drawn = sum(reached), len(reached)
        if not drawn:
            return False
        if self.share(least, drawn + left) > BLIND or self.share(least + left, drawn + left) <= BLIND:
            return True
        return self._by_chance(least, drawn) <= BY_CHANCE

    def _by_chance(self, reached: int, drawn: int) -> float:
        """Return how often a share of exactly `BLIND` has as many, or even more on their side of it."""
        even = self._even
        alike = range(reached, drawn + 1) if reached > even * drawn else range(reached + 1)
        return sum(math.comb(drawn, k) * even**k * (1 - even) ** (drawn - k) for k in alike)


def unseen_of(held: Held, truth: Tensor, off: Tensor, dtype: torch.dtype, deviations: float) -> Unseen:
    """Return the elements whose worst case holds 0, and those that are farther off than storing alone reaches."""
    likely = deviations if dtype in NARROW else 1.0
    still, wide = (torch.zeros_like(truth, dtype=torch.bool) for _ in range(2))
    lost = total = 0
    for block in held.parts:
        t, radius = truth[block], held.radius[block]
        reaches, stored = (t != 0) & (t.abs() <= radius), half_an_ulp(t, dtype)
        total += int(t.count_nonzero())
        still[block] = reaches & (stored < t.abs())
        wide[block] = (radius > 2 * lost_in(dtype, t.abs())) & (off[block].abs() > likely * stored)
        lost += int((reaches & (stored >= t.abs())).count_nonzero())
    return Unseen(still, wide, lost, total)
