"""The notation of the answers, worked out: what a formula says is what is run.

    ab, a·b, a × b, a∗b      the product, of matrices the matrix product, but of one element; a ⊙ b element by element
    aᵀ, a², 2⁻⁴⁶             the transpose, powers
    x_1, W_12, w1_ij         an element, counted from 1; a letter is any index, or the one that a Σ runs over
    Σ_i ab, Σ(a)             the sum over i of a product, the sum of all elements
    [a ≥ b]                  1 where it is so, 0 elsewhere
    (a, b), [[a, b], [c, d]] a row, a matrix
    f(a, b), max(a, b)       a function

δ is read as ∂. A name may be of several signs, '∂L/∂x' or 'ŷ': the longest that is given is taken. Numbers are exact:
a fraction is no float until it meets a tensor.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError

Value = Any  # a Tensor or a Fraction; a function, of names that stand for one

RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "≠": operator.ne, "<": operator.lt, ">": operator.gt, "≤": operator.le, "≥": operator.ge,
}  # fmt: skip
POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
TIMES = ("·", "×", "*", "∗", "⊙", "/")
AFTER_A_FACTOR = ("+", "-", ",", ")", "]", "", *RELATIONS)
SIGNS = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)|(?P<power>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)|_(?P<index>[0-9a-z]+)|(?P<sign>\S)")


def holds_of(formula: str, names: Mapping[str, Value]) -> bool:
    """Say whether the formula, a chain of =, ≠, <, … , is true of these values, for every value of its free letters."""
    read = _Read(formula, names)
    return all(read.at(dict(zip(read.free, indices, strict=True))) for indices in read.every_index())


def worked_out(formula: str, names: Mapping[str, Value]) -> Value:
    """Return the value of a formula without a relation and free letters."""
    return _Read(formula, names).value()


class _Read:
    """A formula, its signs, and the sizes that its letters run over."""

    def __init__(self, formula: str, names: Mapping[str, Value]) -> None:
        self.formula, self.names = formula.replace("δ", "∂").replace("−", "-"), {**names, "max": torch.maximum}
        self.signs = _split(self.formula, tuple(self.names))
        self.sizes: dict[str, int] = {}
        for (kind, name), (index, letters) in pairwise([*self.signs, ("end", "")]):
            if kind == "name" and index == "index":
                axes = _axes(self.names[name], letters)
                self.sizes |= {i: size for i, size in zip(letters, axes, strict=True) if i.isalpha()}
        bound = {j for (_, sign), (_, letters) in pairwise(self.signs) if sign == "Σ" for j in letters}
        self.free = [i for i in self.sizes if i not in bound]

    def every_index(self) -> Iterator[tuple[int, ...]]:
        return product(*(range(self.sizes[i]) for i in self.free))

    def at(self, indices: dict[str, int]) -> bool:
        """Say whether every relation is true with these indices."""
        self.place, self.indices = 0, indices
        first, found, related = self._sum(), True, False
        while (relation := self._take(*RELATIONS)) is not None:
            second, related = self._sum(), True
            found, first = found and _related(relation, first, second), second
        if not related or self._sign():
            raise self._misread()
        return found

    def value(self) -> Value:
        self.place, self.indices = 0, {}
        found = self._sum()
        if self._sign():
            raise self._misread()
        return found

    # ---- one method for each line of the grammar

    def _sum(self) -> Value:
        found = self._signed()
        while (sign := self._take("+", "-")) is not None:
            found = (operator.add if sign == "+" else operator.sub)(*_alike(found, self._signed()))
        return found

    def _signed(self) -> Value:
        return -self._signed() if self._take("-") else self._product()

    def _product(self) -> Value:
        found = self._factor()
        while self._sign() not in AFTER_A_FACTOR:
            sign = self._take(*TIMES)
            found = _times(sign or "·", found, -self._factor() if self._take("-") else self._factor())
        return found

    def _factor(self) -> Value:
        found = self._one()
        while True:
            if self._take("ᵀ"):
                found = found.T
            elif self._kind() == "power":
                found = found ** int(self._next().translate(POWERS))
            elif self._kind() == "index":
                letters = self._next()
                at = [int(i) - 1 if i.isdigit() else self.indices[i] for i in letters]
                if min(at) < 0:
                    raise IndexError(f"the elements are counted from 1: {letters}")
                found = found.flatten()[at[0]] if len(at) == 1 else found[tuple(at)]
            else:
                return found

    def _one(self) -> Value:
        if self._kind() == "number":
            return Fraction(self._next())
        if self._take("½"):
            return Fraction(1, 2)
        if self._take("Σ"):
            return self._summed()
        if self._kind() == "name":
            value = self.names[self._next()]
            return value(*map(_tensor, self._arguments())) if callable(value) and self._sign() == "(" else value
        if self._sign() == "[" and self._sign(1) == "[":
            return _matrix(self._listed("[", "]", lambda: self._listed("[", "]", self._sum)))
        if self._take("["):
            left, relation, right = self._sum(), self._take(*RELATIONS), self._sum()
            if relation is None or not self._take("]"):
                raise self._misread()
            return _where(relation, left, right)
        parts = self._arguments()
        return parts[0] if len(parts) == 1 else _matrix([parts])

    def _summed(self) -> Value:
        if self._kind() != "index":
            return _tensor(self._factor()).sum()
        letters, start, total = self._next(), self.place, Fraction(0)
        for indices in product(*(range(self.sizes[i]) for i in letters)):
            self.place, outer = start, dict(self.indices)
            self.indices |= dict(zip(letters, indices, strict=True))
            total = operator.add(*_alike(total, self._product()))
            self.indices = outer
        return total

    def _arguments(self) -> list[Value]:
        return self._listed("(", ")", self._sum)

    def _listed(self, opens: str, closes: str, one: Callable[[], Any]) -> list[Any]:
        if not self._take(opens):
            raise self._misread()
        parts = [one()]
        while self._take(","):
            parts.append(one())
        if not self._take(closes):
            raise self._misread()
        return parts

    # ---- the next sign

    def _kind(self) -> str:
        return self.signs[self.place][0] if self.place < len(self.signs) else ""

    def _sign(self, ahead: int = 0) -> str:
        return self.signs[self.place + ahead][1] if self.place + ahead < len(self.signs) else ""

    def _next(self) -> str:
        self.place += 1
        return self.signs[self.place - 1][1]

    def _take(self, *signs: str) -> str | None:
        return self._next() if self._kind() in ("sign", "power") and self._sign() in signs else None

    def _misread(self) -> InputError:
        rest = " ".join(sign for _, sign in self.signs[self.place :]) or "its end"
        return InputError(f"the formula '{self.formula}' cannot be read at {rest}: known are {', '.join(self.names)}.")


@lru_cache(maxsize=1000)
def _split(formula: str, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the signs of a formula, each with its kind; names are taken before them, the longest first."""
    at, known, found = 0, sorted(names, key=len, reverse=True), []
    while at < len(formula):
        if formula[at].isspace():
            at += 1
            continue
        name = next((n for n in known if formula.startswith(n, at)), None)
        sign = SIGNS.match(formula, at)
        assert sign is not None and sign.lastgroup is not None
        found.append(("name", name) if name else (sign.lastgroup, sign[sign.lastgroup]))
        at = at + len(name) if name else sign.end()
    return tuple(found)


def _axes(value: Value, letters: str) -> tuple[int, ...]:
    return (value.numel(),) if len(letters) == 1 else tuple(value.shape)


def _alike(a: Value, b: Value) -> tuple[Value, Value]:
    """Return both as tensors if one is, as fractions otherwise."""
    if isinstance(a, Tensor) == isinstance(b, Tensor):
        return a, b
    return (a, _tensor(b)) if isinstance(a, Tensor) else (_tensor(a), b)


def _tensor(x: Value) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(float(x), dtype=torch.float64)


def _times(sign: str, a: Value, b: Value) -> Value:
    a, b = _alike(a, b)
    if sign == "/":
        return a / b
    if not isinstance(a, Tensor) or sign == "⊙" or a.numel() == 1 or b.numel() == 1:
        return a * b
    return a @ b


def _where(relation: str, a: Value, b: Value) -> Tensor:
    found: Tensor = RELATIONS[relation](_tensor(a), _tensor(b))
    return found.to(torch.float64)


def _matrix(rows: list[list[Value]]) -> Tensor:
    return torch.stack([torch.stack([_tensor(x).reshape(()) for x in row]) for row in rows])


def _related(relation: str, a: Value, b: Value) -> bool:
    """Say whether the relation is true of all elements; a number is compared with a tensor of one alone."""
    a, b = _alike(a, b)
    if not isinstance(a, Tensor):
        return bool(RELATIONS[relation](a, b))
    if a.shape != b.shape and not a.numel() == b.numel() == 1:
        return relation == "≠"
    if relation == "≠":
        return not a.equal(b.reshape(a.shape))
    return bool(RELATIONS[relation](a, b.reshape(a.shape)).all())


def rounds_to(value: float | Fraction, written: str) -> bool:
    """Say whether the number, rounded to as many decimals as are written, is the written one; '%' is a hundredth."""
    number, percent = written.removesuffix("%").strip().replace(",", "").replace(" ", ""), written.endswith("%")
    found = Fraction(value) * (100 if percent else 1)
    mantissa, _, exponent = number.partition("e")
    unit = Fraction(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return math.isfinite(value) and abs(found - Fraction(number)) * 2 <= unit
