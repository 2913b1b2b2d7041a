"""A definition written out: run on symbols, it gives each output, and each gradient, as an expression in the elements.

SymPy does the algebra. A symbol carries a number as well, by which comparisons are decided, so that of a function
with branches the expressions are those of the branch that the numbers lie on.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from torch import Tensor

from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.proof.balls import outputs
from backprop_rules.point import Point

LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Symbol:
    """An expression, with its value."""

    def __init__(self, expression: Any, value: float) -> None:
        self.expression, self.value = expression, value

    def _with(self, other: Any, operation: Callable[[Any, Any], Any]) -> "Symbol":
        there = other if isinstance(other, Symbol) else Symbol(exactly(other), float(other))
        return Symbol(operation(self.expression, there.expression), float(operation(self.value, there.value)))

    def __add__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: b / a)

    def __pow__(self, other: Any) -> "Symbol":
        return self._with(other, lambda a, b: a**b)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Symbol":
        return Symbol(-self.expression, -self.value)

    def __abs__(self) -> "Symbol":
        return -self if self.value < 0 else self

    def __lt__(self, other: Any) -> bool:
        return self.value < float(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > float(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= float(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= float(other)

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
        if name not in FUNCTIONS:
            raise AttributeError(f"a symbol has no {name}")
        function = FUNCTIONS[name]
        return lambda: Symbol(function(self.expression), float(function(sympy.Float(self.value))))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tanh": sympy.tanh,
    "erf": sympy.erf,
    "erfc": sympy.erfc,
    "expm1": lambda x: sympy.exp(x) - 1,
    "log1p": lambda x: sympy.log(1 + x),
    "ndtr": lambda x: (1 + sympy.erf(x / sympy.sqrt(2))) / 2,
}


def exactly(value: Any) -> Any:
    """Return a number as SymPy has it, without rounding."""
    return sympy.Rational(Fraction(float(value)))


def named(name: str, x: Tensor) -> Any:
    """Return an array of symbols for the elements of x: x₁₂ stands for the one in row 1 and column 2."""
    made = np.empty(tuple(x.shape), dtype=object)
    for place in np.ndindex(*x.shape):
        subscript = "".join(str(k + 1).translate(LOWERED) for k in place)
        made[place] = Symbol(sympy.Symbol(f"{name}{subscript}", real=True), float(x[place]))
    return made


class WrittenOut:
    """The outputs and the gradients of a point, as expressions in its elements."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.primals: list[Any] = [
            x if x is None else named(point.rule.primals[i], x) if i in point.given else x.numpy()
            for i, x in enumerate(point.primals)
        ]
        self.y = list(outputs(certified.defined(point.rule)(*self.primals, **point.params)))
        self.cotangents = [symbol.expression for symbol in named("ȳ", point.grad_y).flat]

    def outputs(self) -> list[str]:
        """Return each element of y."""
        return [written(_expression(element)) for element in self.y]

    def gradient(self, primal: int) -> list[Any]:
        """Return the gradient of each element of a primal: Σ ȳᵢ ∂yᵢ/∂x."""
        weighted = sum(bar * _expression(y) for bar, y in zip(self.cotangents, self.y, strict=True))
        return [sympy.diff(weighted, symbol.expression) for symbol in self.primals[primal].flat]

    def values(self) -> dict[Any, Any]:
        """Return the number that stands for each symbol."""
        arrays = [self.primals[i] for i in self.point.given]
        found = {symbol.expression: exactly(symbol.value) for array in arrays for symbol in array.flat}
        numbers = self.point.grad_y.flatten().tolist()
        return found | {bar: exactly(g) for bar, g in zip(self.cotangents, numbers, strict=True)}


def _expression(y: Any) -> Any:
    return y.expression if isinstance(y, Symbol) else exactly(y)


def written(expression: Any) -> str:
    """Return an expression as a person writes it."""
    return str(sympy.sstr(expression, order="none")).replace("**", "^").replace("*", "·")


def elements(name: str, shape: Sequence[int]) -> list[str]:
    """Return the names of the elements: x₁₁, x₁₂ and so on."""
    return [name + "".join(str(k + 1).translate(LOWERED) for k in place) for place in np.ndindex(*shape)]
