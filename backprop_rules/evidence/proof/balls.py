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
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from flint import acb, acb_series, arb, arb_series

Ball = Any  # arb or acb: FLINT comes without types

ZERO, ONE = arb(0), arb(1)
UNIT = arb(0.5, 0.5)  # the interval from 0 to 1


class Undecided(ArithmeticError):
    """A comparison of two balls that overlap, whose exact values may be equal."""


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

    def _function(self, series: Callable[[Any], Any]) -> "Number":
        """Return FLINT's power series of a function at this number: its value, and its derivative."""
        if isinstance(self.value, arb_series):
            found = series(arb_series([self.value[0], 1, 0], prec=3))
            return self._known(found[0], found[1], lambda: 2 * found[2])
        kind = acb_series if isinstance(self.value, acb) else arb_series
        found = series(kind([self.value, 1], prec=2))
        return Number(found[0], self.tape, ((self, found[1]),))

    def _known(self, value: Ball, first: Ball, second: Callable[[], Ball]) -> "Number":
        """Return a function of this number from its value and its derivatives at the ball, or the series' head."""
        if not isinstance(self.value, arb_series):
            return Number(value, self.tape, ((self, first),))
        step = self.value[1]
        along = arb_series([value, first * step], prec=2), arb_series([first, second() * step], prec=2)
        return Number(along[0], self.tape, ((self, along[1]),))

    def exp(self) -> "Number":
        """The exponential."""
        value = self.value.exp()
        return Number(value, self.tape, ((self, value),))

    def log(self) -> "Number":
        """The natural logarithm."""
        return self._function(lambda s: s.log())

    def sqrt(self) -> "Number":
        """The square root."""
        return self._function(lambda s: s.sqrt())

    def sin(self) -> "Number":
        """The sine."""
        return self._function(lambda s: s.sin())

    def cos(self) -> "Number":
        """The cosine."""
        return self._function(lambda s: s.cos())

    def erf(self) -> "Number":
        """The error function."""
        return self._function(lambda s: s.erf())

    def erfc(self) -> "Number":
        """One less the error function."""
        return self._function(lambda s: s.erfc())

    def ndtr(self) -> "Number":
        """The distribution function of the normal distribution, erfc(-x / sqrt 2) / 2."""
        return (-self / arb(2).sqrt()).erfc() / 2

    # FLINT has no power series of the next three; its functions of balls are accurate near 0 and far out.

    def expm1(self) -> "Number":
        """One less than the exponential; its derivative is the exponential."""
        x = head(self.value)
        return self._known(x.expm1(), x.exp(), x.exp)

    def log1p(self) -> "Number":
        """The logarithm of one more; its derivative is the inverse of one more."""
        x = head(self.value)
        return self._known(x.log1p(), 1 / (1 + x), lambda: -1 / (1 + x) ** 2)

    def tanh(self) -> "Number":
        """The hyperbolic tangent; its derivative is the square of the hyperbolic secant."""
        x = head(self.value)
        return self._known(x.tanh(), x.sech() ** 2, lambda: -2 * x.tanh() * x.sech() ** 2)


def ball(x: Any) -> Ball:
    """Return the ball of a number, or the exact ball of a constant."""
    if isinstance(x, Number):
        return x.value
    if isinstance(x, np.generic):
        x = x.item()
    return x if isinstance(x, arb | acb | arb_series) else acb(x) if isinstance(x, complex) else arb(x)


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
                (made,), own = options["out"], made
                made[...] = own
            return as_balls(made)
        return as_balls(getattr(REPLACED.get(ufunc, ufunc), method)(*plain, **options))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in CAREFUL:
            plain = [x.view(np.ndarray) if isinstance(x, Balls) else x for x in args]
            return as_balls(CAREFUL[func](*plain, **kwargs))
        return as_balls(super().__array_function__(func, types, args, kwargs))

    def dot(self, other: Any, /) -> Any:  # type: ignore[override]
        """Return np.dot of both."""
        return np.dot(self, other)

    def argmax(self, axis: Any = None, out: None = None, *, keepdims: bool = False) -> Any:  # type: ignore[override]
        """Return np.argmax along the axis."""
        return np.argmax(self, axis, out, keepdims=keepdims)

    def argmin(self, axis: Any = None, out: None = None, *, keepdims: bool = False) -> Any:  # type: ignore[override]
        """Return np.argmin along the axis."""
        return np.argmin(self, axis, out, keepdims=keepdims)


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


def _dot(a: Any, b: Any) -> Any:
    if not np.ndim(a) or not np.ndim(b):
        return np.multiply(a, b, dtype=object)
    return _tensordot(a, b, (-1, -min(np.ndim(b), 2)))


def _inner(a: Any, b: Any) -> Any:
    return _tensordot(a, b, (-1, -1)) if np.ndim(a) and np.ndim(b) else _dot(a, b)


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
    np.inner: _inner,
    np.tensordot: _tensordot,
    np.argmax: _place_of(max),
    np.argmin: _place_of(min),
}


# The tape of the definition that runs, for numbers that are made of nothing.
_running: ContextVar[list[Number] | None] = ContextVar("running", default=None)


@contextmanager
def on_tape(tape: list[Number]) -> Iterator[None]:
    """Until the end of the block, let numbers that are made of nothing go on this tape."""
    token = _running.set(tape)
    try:
        yield
    finally:
        _running.reset(token)


def _numbers(x: Any) -> Any:
    """Return an array with a number in the place of each 0 that NumPy makes of a sum of nothing."""
    tape = _running.get()
    if tape is None or not isinstance(x, np.ndarray) or x.dtype != object:
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
    found: Balls = array.reshape(shape).view(Balls)
    return found


def outputs(y: Any) -> Iterator[Any]:
    """Yield the elements of what a definition returned, in order: numbers, or constants."""
    yield from np.asarray(y, dtype=object).view(np.ndarray).flat


def pull_back(y: Any, cotangent: Sequence[complex | None], tape: list[Number]) -> None:
    """Leave in every number's `adjoint` the gradient of the real inner product of the cotangent and y.

    A number from which no path leads to an output keeps the `ZERO` that it was made with; an output whose
    weight is None is left out.
    """
    for element, weight in zip(outputs(y), cotangent, strict=True):
        if isinstance(element, Number) and weight is not None:
            element.adjoint += ball(weight)
    for number in reversed(tape):
        if number.adjoint is ZERO:
            continue
        for parent, partial in number.parents:
            along: Ball = partial.conjugate() if isinstance(partial, acb) else partial
            parent.adjoint += along * number.adjoint
