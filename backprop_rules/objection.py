"""A wrong gradient, told so that the reader can see and replay it."""

from typing import Any

import torch
from torch import Tensor

from backprop_rules.point import Point
from backprop_rules.verdict import Verdict


class WrongGradient(AssertionError):
    """A rule fails a property at a point: what is wrong, where, what was expected, and what came.

    `kind` is the problem in words, and `where` its first element; `primal` is the position of the
    primal whose gradient is wrong, None where no single one is; `oracles` names the oracles whose
    enclosures the gradient lies outside.
    """

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
    def outside(cls, verdict: Verdict, oracles: tuple[str, ...]) -> "WrongGradient":
        """Return the objection to a gradient outside an enclosure, with the first element that is."""
        gradient, enclosure, wrong = verdict.gradient, verdict.enclosure, verdict.outside
        assert gradient is not None and enclosure is not None and wrong is not None
        where, element = _first(wrong)
        lo, hi = (_value(bound, element, gradient) for bound in (enclosure.lo, enclosure.hi))
        expected = lo if lo == hi else f"from {lo} to {hi}"
        where += f", {int(wrong.sum())} of {wrong.numel()} elements"
        got = gradient[element].item()
        point, primal = verdict.point, verdict.primal
        return cls(point, "is wrong", primal, where=where, expected=expected, got=got, oracles=oracles)

    def __str__(self) -> str:
        rule = self.point.rule
        what = "" if self.primal is None else f" the gradient of {rule.primals[self.primal]}"
        lines = [f"{rule.name}:{what} {self.kind}{self.where}."]
        if self.expected is not None or self.got is not None:
            lines += [f"    expected  {self.expected}", f"    got       {self.got}"]
        if self.oracles:
            lines += [f"    against   {', '.join(self.oracles)}"]
        if self.oracles and all(oracle.endswith("differences") for oracle in self.oracles):
            lines += [
                "Only differences of the forward disagree. If the rule is right, then its domain is not: the forward",
                "rounds, or it is no polynomial, or the degree or power that the domain states is too low.",
            ]
        lines += ["The smallest counterexample found:"]
        lines += [f"    {line}" for line in str(self.point).splitlines()]
        lines += [f"The rule's formula: {rule.formula}"]
        return "\n".join(lines)


def _first(wrong: Tensor) -> tuple[str, tuple[int, ...]]:
    element = tuple(int(i) for i in torch.nonzero(wrong.cpu())[0]) if wrong.any() else (0,) * wrong.ndim
    return (f" at [{', '.join(map(str, element))}]" if element else ""), element


def _value(bound: Tensor, element: tuple[int, ...], like: Tensor) -> float | complex:
    if like.is_complex():
        real, imaginary = bound[element].tolist()
        return complex(real, imaginary)
    return float(bound[element])
