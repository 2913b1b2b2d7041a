"""`one_parameter_regression`: y = w x + 1 and half the squared error, two updates, in float64."""

import torch
from torch import Tensor

from backprop_rules.catalogue.arithmetic import add, mul
from backprop_rules.catalogue.losses import half_squared_error
from backprop_rules.documents.program import Program, Tensors, tensor


def inputs() -> dict[str, Tensor]:
    """Return the document's weight, its known intercept, and its two samples of y = 2 x + 1."""
    return {
        "w": tensor([1.0], torch.float64),
        "b": tensor(1.0, torch.float64),
        "x": tensor([1.0, 2.0], torch.float64),
        "target": tensor([3.0, 5.0], torch.float64),
    }


def samples(inputs: Tensors) -> list[Tensors]:
    """Return the two samples, one for each update."""
    pairs = zip(inputs["x"], inputs["target"], strict=True)
    return [{"x": x, "target": target, "b": inputs["b"]} for x, target in pairs]


def forward(v: Tensors) -> dict[str, Tensor]:
    """Predict, and halve the squared error."""
    product = mul(v["w"], v["x"])
    prediction = add(product, v["b"])
    return {
        "product": product,
        "prediction": prediction,
        "loss": half_squared_error(prediction, v["target"]),
    }


def backward(v: Tensors) -> dict[str, Tensor]:
    """Go back through the loss, the sum and the product."""
    ones = torch.ones_like(v["loss"])
    grad_prediction, _ = half_squared_error.backward(ones, v["loss"], v["prediction"], v["target"])
    grad_product, _ = add.backward(grad_prediction, v["prediction"], v["product"], v["b"])
    grad_w, _ = mul.backward(grad_product, v["product"], v["w"], v["x"])
    return {"w": grad_w}


PROGRAMS = (
    Program(
        "one_parameter_regression",
        "one_parameter_regression.md",
        torch.float64,
        ("w",),
        inputs,
        samples,
        forward,
        backward,
        learning_rate=0.1,
    ),
)
