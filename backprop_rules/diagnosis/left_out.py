"""Forwards that people differentiate in the place of the one that there is: without a step, or an eps elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import COPIES, KINKED, Edit
from backprop_rules.diagnosis.other_numbers import adds_a_fraction
from backprop_rules.diagnosis.tape import Step, Tape
from backprop_rules.layout import reaches


def left_out(tape: Tape) -> Iterator[tuple[Edit, Callable[[], Tape]]]:
    """Yield what is done to forward itself, and the tape of that."""
    for step in tape.steps:
        if len(step.live) != 1 or step.name in COPIES or not reaches(step.args[step.live[0]], step.result):
            continue
        what = "eps" if adds_a_fraction(step) else "mask" if step.name in KINKED else "factor"
        words = "as if {} were left out of forward altogether"
        without = partial(_without, step)
        left_out_of = partial(tape.with_steps, {step.number: without})
        yield Edit(step, what, words, {}, (step.number, (), "left out")), left_out_of
        after = [s for s in tape.steps if step.number in s.sources.values()]
        if what == "eps" and len(after) == 1 and len(after[0].live) == 1:
            words = f"as if {{}} were added after {after[0].told}"
            moved = partial(_moved, tape, step, after[0], without)
            yield Edit(step, what, words, {}, (step.number, (), "moved")), moved


def _without(step: Step, args: Sequence[Any]) -> Tensor:
    found: Tensor = args[step.live[0]] + torch.zeros_like(step.result)
    return found


def _moved(tape: Tape, step: Step, after: Step, without: Callable[[Sequence[Any]], Tensor]) -> Tape:
    """Return the tape on which a step is made after the next one."""

    def then(args: Sequence[Any]) -> Tensor:
        own = list(step.args)
        own[step.live[0]] = after.function(args)
        found: Tensor = step.function(own)
        return found

    return tape.with_steps({step.number: without, after.number: then})
