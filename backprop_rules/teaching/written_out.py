"""A definition written out: run on symbols, it gives each output, and each gradient, as an expression in the elements.

What the definition names on its way (`part`) is named here too, and derivatives are chained through it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import sympy

from backprop_rules.call import Call
from backprop_rules.domain import BATCH, Positive, axes_of
from backprop_rules.errors import InputError
from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.proof.balls import outputs
from backprop_rules.formula import element
from backprop_rules.rule import parts_named
from backprop_rules.teaching.indices import LETTERS, Names, Place, expanded, general, written
from backprop_rules.teaching.symbols import Symbol, exactly

Slope = dict[Any, Any]  # the derivative of an element, by what it is taken with respect to


@dataclass(frozen=True)
class Part:
    """Elements with a name, what each is, and letters for its axes: what a definition names on its way, and y.

    Of a primal an element may be picked, as a maximum is: it counts as a constant, with which y does not move.
    """

    name: str
    of: dict[Place, Any]
    letters: str
    picked: bool


def letters_of(call: Call) -> list[str]:
    """Return a letter for each axis of each primal: equal ones for axes of one name, i for a batch."""
    named = []
    for names, x in zip(axes_of(call.rule.domain.shapes), call.primals, strict=True):
        core = [name.rstrip("?") for name in names if name != BATCH]
        named.append([f"{BATCH}{k}" for k in range(0 if x is None else x.ndim - len(core))] + core)
    axes = sorted((name for names in named for name in names), key=lambda name: not name.startswith(BATCH))
    letter_of = dict(zip(dict.fromkeys(axes), LETTERS, strict=False))
    return ["".join(letter_of[name] for name in names) for names in named]


class WrittenOut:
    """The outputs and the gradients of a point, as expressions in its elements and in the parts of its definition."""

    def __init__(self, call: Call) -> None:
        self.call, self.names, self.parts, self._tidy = call, Names(), list[Part](), _Tidy()
        self.names.letters = dict(zip(call.rule.primals, letters_of(call), strict=True))
        self._own = self.names.letters[call.rule.primals[call.given[0]]]
        primals: list[Any] = [None if x is None else x.numpy() for x in call.primals]
        for i in call.given:
            primals[i] = self._symbols(call.rule.primals[i], _places(primals[i].shape), primals[i])
        self.params = {
            sympy.Symbol(name, positive=True): call.params[name]
            for name, param in call.rule.domain.params.items()
            if isinstance(param, Positive)
        }
        params = {**call.params} | {str(symbol): Symbol(symbol, value) for symbol, value in self.params.items()}
        compared = Symbol.comparisons
        try:
            with parts_named(self._part):
                y = list(outputs(certified.defined(call.rule)(*primals, **params)))
        except (TypeError, AttributeError) as error:  # as NumPy says it of a method that a symbol lacks
            raise InputError(
                f"{call.rule}: its definition cannot be written out: {error}. Write it with NumPy's functions, or "
                "say in FUNCTIONS of backprop_rules/teaching/symbols.py what this one is in SymPy."
            ) from None
        # What is so for these numbers, by a branch or an index, has no general form.
        to_pick = any(part.picked for part in self.parts)
        self.branched = bool(call.rule.domain.indices) or (Symbol.comparisons > compared and not to_pick)
        of = {
            at: e.expression if isinstance(e, Symbol) else exactly(e)
            for at, e in zip(_places(call.y.shape), y, strict=True)
        }
        self.parts.append(Part("y", of, self._letters_of(of), False))
        self.bars = {at: self.names.symbol("ȳ", at) for at in of}

    def _symbols(self, name: str, places: Sequence[Place], like: Any) -> Any:
        made = np.empty(like.size, dtype=object)
        made[:] = [Symbol(self.names.symbol(name, at), float(v)) for at, v in zip(places, like.flat, strict=True)]
        return made.reshape(like.shape)

    def _part(self, name: str, value: Any) -> Any:
        """Put new symbols in the place of a part's elements."""
        whole = np.asarray(value, dtype=object)
        if any(part.name == name for part in self.parts) or not all(isinstance(v, Symbol) for v in whole.flat):
            return value
        own = self._own if len(self._own) == whole.ndim else LETTERS
        wide = [axis for axis, n in enumerate(whole.shape) if n > 1]
        places = [tuple(place[axis] for axis in wide) for place in _places(whole.shape)]
        of = {place: v.expression for place, v in zip(places, whole.flat, strict=True)}
        picked = all(e in self.names.place_of for e in of.values())
        self.parts.append(Part(name, of, "".join(own[axis] for axis in wide), picked))
        return self._symbols(name, places, whole)

    def _letters_of(self, y: dict[Place, Any]) -> str:
        """Return a letter for each axis of y: that of a primal's axis which always has the same index, or another."""
        found, letters = [self.names.elements(e).values() for e in y.values()], ""
        for axis in range(self.call.y.ndim):
            at = [place[axis] for place in y]
            homes = (
                letter
                for name, own in self.names.letters.items()
                for k, letter in enumerate(own)
                if letter not in letters
                and any(one == name for elements in found for one, _ in elements)
                and all(i[k] == n for n, elements in zip(at, found, strict=True) for one, i in elements if one == name)
            )
            letters += next(homes, "") or next(c for c in LETTERS if c not in letters)
        return letters

    def elements(self, primal: int) -> dict[Place, Any]:
        """Return the symbols of a primal's elements by their places."""
        name = self.call.rule.primals[primal]
        return {place: s for (own, place), s in self.names.at.items() if own == name}

    def gradient(self, primal: int) -> dict[Place, Any]:
        """Return the gradient of each element of a primal: Σ ȳᵢ ∂yᵢ/∂x."""
        slopes = [(bar, self._slopes[self.names.symbol("y", at)][-1]) for at, bar in self.bars.items()]
        return {
            at: sympy.Add(*(bar * slope.get(x, 0) for bar, slope in slopes)) for at, x in self.elements(primal).items()
        }

    def outputs(self) -> list[str]:
        """Return what each element of y is."""
        return [f"{element('y', at)} = {written(e)}" for at, e in self.parts[-1].of.items()]

    def told(self, primal: int) -> tuple[str | None, list[str]]:
        """Return the gradient of a primal with letters for indices, None where it is no one form, and that of each."""
        name, gradient = self.call.rule.primals[primal], self.gradient(primal)
        each = [f"∂L/∂{element(name, at)} = {written(e)}" for at, e in gradient.items()]
        letters, chain = self.names.letters[name], ""
        if self._by_y and primal == self.call.given[0]:
            y, letters = self.parts[-1], self._by_y[0]
            added = "".join(f"Σ{element('', [c])} " for c in y.letters if c not in letters)
            slope = f"∂{element('y', y.letters)}/∂{element(name, letters)}"
            chain = f"{added}{element('ȳ', y.letters)}·{slope} = "
        found = None if self.branched else general(gradient, letters, self.names)
        return None if found is None else f"∂L/∂{element(name, letters)} = {chain}{written(found)}", each

    @cached_property
    def _slopes(self) -> dict[Any, tuple[Slope, ...]]:
        """The derivative of each element by those of the primals.

        As the chain rule gives it in terms of the parts, and then with numerators as the quotients that they make.
        """
        found: dict[Any, tuple[Slope, ...]] = {
            x: ({x: sympy.Integer(1)},) for i in self.call.given for x in self.elements(i).values()
        }
        tidy = self._tidy
        for part in self.parts:
            here = {self.names.symbol(part.name, place): e for place, e in part.of.items()}
            if part.picked:
                found |= {s: ({},) for s in here}
                continue
            rows = groupby(here, key=lambda s: self.names.place_of[s][1][:-1])
            tidy.learn(here, [list(row) for _, row in rows] if part is not self.parts[-1] else [])
            for symbol, e in here.items():
                slope: Slope = {}
                for s in sorted(e.free_symbols - self.params.keys(), key=str):
                    for x, dx in found[s][-1].items():
                        slope[x] = slope.get(x, 0) + sympy.diff(e, s) * dx
                found[symbol] = tidy.forms(slope)
        return found

    def steps(self) -> Iterator[tuple[str, str | None]]:
        """Yield how each part is made, y the last, and its derivative by the first primal; None of what is picked."""
        for part in self.parts:
            if part.picked:
                yield ", ".join(f"{element(part.name, at)} = {e}" for at, e in part.of.items()), None
                continue
            found = self.of_y if part is self.parts[-1] else general(part.of, part.letters, self.names)
            if found is None:
                return
            slope = self._by_y if part is self.parts[-1] else self._slope_in_general(part)
            yield f"{element(part.name, part.letters)} = {written(found)}", slope[1] if slope else ""

    @cached_property
    def of_y(self) -> Any | None:
        """What y is for any indices; None where it is no one form."""
        return None if self.branched else general(self.parts[-1].of, self.parts[-1].letters, self.names)

    @cached_property
    def _by_y(self) -> tuple[str, str] | None:
        return None if self.of_y is None else self._slope_in_general(self.parts[-1])

    def used(self) -> list[str]:
        """Return the sums over the last axis of a part that are zero, and were used as such."""
        parts = {part.name: part for part in self.parts}
        names = dict.fromkeys(self.names.place_of[row[0]][0] for row in self._tidy.used)
        return [f"Σ{element('', parts[n].letters[-1:])} {element(n, parts[n].letters)} = 0" for n in names]

    def _slope_in_general(self, part: Part) -> tuple[str, str] | None:
        """Return letters for the first primal x, and ∂part/∂x in its forms; None where it is no one form."""
        name, elements, own = self.call.rule.primals[self.call.given[0]], self.elements(self.call.given[0]), self._own
        slopes = {at: self._slopes[self.names.at[part.name, at]] for at in part.of}
        forms = (0, -1) if any(len(slope) > 1 for slope in slopes.values()) else (0,)
        tables = [{(at, to): slopes[at][k].get(x, 0) for at in slopes for to, x in elements.items()} for k in forms]
        # An axis that both have is one where the derivative is zero between different places; else it has two letters.
        both = {axis: part.letters.index(letter) for axis, letter in enumerate(own) if letter in part.letters}
        one = {b: a for b, a in both.items() if all(at[a] == to[b] for (at, to), d in tables[0].items() if d)}
        fresh = iter(letter for letter in LETTERS if letter not in own + part.letters)
        lettered = [next(fresh) if b in both and b not in one else letter for b, letter in enumerate(own)]
        letters = part.letters + "".join(letter for b, letter in enumerate(lettered) if b not in one)
        found = []
        for table in tables:
            entries = {
                (*at, *(n for b, n in enumerate(to) if b not in one)): sympy.sympify(d)
                for (at, to), d in table.items()
                if all(at[a] == to[b] for b, a in one.items())
            }
            found.append(general(entries, letters, self.names))
        of = f"∂{element(part.name, part.letters)}/∂{element(name, lettered)}"
        return None if None in found else ("".join(lettered), " = ".join(dict.fromkeys([of, *map(written, found)])))


class _Tidy:
    """What the parts stand for, put back into derivatives."""

    def __init__(self) -> None:
        self.made_of: Slope = {}
        self.quotients: Slope = {}
        self.functions: Slope = {}
        self.zero_sums: list[list[Any]] = []
        self.used: list[list[Any]] = []

    def learn(self, part: Slope, rows: list[list[Any]]) -> None:
        """Take in the elements of a part, and its rows, which may add up to nothing."""
        for symbol, e in part.items():
            above, below = e.as_numer_denom()
            if above in self.made_of and below.is_Symbol:
                self.quotients[above] = symbol * below
            # A function that a part is made of by numbers alone, as a sigmoid is of tanh, is said by the part.
            inner = e.atoms(sympy.Function) if rows and e.is_Add else set()
            if len(inner) == 1 and (rest := e - (factor := e.coeff(f := inner.pop())) * f).is_number:
                self.functions[f] = (symbol - rest) / factor
        self.made_of |= part
        for row in (row for row in rows if len(row) > 1 and all(part[s].is_Add for s in row)):
            total = sympy.Add(*row)
            for symbol, e in reversed(self.made_of.items()):
                total = total.xreplace({symbol: e})
            if not expanded(total):
                self.zero_sums.append(row)

    def forms(self, slope: Slope) -> tuple[Slope, ...]:
        """Return a derivative in terms of the parts, and again with numerators as the quotients that they make."""
        plain = {x: d for x, e in slope.items() if (d := self._plain(e))}
        tidy = {x: d if (q := d.xreplace(self.quotients)) == d else expanded(q) for x, d in plain.items()}
        return (plain,) if plain == tidy else (plain, tidy)

    def _plain(self, e: Any) -> Any:
        functions = {of: s for s, of in self.made_of.items() if isinstance(of, sympy.Function | sympy.Pow)}
        e = expanded(e.subs([*functions.items(), *self.functions.items()]))
        for row in self.zero_sums:
            (most, count), *_ = Counter(e.coeff(s) for s in row).most_common()
            if count > 1 and most:
                e = expanded(e - most * sympy.Add(*row))
                self.used.append(row)
        return e


def _places(shape: Sequence[int]) -> list[Place]:
    return [tuple(k + 1 for k in place) for place in np.ndindex(*shape)]
