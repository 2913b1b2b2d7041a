"""Another number in the place of one of forward's own: an eps, a slope; a variance over n - 1 for one over n.

The number is found where what is wrong vanishes along its own direction, and told with as few digits as explain it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import SUMS, Edit, Key
from backprop_rules.diagnosis.tape import UNMADE, Step, Tape

if TYPE_CHECKING:
    from backprop_rules.diagnosis.edited import Edited

NUMBER, CORRECTED = "number", "corrected"
COUNT = "another count"
MEANS = ("mean", "var", "std")
DECADES = 12  # up to which a number may be larger, or smaller, than the one in its place
HALVINGS = 60  # to neighbouring numbers of float64
DIGITS = 15

Forward = tuple[Edit, Callable[[], Tape]]


def adds_a_fraction(step: Step) -> bool:
    """Say whether a step adds a number that is not whole, as an eps is."""
    others = [x for p, x in enumerate(step.args) if p not in step.live]
    return step.name in SUMS and any(isinstance(x, float) and x % 1 != 0 for x in others)


def with_another(tape: Tape, key: Key) -> Forward:
    """Return what is done to forward by a key, and its tape."""
    step = tape.steps[key[0]]
    _, p, number = key[-1]
    words = f"as if {number:g} stood in the place of {step.args[p]:g} in {{}}"
    if float(f"{number:g}") != number:
        words = f"as if {number!r} stood in the place of {step.args[p]!r} in {{}}"
    what = "eps" if adds_a_fraction(step) else "another number"
    return Edit(step, what, words, {}, key), partial(_tape_with, tape, step, p, number)


def corrected(tape: Tape) -> Iterator[Forward]:
    """Yield means and variances over one less than their number, or over it in the place of that."""
    for step in tape.steps:
        if step.name not in MEANS or not step.live or not step.result.numel():
            continue
        x = step.args[step.live[0]]
        count, less = x.numel() // step.result.numel(), _is_of_one_less(step, x)
        if count > 1:
            factor = (count - 1) / count if less else count / (count - 1)
            factor = factor**0.5 if step.name == "std" else factor
            scaled = partial(_scaled, step, factor)
            words = f"as if {{}} were over {'n in the place of n - 1' if less else 'n - 1 in the place of n'}"
            yield (
                Edit(step, COUNT, words, {}, (step.number, (), CORRECTED)),
                partial(tape.with_steps, {step.number: scaled}),
            )


def _is_of_one_less(step: Step, x: Tensor) -> bool:
    """Say whether a variance, or its root, is over one less than the count: it is, where nothing else is said."""
    if step.name == "mean":
        return False
    named = step.given[1]
    given = [a for a in step.given[0][1:] if isinstance(a, bool)]
    unbiased = named.get("unbiased", given[0] if given else None)
    return bool(unbiased) if unbiased is not None else named.get("correction", 1) == 1


def _scaled(step: Step, factor: float, args: Sequence[Any]) -> Tensor:
    found: Tensor = step.function(args) * factor
    return found


def _alike(tape: Tape, step: Step, p: int) -> list[Step]:
    """Return the steps of the same expression with the same number, as in the rounds of a loop."""
    same = (s for s in tape.steps if (s.line, s.told) == (step.line, step.told) and len(s.args) > p)
    return [s for s in same if isinstance(s.args[p], float) and s.args[p] == step.args[p]]


def _tape_with(tape: Tape, step: Step, p: int, number: float) -> Tape:
    def another(own: Step, args: Sequence[Any]) -> Tensor:
        found: Tensor = own.function([number if k == p else x for k, x in enumerate(args)])
        return found

    return tape.with_steps({s.number: partial(another, s) for s in _alike(tape, step, p)})


@dataclass
class Search:
    """A search for numbers that explain the gradients at a point, by so many steps that may be taken again."""

    at: "Edited"
    effort: int

    def found(self) -> Iterator[Key]:
        """Yield the numbers that explain all, by the edits' keys."""
        tape = self.at.tape
        every = [(s, p) for s in tape.steps for p, x in enumerate(s.args) if isinstance(x, float)]
        places = [(s, p) for s, p in every if _alike(tape, s, p)[0] is s]
        if not places or len(places) * len(tape.steps) * (2 * DECADES + HALVINGS) > self.effort:
            return
        for step, p in places:
            number = self._number(step, p)
            if number is not None:
                yield step.number, (), (NUMBER, p, number)

    def _number(self, step: Step, p: int) -> float | None:
        """Return the number that explains all, with as few digits as do; None where there is none."""
        own = step.args[p] or 1.0
        grid = [own * 10.0**k for k in range(-DECADES, DECADES + 1)]
        grid = grid if step.args[p] else [-x for x in reversed(grid)] + grid
        off = [self._off(step, p, c) for c in grid]
        for (a, at_a), (b, at_b) in zip(zip(grid, off, strict=True), zip(grid[1:], off[1:], strict=True), strict=False):
            if at_a is None or at_b is None or (at_a > 0) == (at_b > 0):
                continue
            c = self._between(step, p, a, b, at_a > 0)
            for digits in range(1, DIGITS + 1):
                told = float(f"{c:.{digits}g}")
                if self.at.explains(self._changed(step, p, told)):
                    return told
        return None

    def _between(self, step: Step, p: int, a: float, b: float, above: bool) -> float:
        """Return a number between two, at which what is wrong vanishes along its own direction."""
        for _ in range(HALVINGS):
            middle = (a + b) / 2
            off = self._off(step, p, middle)
            if off is None or middle in (a, b):
                break
            a, b = (middle, b) if (off > 0) == above else (a, middle)
        return (a + b) / 2

    def _off(self, step: Step, p: int, number: float) -> float | None:
        changed = self._changed(step, p, number)
        return None if changed is None else float(self.at.wrong @ (changed - self.at.target))

    def _changed(self, step: Step, p: int, number: float) -> Tensor | None:
        self.effort -= len(self.at.tape.steps)
        if self.effort < 0:
            return None
        try:
            found = self.at.vector(_tape_with(self.at.tape, step, p, number).gradients({}))
        except UNMADE:
            return None
        return found if bool(torch.isfinite(found).all()) else None
