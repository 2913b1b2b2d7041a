"""The computation graph of a step of a document's program, and the document's own lines run beside it."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import load
from backprop_rules.documents.program import Printed, Program, Tensors
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.teaching.pictures import rows, table, text
from backprop_rules.teaching.told import Words
from backprop_rules.teaching.trace import Trace, traced


@dataclass(frozen=True)
class Line:
    """A line of a document, run: what it gives, what is right, and how many elements differ by more than rounding."""

    printed: Printed
    gives: Tensor
    right: Tensor
    differ: int


@dataclass(frozen=True)
class Graph:
    """The graph of one step, and the lines of the document that compute it, where it computes it otherwise."""

    trace: Trace
    document: str
    lines: list[Line]


def graph_of(program: Program, step: int) -> Graph:
    """Return the graph of the step of that number, from 1, at the recorded parameters; InputError if there is none."""
    baseline = load(program)
    if not 1 <= step <= len(baseline.steps):
        raise InputError(
            f"{program.name} has {len(baseline.steps)} steps, and {step} is none of them. They begin at 1."
        )
    sample = program.samples(baseline.inputs)[step - 1]
    initial = {name: baseline.inputs[name] for name in program.parameters}
    parameters = program.after(baseline.steps[step - 2]) if step > 1 else initial
    found = traced(program.forward, {**sample, **parameters})
    printed = next((one.printed for one in PROGRAMS.values() if one.printed and one.document == program.document), ())
    return Graph(found, program.document, _run(printed, program, found, {**sample, **parameters}))


def _run(printed: tuple[Printed, ...], program: Program, found: Trace, inputs: Tensors) -> list[Line]:
    """Run the lines that a document prints, and hold each against the graph, but for what rounding may do."""
    right = {name: node.value for name, node in found.nodes.items()}
    gradients = {name: g for name, node in found.nodes.items() if (g := node.arrives) is not None}
    right |= {f"gradient of {name}": g for name, g in gradients.items()}
    right |= program.stepped(right["loss"], gradients, {name: inputs[name] for name in program.parameters})
    names: dict[str, Any] = {program.names.get(name, name): x.clone() for name, x in inputs.items()}
    names["learning_rate"], errors, lines = program.learning_rate, RunningError(evaluations=2), []
    for one in printed:
        name = re.split(r"\W", one.code)[0]
        with torch.no_grad(), errors:
            # What a line writes into in place is followed where no view of it is in use.
            names |= {name: names[name].clone()} if name in names else {}
            exec(one.code, {}, names)
        value = names[name]
        away = (value.double() - right[one.of].double()).abs() > errors.radius(value)
        lines.append(Line(one, value.clone(), right[one.of], int(away.sum())))
    return lines


def shown(found: Graph, lang: str) -> str:
    """Return the graph as text, and the document's lines, the first that differs marked."""
    words = Words(lang)
    blocks, wrong = [table(found.trace, lang)], [one for one in found.lines if one.differ]
    if found.lines:
        blocks.append(words("printed", document=found.document))
    for one in found.lines:
        told = [(words("printed gives"), text(one.gives))] if one.differ else []
        lines = [
            words("line", line=one.printed.line, code=one.printed.code),
            *rows("    ", [*told, (words("is right"), text(one.right))]),
        ]
        if one.differ:
            key = "first" if one is wrong[0] else "follows"
            lines.append("    " + words(key, count=one.differ, numbers=one.right.numel()))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
