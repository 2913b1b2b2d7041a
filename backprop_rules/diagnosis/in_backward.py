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
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

from torch import Tensor

from backprop_rules.diagnosis.edited import DIGITS, Edited
from backprop_rules.diagnosis.followed import Followed
from backprop_rules.diagnosis.tape import UNMADE, Shares, Step, Tape
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, Raised

TRIED = 12  # values in whose place the right one is put


@dataclass(frozen=True)
class _Cotangent:
    """A cotangent, or the share of an argument, as an explanation makes it, and as it should be."""

    wrong: Tensor
    right: Tensor
    words: str


def told_in_backward(at: Edited, every: Sequence[Shares]) -> tuple[int, str]:
    """Return which explanation the first wrong line of the backward is of, and that line; nothing if none is seen."""
    try:
        call = Followed(at)
        made = [(k, one) for k, shares in enumerate(every) for one in _made(at.tape, shares)]
    except (Raised, Misfit, *UNMADE):
        return 0, ""
    of_shape = defaultdict(list)
    for k, one in made:
        if not _is_like(one.wrong, one.right):
            of_shape[one.wrong.shape].append((k, one))
    seen = (
        (step, k, one)
        for step in call.steps
        for k, one in of_shape[step.result.shape]
        if step.calls and inexact(step.result) and _is_like(step.result, one.wrong)
    )
    wrong = _wrong(call.got, at.right)
    for (step, k, one), _ in zip(seen, range(TRIED), strict=False):
        try:
            after = call.retaken({step.number: partial(_instead, one.right.to(step.result.dtype))})
        except UNMADE:
            continue
        if _wrong(after, at.right) < wrong:
            function = inspect.unwrap(call.evidence.subject.backward.function)
            told = _told(step, call.steps, getattr(function, "__code__", None))
            return k, f"{told}, where {one.words} should come out"
    return 0, ""


def _instead(right: Tensor, args: Sequence[Any]) -> Tensor:
    return right


def _wrong(gradients: Sequence[Tensor], right: Sequence[Tensor]) -> set[int]:
    return {k for k, (g, r) in enumerate(zip(gradients, right, strict=True)) if not _is_like(g, r)}


def _told(step: Step, every: Sequence[Step], code: CodeType | None) -> str:
    """Return a step's line, and the backward's own, from which it was called.

    That is of the function that was given; of an object that calls another, the first in which calls differ.
    """
    shared, calls = 0, [other.calls for other in every if other.calls]
    while all(len(some) > shared + 1 for some in calls) and len({some[shared][:2] for some in calls}) == 1:
        shared += 1
    functions = [function for function, _, _ in step.calls]
    (own, caller, _), (function, line, _) = (
        step.calls[functions.index(code) if code in functions else shared],
        step.calls[-1],
    )
    of_file = f" of {Path(function.co_filename).name}" if function.co_filename != own.co_filename else ""
    called = f", called in line {caller}" if of_file or line != caller else ""
    return f"`{step.text}` (backward, line {line}{of_file}{called})"


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


def _is_like(value: Tensor, other: Tensor) -> bool:
    """Say whether a value is another, but for rounding."""
    if value.shape != other.shape or not value.numel():
        return False
    size = float(other.abs().max())
    return size < math.inf and bool(((value.to(other.dtype) - other).abs() <= DIGITS * (size or 1.0)).all())
