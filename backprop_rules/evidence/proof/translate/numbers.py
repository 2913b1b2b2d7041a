"""Functions of exact numbers that torch has and `balls` has not: of one number, and of pieces; comparisons and choices.

A comparison is True or False where the exact values are certainly so for all numbers near them, too, and TIE where
they are equal. Where the balls overlap and the exact values may differ it raises Undecided.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from flint import acb, arb, arb_series

from backprop_rules.evidence.proof.balls import UNIT, Ball, Number, Undecided, ball, head, pull_back

Function = Callable[..., Any]


class Constant(Number):
    """A number that is the same whatever the primals are."""

    __slots__ = ()


class Tie:
    """What a comparison of equal numbers gives: either answer is right on one side."""

    def __bool__(self) -> bool:
        raise Undecided("two numbers that are compared are equal, and the choice between them is no maximum")


TIE = Tie()


def each(function: Function, inputs: int = 1) -> Any:
    """Return a function of numbers as one of arrays that broadcast."""
    return np.frompyfunc(function, inputs, 1)


def known(value: Function, first: Function, second: Function) -> Any:
    """Return a function of arrays from those of FLINT for it and its first two derivatives."""

    def function(v: Number) -> Number:
        x = head(v.value)
        return v._known(value(x), first(x), lambda: second(x))

    return each(function)


def series(function: Function) -> Any:
    """Return a function of arrays from FLINT's power series."""
    return each(lambda v: v._function(function))


sinh = known(lambda x: x.sinh(), lambda x: x.cosh(), lambda x: x.sinh())
cosh = known(lambda x: x.cosh(), lambda x: x.sinh(), lambda x: x.cosh())
tan = series(lambda s: s.tan())
atan = series(lambda s: s.atan())
asin = known(lambda x: x.asin(), lambda x: 1 / (1 - x * x).sqrt(), lambda x: x / (1 - x * x).sqrt() ** 3)
acos = known(lambda x: x.acos(), lambda x: -1 / (1 - x * x).sqrt(), lambda x: -x / (1 - x * x).sqrt() ** 3)
asinh = known(lambda x: x.asinh(), lambda x: 1 / (1 + x * x).sqrt(), lambda x: -x / (1 + x * x).sqrt() ** 3)
acosh = known(
    lambda x: x.acosh(),
    lambda x: 1 / ((x - 1).sqrt() * (x + 1).sqrt()),
    lambda x: -x / ((x - 1).sqrt() * (x + 1).sqrt()) ** 3,
)
atanh = known(lambda x: x.atanh(), lambda x: 1 / (1 - x * x), lambda x: 2 * x / (1 - x * x) ** 2)


def _erfinv_slope(x: Ball) -> Ball:
    return arb.pi().sqrt() / 2 * (x.erfinv() ** 2).exp()


erfinv = known(lambda x: x.erfinv(), _erfinv_slope, lambda x: 2 * x.erfinv() * _erfinv_slope(x) ** 2)
# FLINT's logarithm of the gamma function is complex for negative numbers; torch's is real.
lgamma = each(lambda v: v._function(lambda s: s.lgamma()) if head(v.value) > 0 else v * arb.nan())
erf, erfc, ndtr = (each(f) for f in (Number.erf, Number.erfc, Number.ndtr))


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return (1 + np.tanh(x / 2)) / 2


def _softplus(v: Number) -> Number:
    # The same function twice, in the words that stay finite, and so it does not matter which is taken at 0.
    return v + (-v).exp().log1p() if head(v.value) > 0 else v.exp().log1p()


softplus = each(_softplus)


def _logaddexp(a: Any, b: Any) -> Any:
    if head(ball(b)) > head(ball(a)):
        a, b = b, a
    return a + _softplus(b - a)


logaddexp = each(_logaddexp, 2)


def _power(a: Any, exponent: Any) -> Any:
    if not isinstance(a, Number):
        a = Constant(ball(a), exponent.tape)
    # To a constant power a number need not be positive.
    return a ** (exponent.value if isinstance(exponent, Constant) else exponent)


power = each(_power, 2)


def _xlogy(a: Any, b: Any) -> Any:
    if _constant(a) and ball(a) == 0:
        return 0
    return a * b.log() if isinstance(b, Number) else a * ball(b).log()


xlogy = each(_xlogy, 2)


def _atan2(y: Number, x: Number) -> Number:
    b, a = ball(y), ball(x)
    if isinstance(a, arb_series) or isinstance(b, arb_series):
        raise Undecided("no series of atan2 is known")
    if not a > 0 and b.contains(0):
        raise Undecided("the angle jumps")
    square = a * a + b * b
    parents = [(v, partial) for v, partial in ((y, a / square), (x, -b / square)) if isinstance(v, Number)]
    return Number(arb.atan2(b, a), parents[0][0].tape, parents)


atan2 = each(_atan2, 2)

# ---- pieces


def _side(piece: Function, x: Ball) -> tuple[Ball, Ball]:
    """Return a piece's value and derivative."""
    tape: list[Number] = []
    leaf = Number(x, tape)
    y = piece(leaf)
    pull_back(y, [1], tape)
    return ball(y), leaf.adjoint


def _pieces(v: Number, at: float, below: Function, above: Function) -> Any:
    x = head(v.value)
    if x < at:
        return below(v)
    if x > at:
        return above(v)
    if isinstance(v.value, arb_series):
        raise Undecided("where two pieces meet there is no second derivative")
    left, right = (_side(piece, arb(at))[0] for piece in (below, above))
    if not left.overlaps(right):
        raise Undecided("the function jumps")
    (low, falling), (high, rising) = (_side(piece, x) for piece in (below, above))
    return Number(low.union(high), v.tape, ((v, falling.union(rising)),))


def pieces(at: float, below: Function, above: Function) -> Any:
    """Return the function of arrays that is one below a number and another above it; where they meet, the hull."""
    return each(partial(_pieces, at=at, below=below, above=above))


def middle(low: float, high: float, below: Function, between: Function, above: Function) -> Any:
    """Return a function of arrays of three pieces."""
    return pieces(low, below, partial(_pieces, at=high, below=between, above=above))


# ---- steps


def _floor(v: Number) -> Number:
    x = head(v.value)
    found = x.floor().unique_fmpz() if x.is_finite() else None
    if found is None or (x.contains_integer() and not isinstance(v, Constant)):
        raise Undecided("the function jumps here")
    return Constant(arb(found), v.tape)


def _ceil(v: Number) -> Number:
    return Constant(-_floor(_negative(v)).value, v.tape)


def _negative(v: Number) -> Number:
    return Constant(-v.value, v.tape) if isinstance(v, Constant) else -v


def _trunc(v: Number) -> Number:
    x = head(v.value)
    if x > -1 and x < 1:
        return Constant(arb(0), v.tape)
    return _floor(v) if x > 0 else _ceil(v)


def _round(v: Number) -> Number:
    x = head(v.value) + arb(0.5)
    if isinstance(v, Constant) and x.is_exact() and x.contains_integer():
        return Constant(2 * ((x / 2).floor()), v.tape)  # half goes to even
    return _floor(Constant(x, v.tape) if isinstance(v, Constant) else Number(x, v.tape))


def _sign(v: Number) -> Number:
    x = head(v.value)
    if x > 0 or x < 0:
        return Constant(arb(1 if x > 0 else -1), v.tape)
    if isinstance(v, Constant) and x.is_zero():
        return v
    raise Undecided("the sign jumps at 0")


floor, ceil, trunc, round, sign = (each(f) for f in (_floor, _ceil, _trunc, _round, _sign))

# ---- comparisons


def _constant(a: Any) -> bool:
    return isinstance(a, Constant) or not isinstance(a, Number)


def _order(a: Any, b: Any) -> Any:
    """Return -1, 0 or 1, as a is smaller, equal or larger; TIE where they are equal here alone; 2 if complex."""
    x, y = head(ball(a)), head(ball(b))
    if isinstance(x, acb) or isinstance(y, acb):
        x, y = acb(x), acb(y)
        if not x.overlaps(y):
            return 2
    elif x < y:
        return -1
    elif x > y:
        return 1
    if (a is b and x.is_finite()) or (x.is_exact() and y.is_exact() and x == y):
        return 0 if a is b or (_constant(a) and _constant(b)) else TIE
    raise Undecided("two balls that are compared overlap")


def compared(holds: Callable[[int], bool]) -> Any:
    """Return a comparison of arrays from what holds of the order."""

    def compare(a: Any, b: Any) -> Any:
        order = _order(a, b)
        return TIE if order is TIE else holds(order)

    return each(compare, 2)


less, unequal = compared(lambda order: order == -1), compared(lambda order: order != 0)


def _finite(v: Any) -> bool:
    x = head(ball(v))
    if x.is_finite():
        return True
    if _constant(v):
        return False
    raise Undecided("whether a number is finite cannot be told from its ball")


isfinite = each(_finite)
isnan = each(lambda v: not _finite(v) and bool(ball(v).is_nan()))
isinf = each(lambda v: not _finite(v) and not ball(v).is_nan())

# ---- choices


def _choose(condition: Any, a: Any, b: Any) -> Any:
    if condition is not TIE:
        return a if condition else b
    if a is b:
        return a
    made_from = [(v, UNIT) for v in (a, b) if isinstance(v, Number)]
    if not made_from:
        return a if a is not TIE and b is not TIE and a == b else TIE
    x, y = ball(a), ball(b)
    if isinstance(x, arb_series) or isinstance(y, arb_series):
        raise Undecided("at a tie there is no second derivative")
    if isinstance(x, acb) or isinstance(y, acb):
        x, y = acb(x), acb(y)
    if not x.overlaps(y):
        raise Undecided("a choice jumps where what it is made by is equal")
    return Number(x.union(y), made_from[0][0].tape, made_from)


def _both(a: Any, b: Any) -> Any:
    if a is not TIE and b is not TIE:
        return bool(a) and bool(b)
    return False if (a is not TIE and not a) or (b is not TIE and not b) else TIE


def _negation(a: Any) -> Any:
    return TIE if a is TIE else not a


choose, both, negation = each(_choose, 3), each(_both, 2), each(_negation)
either = each(lambda a, b: _negation(_both(_negation(a), _negation(b))), 2)
differ = each(lambda a, b: TIE if a is TIE or b is TIE else bool(a) != bool(b), 2)
