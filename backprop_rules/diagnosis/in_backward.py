"""The line of somebody's backward in which a mistake was made: where putting the right number makes gradients right.

Under an explanation every tensor of forward has another cotangent than the right one. The backward is run once more,
with every value that it computes kept; the first that is such a wrong cotangent is tried: the backward is run with the
right one in its place, and where a gradient that was wrong is right then, and none that was right is wrong, it is told.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.diagnosis.tape import UNMADE, Shares, Tape
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.in_place import in_place
from backprop_rules.subject.places import place, somebodys_frames

MOST = 1 << 20, 5000  # numbers, and values, that are kept
TRIED = 12  # values in whose place the right one is put
Call = tuple[CodeType, int]  # a function, and the line of it


@dataclass(frozen=True)
class _Value:
    """A value that was computed in somebody's line: its place in the order of all, and the calls that led to it."""

    number: int
    numbers: Tensor
    text: str
    calls: list[Call]  # the outermost first


@dataclass(frozen=True)
class _Cotangent:
    """A cotangent, or the share of an argument, as an explanation makes it, and as it should be."""

    wrong: Tensor
    right: Tensor
    words: str


class _Values(TorchFunctionMode):
    """While it is entered, every value of somebody's own line is kept; another one may be put in the place of one."""

    def __init__(self, number: int = -1, instead: Tensor | None = None) -> None:
        super().__init__()
        self.found: list[_Value] = []
        self._number, self._instead = number, instead
        self._count, self._left = 0, MOST[0]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        written = in_place(func)
        y = args[0] if written else made
        if not is_readable(y):
            return tuple(map(self._kept, made)) if type(made) is tuple and all(map(is_readable, made)) else made
        kept = self._kept(y, written)
        return made if written else kept

    def _kept(self, y: Tensor, written: bool = False) -> Tensor:
        calls = [(frame.f_code, frame.f_lineno) for frame in somebodys_frames()][::-1]
        if not calls or self._count >= MOST[1] or y.numel() > self._left:
            return y
        number, self._count = self._count, self._count + 1
        self._left -= y.numel()
        base = y._base if written and y._base is not None else y  # as a slice is of what it is written into
        if self._instead is not None:
            if number != self._number:
                return y
            return base.copy_(self._instead) if written else self._instead.to(y.dtype).clone()
        _, text = place("")
        self.found.append(_Value(number, base.detach().clone(), text, calls))
        return y


def is_readable(y: Any) -> bool:
    """Say whether it is a tensor of numbers that lie in memory."""
    return (
        inexact(y)
        and y.layout is torch.strided
        and not y.is_nested
        and not y.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(y)
    )


def told_in_backward(evidence: Evidence, tape: Tape, every: Sequence[Shares], digits: float) -> tuple[int, str]:
    """Return which explanation the first wrong line of the backward is of, and that line; nothing if none is seen."""
    values = _Values()
    try:
        with values:
            before = asked(evidence)
        made = [(k, one) for k, shares in enumerate(every) for one in _made(tape, shares)]
        right = tape.gradients({})
    except (Raised, Misfit, *UNMADE):
        return 0, ""
    of_shape = defaultdict(list)
    for k, one in made:
        if not _is_like(one.wrong, one.right, digits):
            of_shape[one.wrong.shape].append((k, one))
    seen = (
        (value, k, one)
        for value in values.found
        for k, one in of_shape[value.numbers.shape]
        if _is_like(value.numbers, one.wrong, digits)
    )
    wrong = _wrong(before, right, digits)
    for (value, k, one), _ in zip(seen, range(TRIED), strict=False):
        try:
            with _Values(value.number, one.right):
                after = asked(evidence)
        except (Raised, Misfit, *UNMADE):
            continue
        if _wrong(after, right, digits) < wrong:
            function = inspect.unwrap(evidence.subject.backward.function)
            told = _told(value, values.found, getattr(function, "__code__", None))
            return k, f"{told}, where {one.words} should come out"
    return 0, ""


def _wrong(gradients: Sequence[Tensor], right: Sequence[Tensor], digits: float) -> set[int]:
    return {k for k, (g, r) in enumerate(zip(gradients, right, strict=True)) if not _is_like(g, r, digits)}


def asked(evidence: Evidence) -> list[Tensor]:
    """Return the gradients that the backward gives when it is called once more at the point."""
    found = evidence.asked(evidence.point.leaves, evidence.point.grads, y=evidence.y)
    return [found[k] for k in evidence.subject.floats if isinstance(evidence.user[k], Tensor)]


def _told(value: _Value, every: Sequence[_Value], code: CodeType | None) -> str:
    """Return a value's line, and the backward's own, from which it was called.

    That is of the function that was given; of an object that calls another, the first in which calls differ.
    """
    shared = 0
    while all(len(v.calls) > shared + 1 for v in every) and len({v.calls[shared] for v in every}) == 1:
        shared += 1
    functions = [function for function, _ in value.calls]
    (own, caller), (function, line) = (
        value.calls[functions.index(code) if code in functions else shared],
        value.calls[-1],
    )
    of_file = f" of {Path(function.co_filename).name}" if function.co_filename != own.co_filename else ""
    called = f", called in line {caller}" if of_file or line != caller else ""
    return f"`{value.text}` (backward, line {line}{of_file}{called})"


def _made(tape: Tape, shares: Shares) -> Iterator[_Cotangent]:
    """Yield what an explanation makes: cotangents, and the shares of the steps of several arguments."""
    wrong, right = tape.changed(shares), tape.changed({})
    for n in sorted(wrong.keys() & right.keys(), reverse=True):
        told = tape.steps[n].place if n >= 0 else tape.names[n]
        yield _Cotangent(wrong[n][0], right[n][0], f"the gradient by {told}")
        if n >= 0 and len(tape.steps[n].sources) > 1:
            step = tape.steps[n]
            own = step.pulled(right[n])
            for p, share in step.pulled(wrong[n]).items():
                made = shares[n, p](wrong[n]) if (n, p) in shares else share
                yield _Cotangent(made[0], own[p][0], f"the share of argument {p + 1} of {step.place}")


def _is_like(value: Tensor, other: Tensor, digits: float) -> bool:
    """Say whether a value is another, but for rounding."""
    if value.shape != other.shape or not value.numel():
        return False
    size = float(other.abs().max())
    return size < math.inf and bool(((value.to(other.dtype) - other).abs() <= digits * (size or 1.0)).all())
