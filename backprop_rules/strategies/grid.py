"""The exact tier's grid: how many equally spaced values may be drawn so that nothing is ever rounded.

Take all inputs as k * 2^-f with an integer |k| <= w and 2^f <= w. A term of degree at most D is then
an integer multiple of 2^(-f D), and at most w^D such multiples in size (terms of a lower degree are
no larger, since the largest input w * 2^-f is at least 1). A sum of terms is exact in a dtype of
precision p, in whatever order it is formed, if the sum of their sizes is at most 2^p multiples.
What is left is to count terms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import torch

from backprop_rules.domain import Domain, precision

DOUBLE = 53  # the precision of float64, in which the oracles compute


@dataclass(frozen=True)
class Grid:
    """The values `unit * k * 2^-scale` with an integer |k| <= width."""

    width: int
    scale: int = 0
    unit: int = 1

    @property
    def spacing(self) -> float:
        """The distance of neighbouring values; a power of two, times the odd part of what the rule divides by."""
        return self.unit * 2.0**-self.scale

    @property
    def largest(self) -> float:
        """The largest value."""
        return self.width * self.spacing


@cache
def stencil(first: int, last: int) -> tuple[tuple[int, ...], int]:
    """Return integers w and d with f'(0) = sum(w_k f(k)) / d, k = first..last, for degrees up to last - first.

    The weights solve sum(w_k k^j) = d [j = 1], here by differentiating Lagrange's polynomials at 0.
    """
    nodes = range(first, last + 1)
    weights = []
    for k in nodes:
        others = [m for m in nodes if m != k]
        scale = math.prod(k - m for m in others)
        weights.append(Fraction(sum(math.prod(-m for m in others if m != left) for left in others), scale))
    denominator = math.lcm(*(w.denominator for w in weights))
    return tuple(int(w * denominator) for w in weights), denominator


def central(power: int) -> tuple[int, int]:
    """Return the first and last offset of the narrowest central stencil that is exact up to degree `power`."""
    reach = (power + 1) // 2
    return -reach, reach


def refinement(power: int) -> int:
    """Return the power of two by which a one-sided step is finer than the grid, so as not to cross the next kink."""
    return 1 << (power - 1).bit_length()


def odd_part(n: int) -> int:
    """Return n without its factors of two; 1 for 0. Dividing by a power of two rounds nothing."""
    return n // (n & -n) if n else 1


def divides(spacing: float) -> bool:
    """Say whether the grid of this spacing is for a rule that divides by another number than a power of two.

    A GPU may divide by such a number as it multiplies by the rounded reciprocal.
    """
    return odd_part(Fraction(spacing).numerator) > 1


@dataclass(frozen=True)
class Room:
    """How wide the grid may be for a call: `product` bounds the product of `degree` sizes, `limit` each primal's."""

    product: int
    limit: int
    degree: int
    unit: int

    @property
    def width(self) -> int:
        """The largest width for primals and cotangent alike; 0 if there is none."""
        return max(0, min(self.limit, _root(self.product, self.degree) // self.unit))

    def for_cotangent(self, width: int) -> int:
        """Return the largest width for the cotangent, where the primals have this one: it comes in only once."""
        others: int = (self.unit * width) ** (self.degree - 1)
        return self.product // others // self.unit


def room(
    domain: Domain,
    params: Mapping[str, Any],
    iterations: int,
    sizes: Sequence[int],
    dtypes: Sequence[torch.dtype],
    unit: int = 1,
    kinks: bool = False,
) -> Room:
    """Return the room in which the rule, its derivative and every oracle compute exactly.

    `iterations` is the number of points of the iteration space (m n p for a matrix product), `sizes`
    the numbers of elements of y and of the primals, `dtypes` theirs. In a sum that makes one element
    of size s stand iterations / s terms, since each element takes part in equally many.
    """
    complex_ = any(dtype.is_complex for dtype in dtypes)
    if complex_ and unit > 1:
        # torch divides a complex number by a real one with several roundings, exact for powers of two alone.
        return Room(0, 0, 1, unit)
    degree, power = domain.count("degree", params), domain.count("power", params)
    terms = domain.count("weight", params) * iterations
    if complex_:
        # A complex product has two real products a component, or, by three multiplications, as much as four.
        terms *= 4 ** (degree - 1)
    # The first derivative multiplies a coefficient by at most `power`. The second multiplies it by at most
    # power (degree - 1) with respect to a primal and by degree with respect to the cotangent. The last
    # factor 2 is for the sum of two cotangents, in the property of linearity.
    slope = 2 * max(power, degree, power * (degree - 1))
    products = [2 ** min(map(precision, dtypes)) // (slope * _per_element(terms, sizes))]
    limits = []
    for first, last, fine in _stencils(power, kinks):
        # On the grid refined by `fine` a step has the length `unit`. The oracle adds |weights| values of y ...
        weights, denominator = stencil(first, last)
        total = sum(map(abs, weights)) * _per_element(terms, sizes[:1])
        limits.append((_root(2**DOUBLE // total, degree) - unit * max(-first, last)) // (fine * unit))
        # ... and has denominator * step * gradient before it divides. Sums over all outputs and inputs at once,
        # as in the property of the adjoint, are allowed for: `terms`, not terms per element.
        products.append(2**DOUBLE // (slope * terms * denominator * unit * fine**degree))
    return Room(min(products), min(limits), degree, unit)


def _stencils(power: int, kinks: bool) -> list[tuple[int, int, int]]:
    """Return the first and last offset, and the refinement of the step, of each stencil that an oracle uses."""
    stencils = [(*central(power), 1)]
    if kinks:
        stencils += [(-power, 0, refinement(power)), (0, power, refinement(power))]
    return stencils


def _per_element(terms: int, sizes: Sequence[int]) -> int:
    return max(-(-terms // max(size, 1)) for size in sizes)


def _root(n: int, degree: int) -> int:
    """Return the largest integer r with r^degree <= n."""
    r = int(n ** (1 / degree)) + 1
    while r**degree > n:
        r -= 1
    return r
