"""The programs of the four documents, made of the catalogue's rules."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.catalogue.arithmetic import add, mul, sub
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.catalogue.losses import half_squared_error, sum_of_squared_errors
from backprop_rules.catalogue.piecewise import clamp
from backprop_rules.catalogue.powers import square
from backprop_rules.catalogue.reductions import sum as total
from backprop_rules.documents.program import Printed, Program, Tensors


def _tensors(dtype: torch.dtype, **values: Any) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=dtype) for name, value in values.items()}


def _pairs(inputs: Tensors) -> list[Tensors]:
    pairs = zip(inputs["x"], inputs["target"], strict=True)
    return [{"x": x, "target": target} for x, target in pairs]


# ---- y = x w, fitted to y = 2 x by three samples in turn, 100 times over: the weight is updated after every one


def _linear_model(v: Tensors) -> dict[str, Tensor]:
    prediction = mul(v["x"], v["w"])
    error = sub(prediction, v["target"])
    return {"prediction": prediction, "error": error, "loss": square(error)}


LINEAR_MODEL = Program(
    name="linear_model",
    document="linear_model.md",
    dtype=torch.float32,
    parameters=("w",),
    inputs=lambda: _tensors(torch.float32, w=[1.0], x=[1.0, 2.0, 3.0], target=[2.0, 4.0, 6.0]),
    samples=lambda inputs: _pairs(inputs) * 100,
    forward=_linear_model,
    learning_rate=0.01,
)


# ---- y = w x + 1 and half the squared error, two updates with samples of y = 2 x + 1


def _regression(v: Tensors) -> dict[str, Tensor]:
    product = mul(v["w"], v["x"])
    prediction = add(product, v["b"])
    return {"product": product, "prediction": prediction, "loss": half_squared_error(prediction, v["target"])}


ONE_PARAMETER_REGRESSION = Program(
    name="one_parameter_regression",
    document="one_parameter_regression.md",
    dtype=torch.float64,
    parameters=("w",),
    inputs=lambda: _tensors(torch.float64, w=[1.0], b=1.0, x=[1.0, 2.0], target=[3.0, 5.0]),
    samples=lambda inputs: [{**pair, "b": inputs["b"]} for pair in _pairs(inputs)],
    forward=_regression,
    learning_rate=0.1,
)


# ---- x w1, clamped at 0, times w2, and the sum of squared errors, 20 epochs with one sample. It runs twice: with the
# right backward rule, and with the document's own, which clamps the cotangent where it should mask it by the sign of
# the hidden layer, so that its negative elements are lost, wherever they are.


def _normal() -> dict[str, Tensor]:
    """Return normally distributed inputs, as the document draws them; the baseline keeps what was drawn."""
    generator = torch.Generator().manual_seed(20191016)
    shapes = {"x": (1, 2), "target": (1, 3), "w1": (2, 4), "w2": (4, 3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _two_layers(v: Tensors) -> dict[str, Tensor]:
    hidden = matmul(v["x"], v["w1"])
    active = clamp(hidden, min=0)
    prediction = matmul(active, v["w2"])
    loss = sum_of_squared_errors(prediction, v["target"])
    return {"hidden": hidden, "active": active, "prediction": prediction, "loss": loss}


def _as_printed(v: Tensors) -> dict[str, Tensor]:
    grad_prediction = 2 * (v["prediction"] - v["target"])
    grad_w2 = v["active"].T @ grad_prediction
    grad_hidden = clamp(grad_prediction @ v["w2"].T, min=0)
    return {"w1": v["x"].T @ grad_hidden, "w2": grad_w2}


TWO_LAYER_NETWORK = Program(
    name="two_layer_network",
    document="two_layer_network.md",
    dtype=torch.float32,
    parameters=("w1", "w2"),
    inputs=_normal,
    samples=lambda inputs: [{"x": inputs["x"], "target": inputs["target"]}] * 20,
    forward=_two_layers,
    learning_rate=1e-6,
    fixed=False,
    names={"target": "y"},
)
PRINTED = (
    Printed(29, "h1 = x.mm(w1)", "hidden"),
    Printed(30, "h1 = h1.clamp(min=0)", "active"),
    Printed(31, "y_pred = h1.mm(w2)", "prediction"),
    Printed(33, "loss=(y_pred-y).pow(2).sum()", "loss"),
    Printed(36, "grad_y_pred = 2*(y_pred-y)", "gradient of prediction"),
    Printed(37, "grad_w2 = h1.t().mm(grad_y_pred)", "gradient of w2"),
    Printed(39, "grad_h = grad_y_pred.clone()", "gradient of prediction"),
    Printed(40, "grad_h = grad_h.mm(w2.t())", "gradient of active"),
    Printed(41, "grad_h.clamp_(min=0)", "gradient of hidden"),
    Printed(42, "grad_w1 = x.t().mm(grad_h)", "gradient of w1"),
    Printed(44, "w1 -= learning_rate * grad_w1", "parameter w1"),
    Printed(45, "w2 -= learning_rate * grad_w2", "parameter w2"),
)
AS_PRINTED = replace(
    TWO_LAYER_NETWORK, name="two_layer_network_as_printed", backward=_as_printed, wrong=("w1",), printed=PRINTED
)


# ---- y = x W with y a scalar (D = 4), a vector (D = 4, H = 2) and a matrix. The document leaves x and W as letters,
# and gives the cotangent -1 for the first two cases; the numbers here are small and whole, so that every step is exact.

X = [[1.0, 2.0, 3.0, 4.0], [-2.0, 0.0, 5.0, 1.0], [3.0, -1.0, 2.0, -4.0]]
W = [[2.0, 7.0], [-3.0, 1.0], [5.0, -2.0], [4.0, 6.0]]


def _product(v: Tensors) -> dict[str, Tensor]:
    """Multiply, and take for L the linear function whose derivative with respect to y is the cotangent."""
    y = matmul(v["x"], v["w"])
    weighted = mul(v["grad_y"], y)
    return {"y": y, "weighted": weighted, "loss": total(weighted)}


def _matmul_derivatives(case: str, grad_y: list[list[float]]) -> Program:
    rows, columns = len(grad_y), len(grad_y[0])
    return Program(
        name=f"matmul_derivatives_{case}",
        document="matmul_derivatives.md",
        dtype=torch.float64,
        parameters=("x", "w"),
        inputs=lambda: _tensors(torch.float64, x=X[:rows], w=[row[:columns] for row in W], grad_y=grad_y),
        samples=lambda inputs: [{"grad_y": inputs["grad_y"]}],
        forward=_product,
    )


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        LINEAR_MODEL,
        ONE_PARAMETER_REGRESSION,
        TWO_LAYER_NETWORK,
        AS_PRINTED,
        _matmul_derivatives("scalar", [[-1.0]]),
        _matmul_derivatives("vector", [[-1.0, -1.0]]),
        _matmul_derivatives("matrix", [[-1.0, 2.0], [3.0, -1.0], [1.0, 4.0]]),
    )
}
