"""`matmul_derivatives`: y = x W with y a scalar (D = 4), a vector (D = 4, H = 2) and a matrix, in float64.

The document leaves x and W as letters, and gives the cotangent -1 for the first two cases. The numbers
here are small and whole, so that every step is exact.
"""

import torch
from torch import Tensor

from backprop_rules.catalogue.arithmetic import mul
from backprop_rules.catalogue.linear_algebra import matmul
from backprop_rules.catalogue.reductions import sum as total
from backprop_rules.documents.program import Program, Tensors, tensor

X = [[1.0, 2.0, 3.0, 4.0], [-2.0, 0.0, 5.0, 1.0], [3.0, -1.0, 2.0, -4.0]]
W = [[2.0, 7.0], [-3.0, 1.0], [5.0, -2.0], [4.0, 6.0]]


def _inputs(rows: int, columns: int, grad_y: list[list[float]]) -> dict[str, Tensor]:
    x, w = tensor(X, torch.float64)[:rows], tensor(W, torch.float64)[:, :columns]
    return {"x": x.clone(), "w": w.clone(), "grad_y": tensor(grad_y, torch.float64)}


def samples(inputs: Tensors) -> list[Tensors]:
    """Return the one step's cotangent."""
    return [{"grad_y": inputs["grad_y"]}]


def forward(v: Tensors) -> dict[str, Tensor]:
    """Multiply, and take for L the linear function whose derivative with respect to y is the cotangent."""
    y = matmul(v["x"], v["w"])
    weighted = mul(v["grad_y"], y)
    return {"y": y, "weighted": weighted, "loss": total(weighted)}


def backward(v: Tensors) -> dict[str, Tensor]:
    """Go back through L to y, and from there to x and W."""
    (grad_weighted,) = total.gradients(torch.ones_like(v["loss"]), v["loss"], v["weighted"])
    _, grad_y = mul.backward(grad_weighted, v["weighted"], v["grad_y"], v["y"])
    grad_x, grad_w = matmul.backward(grad_y, v["y"], v["x"], v["w"])
    return {"x": grad_x, "w": grad_w}


def _program(case: str, rows: int, columns: int, grad_y: list[list[float]]) -> Program:
    return Program(
        f"matmul_derivatives_{case}",
        "matmul_derivatives.md",
        torch.float64,
        ("x", "w"),
        lambda: _inputs(rows, columns, grad_y),
        samples,
        forward,
        backward,
    )


PROGRAMS = (
    _program("scalar", 1, 1, [[-1.0]]),
    _program("vector", 1, 2, [[-1.0, -1.0]]),
    _program("matrix", 3, 2, [[-1.0, 2.0], [3.0, -1.0], [1.0, 4.0]]),
)
