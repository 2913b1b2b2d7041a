"""Many draws of the two-layer network's numbers, all followed at once in float64, and the recorded draw."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.certified import true_run
from backprop_rules.documents.program import Program
from backprop_rules.documents.programs import AS_PRINTED
from backprop_rules.evidence.enclosure import Enclosure

SHAPES = ((1, 2), (1, 3), (2, 4), (4, 3))  # of x, y, w1 and w2, in the order in which the document draws them
DRAWS = 2000
Networks = Sequence[Any]  # x, y, w1, w2, each with an axis of draws in front


@cache
def drawn_networks() -> Networks:
    """Return the draws, the same in every run: fewer than 16 numbers at a time, which torch draws one by one."""
    numbers = torch.Generator().manual_seed(0)
    each = [[torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in SHAPES] for _ in range(DRAWS)]
    return [torch.stack(drawn) for drawn in zip(*each, strict=True)]


def recorded() -> Networks:
    """Return the recorded draw."""
    given = AS_PRINTED.inputs()
    return [given[name].double().unsqueeze(0) for name in ("x", "target", "w1", "w2")]


def active(networks: Networks) -> Tensor:
    """Say of each draw whether a hidden unit is positive."""
    hidden: Tensor = networks[0] @ networks[2]
    return (hidden > 0).any(-1).squeeze(-1)


def losses(networks: Networks, rate: float, epochs: int) -> Tensor:
    """Return the loss before each epoch of the printed program, and after the last: a row for each, a column a draw."""
    x, y, w1, w2 = networks
    found = []
    for epoch in range(epochs + 1):
        h1 = (x @ w1).clamp(min=0)
        grad_y_pred = 2 * (h1 @ w2 - y)
        found.append((h1 @ w2 - y).pow(2).sum((-2, -1)))
        if epoch < epochs:
            grad_h = (grad_y_pred @ w2.mT).clamp(min=0)
            w1, w2 = w1 - rate * x.mT @ grad_h, w2 - rate * h1.mT @ grad_y_pred
    return torch.stack(found)


def share(of: Tensor) -> float:
    """Return the share of draws of which it is true."""
    return float(of.double().mean())


@cache
def followed(program: Program, rate: float, epochs: int) -> tuple[float, float]:
    """Return the first and the last loss of a program on the recorded draw, at another rate, for so many epochs."""
    given = {name: x.double() for name, x in AS_PRINTED.inputs().items()}
    longer = replace(program, learning_rate=rate, dtype=torch.float64, samples=lambda given: [given] * epochs)
    run = [float(step.loss) for step in longer.run(given)]
    return run[0], run[-1]


@cache
def true_losses(program: Program) -> list[dict[str, Enclosure]]:
    """Return the recorded draw's true run, in ball arithmetic."""
    return true_run(program, program.inputs())
