"""The true run of a program: every step in ball arithmetic, from the exact inputs, with an enclosure of every value.

The forward is made of the rules' definitions and the gradients are pulled back through them, so that nothing
of torch and no handwritten rule takes part; a gradient that the document computes wrongly is followed as the
document has it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from flint import arb, ctx, fmpq
from torch import Tensor

from backprop_rules.documents.program import Program, Step, Tensors
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.evidence.proof.balls import Number, ball, leaves, pull_back
from backprop_rules.evidence.proof.certified import BITS, enclosure, width

Balls = Any  # NumPy's array of arb

MOST_BITS = 1 << 16


def true_step(program: Program, parameters: Mapping[str, Balls], sample: Tensors, rate: arb | None) -> Step:
    """Return the balls of one step's loss, gradients and updated parameters."""
    tape: list[Number] = []
    given = {**{name: exactly(x) for name, x in sample.items()}, **parameters}
    values = {name: leaves(list(x.flat), x.shape, tape) for name, x in given.items()}
    values.update(program.forward(values))
    if program.backward is not None:
        found = {name: _each(ball, g) for name, g in program.backward(values).items()}
    else:
        pull_back(values["loss"], [1] * np.size(values["loss"]), tape)
        found = {name: _each(lambda number: number.adjoint, values[name]) for name in parameters}
    return program.stepped(_each(ball, values["loss"]), found, parameters, rate)


def true_run(program: Program, inputs: Tensors) -> list[dict[str, Enclosure]]:
    """Return an enclosure of every value of every step, as narrow as float64 can say it.

    The learning rate is the decimal number that the document writes. The balls grow from step to step; the
    whole run is done again with twice the bits until none is wider than half a unit in the last place of float64.
    """
    samples, bits = program.samples(inputs), BITS
    while True:
        with ctx.workprec(bits):
            steps = list(_steps(program, inputs, samples))
        balls = (b for step in steps for x in step.values() for b in x.flat)
        if bits >= MOST_BITS or all(width(b, torch.float64) <= 1 for b in balls):
            return [{name: as_enclosure(x) for name, x in step.items()} for step in steps]
        bits *= 2


def _steps(program: Program, inputs: Tensors, samples: Sequence[Tensors]) -> Iterator[Step]:
    parameters = {name: exactly(inputs[name]) for name in program.parameters}
    decimal = program.learning_rate and Decimal(repr(program.learning_rate)).as_integer_ratio()
    rate = arb(fmpq(*decimal)) if decimal else None
    for sample in samples:
        step = true_step(program, parameters, sample, rate)
        yield step
        parameters = program.after(step)


def enclosed(program: Program, parameters: Tensors, sample: Tensors) -> tuple[Step, dict[str, Enclosure]]:
    """Return a step, and for each value all that lies as near to the true one as the step's roundings allow.

    The step begins at these parameters, exactly, with the learning rate that the machine has.
    """
    errors = RunningError()
    with errors:
        step = program.step(parameters, sample)
    rate = None if program.learning_rate is None else arb(program.learning_rate)
    with ctx.workprec(BITS):
        true = true_step(program, {name: exactly(w) for name, w in parameters.items()}, sample, rate)
    return step, {name: enclosure(list(true[name].flat), errors.radius(x), x) for name, x in step.items()}


def exactly(x: Tensor) -> Balls:
    """Return the tensor's values as balls of radius zero."""
    return _each(arb, x.tolist())


def as_enclosure(balls: Balls) -> Enclosure:
    """Return the balls as intervals of float64, rounded outwards."""
    like = torch.empty(balls.shape, dtype=torch.float64)
    return enclosure(list(balls.flat), torch.zeros_like(like), like)


def _each(made: Callable[[Any], Any], x: Any) -> Balls:
    return np.asarray(np.frompyfunc(made, 1, 1)(np.asarray(x, dtype=object)), dtype=object)
