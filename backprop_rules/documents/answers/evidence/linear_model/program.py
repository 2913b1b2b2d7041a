"""The document's program, y = xω trained to y = 2x in float32, as it stands."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SAMPLES = ((1.0, 2.0), (2.0, 4.0), (3.0, 6.0))
EPOCHS = 100
RATE = 0.01


class Step(NamedTuple):
    """A step of training: the weight before it, the loss that it computes, and the weight after it."""

    before: float
    loss: float
    after: float


def weight(value: float = 1.0) -> Tensor:
    """Return the document's weight, which asks for its gradient."""
    w = torch.Tensor([value])
    w.requires_grad = True
    return w


def loss(w: Tensor, x: float, y: float) -> Tensor:
    """Return the loss of a sample."""
    return (x * w - y) ** 2


def grad(w: Tensor) -> Tensor:
    """Return the weight's gradient, which must be there."""
    assert w.grad is not None
    return w.grad


def step(w: Tensor) -> None:
    """Take the document's step."""
    w.data = w.data - RATE * grad(w).data


def trained(
    update: Callable[[Tensor], None] = step, clear: bool = True, epochs: int = EPOCHS
) -> tuple[Tensor, list[Step]]:
    """Train the weight from 1 as the document does, and return it with the steps."""
    w, steps = weight(), []
    for x, y in SAMPLES * epochs:
        before, computed = w.item(), loss(w, x, y)
        computed.backward()
        update(w)
        if clear:
            grad(w).data.zero_()
        steps.append(Step(before, computed.item(), w.item()))
    return w, steps
