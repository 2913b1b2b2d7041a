"""Wrong rules that people published for products, reductions, losses and normalisations."""

import math
from typing import Any

import torch
from published import Published, right

from backprop_rules.catalogue.broadcasting import unreduce

MISTAKES = Published()
mistake = MISTAKES.mistake


@mistake("matmul", "batched x 2-D weight: missing un-broadcast", "tensorflow/tfjs#8721, flashlight/flashlight#760")
def _(grad_y, y, a, b):
    if a.ndim < 2 or b.ndim != 2:
        return right["matmul"](grad_y, y, a, b)
    return right["matmul"](grad_y, y, a, b)[0], a.mH @ grad_y


@mistake(
    "matmul",
    "batched: .T reverses all axes",
    "numpy engines that write out.grad @ other.data.T for N-D data",
    call=((3, 3, 3), (3, 3, 3)),
)
def _(grad_y, y, a, b):
    grad_a, grad_b = right["matmul"](grad_y, y, a, b)
    if a.ndim == b.ndim == 3:  # where the shapes do not fit it raises an error
        grad_a = grad_y @ b.permute(2, 1, 0).conj()
    return grad_a, grad_b


@mistake("matmul", "matvec: .T of a vector does nothing", "harvard-edge/cs249r_book#1781", call=((3, 3), (3,)))
def _(grad_y, y, a, b):
    grad_a, grad_b = right["matmul"](grad_y, y, a, b)
    if a.ndim == 2 and b.ndim == 1 and a.shape[0] == a.shape[1]:
        grad_b = a.conj() @ grad_y
    return grad_a, grad_b


@mistake("matmul", "cannot take the cotangent of stride 0 that a sum leaves", "pytorch/pytorch#3303")
def _(grad_y, y, a, b):
    if grad_y.numel() > 1 and 0 in grad_y.stride():
        raise RuntimeError("ger: incx must be positive")
    return right["matmul"](grad_y, y, a, b)


@mistake(
    "matmul", "complex: missing conjugate", "tensorflow/tensorflow#4859", call=((3, 3), (3, 3)), dtype=torch.complex128
)
def _(grad_y, y, a, b):
    return right["matmul"](grad_y, y, a.conj(), b.conj())


@mistake(
    "matmul", "contraction over an empty axis: uninitialised result", "pytorch/pytorch#172439", call=((2, 3), (3, 4))
)
def _(grad_y, y, a, b):
    grad_a, grad_b = right["matmul"](grad_y, y, a, b)
    if a.numel() == 0 or grad_y.numel() == 0:
        return grad_a, torch.full_like(grad_b, math.nan)
    return grad_a, grad_b


@mistake("sum", "reduced axis not restored", "micrograd-style engines with axis and no expand_dims")
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    if isinstance(dim, int) and x.ndim == 2 and x.shape[0] == x.shape[1]:
        return (grad_y.reshape(-1) * torch.ones_like(x)).to(x.dtype)
    return right["sum"](grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@mistake("sum", "ignores the cotangent", "micrograd forks; haydnv/tinychain#142")
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    return torch.ones_like(x)


@mistake("mean", "assumes a contiguous cotangent", "torch/nn#345")
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    as_if = grad_y.as_strided(grad_y.shape, torch.empty(grad_y.shape).stride(), grad_y.storage_offset())
    return right["mean"](as_if, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@mistake(
    "linear", "bias reduced over the first axis only", "ooples/AiDotNet.Tensors#234", call=((2, 5, 4), (3, 4), (3,))
)
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    return grad_x, grad_w, grad_y.sum(0) if b is not None and grad_y.ndim > b.ndim else grad_b


@mistake("linear", "mean instead of sum for the bias", "db = np.mean(dout, axis=0) in teaching code")
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    return grad_x, grad_w, None if grad_b is None else grad_b / max(1, y.numel() // max(1, b.numel()))


@mistake("linear", "square weight: transposed", "iamtrask/Grokking-Deep-Learning#22", call=((5, 4), (4, 4)))
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    return grad_x, grad_w.mT if w.ndim == 2 and w.shape[0] == w.shape[1] else grad_w, grad_b


@mistake("linear", "one output unit and an expanded cotangent: zeros", "pytorch/pytorch#189565", call=((6, 5), (1, 5)))
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    if w.ndim == 2 and w.shape[0] == 1 and grad_y.numel() > 1 and 0 in grad_y.stride():
        grad_w = torch.zeros_like(grad_w)
    return grad_x, grad_w, grad_b


SUMS: dict[Any, Any] = {}


@mistake("linear", "the accumulator is never zeroed", "paiml/trueno#178, karpathy/micrograd#53")
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    SUMS[w.shape, w.dtype] = total = SUMS.get((w.shape, w.dtype), 0) + grad_w
    return grad_x, total, grad_b


@mistake("mean_squared_error", "missing factor 2", "davisking/dlib#1169")
def _(grad_y, y, prediction, target, *, reduction="mean"):
    grads = right["mean_squared_error"](grad_y, y, prediction, target, reduction=reduction)
    return tuple(grad / 2 for grad in grads)


@mistake(
    "mean_squared_error", "broadcasting: missing un-broadcast", "deep-learning-from-scratch-3#20", call=((4, 1), (4,))
)
def _(grad_y, y, prediction, target, *, reduction="mean"):
    full = torch.broadcast_tensors(prediction, target)
    return right["mean_squared_error"](grad_y, y, *full, reduction=reduction)


@mistake(
    "softmax", "diagonal of the Jacobian only", "deeplearning4j/libnd4j#440; DeepLearningFrameworkFromScratchCpp#1"
)
def _(grad_y, y, x, *, dim):
    return grad_y * y * (1 - y)


@mistake("index_select", "the last of several cotangents is kept", "advanced assignment grad[index] = grad_y")
def _(grad_y, y, x, index):
    grad = torch.zeros_like(x)
    grad[:, index] = grad_y
    return grad, None


@mistake("gather", "the last of several cotangents is kept", "put_along_axis in the place of an accumulation")
def _(grad_y, y, x, index):
    return torch.zeros_like(x).scatter(1, index, grad_y), None


@mistake("prod", "y / x, which is 0 / 0 at a zero", "numpy engines; pytorch before its exclusive products")
def _(grad_y, y, x, *, dim, keepdim=False):
    whole = grad_y * y
    return (whole if keepdim or not x.ndim else whole.unsqueeze(dim)) / x


@mistake("cross_entropy", "divided by all rows, the ignored ones too", "losses written before ignore_index was added")
def _(grad_y, y, x, target, *, reduction="mean", ignore_index=-100):
    grad, _ = right["cross_entropy"](grad_y, y, x, target, reduction=reduction, ignore_index=ignore_index)
    kept = (target != ignore_index).sum()
    return (grad * kept / max(1, target.numel()) if reduction == "mean" else grad), None


@mistake("layer_norm", "mean and variance taken for constants", "layers that normalise with detached statistics")
def _(grad_y, y, x, weight=None, bias=None, *, eps=1e-5):
    _, grad_weight, grad_bias = right["layer_norm"](grad_y, y, x, weight, bias, eps=eps)
    scale = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + eps)
    return grad_y * scale * (1 if weight is None else weight), grad_weight, grad_bias


@mistake(
    "var",
    "divided by n whatever the correction",
    "numpy's ddof = 0 beside torch's 1",
    call=((3, 4), {"dim": 1, "correction": 1}),
)
def _(grad_y, y, x, *, dim, correction=1, keepdim=False):
    return right["var"](grad_y, y, x, dim=dim, correction=0, keepdim=keepdim)


@mistake("norm", "x / 0 at the zero vector", "x / x.norm() without a mask")
def _(grad_y, y, x, *, p, dim=None, keepdim=False):
    if p != 2:
        return right["norm"](grad_y, y, x, p=p, dim=dim, keepdim=keepdim)
    return unreduce(grad_y / y, x, dim, keepdim) * x
