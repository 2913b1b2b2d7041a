"""What the letters of the two-layer network stand for, at points of whole numbers.

The gradient in front of the clamp is the cotangent where the hidden layer is positive and 0 where it is negative;
where it is 0 there are two one-sided derivatives, and torch's choice depends on its version. `t` is the target.

And many draws of the network's numbers, all followed at once in float64, and the recorded draw.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.answers.drawn import Point, Value, counterexample
from backprop_rules.documents.answers.tools import gradients, ran, units
from backprop_rules.documents.certified import true_run
from backprop_rules.documents.program import Program
from backprop_rules.documents.programs import AS_PRINTED
from backprop_rules.evidence.enclosure import Enclosure

WEIGHTS = {"x": "1 d", "w1": "d h", "w2": "h k"}
ONE = {**WEIGHTS, "t": "1 k"}
TWO = {"x": "2 d", "w1": "d h", "w2": "h k", "t": "2 k"}
LAYER = {"h": "1 d", "w2": "d k", "t": "1 k"}
X, W1, W2, H, ERROR = (torch.ones(shape) for shape in ((1, 2), (2, 4), (4, 3), (1, 4), (1, 3)))  # of line 19 to 23
Names = dict[str, Any]


def squared_error(prediction: Value) -> Value:
    """Return the loss of a prediction: the sum of the squares of its errors from t, the last argument."""
    return lambda *given: ((prediction(*given[:-1]) - given[-1]) ** 2).sum()


def predicted(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Return what the document's program predicts."""
    return x.mm(w1).clamp(min=0).mm(w2)


loss = squared_error(predicted)  # what the document's program prints


def for_w1(*at: Tensor) -> Tensor:
    """Return the gradient of w1 of what the program prints, as autograd finds it."""
    return gradients(loss, *at)[1]


def for_w2(*at: Tensor) -> Tensor:
    """Return the gradient of w2."""
    return gradients(loss, *at)[2]


def names(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Names:
    """Return what the document's letters stand for, the gradients as autograd finds them."""
    h, y_pred = x.mm(w1).clamp(min=0), predicted(x, w1, w2)
    _, by_w1, by_w2, _ = gradients(loss, x, w1, w2, t)
    return {
        "x": x, "w1": w1, "w2": w2, "y": t, "h1": h, "ŷ": y_pred, "loss": loss(x, w1, w2, t),
        "∂loss/∂w1": by_w1, "∂loss/∂w2": by_w2, "g": cotangent(x, w1, w2, t),
    }  # fmt: skip


def without_the_clamp(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Names:
    """Return what the letters stand for in a network without the clamp."""
    of = squared_error(lambda x, w1, w2: x @ w1 @ w2)
    return {"x": x, "w2": w2, "ŷ": x @ w1 @ w2, "y": t, "∂loss/∂w1": gradients(of, x, w1, w2, t)[1]}


def second_layer(h: Tensor, w2: Tensor, t: Tensor) -> Names:
    """Return what the letters of the second layer stand for, the hidden layer being any."""
    by_h, by_w2, _ = gradients(squared_error(torch.matmul), h, w2, t)
    return {
        "h1": h, "w2": w2, "ŷ": h @ w2, "y": t, "∂loss/∂ŷ": gradients(lambda p: ((p - t) ** 2).sum(), h @ w2)[0],
        "∂loss/∂h1": by_h, "∂loss/∂w2": by_w2,
        "∂ŷ/∂h1": rows(torch.matmul, 0, h, w2), "∂ŷ/∂w2": rows(torch.matmul, 1, h, w2),
    }  # fmt: skip


def rows(function: Value, k: int, *given: Tensor) -> Tensor:
    """Return the Jacobian for an argument: a row for each output, a column for each element."""
    y = function(*given)
    return torch.stack([gradients(function, *given, grad_y=unit)[k].flatten() for unit in units(y)])


def cotangent(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
    """Return what arrives at the hidden layer behind the clamp."""
    return 2 * (predicted(x, w1, w2) - t) @ w2.T


def with_the_step(code: str, last: str = "grad_w1 = x.t().mm(grad_h)") -> Value:
    """Return the gradient of w1 with these lines of code where the program has lines 41 and 42."""

    def found(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> Tensor:
        h1 = x.mm(w1).clamp(min=0)
        grad_w1: Tensor = ran(f"{code}\n{last}", x=x, w1=w1, h1=h1, grad_h=cotangent(x, w1, w2, t))["grad_w1"]
        return grad_w1

    return found


def tie(x: Tensor, w1: Tensor) -> bool:
    """Say whether a hidden unit stands on the kink."""
    return bool((x @ w1 == 0).any())


def off_the_kink(found: Value, **shapes: str) -> Point | None:
    """Return a point at which this is not the gradient of w1, though no hidden unit stands on the kink."""
    return counterexample(lambda x, w1, w2, t: tie(x, w1) or found(x, w1, w2, t).equal(for_w1(x, w1, w2, t)), **shapes)


def one_sided(x: Tensor, w1: Tensor, w2: Tensor, t: Tensor) -> list[float]:
    """Return both one-sided derivatives of a single unit's loss: exact, as it is a quadratic on each side."""
    found = []
    for step in (2.0**-10, -(2.0**-10)):
        here, there, beyond = (float(loss(x, w1 + k * step, w2, t)) for k in range(3))
        found.append((4 * there - 3 * here - beyond) / (2 * step))
    return found


def point(code: str) -> list[Tensor]:
    """Return x, w1, w2 and t from the values that an answer writes for x, w1, w2 and y."""
    left = ran(code)
    return [torch.tensor(left[name], dtype=torch.float64).reshape(-1, 1) for name in ("x", "w1", "w2", "y")]


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
    run = [float(step["loss"]) for step in longer.run(given)]
    return run[0], run[-1]


@cache
def true_losses(program: Program) -> list[dict[str, Enclosure]]:
    """Return the recorded draw's true run, in ball arithmetic."""
    return true_run(program, program.inputs())
