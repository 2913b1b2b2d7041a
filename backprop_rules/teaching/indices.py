"""Expressions of many elements written as one, with letters for indices: found in some, and held against all.

What stands at each place is taken apart into terms. A term in which all numbers differ says which index is which; a
letter that is none of the place's own is summed over, and δ is put where a term is there at equal indices alone. What
the terms found so leave over must come to nothing at every place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import sympy
from sympy import StrPrinter

from backprop_rules.formula import SUBSCRIPTS, element

LETTERS = "ijkmnp"
MOST = 5  # terms of one expression

Place = tuple[int, ...]  # from 1


class Names:
    """The symbols of elements, by name and place, and the letters that the axes have at home."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, Place], Any] = {}
        self.place_of: dict[Any, tuple[str, Place]] = {}
        self.letters: dict[str, str] = {}

    def symbol(self, name: str, place: Place) -> Any:
        """Return the symbol of an element, a new one for a new element."""
        if (name, place) not in self.at:
            made = sympy.Symbol(element(name, place), real=True)
            self.at[name, place], self.place_of[made] = made, (name, place)
        return self.at[name, place]

    def elements(self, term: Any) -> dict[Any, tuple[str, Place]]:
        """Return the name and the place of each element in a term."""
        return {s: self.place_of[s] for s in sorted(term.free_symbols & self.place_of.keys(), key=str)}


@dataclass(frozen=True)
class _Term:
    """A term at one place, the letter that each number in it stands for, and how far those go that are summed over."""

    term: Any
    place: Place
    letter_of: dict[int, str]
    summed: dict[int, int]
    names: Names

    def at(self, place: Place) -> Any:
        """Return what the term comes to at a place; KeyError where an element that it takes is not there."""
        own: dict[int, int] = {}
        if any(own.setdefault(n, here) != here for n, here in zip(self.place, place, strict=True)):
            return sympy.Integer(0)  # the indices that must be equal are not
        found = []
        for numbers in product(*(range(1, size + 1) for size in self.summed.values())):
            moved = own | dict(zip(self.summed, numbers, strict=True))
            elements = self.names.elements(self.term).items()
            found.append(
                self.term.xreplace({s: self.names.at[name, tuple(moved[n] for n in at)] for s, (name, at) in elements})
            )
        return sympy.Add(*found)

    def written(self, letters: str) -> Any:
        """Return the term with letters for indices."""
        elements = self.names.elements(self.term)
        lettered = {
            s: sympy.Symbol(element(name, [self.letter_of[n] for n in at])) for s, (name, at) in elements.items()
        }
        moving = [lettered[s] for s, (_, at) in elements.items() if {*at} & self.summed.keys()]
        fixed, rest = self.term.xreplace(lettered).as_independent(*moving, as_Add=False)
        for n in reversed(self.summed):
            rest = sympy.Symbol(f"(Σ{self.letter_of[n].translate(SUBSCRIPTS)} {written(rest)})")
        pairs = [(self.letter_of[n], letter) for n, letter in zip(self.place, letters, strict=True)]
        return sympy.Mul(fixed, rest, *(sympy.Symbol(element("δ", pair)) for pair in pairs if pair[0] != pair[1]))


def general(entries: Mapping[Place, Any], letters: str, names: Names) -> Any | None:
    """Return one expression for what is at every place, whose indices are called by these letters; None if none is."""
    heads = {(e.func, *e.args[1:]) if isinstance(e, sympy.Function | sympy.Pow) else None for e in entries.values()}
    if len(heads) == 1 and None not in heads:
        head, *others = heads.pop() or ()
        inner = general({place: e.args[0] for place, e in entries.items()}, letters, names)
        return None if inner is None else head(inner, *others)
    rest, found = {place: expanded(e) for place, e in entries.items()}, list[_Term]()
    for _ in range(MOST + 1):
        terms = [(place, term) for place, e in rest.items() for term in sympy.Add.make_args(e) if term]
        if not terms:
            return sympy.factor_terms(sympy.Add(*(one.written(letters) for one in found)))
        found.append(_lettered(*max(terms, key=lambda one: _variety(one[0], one[1], names)), letters, names))
        try:
            rest = {place: expanded(e - found[-1].at(place)) for place, e in rest.items()}
        except KeyError:
            return None
    return None


def expanded(e: Any) -> Any:
    """Return an expression as a sum of terms."""
    return sympy.expand(e, power_exp=False, power_base=False, log=False, func=False)


def _variety(place: Place, term: Any, names: Names) -> tuple[int, int]:
    """Return how many numbers differ in a place, and there and in a term together."""
    return len({*place}), len({*place}.union(*(at for _, at in names.elements(term).values())))


def _lettered(place: Place, term: Any, letters: str, names: Names) -> _Term:
    """Return a term with its letters: those of the place, those that its axes have at home if they are free, others."""
    letter_of, summed = dict(zip(reversed(place), reversed(letters), strict=True)), {}
    for name, at in names.elements(term).values():
        for axis, n in enumerate(at):
            if n not in letter_of:
                home = names.letters.get(name, "")[axis : axis + 1]
                letter_of[n] = next(c for c in home + LETTERS if c not in (*letter_of.values(), *letters))
                summed[n] = max(other[axis] for own, other in names.at if own == name)
    return _Term(term, place, letter_of, summed, names)


class _Printer(StrPrinter):  # type: ignore[misc]
    """SymPy's printer, which begins no sum with a minus if another term can be the first."""

    def _as_ordered_terms(self, expr: Any, order: str | None = None) -> list[Any]:
        return sorted(expr.args, key=lambda term: bool(term.could_extract_minus_sign()))


def written(expression: Any) -> str:
    """Return an expression as a person writes it."""
    e, printer = sympy.sympify(expression), _Printer({"order": "none", "full_prec": False})
    # Decimals as 0.1, and not halves and quarters.
    decimals = {r: sympy.Float(r, 40) for r in e.atoms(sympy.Rational) if r.q % 5 == 0 and 10**400 % r.q == 0}
    text = str(printer.doprint(e.xreplace(decimals))).replace("**", "^").replace("*", "·")
    text = re.sub(r"\((\(Σ[^()]*\))\)", r"\1", text)
    return re.sub(r"(^|[-+] )\((Σ[^()]*)\)(?=$|\))", r"\1\2", text)
