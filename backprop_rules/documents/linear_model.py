"""`linear_model`: y = x w, fitted to y = 2 x by three samples in turn, 100 times over, in float32."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backprop_rules.catalogue.arithmetic import mul, sub
from backprop_rules.catalogue.powers import square
from backprop_rules.documents.program import Program, Tensors, tensor

EPOCHS = 100


def inputs() -> dict[str, Tensor]:
    """Return the document's weight and samples."""
    return {
        "w": tensor([1.0], torch.float32),
        "x": tensor([1.0, 2.0, 3.0], torch.float32),
        "target": tensor([2.0, 4.0, 6.0], torch.float32),
    }


def samples(inputs: Tensors) -> Sequence[Tensors]:
    """Return the samples in the order in which they are used: the weight is updated after every one."""
    pairs = zip(inputs["x"], inputs["target"], strict=True)
    return [{"x": x, "target": target} for x, target in pairs] * EPOCHS


def forward(v: Tensors) -> dict[str, Tensor]:
    """Predict, and square the error."""
    prediction = mul(v["x"], v["w"])
    error = sub(prediction, v["target"])
    return {"prediction": prediction, "error": error, "loss": square(error)}


def backward(v: Tensors) -> dict[str, Tensor]:
    """Go back through the square, the difference and the product."""
    (grad_error,) = square.gradients(torch.ones_like(v["loss"]), v["loss"], v["error"])
    grad_prediction, _ = sub.backward(grad_error, v["error"], v["prediction"], v["target"])
    _, grad_w = mul.backward(grad_prediction, v["prediction"], v["x"], v["w"])
    return {"w": grad_w}


PROGRAMS = (
    Program(
        "linear_model", "linear_model.md", torch.float32, ("w",), inputs, samples, forward, backward, learning_rate=0.01
    ),
)
