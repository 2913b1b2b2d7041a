"""A document's program: a forward in terms of the catalogue's rules, which are swept back through, and its steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_rules.rule import Application, recorded

Tensors = Mapping[str, Tensor]
Values = Mapping[str, Any]  # tensors, or arrays of the numbers of ball arithmetic
Step = dict[str, Any]  # what one step gives, by name: "loss", and for each parameter "gradient of w" and "parameter w"


@dataclass(frozen=True)
class Printed:
    """A line of code as a document prints it, and what it should give: a value by its name, or `gradient of w1`."""

    line: int
    code: str
    of: str


@dataclass(frozen=True, eq=False)
class Program:
    """A computation that a document carries out step by step.

    `forward(values)` returns the intermediate values by name, `loss` the last; a gradient for each of `parameters`
    comes of its rules, or of a `backward(values)` of the document's own, which takes the inputs and those. `inputs()`
    makes the inputs, initial parameters included; `samples(inputs)` gives the inputs of each step. The
    gradients named in `wrong` are what the document computes, though they are not the gradients, by the
    lines that are `printed`, in which an input may have another name of `names`.
    Where each step is a fixed sequence of correctly rounded scalar operations, `fixed` is True, and
    every machine computes the same bits.
    """

    name: str
    document: str
    dtype: torch.dtype
    parameters: tuple[str, ...]
    inputs: Callable[[], dict[str, Tensor]]
    samples: Callable[[Tensors], Sequence[Tensors]]
    forward: Callable[[Values], dict[str, Any]]
    backward: Callable[[Values], dict[str, Any]] | None = None
    learning_rate: float | None = None
    fixed: bool = True
    wrong: tuple[str, ...] = ()
    printed: tuple[Printed, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def step(self, parameters: Tensors, sample: Tensors) -> Step:
        """Return one step's loss, gradients and parameters after the update, from the parameters before it."""
        values = {**sample, **parameters}
        with recorded() as calls:
            values.update(self.forward(values))
        if self.backward is not None:
            return self.stepped(values["loss"], self.backward(values), parameters)
        arrived = swept(calls)
        return self.stepped(values["loss"], {name: arrived[id(w)] for name, w in parameters.items()}, parameters)

    def by_autograd(self, parameters: Tensors, sample: Tensors) -> Step:
        """Return the step as torch's autograd makes it of the same forward."""
        leaves = {name: w.detach().clone().requires_grad_() for name, w in parameters.items()}
        loss = self.forward({**sample, **leaves})["loss"]
        found = torch.autograd.grad(loss.sum(), list(leaves.values()))
        return self.stepped(loss.detach(), dict(zip(leaves, found, strict=True)), parameters)

    def stepped(self, loss: Any, gradients: Values, parameters: Values, rate: Any = None) -> Step:
        """Return a step by its names: after gradient descent, at this rate or the program's; without one, as before."""
        rate, found = self.learning_rate if rate is None else rate, [gradients[name] for name in parameters]
        updated = [w if rate is None else w - rate * g for w, g in zip(parameters.values(), found, strict=True)]
        return dict(zip(self.named, (loss, *found, *updated), strict=True))

    @property
    def named(self) -> tuple[str, ...]:
        """The names of what a step gives, in the order in which it is computed."""
        return "loss", *(f"{what} {name}" for what in ("gradient of", "parameter") for name in self.parameters)

    def after(self, step: Step) -> dict[str, Any]:
        """Return the parameters that a step left."""
        return {name: step[f"parameter {name}"] for name in self.parameters}

    def run(self, inputs: Tensors) -> Iterator[Step]:
        """Yield the steps, one for each sample, each from the parameters that the last one left."""
        parameters: Tensors = {name: inputs[name] for name in self.parameters}
        for sample in self.samples(inputs):
            step = self.step(parameters, sample)
            yield step
            parameters = self.after(step)


def swept(calls: Sequence[Application]) -> dict[int, Tensor]:
    """Return what arrives at each tensor, by its id, from the last rule's y: each rule takes it on to its primals."""
    arrived = {id(calls[-1].y): torch.ones_like(calls[-1].y)}
    for call in reversed(calls):
        gradients = call.rule.gradients(arrived[id(call.y)], call.y, *call.primals, **call.params)
        for x, gradient in zip(call.primals, gradients, strict=True):
            if gradient is not None:
                arrived[id(x)] = arrived[id(x)] + gradient if id(x) in arrived else gradient
    return arrived
