"""The computation graph of a step of a document's program, beside what the document's own lines give there."""

from dataclasses import dataclass

from torch import Tensor

from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import load
from backprop_rules.documents.program import Program
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
    departures: list[Departure]


def graph_of(program: Program, step: int) -> Graph:
    """Return the graph of the step of that number, from 1, at the recorded parameters; InputError if there is none."""
    baseline = load(program)
    if not 1 <= step <= len(baseline.steps):
        raise InputError(
            f"{program.name} has {len(baseline.steps)} steps, and {step} is none of them. They begin at 1."
        )
    sample = program.samples(baseline.inputs)[step - 1]
    before = baseline.steps[step - 2].parameters if step > 1 else baseline.inputs
    parameters = {name: before[name] for name in program.parameters}
    found = traced(program.forward, {**sample, **parameters})
    departures = []
    for other in PROGRAMS.values():
        for name in other.wrong if other.document == program.document else ():
            right = found.gradients[name]
            assert right is not None
            departures.append(Departure(other.document, name, other.step(parameters, sample).gradients[name], right))
    return Graph(found, departures)
