"""A definition written out: run on symbols, it gives each output, and each gradient, as an expression in the elements.

SymPy does the algebra. A symbol carries a number as well, by which comparisons are decided, so that of a function
with branches the expressions are those of the branch that the numbers lie on.
"""

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.errors import InputError
from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.proof.balls import outputs
from backprop_rules.formula import LOWERED

SUBSCRIPTS = str.maketrans(LOWERED)


def _operator(operation: Callable[[Any, Any], Any], swapped: bool = False) -> Callable[["Symbol", Any], "Symbol"]:
    def method(self: "Symbol", other: Any) -> "Symbol":
        there = other if isinstance(other, Symbol) else Symbol(exactly(other), float(other))
        a, b = (there, self) if swapped else (self, there)
        return Symbol(operation(a.expression, b.expression), float(operation(a.value, b.value)))

    return method


def _comparison(holds: Callable[[float, float], bool]) -> Callable[["Symbol", Any], bool]:
    return lambda self, other: holds(self.value, float(other))


class Symbol:
    """An expression, with its value."""

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
        return -self if self.value < 0 else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbol | int | float) and self.value == float(other)

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


# The functions that SymPy has by another name than NumPy, or not at all.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": sympy.sqrt,
    "lgamma": sympy.loggamma,
    "expm1": lambda x: sympy.exp(x) - 1,
    "log1p": lambda x: sympy.log(1 + x),
    "ndtr": lambda x: (1 + sympy.erf(x / sympy.sqrt(2))) / 2,
}


def exactly(value: Any) -> Any:
    """Return a number as SymPy has it, without rounding."""
    return sympy.Rational(Fraction(float(value)))


def elements(name: str, shape: Sequence[int]) -> list[str]:
    """Return the names of the elements: x₁₂ stands for the one in row 1 and column 2."""
    return [name + "".join(str(k + 1).translate(SUBSCRIPTS) for k in place) for place in np.ndindex(*shape)]


def named(name: str, x: Tensor) -> Any:
    """Return an array of symbols for the elements of x."""
    made = np.empty(x.numel(), dtype=object)
    made[:] = [
        Symbol(sympy.Symbol(element, real=True), value)
        for element, value in zip(elements(name, x.shape), x.flatten().tolist(), strict=True)
    ]
    return made.reshape(tuple(x.shape))


class WrittenOut:
    """The outputs and the gradients of a point, as expressions in its elements."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.primals: list[Any] = [
            x if x is None else named(call.rule.primals[i], x) if i in call.given else x.numpy()
            for i, x in enumerate(call.primals)
        ]
        try:
            self.y = list(outputs(certified.defined(call.rule)(*self.primals, **call.params)))
        except (TypeError, AttributeError) as error:  # as NumPy says it of a method that a symbol lacks
            raise InputError(
                f"{call.rule}: its definition cannot be written out: {error}. Write it with NumPy's functions, or "
                "say in FUNCTIONS of backprop_rules/teaching/symbols.py what this one is in SymPy."
            ) from None
        self.cotangents = [symbol.expression for symbol in named("ȳ", call.grad_y).flat]

    def outputs(self) -> list[str]:
        """Return each element of y."""
        return [written(_expression(element)) for element in self.y]

    def gradient(self, primal: int) -> list[Any]:
        """Return the gradient of each element of a primal: Σ ȳᵢ ∂yᵢ/∂x."""
        weighted = sum(bar * _expression(y) for bar, y in zip(self.cotangents, self.y, strict=True))
        return [sympy.diff(weighted, symbol.expression) for symbol in self.primals[primal].flat]

    def values(self) -> dict[Any, Any]:
        """Return the number that stands for each symbol."""
        arrays = [self.primals[i] for i in self.call.given]
        found = {symbol.expression: exactly(symbol.value) for array in arrays for symbol in array.flat}
        numbers = self.call.grad_y.flatten().tolist()
        return found | {bar: exactly(g) for bar, g in zip(self.cotangents, numbers, strict=True)}


def _expression(y: Any) -> Any:
    return y.expression if isinstance(y, Symbol) else exactly(y)


def written(expression: Any) -> str:
    """Return an expression as a person writes it."""
    return str(sympy.sstr(expression, order="none")).replace("**", "^").replace("*", "·")
