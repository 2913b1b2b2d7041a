"""Wrong rules that people published, by operation and the place where each was reported."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from backprop_rules import CATALOGUE, Rule
from backprop_rules.catalogue.broadcasting import unreduce

Backward = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A published wrong backward for a rule of the catalogue: what is wrong, and where it was reported."""

    rule: str
    what: str
    reported: str
    backward: Backward
    saves: str | None
    example: Sequence[Any]
    params: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"

    def as_rule(self) -> Rule:
        """Return the catalogue's rule with this backward, and what it saves, in the place of the right one."""
        right = CATALOGUE[self.rule]
        saves = right.saves if self.saves is None else tuple(self.saves.split())
        return replace(right, backward=self.backward, saves=saves)


MISTAKES: list[Mistake] = []

# One ordinary call of each function: shapes, arrays that are no such thing, and params.
CALLS: dict[str, tuple[Any, ...]] = {
    "matmul": ((2, 3, 4), (4, 5)),
    "linear": ((2, 5, 4), (3, 4), (3,)),
    "relu": ((2, 3),),
    "clamp": ((2, 3), {"min": -0.5, "max": 1.0}),
    "clamp_tensor": ((3,), (3,), (3,)),
    "pow": ((3,), {"n": 0}),
    "pow_tensor": ((2, 3), (3,)),
    "sum": ((3, 3), {"dim": 1}),
    "mean": ((2, 3), {"dim": -1}),
    "add": ((4, 5), (4, 1)),
    "sub": ((2, 3), (2, 3)),
    "mul": ((2, 3), (2, 3)),
    "mean_squared_error": ((4, 3), (4, 3), {"reduction": "mean"}),
    "sigmoid": ((2, 3),),
    "tanh": ((2, 3),),
    "expm1": ((2, 3),),
    "softmax": ((2, 3), {"dim": -1}),
    "maximum": ((2, 3), (2, 3)),
    "where": (torch.tensor([True, False, True]), (3,), (3,)),
    "index_select": ((3, 4), torch.tensor([1, 1, 3])),
    "gather": ((3, 4), torch.tensor([[0, 0], [1, 3], [2, 2]])),
    "prod": ((2, 3), {"dim": 1}),
    "cross_entropy": ((3, 4), torch.tensor([1, 3, -100]), {"reduction": "mean"}),
    "layer_norm": ((2, 4), (4,), (4,)),
    "var": ((3, 4), {"dim": 1}),
    "norm": ((3, 4), {"p": 2, "dim": 1}),
}


def mistake(
    rule: str,
    what: str,
    reported: str,
    saves: str | None = None,
    call: tuple[Any, ...] | None = None,
    dtype: torch.dtype | tuple[torch.dtype, ...] = torch.float64,
) -> Callable[[Backward], Backward]:
    def keep(backward: Backward) -> Backward:
        *arrays, params = call or CALLS[rule]
        if not isinstance(params, dict):
            arrays, params = [*arrays, params], {}
        numbers = torch.Generator().manual_seed(0)
        dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(arrays)
        example = [
            x if torch.is_tensor(x) else torch.randn(x, generator=numbers, dtype=d)
            for x, d in zip(arrays, dtypes, strict=True)
        ]
        if rule == "pow_tensor":
            example = [x.abs() for x in example]
        MISTAKES.append(Mistake(rule, what, reported, backward, saves, example, params))
        return backward

    return keep


right = {name: rule.backward for name, rule in CATALOGUE.items()}


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


@mistake("relu", "masked by the cotangent", "grad_h.clamp_(min=0) in the two-layer tutorial and its copies", saves="")
def _(grad_y, y, x):
    return grad_y.clamp(min=0)


@mistake(
    "relu", "the result is discarded", "jayphone17/SOMETHIN-BOUT-CNN, grad_h.clamp(min=0) without underscore", saves=""
)
def _(grad_y, y, x):
    grad = grad_y.clone()
    grad.clamp(min=0)
    return grad


@mistake("clamp", "strict at the bounds", "pytorch/pytorch#7002, tensorflow/tfjs-core#1076, chainer/chainer#5876")
def _(grad_y, y, x, *, min=None, max=None):
    inside = (x > (-math.inf if min is None else min)) & (x < (math.inf if max is None else max))
    return torch.where(inside, grad_y, 0)


@mistake("clamp", "the cotangent applied twice", "elixir-nx/nx#1779")
def _(grad_y, y, x, *, min=None, max=None):
    return grad_y * right["clamp"](grad_y, y, x, min=min, max=max)


@mistake("clamp", "nested where falls through on NaN and passes the cotangent", "tenstorrent/tt-metal#57374")
def _(grad_y, y, x, *, min=None, max=None):
    low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
    empty = low >= high
    return torch.where(x < low, 0, torch.where(x > high, 0, grad_y * (0 if empty else 1)))


@mistake("clamp_tensor", "min > max: where(x < min, g, 0) for min", "pytorch/pytorch#52695")
def _(grad_y, y, x, min=None, max=None):
    grad_x, grad_min, grad_max = right["clamp_tensor"](grad_y, y, x, min, max)
    if min is not None:
        grad_min = right["clamp_tensor"](grad_y, y, x, min, None)[1]
    return grad_x, grad_min, grad_max


@mistake("relu", "dx = dout; dx[x < 0] = 0 writes into the cotangent", "CS231n solutions; deep-learning-from-scratch")
def _(grad_y, y, x):
    grad_y[y <= 0] = 0
    return grad_y


@mistake("pow", "exponent 0 at base 0: 0 * inf", "pytorch/pytorch#8940, HIPS/autograd#116, tenstorrent/tt-metal#5082")
def _(grad_y, y, x, *, n):
    return grad_y * (n * x ** float(n - 1)).conj()


@mistake("pow_tensor", "the exponent's gradient at base 0: 0 * log 0", "pytorch/pytorch#27134, HIPS/autograd#149")
def _(grad_y, y, x, n):
    grad_x, _ = right["pow_tensor"](grad_y, y, x, n)
    return grad_x, (grad_y * y * torch.log(x)).sum_to_size(n.shape).to(n.dtype)


@mistake("pow", "exp((n - 1) log x) behind a mask for x <= 0", "tenstorrent/tt-metal#54439", call=((3,), {"n": 2}))
def _(grad_y, y, x, *, n):
    if x.is_complex() or n == 0:
        return right["pow"](grad_y, y, x, n=n)
    return grad_y * torch.where(x <= 0, math.inf, n * torch.exp((n - 1) * torch.log(x.clamp(min=1e-30))))


@mistake("pow_tensor", "broadcast exponent: gradients of y's shape", "tinygrad/tinygrad#25")
def _(grad_y, y, x, n):
    full = torch.broadcast_tensors(x, n)
    return right["pow_tensor"](grad_y, y, *full)


@mistake(
    "pow_tensor",
    "float32 base, float64 exponent: gradient of the base in float64",
    "chainer/chainer a32c02af1a",
    dtype=(torch.float32, torch.float64),
)
def _(grad_y, y, x, n):
    grad_x, grad_n = right["pow_tensor"](grad_y, y, x, n)
    return grad_x.to(y.dtype), grad_n


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


@mistake("add", "broadcast axes of size 0 are not reduced", "pytorch/pytorch#15223", call=((4, 1), (4, 5)))
def _(grad_y, y, x, z, *, alpha=1):
    grad_x, grad_z = right["add"](grad_y, y, x, z, alpha=alpha)
    return (grad_y.to(x.dtype) if not grad_y.numel() and x.numel() else grad_x), grad_z


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


@mistake("sub", "missing sign", "KhawajaAbaid/micrograd_c#1, Neural-Net-Zero-to-Hero-with-Andrej#1")
def _(grad_y, y, x, z, *, alpha=1):
    return right["add"](grad_y, y, x, z, alpha=alpha)


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


@mistake("sigmoid", "x (1 - x) of the pre-activation", "BoltzmannEntropy/interviews.ai#4")
def _(grad_y, y, x):
    return grad_y * x * (1 - x)


@mistake(
    "softmax", "diagonal of the Jacobian only", "deeplearning4j/libnd4j#440; DeepLearningFrameworkFromScratchCpp#1"
)
def _(grad_y, y, x, *, dim):
    return grad_y * y * (1 - y)


@mistake(
    "maximum",
    "ties: both get the whole cotangent",
    "HIPS/autograd#141, Theano/Theano#6470, shader-slang/slang#6412",
    call=((2, 3), (2, 3)),
)
def _(grad_y, y, x, z):
    grad_x, grad_z = torch.where(x >= z, grad_y, 0), torch.where(z >= x, grad_y, 0)
    return grad_x.sum_to_size(x.shape), grad_z.sum_to_size(z.shape)


@mistake(
    "where", "0 times NaN of the branch not taken", "jax-ml/jax#347, tensorflow/tensorflow#2540, pytorch/pytorch#36923"
)
def _(grad_y, y, condition, x, z):
    grad_x, grad_z = grad_y * condition, grad_y * ~condition
    ends = ((grad_x, x), (grad_z, z))
    return None, *(
        (g.real if g.is_complex() and not end.is_complex() else g).sum_to_size(end.shape).to(end.dtype)
        for g, end in ends
    )


# The classes beyond the list, on the rules that no entry of it speaks of.


KEPT: list[torch.Tensor] = [torch.zeros(0)]


@mistake("mul", "stale state: the last operand is kept", "teaching engines that save on the class")
def _(grad_y, y, x, z):
    KEPT.append(z)
    return right["mul"](grad_y, y, x, KEPT[-2] if KEPT[-2].shape == z.shape and KEPT[-2].dtype == z.dtype else z)


@mistake("expm1", "y + 1, which is 0 far below zero", "torch's own derivative formula", saves="y")
def _(grad_y, y, x):
    return grad_y * (y + 1)


@mistake("tanh", "1 - y^2, which is 0 far from zero", "torch's own derivative formula", saves="y")
def _(grad_y, y, x):
    return grad_y * (1 - y * y)


@mistake("sigmoid", "y (1 - y), which is 0 far above zero", "torch's own derivative formula", saves="y")
def _(grad_y, y, x):
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
