"""The line of somebody's backward in which a mistake was made: where the first number comes out that it explains.

Under the explanation every tensor of forward has another cotangent than the right one. The backward is run once more,
with every value that it computes kept; the first that is one of these, and is no right number, is where they part.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from backprop_rules.diagnosis.tape import UNMADE, Rows, Share, Shares, Step, Tape, name_of, place, somebodys_frames
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, Raised

TOLD = 2  # numbers that a value must have, to be recognised by them
MOST = 1 << 20  # numbers that are kept


class _Values(TorchFunctionMode):
    """While it is entered, every value that is computed in somebody's own line is kept."""

    def __init__(self, code: CodeType | None) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, str]] = []
        self._code, self._left = code, MOST

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for y in _pytree.tree_leaves(made):
            if isinstance(y, Tensor) and inexact(y) and TOLD <= y.numel() <= self._left:
                line, text = place(name_of(func))
                self._left -= y.numel() * bool(line)
                told = f"`{text}` (backward, line {line}{self._called()})"
                self.found += [(y.detach().clone(), told)] if line else []
        return made

    def _called(self) -> str:
        """Return the backward's own line, where another function of somebody's computes a value for it."""
        frames = list(somebodys_frames())
        own = next((k for k, frame in enumerate(frames) if frame.f_code is self._code), 0)
        return f", called in line {frames[own].f_lineno}" if own else ""


class _Numbers:
    """The numbers of a tensor in order, by which it is recognised in any layout."""

    def __init__(self, x: Tensor, words: str) -> None:
        flat = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        self.sorted, self.words = flat.detach().reshape(-1).double().sort().values, words
        self.ends = (float(self.sorted[0]), float(self.sorted[-1])) if len(self.sorted) else (0.0, 0.0)
        self.size = max(map(abs, self.ends))

    def is_like(self, other: "_Numbers", digits: float) -> bool:
        """Say whether they are the same, but for rounding; of few, of zeros and of NaN nothing can be said."""
        if len(self.sorted) != len(other.sorted) or len(self.sorted) < TOLD or not 0 < self.size < math.inf:
            return False
        away = digits * self.size
        if any(abs(a - b) > away for a, b in zip(self.ends, other.ends, strict=True)):
            return False
        return bool(((self.sorted - other.sorted).abs() <= away).all())


def told_in_backward(evidence: Evidence, tape: Tape, shares: Shares, digits: float) -> str:
    """Return the line of the backward in which these shares come out, and what should; nothing if none is seen.

    Where all that is wrong is right elsewhere, as where a term is left out, it is the line that gives the gradient.
    """
    function = inspect.unwrap(evidence.subject.backward.function)
    values = _Values(getattr(function, "__code__", None))
    try:
        wrong, right = list(_each(tape, shares)), list(_each(tape, {}))
        with values:
            evidence.asked(evidence.point.leaves, evidence.point.grads, y=evidence.y)
    except (Raised, Misfit, *UNMADE):
        return ""
    own = {numbers.words: numbers for numbers in right}
    results = [_Numbers(x, "") for x in (*(step.result for step in tape.steps), *tape.leaves.values())]
    fine = [*results, *right]
    astray = [one for one in wrong if not any(one.is_like(other, digits) for other in fine)]
    found = [_Numbers(value, line) for value, line in values.found]
    ends = [one for one in wrong if one.words in _leaves(tape) and not one.is_like(own[one.words], digits)]
    for those, others in ((found, astray), (found[::-1], ends)):
        for numbers in those:
            told = next((one for one in others if numbers.is_like(one, digits)), None)
            if told is not None:
                return f"{numbers.words}, where {told.words} should come out"
    return ""


def _leaves(tape: Tape) -> list[str]:
    return [f"the gradient by {name}" for name in tape.names.values()]


def _each(tape: Tape, shares: Shares) -> Iterator[_Numbers]:
    """Yield the cotangent of each tensor, the last step's first, and the shares of the steps of several arguments."""
    found: Rows = tape.cotangents(shares, tape.outputs)
    for n in sorted(found, reverse=True):
        told = tape.steps[n].place if n >= 0 else tape.names[n]
        yield _Numbers(found[n][0], f"the gradient by {told}")
        if n >= 0 and len(tape.steps[n].sources) > 1:
            yield from _passed(tape.steps[n], found[n], shares.get(n, {}))


def _passed(step: Step, g: Tensor, others: Mapping[int, Share]) -> Iterator[_Numbers]:
    for p, share in step.pulled(g).items():
        yield _Numbers((others[p](g) if p in others else share)[0], f"the share of {step.at_argument(p)}")
