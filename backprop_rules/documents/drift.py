"""How far a run in floating point is from the true one, and why: the updates that were too small to be made."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backprop_rules.documents.baselines import Baseline
from backprop_rules.documents.program import Program, Step
from backprop_rules.evidence.enclosure import Enclosure


@dataclass(frozen=True)
class Gap:
    """The element of a value that is farthest from the true one, in units in the last place of the program's dtype."""

    name: str
    element: int
    found: float
    lo: float
    hi: float
    units: float


@dataclass(frozen=True)
class Lost:
    """An update that changed nothing: it is no more than half of the distance to the next number on its way.

    `step` counts from 1; `update` is what was to be taken from the parameter, `half` that half distance.
    """

    step: int
    name: str
    value: float
    update: float
    half: float


@dataclass(frozen=True)
class Drift:
    """The gaps after the last step, the first update that was lost, and the step from which on all were.

    `lost` and `standstill` are None where there is no such step; `count` of `updates` not zero were lost.
    """

    program: Program
    steps: int
    gaps: tuple[Gap, ...]
    lost: Lost | None
    standstill: Lost | None
    count: int
    updates: int


def drift(program: Program, baseline: Baseline) -> Drift:
    """Return how far the recorded steps are from the true ones, and which updates were lost."""
    before: dict[str, Tensor] = {name: baseline.inputs[name] for name in program.parameters}
    losses: list[Lost] = []
    updates = last_move = 0
    for number, step in enumerate(baseline.steps, 1):
        if program.learning_rate is not None:
            losses += _lost(program.learning_rate, number, before, step)
            updates += sum(int((step[f"gradient of {name}"] != 0).sum()) for name in before)
        after = program.after(step)
        if not all(w.equal(after[name]) for name, w in before.items()):
            last_move = number
        before = after
    gaps = [farthest(name, value, baseline.true[-1][name]) for name, value in step.items()]
    return Drift(
        program,
        len(baseline.steps),
        tuple(gap for gap in gaps if gap),
        next(iter(losses), None),
        next((lost for lost in losses if lost.step > last_move), None),
        len(losses),
        updates,
    )


def farthest(name: str, found: Tensor, true: Enclosure) -> Gap | None:
    """Return the element that is farthest from its enclosure, None if every one lies inside."""
    x = found.double()
    unit = torch.nextafter(found.abs(), found.new_tensor(math.inf)).double() - x.abs()
    units = (torch.maximum(true.lo - x, x - true.hi).clamp(min=0) / unit).flatten()
    if not units.any():
        return None
    k = int(units.argmax())
    here = [float(x.flatten()[k]) for x in (found, true.lo, true.hi, units)]
    return Gap(name, k, *here)


def _lost(learning_rate: float, number: int, before: dict[str, Tensor], step: Step) -> Iterator[Lost]:
    for name, w in before.items():
        update = learning_rate * step[f"gradient of {name}"]
        half = (torch.nextafter(w, w - update.sign()).double() - w.double()).abs() / 2
        for i in torch.nonzero(((update != 0) & (w == step[f"parameter {name}"])).flatten()).flatten().tolist():
            yield Lost(number, name, *(float(x.flatten()[i]) for x in (w, update, half)))
