"""A wrong gradient, told so that the reader can see and replay it."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.errors import Objection
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.formula import plain
from backprop_rules.point import Point

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.evidence.verdict import Verdict

MOST_PLACES = 300  # beyond, rounding to so many decimal places overflows


class WrongGradient(Objection):
    """A rule fails a property at a point: what is wrong, where, what was expected, and what came.

    `kind` is the problem in words, and `where` its first element; `primal` is the position of the
    primal whose gradient is wrong, None where no single one is; `oracles` names the oracles whose
    enclosures the gradient lies outside.
    """

    point: Point

    def __init__(
        self,
        point: Point,
        kind: str,
        primal: int | None = None,
        *,
        where: str = "",
        expected: Any = None,
        got: Any = None,
        oracles: tuple[str, ...] = (),
    ) -> None:
        super().__init__(point, kind)
        self.point, self.kind, self.primal, self.where = point, kind, primal, where
        self.expected, self.got, self.oracles = expected, got, oracles

    @classmethod
    def unequal(
        cls, point: Point, kind: str, primal: int | None, expected: Tensor, got: Tensor, wrong: Tensor
    ) -> "WrongGradient":
        """Return the objection to two tensors that should be equal, with the first element that is not."""
        where, element = _first(wrong)
        return cls(point, kind, primal, where=where, expected=expected[element].item(), got=got[element].item())

    @classmethod
    def outside(
        cls, verdict: "Verdict", oracles: tuple[str, ...], kind: str = "is wrong", primal: int | None = -1
    ) -> "WrongGradient":
        """Return the objection to a gradient outside an enclosure, with the first element that is."""
        gradient, enclosure, wrong = verdict.gradient, verdict.enclosure, verdict.outside
        assert gradient is not None and enclosure is not None and wrong is not None
        where, element = _first(wrong)
        expected = _interval(enclosure, element, gradient)
        where += f", {int(wrong.sum())} of {wrong.numel()} elements"
        got = gradient[element].item()
        point, primal = verdict.point, verdict.primal if primal == -1 else primal
        return cls(point, kind, primal, where=where, expected=expected, got=got, oracles=oracles)

    def _advice(self) -> list[str]:
        return []

    def __str__(self) -> str:
        rule = self.point.rule
        what = "" if self.primal is None else f" the gradient of {rule.primals[self.primal]}"
        lines = [f"{rule.name}:{what} {self.kind}{self.where}."]
        if self.expected is not None or self.got is not None:
            lines += [f"    expected  {self.expected}", f"    got       {self.got}"]
        if self.oracles:
            lines += [f"    against   {', '.join(self.oracles)}"]
        lines += self._advice()
        lines += ["The smallest counterexample found:"]
        lines += [f"    {line}" for line in str(self.point).splitlines()]
        lines += [f"The rule's formula: {plain(rule.formula)}"]
        return "\n".join(lines)


class OraclesDisagree(WrongGradient):
    """Two oracles contradict each other at a point, so that the rule cannot be judged there."""

    @classmethod
    def between(cls, one: "Verdict", other: "Verdict", apart: Tensor) -> "OraclesDisagree":
        """Return the objection to two enclosures that are disjoint where the mask says so."""
        assert one.gradient is not None and one.enclosure is not None and other.enclosure is not None
        where, element = _first(apart)
        expected, got = (
            f"{_interval(v.enclosure, element, one.gradient)} by {v.oracle}" for v in (one, other) if v.enclosure
        )
        kind = "cannot be judged, as two oracles contradict each other"
        got = f"{got}; the rule gives {one.gradient[element].item()}"
        oracles = (one.oracle, other.oracle)
        return cls(one.point, kind, one.primal, where=where, expected=expected, got=got, oracles=oracles)

    def _advice(self) -> list[str]:
        return [
            "Not the rule's backward is at fault here, but one of the oracles, or what the rule declares. On the grid,",
            "forward must be a polynomial of the degree and power that the domain states and must not round, and every",
            "kink must be among the conventions; off the grid, definition must be the same function. If all that holds",
            "then the checker is wrong: please report it.",
        ]


def _interval(enclosure: Enclosure, element: tuple[int, ...], like: Tensor) -> str:
    lo, hi = (_value(bound, element, like) for bound in (enclosure.lo, enclosure.hi))
    if lo == hi:
        return f"{lo}"
    if isinstance(lo, complex) or isinstance(hi, complex):
        return f"from {lo} to {hi}"
    if lo <= 0 <= hi and max(-lo, hi) < torch.finfo(like.dtype).smallest_normal:
        return "0.0"
    if math.isfinite(hi - lo):
        # As many digits as tell the ends apart.
        places = 2 - math.floor(math.log10(hi - lo))
        lo, hi = (v if places > MOST_PLACES else round(v, places) + 0.0 for v in (lo, hi))
    return f"from {lo} to {hi}"


def _first(wrong: Tensor) -> tuple[str, tuple[int, ...]]:
    element = tuple(int(i) for i in torch.nonzero(wrong.cpu())[0]) if wrong.any() else (0,) * wrong.ndim
    return (f" at [{', '.join(map(str, element))}]" if element else ""), element


def _value(bound: Tensor, element: tuple[int, ...], like: Tensor) -> float | complex:
    if like.is_complex():
        real, imaginary = bound[element].tolist()
        return complex(real, imaginary)
    return float(bound[element])
