"""Numbers of ball arithmetic that remember how they were made, so that a textbook definition certifies its derivative.

A definition in NumPy notation runs on an array of such numbers. Each holds a ball (FLINT's `arb`, or `acb` if
complex), which contains the exact value, and for each number that it was made from a ball that contains the
partial derivative; those of the elementary functions are the coefficients of degree one of FLINT's own power
series. Going through the numbers backwards multiplies the partial derivatives along every path and adds the
paths up, in ball arithmetic: the result is an enclosure, with proof, of the gradient. Running the definition
on power series directly would take one run for each element of each primal; this takes one for all.

With a power series of two terms in the place of every ball, x + t v, the same run gives second derivatives: the
gradient is a series too, and its coefficient of degree one is the gradient's derivative along v.

At a tie of a maximum the exact values are equal, and each operand's partial derivative is the interval from
0 to 1, the hull of its one-sided derivatives. (Griewank & Walther, Evaluating Derivatives, 2nd ed., chapters 3
and 14; Johansson, Arb: efficient arbitrary-precision midpoint-radius interval arithmetic, 2017.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial, partialmethod
from operator import methodcaller
from typing import Any

import numpy as np
from flint import acb, acb_series, arb, arb_series

from backprop_rules.rule import within

Ball = Any  # arb or acb: FLINT comes without types
BALLS = (arb, acb, arb_series)
OfBall = Callable[[Ball], Ball]

ZERO, ONE = arb(0), arb(1)
UNIT = arb(0.5, 0.5)  # the interval from 0 to 1


class Undecided(ArithmeticError):
    """A comparison of two balls that overlap, whose exact values may be equal."""


def by_series(name: str) -> Callable[["Number"], "Number"]:
    """Return the function of numbers of which FLINT has a power series: its value, and its derivative."""
    series = methodcaller(name)

    def function(v: "Number") -> "Number":
        if isinstance(v.value, arb_series):
            found = series(arb_series([v.value[0], 1, 0], prec=3))
            return v._made(found[0], found[1], 2 * found[2])
        kind = acb_series if isinstance(v.value, acb) else arb_series
        found = series(kind([v.value, 1], prec=2))
        return v._made(found[0], found[1])

    return function


def by_derivatives(value: OfBall, first: OfBall, second: OfBall) -> Callable[["Number"], "Number"]:
    """Return the function of numbers of which FLINT has the value and the first two derivatives at balls."""

    def function(v: "Number") -> "Number":
        x = head(v.value)
        return v._made(value(x), first(x), second(x) if isinstance(v.value, arb_series) else None)

    return function


def _erfinv_slope(x: Ball) -> Ball:
    return arb.pi().sqrt() / 2 * (x.erfinv() ** 2).exp()


class Number:
    """A ball, and the numbers it was made from, each with a ball for the partial derivative."""

    __slots__ = ("adjoint", "parents", "tape", "value")

    def __init__(self, value: Ball, tape: list["Number"], parents: Sequence[tuple["Number", Ball]] = ()) -> None:
        self.value, self.tape, self.parents = value, tape, parents
        self.adjoint: Ball = ZERO
        tape.append(self)

    def _binary(self, other: object, value: Ball, mine: Ball, theirs: Ball) -> "Number":
        if isinstance(other, Number):
            return Number(value, self.tape, ((self, mine), (other, theirs)))
        return Number(value, self.tape, ((self, mine),))

    def __add__(self, other: Any) -> "Number":
        return self._binary(other, self.value + ball(other), ONE, ONE)

    def __sub__(self, other: Any) -> "Number":
        return self._binary(other, self.value - ball(other), ONE, -ONE)

    def __mul__(self, other: Any) -> "Number":
        b = ball(other)
        return self._binary(other, self.value * b, b, self.value)

    def __truediv__(self, other: Any) -> "Number":
        b = ball(other)
        quotient, inverse = self.value / b, 1 / b
        return self._binary(other, quotient, inverse, -quotient * inverse)

    def __neg__(self) -> "Number":
        return Number(-self.value, self.tape, ((self, -ONE),))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> "Number":
        return (-self).__add__(other)

    def __rtruediv__(self, other: Any) -> "Number":
        inverse = 1 / self.value
        quotient = ball(other) * inverse
        return Number(quotient, self.tape, ((self, -quotient * inverse),))

    def __pow__(self, exponent: Any) -> "Number":
        a, p = self.value, ball(exponent)
        if isinstance(p, arb_series):
            logarithm = a.log()
            power = (p * logarithm).exp()
            return self._binary(exponent, power, p * power / a, power * logarithm)
        if isinstance(a, arb_series):
            n = p.unique_fmpz() if p.is_exact() else None
            steps = p if n is None else int(n)
            return self._binary(exponent, a**steps, p * a ** (steps - 1) if p != 0 else ZERO, None)
        if p == 0:  # x^0 = 1 for every x
            return self._binary(exponent, ONE, ZERO, a.log())
        if a == 0 and p > 0:  # 0^p = 0 for every p > 0, and FLINT's logarithm has no answer
            return self._binary(exponent, ZERO, ONE if p == 1 else ZERO if p > 1 else arb.nan(), ZERO)
        n = p.unique_fmpz() if isinstance(p, arb) and p.is_exact() else None
        power, below = (a**n, a ** (n - 1)) if n is not None else (a**p, a ** (p - 1))
        return self._binary(exponent, power, p * below, power * a.log() if isinstance(exponent, Number) else None)

    def __abs__(self) -> "Number":
        largest: Number = maximum(self, -self)
        return largest

    def _compare(self, other: Any, certainly: Callable[[Ball, Ball], bool]) -> bool:
        a, b = head(self.value), head(ball(other))
        if certainly(a, b):
            return True
        if a.overlaps(b):
            raise Undecided("two balls overlap: write the choice as a maximum, a minimum or an absolute value")
        return False

    def __lt__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a < b))

    def __gt__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a > b))

    def __eq__(self, other: object) -> bool:
        return self._compare(other, lambda a, b: False)

    def __ne__(self, other: object) -> bool:
        return not self == other

    # A branch that is taken at equality alone has the derivative of neither side: equal is undecided.
    __le__, __ge__ = __lt__, __gt__
    __hash__ = object.__hash__

    def conjugate(self) -> "Number":
        """The number itself if it is real; definitions are holomorphic."""
        if isinstance(self.value, acb):
            raise Undecided("the conjugate has no complex derivative")
        return self

    def _made(self, value: Ball, first: Ball, second: Ball | None = None) -> "Number":
        """Return a function of this number from its value and its derivatives; the second one for a series alone."""
        if second is not None:
            step = self.value[1]
            value, first = arb_series([value, first * step], prec=2), arb_series([first, second * step], prec=2)
        return Number(value, self.tape, ((self, first),))

    def exp(self) -> "Number":
        """The exponential."""
        return self._made(value := self.value.exp(), value)

    # NumPy calls the method of its function's name.
    log, sqrt, sin, cos, tan, arctan, erf, erfc, lgamma = map(
        by_series, ("log", "sqrt", "sin", "cos", "tan", "atan", "erf", "erfc", "lgamma")
    )
    # FLINT has no power series of these; its functions of balls are accurate near 0 and far out.
    expm1 = by_derivatives(lambda x: x.expm1(), lambda x: x.exp(), lambda x: x.exp())
    log1p = by_derivatives(lambda x: x.log1p(), lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2)
    sinh = by_derivatives(lambda x: x.sinh(), lambda x: x.cosh(), lambda x: x.sinh())
    cosh = by_derivatives(lambda x: x.cosh(), lambda x: x.sinh(), lambda x: x.cosh())
    tanh = by_derivatives(lambda x: x.tanh(), lambda x: x.sech() ** 2, lambda x: -2 * x.tanh() * x.sech() ** 2)
    arcsin = by_derivatives(lambda x: x.asin(), lambda x: 1 / (1 - x * x).sqrt(), lambda x: x / (1 - x * x).sqrt() ** 3)
    arccos = by_derivatives(
        lambda x: x.acos(), lambda x: -1 / (1 - x * x).sqrt(), lambda x: -x / (1 - x * x).sqrt() ** 3
    )
    arcsinh = by_derivatives(
        lambda x: x.asinh(), lambda x: 1 / (1 + x * x).sqrt(), lambda x: -x / (1 + x * x).sqrt() ** 3
    )
    arccosh = by_derivatives(
        lambda x: x.acosh(),
        lambda x: 1 / ((x - 1).sqrt() * (x + 1).sqrt()),
        lambda x: -x / ((x - 1).sqrt() * (x + 1).sqrt()) ** 3,
    )
    arctanh = by_derivatives(lambda x: x.atanh(), lambda x: 1 / (1 - x * x), lambda x: 2 * x / (1 - x * x) ** 2)
    erfinv = by_derivatives(lambda x: x.erfinv(), _erfinv_slope, lambda x: 2 * x.erfinv() * _erfinv_slope(x) ** 2)

    def ndtr(self) -> "Number":
        """The distribution function of the normal distribution, erfc(-x / sqrt 2) / 2."""
        return (-self / arb(2).sqrt()).erfc() / 2


def ball(x: Any) -> Ball:
    """Return the ball of a number, or the exact ball of a constant."""
    if isinstance(x, Number):
        return x.value
    if isinstance(x, BALLS):
        return x
    if isinstance(x, np.generic):
        x = x.item()
    return acb(x) if isinstance(x, complex) else arb(x)


def head(value: Ball) -> Ball:
    """Return the ball of a number: the constant term, if it is a series."""
    return value[0] if isinstance(value, arb_series) else value


def maximum(a: Any, b: Any) -> Any:
    """Return the larger; at a tie each has as derivative anything from 0 to 1."""
    if not isinstance(a, Number) and not isinstance(b, Number):
        return max(a, b)
    x, y = head(ball(a)), head(ball(b))
    if x > y:
        return a
    if y > x:
        return b
    if a is b:
        return a
    if any(isinstance(ball(operand), arb_series) for operand in (a, b)):
        raise Undecided("at a tie there is no second derivative")
    made_from = [(operand, UNIT) for operand in (a, b) if isinstance(operand, Number)]
    return Number(x.max(y), made_from[0][0].tape, made_from)


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller; at a tie each has as derivative anything from 0 to 1."""
    return -maximum(-a, -b)


REPLACED = {
    np.maximum: np.frompyfunc(maximum, 2, 1, identity=None),
    np.minimum: np.frompyfunc(minimum, 2, 1, identity=None),
}


class Balls(np.ndarray[Any, np.dtype[Any]]):
    """An array of numbers on which NumPy's maximum and minimum know of ties, and its products end at an exception."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Balls) else x for x in inputs]
        if "out" in options:  # NumPy's mean divides in place
            options["out"] = tuple(x.view(np.ndarray) if isinstance(x, Balls) else x for x in options["out"])
        if ufunc is np.matmul and method == "__call__" and not options.keys() - {"out"}:
            made = product(*plain)
            if "out" in options:
                options["out"][0][...] = made
                made = options["out"][0]
            return as_balls(made)
        return as_balls(getattr(REPLACED.get(ufunc, ufunc), method)(*plain, **options))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in CAREFUL:
            plain = [x.view(np.ndarray) if isinstance(x, Balls) else x for x in args]
            return as_balls(CAREFUL[func](*plain, **kwargs))
        return as_balls(super().__array_function__(func, types, args, kwargs))

    # Of these the array's own methods would be NumPy's own.
    dot, argmax, argmin = (partialmethod(function) for function in (np.dot, np.argmax, np.argmin))


# NumPy's own loops over objects for these go on after an exception and call Python with it pending, which corrupts
# memory: for stacked matrices, and for more than one row.


def product(a: Any, b: Any) -> Any:
    """Return the matrix product."""
    a, b = np.asarray(a, dtype=object), np.asarray(b, dtype=object)
    shape = np.matmul(np.zeros(a.shape), np.zeros(b.shape)).shape  # or NumPy's own error
    rows, columns = np.atleast_2d(a), b if b.ndim > 1 else b[:, None]
    products = rows[..., :, :, None] * columns[..., None, :, :]
    return _numbers(np.asarray(np.add.reduce(products, axis=-2), dtype=object).reshape(shape))


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    a, b = np.asarray(a, dtype=object), np.asarray(b, dtype=object)
    mine, theirs = (range(-axes, 0), range(axes)) if isinstance(axes, int) else (np.atleast_1d(x) for x in axes)
    n = len(mine)
    a, b = np.moveaxis(a, mine, range(a.ndim - n, a.ndim)), np.moveaxis(b, theirs, range(n))
    rows, summed, columns = a.shape[: a.ndim - n], a.shape[a.ndim - n :], b.shape[n:]
    if summed != b.shape[:n]:
        raise ValueError(f"shapes have no product: of the axes that are summed, {summed} is not {b.shape[:n]}")
    sizes = [math.prod(shape) for shape in (rows, summed, columns)]
    return product(a.reshape(sizes[:2]), b.reshape(sizes[1:])).reshape(rows + columns)


def _dot(a: Any, b: Any, most: int = 2) -> Any:
    if not np.ndim(a) or not np.ndim(b):
        return np.multiply(a, b, dtype=object)
    return _tensordot(a, b, (-1, -min(np.ndim(b), most)))


def _place_of(chosen: Callable[..., int]) -> Callable[..., Any]:
    def place(a: Any, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Any:
        along = np.asarray(a, dtype=object).reshape(-1) if axis is None else np.moveaxis(a, axis, -1)
        rows = along.reshape(math.prod(along.shape[:-1]), along.shape[-1])
        places = [chosen(range(len(row)), key=list(row).__getitem__) for row in rows]
        found = np.array(places, dtype=np.intp).reshape(along.shape[:-1])
        if keepdims:
            return found.reshape([1] * np.ndim(a)) if axis is None else np.expand_dims(found, axis)
        return found

    return place


CAREFUL: dict[Any, Callable[..., Any]] = {
    np.dot: _dot,
    np.inner: partial(_dot, most=1),
    np.tensordot: _tensordot,
    np.argmax: _place_of(max),
    np.argmin: _place_of(min),
}


# The tape of the definition that runs, for numbers that are made of nothing.
_running: ContextVar[list[Number] | None] = ContextVar("running", default=None)


def on_tape(tape: list[Number]) -> AbstractContextManager[None]:
    """Until the end of the block, let numbers that are made of nothing go on this tape."""
    return within(_running, tape)


def _numbers(x: Any) -> Any:
    """Return an array with a number in the place of each 0 that NumPy makes of a sum of nothing."""
    tape = _running.get()
    if tape is None:
        return x
    made = np.frompyfunc(lambda v: v if isinstance(v, Number) else Number(ball(v), tape), 1, 1)
    return np.asarray(made(x), dtype=object)


def as_balls(x: Any) -> Any:
    """Return an array of objects, or a number, as `Balls`, and anything else as it is."""
    if isinstance(x, Number):
        x = np.array(x, dtype=object)
    return x.view(Balls) if isinstance(x, np.ndarray) and x.dtype == object else x


def leaves(values: Sequence[Any], shape: Sequence[int], tape: list[Number]) -> Balls:
    """Return an array of numbers that were made from nothing, with these values."""
    array = np.empty(len(values), dtype=object)
    array[:] = [Number(ball(v), tape) for v in values]
    return array.reshape(shape).view(Balls)


def outputs(y: Any) -> Iterator[Any]:
    """Yield the elements of what a definition returned, in order: numbers, or constants."""
    yield from np.asarray(y, dtype=object).view(np.ndarray).flat


def pull_back(y: Any, cotangent: Sequence[complex | None], tape: list[Number]) -> None:
    """Leave in every number's `adjoint` the gradient of the real inner product of the cotangent and y.

    A number from which no path leads to an output keeps the `ZERO` that it was made with; an output whose
    weight is None is left out. Where there are more numbers than weights, or fewer, who asks for y tells it.
    """
    for element, weight in zip(outputs(y), cotangent, strict=False):
        if isinstance(element, Number) and weight is not None:
            element.adjoint += ball(weight)
    for number in reversed(tape):
        if number.adjoint is ZERO:
            continue
        for parent, slope in number.parents:
            along: Ball = slope.conjugate() if isinstance(slope, acb) else slope
            parent.adjoint += along * number.adjoint
