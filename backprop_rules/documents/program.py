"""A document's program: a forward in terms of the catalogue's rules, which are swept back through, and its steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_rules.rule import Application, recorded

Tensors = Mapping[str, Tensor]
Values = Mapping[str, Any]  # tensors, or arrays of the numbers of ball arithmetic


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

    def step(self, parameters: Tensors, sample: Tensors) -> "Step":
        """Return one step's loss, gradients and parameters after the update, from the parameters before it."""
        values = {**sample, **parameters}
        with recorded() as calls:
            values.update(self.forward(values))
        if self.backward is not None:
            gradients = self.backward(values)
        else:
            arrived = swept(calls)
            gradients = {name: arrived[id(w)] for name, w in parameters.items()}
        return Step(values["loss"], gradients, self.updated(parameters, gradients))

    def updated(self, parameters: Tensors, gradients: Tensors) -> dict[str, Tensor]:
        """Return the parameters after a step of gradient descent; the same ones without a learning rate."""
        if self.learning_rate is None:
            return dict(parameters)
        return {name: w - self.learning_rate * gradients[name] for name, w in parameters.items()}

    def by_autograd(self, parameters: Tensors, sample: Tensors) -> "Step":
        """Return the step as torch's autograd makes it of the same forward."""
        leaves = {name: w.detach().clone().requires_grad_() for name, w in parameters.items()}
        loss = self.forward({**sample, **leaves})["loss"]
        found = torch.autograd.grad(loss.sum(), list(leaves.values()))
        gradients = dict(zip(leaves, found, strict=True))
        with torch.no_grad():
            return Step(loss.detach(), gradients, self.updated(parameters, gradients))

    def run(self, inputs: Tensors) -> Iterator["Step"]:
        """Yield the steps, one for each sample, each from the parameters that the last one left."""
        parameters: Tensors = {name: inputs[name] for name in self.parameters}
        for sample in self.samples(inputs):
            step = self.step(parameters, sample)
            yield step
            parameters = step.parameters


def swept(calls: Sequence[Application]) -> dict[int, Tensor]:
    """Return what arrives at each tensor, by its id, from the last rule's y: each rule takes it on to its primals."""
    arrived = {id(calls[-1].y): torch.ones_like(calls[-1].y)}
    for call in reversed(calls):
        gradients = call.rule.gradients(arrived[id(call.y)], call.y, *call.primals, **call.params)
        for x, gradient in zip(call.primals, gradients, strict=True):
            if gradient is not None:
                arrived[id(x)] = arrived[id(x)] + gradient if id(x) in arrived else gradient
    return arrived


@dataclass(frozen=True, eq=False)
class Step:
    """What one step gives: the loss, the gradients, and the parameters after the update."""

    loss: Tensor
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]

    def values(self) -> dict[str, Tensor]:
        """Return all of it by name, in the order in which it is computed."""
        return {
            "loss": self.loss,
            **{f"gradient of {name}": g for name, g in self.gradients.items()},
            **{f"parameter {name}": w for name, w in self.parameters.items()},
        }
