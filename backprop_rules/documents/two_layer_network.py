"""`two_layer_network`: x w1, clamped at 0, times w2, and the sum of squared errors, 20 epochs, in float32.

It runs twice: with the document's own backward rule, which clamps the cotangent where it should mask it
by the sign of the hidden layer, and with the right one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.catalogue.losses import sum_of_squared_errors
from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.documents.program import Program, Tensors

EPOCHS = 20
SHAPES = {"x": (1, 2), "target": (1, 3), "w1": (2, 4), "w2": (4, 3)}


def inputs() -> dict[str, Tensor]:
    """Return normally distributed inputs, as the document draws them; the baseline keeps what was drawn."""
    generator = torch.Generator().manual_seed(20191016)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def samples(inputs: Tensors) -> list[Tensors]:
    """Return the one sample, once for each epoch."""
    return [{"x": inputs["x"], "target": inputs["target"]}] * EPOCHS


def forward(v: Tensors) -> dict[str, Tensor]:
    """Two layers with a clamp at zero between them, and the loss."""
    hidden = matmul(v["x"], v["w1"])
    active = clamp(hidden, min=0)
    prediction = matmul(active, v["w2"])
    loss = sum_of_squared_errors(prediction, v["target"])
    return {"hidden": hidden, "active": active, "prediction": prediction, "loss": loss}


def backward(v: Tensors) -> dict[str, Tensor]:
    """Go back through the loss, the second layer, the clamp and the first layer."""
    grad_active, grad_w2 = _to_the_hidden_layer(v)
    grad_hidden = clamp.backward(grad_active, v["active"], v["hidden"], min=0)
    _, grad_w1 = matmul.backward(grad_hidden, v["hidden"], v["x"], v["w1"])
    return {"w1": grad_w1, "w2": grad_w2}


def backward_as_printed(v: Tensors) -> dict[str, Tensor]:
    """Go back by the document's own lines: the negative elements of the cotangent are lost, wherever they are."""
    grad_prediction = 2 * (v["prediction"] - v["target"])
    grad_w2 = v["active"].T @ grad_prediction
    grad_hidden = clamp(grad_prediction @ v["w2"].T, min=0)
    return {"w1": v["x"].T @ grad_hidden, "w2": grad_w2}


def _to_the_hidden_layer(v: Tensors) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(v["loss"])
    grad_prediction, _ = sum_of_squared_errors.backward(ones, v["loss"], v["prediction"], v["target"])
    grad_active, grad_w2 = matmul.backward(grad_prediction, v["prediction"], v["active"], v["w2"])
    return grad_active, grad_w2


def _program(name: str, backward: Callable[[Tensors], dict[str, Tensor]], wrong: tuple[str, ...] = ()) -> Program:
    return Program(
        name,
        "two_layer_network.md",
        torch.float32,
        ("w1", "w2"),
        inputs,
        samples,
        forward,
        backward,
        learning_rate=1e-6,
        fixed=False,
        wrong=wrong,
    )


PROGRAMS = (
    _program("two_layer_network", backward),
    _program("two_layer_network_as_printed", backward_as_printed, wrong=("w1",)),
)
