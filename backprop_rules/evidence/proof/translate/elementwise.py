"""Torch's operations on each number by itself, in NumPy notation, for arrays of exact numbers.

A comparison is True or False where the exact values are certainly so for all numbers near them, too, and TIE where
they are equal. Where the balls overlap and the exact values may differ it raises Undecided.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from flint import acb, arb, arb_series

from backprop_rules.evidence.allowance.fused import is_meant
from backprop_rules.evidence.proof.balls import UNIT, Ball, Number, Undecided, ball, head, pull_back

aten = torch.ops.aten

Function = Callable[..., Any]


class Constant(Number):
    """A number that is the same whatever the primals are."""

    __slots__ = ()


class Tie:
    """What a comparison of equal numbers gives: either answer is right on one side."""

    def __bool__(self) -> bool:
        raise Undecided("two numbers that are compared are equal, and the choice between them is no maximum")


TIE = Tie()


def each(function: Function, inputs: int = 1, identity: Any = None) -> Any:
    """Return a function of numbers as one of arrays that broadcast."""
    return np.frompyfunc(function, inputs, 1, identity=identity)


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
    return Constant(-_floor(type(v)(-v.value, v.tape)).value, v.tape)


def _trunc(v: Number) -> Number:
    x = head(v.value)
    if x > -1 and x < 1:
        return Constant(arb(0), v.tape)
    return _floor(v) if x > 0 else _ceil(v)


def _round(v: Number) -> Number:
    x = head(v.value) + arb(0.5)
    if isinstance(v, Constant) and x.is_exact() and x.contains_integer():
        return Constant(2 * ((x / 2).floor()), v.tape)  # half goes to even
    return _floor(type(v)(x, v.tape))


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


def compared(*orders: int) -> Any:
    """Return the comparison of arrays that holds in these orders."""

    def compare(a: Any, b: Any) -> Any:
        order = _order(a, b)
        return TIE if order is TIE else order in orders

    return each(compare, 2)


less, unequal = compared(-1), compared(-1, 1, 2)


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


choose, both, negation = each(_choose, 3), each(_both, 2, True), each(_negation)
either = each(lambda a, b: _negation(_both(_negation(a), _negation(b))), 2, False)
differ = each(lambda a, b: TIE if a is TIE or b is TIE else bool(a) != bool(b), 2)

# ---- functions of one number


def _divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    return {None: lambda q: q, "floor": floor, "trunc": trunc}[rounding_mode](a / b)


def _times(a: Any, factor: Any) -> Any:
    return a if isinstance(factor, int | float) and factor == 1 else a * factor


def _clamp(a: Any, min: Any = None, max: Any = None) -> Any:
    above = a if min is None else np.maximum(a, min)
    return above if max is None else np.minimum(above, max)


def _to(a: Any, *, dtype: Any = None, **_: Any) -> Any:
    """Return the same numbers, whatever the precision; truth, or whole numbers, if the dtype has only these."""
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return a
    return unequal(a, 0) if dtype == torch.bool else trunc(a)


def _power(a: Any, exponent: Any) -> Any:
    if not isinstance(a, Number):
        a = Constant(ball(a), exponent.tape)
    # To a constant power a number need not be positive.
    return a ** (exponent.value if isinstance(exponent, Constant) else exponent)


def _sigmoid(a: Any) -> Any:
    return (1 + np.tanh(a / 2)) / 2


def _softplus(v: Number) -> Number:
    # The same function twice, in the words that stay finite, and so it does not matter which is taken at 0.
    return v + (-v).exp().log1p() if head(v.value) > 0 else v.exp().log1p()


softplus = each(_softplus)


def _softplus_of_torch(a: Any, beta: float = 1, threshold: float = 20) -> Any:
    """Return log(1 + exp(beta a)) / beta; above the threshold a, or either where the threshold is not meant."""
    above = (lambda v: v) if is_meant(threshold) else _softplus_or_itself
    return pieces(threshold, _softplus, above)(_times(a, beta)) / beta


def _softplus_or_itself(v: Number) -> Number:
    if isinstance(v.value, arb_series):
        return v
    (exact, slope), x = _side(_softplus, v.value), v.value
    return Number(exact.union(x), v.tape, ((v, slope.union(arb(1))),))


def _logaddexp(a: Any, b: Any) -> Any:
    if head(ball(b)) > head(ball(a)):
        a, b = b, a
    return a + _softplus(b - a)


def _xlogy(a: Any, b: Any) -> Any:
    if _constant(a) and ball(a) == 0:
        return 0
    return a * b.log() if isinstance(b, Number) else a * ball(b).log()


def _atan2(y: Number, x: Number) -> Number:
    b, a = ball(y), ball(x)
    if isinstance(a, arb_series) or isinstance(b, arb_series):
        raise Undecided("no series of atan2 is known")
    if not a > 0 and b.contains(0):
        raise Undecided("the angle jumps")
    square = a * a + b * b
    parents = [(v, slope) for v, slope in ((y, a / square), (x, -b / square)) if isinstance(v, Number)]
    return Number(arb.atan2(b, a), parents[0][0].tape, parents)


def _gelu(a: Any, *, approximate: str = "none") -> Any:
    if approximate == "none":
        return a * each(Number.ndtr)(a)
    # (1 + tanh(x)) / 2 is the sigmoid of 2 x
    return a * _sigmoid((a + a * a * a * 0.044715) * (8 / arb.pi()).sqrt())


def _elu(a: Any, alpha: float = 1, scale: float = 1, input_scale: Any = 1) -> Any:
    return pieces(0, lambda v: (v * input_scale).expm1() * alpha * scale, lambda v: v * scale)(a)


def _logit(a: Any, eps: float | None = None) -> Any:
    inside = a if eps is None else _clamp(a, eps, 1 - arb(eps))
    return np.log(inside) - np.log1p(-inside)


INVERTED = "sin cos tan sinh cosh tanh"
SAME_NAME = f"abs exp expm1 log log1p maximum minimum sqrt {INVERTED}"
NUMBERS: dict[Any, Function] = {
    **{getattr(aten, name): getattr(np, name) for name in SAME_NAME.split()},
    **{getattr(aten, f"a{name}"): getattr(np, f"arc{name}") for name in INVERTED.split()},
    **{getattr(aten, name): each(getattr(Number, name)) for name in ("erf", "erfc", "erfinv")},
    aten.special_ndtr: each(Number.ndtr), aten.atan2: each(_atan2, 2),
    # FLINT's logarithm of the gamma function is complex for negative numbers; torch's is real.
    aten.lgamma: each(lambda v: v.lgamma() if head(v.value) > 0 else v * arb.nan()),
    aten.add: lambda a, b, *, alpha=1: a + _times(b, alpha),
    aten.sub: lambda a, b, *, alpha=1: a - _times(b, alpha),
    aten.mul: lambda a, b: a * b, aten.div: _divide,
    aten.remainder: lambda a, b: a - b * floor(a / b), aten.fmod: lambda a, b: a - b * trunc(a / b),
    aten.neg: lambda a: -a, aten.reciprocal: lambda a: 1 / a, aten.pow: each(_power, 2),
    aten.rsqrt: lambda a: 1 / np.sqrt(a), aten.hypot: lambda a, b: (a * a + b * b) ** 0.5,
    aten.lerp: lambda a, b, weight: a + weight * (b - a), aten.clamp: _clamp,
    aten.floor: floor, aten.ceil: ceil, aten.trunc: trunc, aten.round: round, aten.sign: sign, aten.sgn: sign,
    aten.clone: lambda a, **_: a, aten._to_copy: _to, aten.fill: lambda a, value: np.broadcast_to(value, a.shape),
    aten.exp2: lambda a: np.exp(a * arb(2).log()), aten.log2: lambda a: np.log(a) / arb(2).log(),
    aten.log10: lambda a: np.log(a) / arb(10).log(),
    aten.logaddexp: each(_logaddexp, 2), aten.xlogy: each(_xlogy, 2), aten.logit: _logit,
    aten.deg2rad: lambda a: a * (arb.pi() / 180), aten.rad2deg: lambda a: a * (180 / arb.pi()),
    aten.sigmoid: _sigmoid, aten.relu: lambda a: np.maximum(a, 0), aten.gelu: _gelu,
    aten.leaky_relu: lambda a, slope=0.01: pieces(0, lambda v: v * slope, lambda v: v)(a),
    aten.elu: _elu, aten.celu: lambda a, alpha=1: _elu(a, alpha, input_scale=1 / arb(alpha)),
    aten.mish: lambda a: a * np.tanh(softplus(a)), aten.softplus: _softplus_of_torch,
    aten.log_sigmoid_forward: lambda a: (-softplus(-a), None),
    aten.hardshrink: lambda a, lambd=0.5: middle(-lambd, lambd, lambda v: v, lambda v: 0, lambda v: v)(a),
    aten.softshrink: lambda a, lambd=0.5: middle(
        -lambd, lambd, lambda v: v + lambd, lambda v: 0, lambda v: v - lambd
    )(a),
    aten.threshold: lambda a, at, value: pieces(at, lambda v: value, lambda v: v)(a),
    aten.lt: less, aten.gt: compared(1), aten.le: compared(-1, 0), aten.ge: compared(0, 1),
    aten.eq: compared(0), aten.ne: unequal, aten.isnan: isnan, aten.isinf: isinf, aten.isfinite: isfinite,
}  # fmt: skip

# On arrays of True, False and TIE.
LOGIC: dict[Any, Function] = {
    aten.logical_not: negation, aten.bitwise_not: negation, aten.logical_and: both, aten.bitwise_and: both,
    aten.logical_or: either, aten.bitwise_or: either, aten.logical_xor: differ, aten.bitwise_xor: differ,
}  # fmt: skip
