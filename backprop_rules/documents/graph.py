"""The computation graph of a step of a document's program, beside what the document's own lines give there."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import load, recorded_step
from backprop_rules.documents.program import Program, Tensors
from backprop_rules.errors import InputError
from backprop_rules.teaching.trace import Trace, traced


@dataclass(frozen=True)
class Departure:
    """A gradient that the document's own lines compute otherwise: its name, what they give, and what is right."""

    document: str
    name: str
    printed: Tensor
    right: Tensor


@dataclass(frozen=True)
class Graph:
    """The graph of one step, and each gradient that the document computes otherwise there."""

    trace: Trace
    departures: tuple[Departure, ...]


def graph_of(program: Program, step: int) -> Graph:
    """Return the graph of the step of that number, from 1, at the recorded parameters; InputError if there is none."""
    baseline = load(program)
    if not 1 <= step <= len(baseline.steps):
        raise InputError(
            f"{program.name} has {len(baseline.steps)} steps, and {step} is none of them. They begin at 1."
        )
    sample = program.samples(baseline.inputs)[step - 1]
    before = recorded_step(baseline, program, step - 2).parameters if step > 1 else baseline.inputs
    parameters = {name: before[name] for name in program.parameters}
    found = traced(program.forward, {**sample, **parameters})
    alike = [other for other in PROGRAMS.values() if other.document == program.document]
    return Graph(found, tuple(one for other in alike for one in _departures(other, found, parameters, sample)))


def _departures(program: Program, found: Trace, parameters: Tensors, sample: Tensors) -> Iterator[Departure]:
    gradients = program.step(parameters, sample).gradients if program.wrong else {}
    for name in program.wrong:
        right = found.gradients[name]
        assert right is not None
        yield Departure(program.document, name, gradients[name], right)
