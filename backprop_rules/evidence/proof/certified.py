"""Enclosures with proof: the definition in ball arithmetic, at the exact values of the primals.

It shares no code with torch and none with the rule.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flint import acb, arb, arb_series, ctx
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.domain import Bound, precision
from backprop_rules.evidence.enclosure import Enclosure, as_real, real_shape
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof.balls import (
    ZERO,
    Number,
    Undecided,
    ball,
    leaves,
    on_tape,
    outputs,
    pull_back,
)
from backprop_rules.evidence.proof.translate import definition_of
from backprop_rules.rule import Rule, within
from backprop_rules.subject.garbage import uncollected

BITS = 128  # where the search for enough bits begins
MANY = 1 << 20  # numbers, of which an object is made for each: some seconds
MOST_BITS = 1 << 14  # where it is given up: what is undecided then is said to be


@dataclass(frozen=True, eq=False)
class Certificate:
    """Balls that hold the exact y and the exact gradients, as flat lists of real numbers (see `as_real`)."""

    y: list[arb]
    gradients: tuple[list[arb] | None, ...]


class TooMany(Silent):
    """The definition makes more numbers than can be had in a second or two."""


_most: ContextVar[int] = ContextVar("most", default=MANY)


def defined(rule: Rule) -> Callable[..., Any]:
    """Return the rule's definition, which follows from its forward if it has none of its own."""
    return rule.definition or definition_of(rule.forward)


def at_most(count: int) -> AbstractContextManager[None]:
    """Until the end of the block, give up a definition that makes more than so many numbers."""
    return within(_most, count)


class _Tape(list[Number]):
    """A tape on which no more than so many numbers go."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def append(self, number: Number) -> None:
        """Add a number."""
        if len(self) >= self.most:
            raise TooMany(f"the definition makes more than {self.most} numbers")
        super().append(number)


# Points for which the last answers are kept: one, and others made of it that are asked about in between.
KEPT = 4


@lru_cache(maxsize=KEPT)
def certify(call: Call) -> Certificate:
    """Return balls narrower than half a unit in the last place of y's and of each primal's dtype.

    Wider ones remain at kinks, where they hold every derivative between the one-sided ones, and where
    the definition itself has no value. Raises Silent where the definition compares what cannot be told apart,
    TooMany where it is too long.
    """
    bits, found = BITS, _evaluate(call, BITS)
    widths = _widths(call, found)
    while bits < MOST_BITS and any(width > 1 for width in widths):
        bits, before = 2 * bits, widths
        found = _evaluate(call, bits)
        widths = _widths(call, found)
        # Twice the bits narrow what is only rounding; what they do not narrow is a set, or undefined.
        if not any(new < old and old > 1 for new, old in zip(widths, before, strict=True)):
            break
    return found


def _widths(call: Call, found: Certificate) -> list[float]:
    """Return every ball's width in units of half the last place of its dtype; infinity where there is no value."""
    dtypes = (None if x is None else x.dtype for x in (call.y, *call.primals))
    parts = zip((found.y, *found.gradients), dtypes, strict=True)
    return [width(b, dtype) for balls, dtype in parts if balls is not None and dtype is not None for b in balls]


def width(b: arb, dtype: torch.dtype) -> float:
    """Return the ball's width in units of half the last place of the dtype; infinity where there is no value."""
    if b.is_exact():
        return 0.0
    size, radius = abs(float(b.mid())), float(b.rad())
    if math.isnan(radius) or math.isnan(size) or math.isinf(radius):
        return math.inf
    if math.isinf(size):
        return 0.0
    place = math.frexp(max(size, torch.finfo(dtype).smallest_normal))[1] - precision(dtype) - 1
    # A unit below float64's range is as good as its smallest number.
    return 2 * radius / max(math.ldexp(1.0, place), math.ulp(0.0))


def is_a_set(b: arb, dtype: torch.dtype) -> bool:
    """Say whether the ball holds several numbers of the dtype, as the derivatives at a kink do."""
    return b.is_finite() and math.isfinite(float(b.abs_upper())) and width(b, dtype) > 1


def _evaluate(call: Call, bits: int) -> Certificate:
    tape = _Tape(_most.get())
    if sum(x.numel() for x in call.tensors) > tape.most:
        raise TooMany(f"the primals are more than {tape.most} numbers")
    with ctx.workprec(bits):
        y, adjoints = _pulled_back(call, tape, _exact(call.grad_y))
        return Certificate(_parts(map(ball, outputs(y)), call.y), call.per_gradient(_gradients(call, adjoints)))


def derivative_over(call: Call, directions: Sequence[Tensor], step: float) -> arb:
    """Return a ball that holds the derivative of <grad_y, y> along the directions everywhere up to a step from here."""
    with ctx.workprec(BITS):
        boxes = []
        for x, direction in zip(call.tensors, directions, strict=True):
            sides = [arb(v, step * abs(t)) for v, t in zip(_exact(as_real(x)), _exact(direction), strict=True)]
            pairs = zip(sides[::2], sides[1::2], strict=True)
            boxes.append([acb(*pair) for pair in pairs] if x.is_complex() else sides)
        return inner(gradients_at(call, boxes, _exact(call.grad_y)), directions)


def gradients_at(call: Call, values: Sequence[Sequence[Any]], grad_y: Sequence[float]) -> list[list[arb]]:
    """Return the balls of the gradients where the primals have these values, which may be any balls."""
    with ctx.workprec(BITS):
        return _gradients(call, _pulled_back(call, [], grad_y, values)[1])


def second_order(call: Call, directions: Sequence[Tensor]) -> tuple[list[arb], list[list[arb]]]:
    """Return balls of y's derivative along the directions, and of the gradients' derivatives along them.

    For real primals. Raises Silent where the definition has no value, or a kink.
    """
    with ctx.workprec(2 * BITS):
        lines = [
            [arb_series([v, t], prec=2) for v, t in zip(_exact(x), _exact(along), strict=True)]
            for x, along in zip(call.tensors, directions, strict=True)
        ]
        try:
            y, adjoints = _pulled_back(call, [], _exact(call.grad_y), lines)
        except ValueError as error:  # FLINT refuses a series with a pole
            raise Silent(f"the definition has no series: {error}") from error
        return [_slope(ball(element)) for element in outputs(y)], [list(map(_slope, some)) for some in adjoints]


def _slope(series: Any) -> arb:
    return series[1] if isinstance(series, arb_series) else arb(0)


def inner(gradients: Sequence[Sequence[arb]], directions: Sequence[Tensor]) -> arb:
    """Return a ball that holds the inner product of gradients and directions."""
    pairs = (zip(balls, _exact(t), strict=True) for balls, t in zip(gradients, directions, strict=True))
    return sum((b * arb(t) for pair in pairs for b, t in pair if t), arb(0))


def _pulled_back(
    call: Call, tape: list[Number], grad_y: Sequence[Any], values: Sequence[Sequence[Any]] | None = None
) -> tuple[Any, list[list[Any]]]:
    """Return y, and the gradients, of the definition at these values of the primals that have one, or at their own."""
    given = [_exact(x) for x in call.tensors] if values is None else values
    made = [leaves(some, x.shape, tape) for some, x in zip(given, call.tensors, strict=True)]
    kinds = call.rule.domain.params
    params = {
        # torch rounds a bound to the dtype of what it bounds.
        name: float(call.tensors[0].new_tensor(v)) if isinstance(kinds[name], Bound) and v is not None else v
        for name, v in call.params.items()
    }
    arrays = [
        x.cpu().numpy() if box is None and x is not None else box
        for box, x in zip(call.per_gradient(made), call.primals, strict=True)
    ]
    try:
        with np.errstate(all="ignore"), on_tape(tape), uncollected():
            y = defined(call.rule)(*arrays, **params)
            pull_back(y, grad_y, tape)
        return y, [[leaf.adjoint for leaf in outputs(array)] for array in made]
    except (Undecided, ZeroDivisionError, ValueError) as error:
        if isinstance(error, ValueError) and "zero-size array" not in str(error):
            raise
        raise Silent(f"the definition has no value: {error}") from error
    finally:
        tape.clear()  # which its numbers know: else they are left for the collector


def _gradients(call: Call, adjoints: list[list[Any]]) -> list[list[arb]]:
    return [_parts(some, x) for some, x in zip(adjoints, call.tensors, strict=True)]


def reached(call: Call, output: int) -> tuple[Tensor | None, ...]:
    """Return a mask for each gradient: the elements that, by the definition, the output of that number was made from.

    What a maximum or a choice passes over did not make it; what was multiplied by zero did.
    """
    chosen = [1 if k == output else None for k in range(call.y.numel())]
    _, adjoints = _pulled_back(call, [], chosen)
    masks = (
        torch.tensor([adjoint is not ZERO for adjoint in some], dtype=torch.bool).reshape(x.shape)
        for some, x in zip(adjoints, call.tensors, strict=True)
    )
    return call.per_gradient(masks)


def _exact(x: Tensor) -> list[Any]:
    """Return the elements as Python numbers: every dtype's values are float64's as well."""
    return x.detach().cpu().resolve_conj().flatten().tolist()


def _parts(balls: Iterable[Any], like: Tensor | None) -> list[arb]:
    """Return the balls as real ones: real and imaginary parts in turn if `like` is complex, real parts if not."""
    assert like is not None
    if not like.is_complex():
        return [b.real if isinstance(b, acb) else b for b in balls]
    return [part for b in map(acb, balls) for part in (b.real, b.imag)]


def enclosure(balls: Sequence[arb], radius: Tensor, like: Tensor) -> Enclosure:
    """Return the enclosure of all that lies within `radius`, a real tensor of like's shape, of the balls.

    Where it reaches past the dtype's largest finite number it holds infinity as well.
    """
    radii = radius.detach().cpu().reshape(-1).tolist()
    if like.is_complex():
        radii = [r for r in radii for _ in range(2)]
    largest = torch.finfo(like.dtype).max
    bounds = [_bounds(b, r, largest) for b, r in zip(balls, radii, strict=True)]
    both = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2)
    return Enclosure(both[:, 0].reshape(real_shape(like)), both[:, 1].reshape(real_shape(like)))


def _bounds(b: arb, radius: float, largest: float) -> tuple[float, float]:
    if not (b.is_finite() and math.isfinite(radius)):
        return -math.inf, math.inf
    lower, upper = b.lower() - radius, b.upper() + radius
    lo, hi = float(lower), float(upper)
    if arb(lo) > lower:
        lo = math.nextafter(lo, -math.inf)
    if arb(hi) < upper:
        hi = math.nextafter(hi, math.inf)
    # A right result may be infinite where the exact one reaches past the largest number.
    return (-math.inf if lo < -largest else lo), (math.inf if hi > largest else hi)


def _gaps(balls: Sequence[arb], value: Tensor, size: Callable[[arb], float], unknown: float) -> Tensor:
    real = as_real(value)
    gaps = [
        size(abs(ball(v) - b)) if b.is_finite() and math.isfinite(v) else unknown
        for v, b in zip(_exact(real), balls, strict=True)
    ]
    return torch.tensor(gaps, dtype=torch.float64).reshape(real.shape)


def reach(balls: Sequence[arb], value: Tensor) -> Tensor:
    """Return how far each element is at most from the numbers in its ball: infinity where that is not known."""
    # Rounded to nearest on the way to float64: the next number is no less.
    apart = _gaps(balls, value, lambda gap: math.nextafter(float(gap.abs_upper()), math.inf), math.inf)
    return apart.sum(-1) if value.is_complex() else apart


def distance(balls: Sequence[arb], value: Tensor) -> Tensor:
    """Return how far each element certainly lies from its ball, rounded to the nearest float64; 0 inside it."""
    return _gaps(balls, value, lambda gap: float(gap.abs_lower()), 0.0)
