"""Kinks: whether a choice at one is a subgradient, and the hunt for those of a function that nobody declared."""

import math
from collections.abc import Iterator

from flint import arb, ctx, fmpq, fmpq_mat

from backprop_rules.bounds import bounds
from backprop_rules.enclosure import as_real
from backprop_rules.oracles import certified
from backprop_rules.oracles.oracle import Silent
from backprop_rules.point import Point

# So near that hardly another kink lies between, and exact in a ball of 128 bits beside numbers of 53.
NEAR = 2.0**-60
# Elements on which kinks are told apart one by one; with more nothing is said.
MANY = 32
LARGEST_EXPONENT = 1 << 12


def is_a_subgradient(point: Point) -> bool:
    """Say whether the gradients of all primals together can be a mean of those around the point.

    A subgradient v is a mean of limits G(s) of gradients from around, so that <v, t> = <G, t> for
    every t that is orthogonal to all differences of such limits (Clarke, Optimization and Nonsmooth
    Analysis (1983), section 2.5). The sides s move one element after the other further than the
    rest, both ways. True where the definition cannot tell.
    """
    total = sum(x.numel() for x in point.tensors)
    if total > MANY or any(x.is_complex() for x in point.tensors):
        return True
    try:
        first, *others = [_limit(point, side) for side in _sides(total)]
    except Silent:
        return True
    if not all(b.is_finite() and _ordinary(b) for limit in (first, *others) for b in limit):
        return True
    radii = bounds(point).gradients
    mine = [v for i in point.given if (g := point.gradients[i]) is not None for v in as_real(g).flatten().tolist()]
    spread = [v for i in point.given if (r := radii[i]) is not None for v in r.flatten().tolist()]
    for t in _orthogonal_to([[b - a for a, b in zip(first, other, strict=True)] for other in others]):
        away = sum((w * (arb(v) - a) for w, v, a in zip(t, mine, first, strict=True)), arb(0))
        if abs(away) > sum((abs(w) * arb(r) for w, r in zip(t, spread, strict=True)), arb(0)):
            return False
    return True


def _sides(total: int) -> Iterator[list[float]]:
    """Yield moves of all elements: magnitudes from 1 to 2, no two alike, one of them 3 or -3."""
    base = [1 + ((7 * k + 3) % 64) / 64 for k in range(total)]
    yield base
    for k in range(total):
        for far in (3.0, -3.0):
            yield [*base[:k], far, *base[k + 1 :]]


def _limit(point: Point, side: list[float]) -> list[arb]:
    """Return the gradients of all primals in one list, a step to that side."""
    values = [v for x in point.tensors for v in x.flatten().tolist()]
    # A power of two, and few bits in t, so that the moved values are exact.
    step = NEAR * 2.0 ** math.floor(math.log2(min([1.0, *(abs(v) for v in values if v)])))
    with ctx.workprec(certified.BITS):
        moved = iter([arb(v) + arb(t) * arb(step) for v, t in zip(values, side, strict=True)])
        there = [[next(moved) for _ in range(x.numel())] for x in point.tensors]
    found = certified.gradients_at(point, there, point.grad_y.flatten().tolist())
    return [b for balls in found for b in balls]


def _orthogonal_to(differences: list[list[arb]]) -> Iterator[list[arb]]:
    """Yield a basis of what is orthogonal to every difference, each taken at the middle of its ball."""
    rows = [[_rational(d) for d in row] for row in differences]
    reduced, rank = fmpq_mat(rows).rref()
    count = len(rows[0])
    pivots = [next(k for k in range(count) if reduced[r, k] != 0) for r in range(rank)]
    for free in sorted(set(range(count)) - set(pivots)):
        basis = [arb(0)] * count
        basis[free] = arb(1)
        for r, pivot in enumerate(pivots):
            basis[pivot] = arb(-reduced[r, free])
        yield basis


def _ordinary(b: arb) -> bool:
    """Say whether a fraction can be made of the ball's middle: float64's exponents are below 1100."""
    return abs(int(b.mid().man_exp()[1])) < LARGEST_EXPONENT


def _rational(b: arb) -> fmpq:
    mantissa, exponent = b.mid().man_exp()
    return fmpq(mantissa) * fmpq(2) ** int(exponent)
