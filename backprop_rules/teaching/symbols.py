"""Symbols that NumPy computes with, by SymPy's algebra.

A symbol carries a number as well, by which comparisons are decided, so that of a function with branches the
expressions are those of the branch that the numbers lie on.
"""

import operator
from collections.abc import Callable
from typing import Any

import sympy


def _operator(operation: Callable[[Any, Any], Any], swapped: bool = False) -> Callable[["Symbol", Any], "Symbol"]:
    def method(self: "Symbol", other: Any) -> "Symbol":
        there = other if isinstance(other, Symbol) else Symbol(exactly(other), float(other))
        a, b = (there, self) if swapped else (self, there)
        return Symbol(operation(a.expression, b.expression), float(operation(a.value, b.value)))

    return method


def _comparison(holds: Callable[[float, float], bool]) -> Callable[["Symbol", Any], bool]:
    def method(self: "Symbol", other: Any) -> bool:
        Symbol.comparisons += 1
        return holds(self.value, float(other))

    return method


class Symbol:
    """An expression, with its value; how often values were compared tells whether a branch was taken."""

    comparisons = 0

    def __init__(self, expression: Any, value: float) -> None:
        self.expression, self.value = expression, value

    __add__ = __radd__ = _operator(operator.add)
    __sub__, __rsub__ = _operator(operator.sub), _operator(operator.sub, swapped=True)
    __mul__ = __rmul__ = _operator(operator.mul)
    __truediv__, __rtruediv__ = _operator(operator.truediv), _operator(operator.truediv, swapped=True)
    __pow__ = _operator(operator.pow)
    __lt__, __le__ = _comparison(operator.lt), _comparison(operator.le)
    __gt__, __ge__ = _comparison(operator.gt), _comparison(operator.ge)

    def __neg__(self) -> "Symbol":
        return Symbol(-self.expression, -self.value)

    def __abs__(self) -> "Symbol":
        return -self if self < 0 else self

    __eq__ = _comparison(operator.eq)
    __hash__ = object.__hash__

    def __float__(self) -> float:
        return self.value

    def conjugate(self) -> "Symbol":
        """The symbol itself: all are real."""
        return self

    def __getattr__(self, name: str) -> Callable[[], "Symbol"]:
        """Return the method that NumPy calls for its function of that name."""
        function: Any = FUNCTIONS.get(name) or getattr(sympy, name.replace("arc", "a"), None)
        if name not in FUNCTIONS and not (isinstance(function, type) and issubclass(function, sympy.Function)):
            raise AttributeError(f"a symbol has no {name}")
        return lambda: Symbol(function(self.expression), float(function(sympy.Float(self.value))))


class Density(sympy.Function):  # type: ignore[misc]
    """The density of the standard normal distribution."""

    def _sympystr(self, printer: Any) -> str:
        return f"φ({printer.doprint(self.args[0])})"

    def _eval_evalf(self, precision: int) -> Any:
        return (sympy.exp(-(self.args[0] ** 2) / 2) / sympy.sqrt(2 * sympy.pi))._eval_evalf(precision)


class Distribution(sympy.Function):  # type: ignore[misc]
    """The distribution function of the standard normal distribution."""

    def fdiff(self, argindex: int = 1) -> Any:
        """Return the derivative."""
        return Density(self.args[0])

    def _sympystr(self, printer: Any) -> str:
        return f"Φ({printer.doprint(self.args[0])})"

    def _eval_evalf(self, precision: int) -> Any:
        return ((1 + sympy.erf(self.args[0] / sympy.sqrt(2))) / 2)._eval_evalf(precision)


# The functions that SymPy has by another name than NumPy, or not at all.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": sympy.sqrt,
    "lgamma": sympy.loggamma,
    "expm1": lambda x: sympy.exp(x) - 1,
    "log1p": lambda x: sympy.log(1 + x),
    "ndtr": Distribution,
}


def exactly(value: Any) -> Any:
    """Return a number as the decimal that it is written as, which has no more digits: 1/10 for 0.1."""
    return sympy.Rational(repr(float(value)))
