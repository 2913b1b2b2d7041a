"""Wrong rules, one change each from the right one: what the checker must object to, by rule and mistake."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from backprop_rules import CATALOGUE, Rule
from backprop_rules.catalogue.broadcasting import in_float32, unreduce

Backward = Callable[..., Any]


@dataclass(frozen=True)
class Planted:
    """A wrong backward for a rule of the catalogue, and how many elements its smallest counterexample has."""

    rule: str
    mistake: str
    backward: Backward
    elements: int

    def __str__(self) -> str:
        return f"{self.rule}: {self.mistake}"

    def as_rule(self) -> Rule:
        """Return the catalogue's rule with this backward in the place of the right one."""
        return replace(CATALOGUE[self.rule], backward=self.backward)


PLANTED: list[Planted] = []


def plant(rule: str, mistake: str, elements: int) -> Callable[[Backward], Backward]:
    def keep(backward: Backward) -> Backward:
        PLANTED.append(Planted(rule, mistake, backward, elements))
        return backward

    return keep


right = {name: rule.backward for name, rule in CATALOGUE.items()}


@plant("add", "missing un-broadcast", 3)
def _(grad_y, y, x, z, *, alpha=1):
    return grad_y, grad_y * alpha.conjugate()


@plant("add", "missing conjugate of the factor", 3)
def _(grad_y, y, x, z, *, alpha=1):
    return right["add"](grad_y, y, x, z, alpha=alpha.conjugate())


@plant("add", "promoted dtype", 3)
def _(grad_y, y, x, z, *, alpha=1):
    grad_x, grad_z = right["add"](grad_y, y, x, z, alpha=alpha)
    return grad_x.to(y.dtype), grad_z


@plant("sub", "missing sign", 3)
def _(grad_y, y, x, z, *, alpha=1):
    return right["add"](grad_y, y, x, z, alpha=alpha)


@plant("mul", "missing conjugate", 3)
def _(grad_y, y, x, z):
    return right["mul"](grad_y, y, x.conj(), z)


@plant("mul", "the operand itself is returned", 3)
def _(grad_y, y, x, z):
    return right["mul"](torch.ones_like(grad_y), y, x, z)


@plant("neg", "missing sign", 2)
def _(grad_y, y, x):
    return grad_y.clone()


@plant("neg", "swallows NaN", 2)
def _(grad_y, y, x):
    return -torch.where(grad_y.isfinite(), grad_y, 0)


@plant("neg", "returns a list of numbers", 2)
def _(grad_y, y, x):
    return [0.0]


@plant("neg", "writes into the cotangent", 2)
def _(grad_y, y, x):
    return grad_y.neg_()


@plant("square", "missing factor", 2)
def _(grad_y, y, x):
    return grad_y * x.conj()


@plant("square", "the cotangent is squared", 2)
def _(grad_y, y, x):
    return grad_y * grad_y * (2 * x.conj())


@plant("pow", "missing factor", 2)
def _(grad_y, y, x, *, n):
    return grad_y * (x ** (n - 1)).conj() if n else torch.zeros_like(x)


@plant("pow", "0 * 0 ** -1 at exponent 0", 2)
def _(grad_y, y, x, *, n):
    return grad_y * (n * x ** float(n - 1)).conj()


@plant("relu", "missing mask", 2)
def _(grad_y, y, x):
    return grad_y.clone()


@plant("relu", "mask from the cotangent", 2)
def _(grad_y, y, x):
    return grad_y.clamp(min=0)


@plant("relu", "writes into the cotangent", 2)
def _(grad_y, y, x):
    grad_y[y <= 0] = 0
    return grad_y


@plant("relu", "reads an undeclared value", 2)
def _(grad_y, y, x):
    return torch.where(x > 0, grad_y, 0)


@plant("relu", "inclusive mask", 2)
def _(grad_y, y, x):
    return torch.where(y >= 0, grad_y, 0)


@plant("relu", "multiplies by the mask, so that NaN spreads", 2)
def _(grad_y, y, x):
    return grad_y * (y > 0)


@plant("clamp", "strict mask", 2)
def _(grad_y, y, x, *, min=None, max=None):
    inside = (x > (-math.inf if min is None else min)) & (x < (math.inf if max is None else max))
    return torch.where(inside, grad_y, 0)


@plant("clamp", "bounds rounded to bfloat16", 2)
def _(grad_y, y, x, *, min=None, max=None):
    low, high = (None if b is None else torch.tensor(b).bfloat16().item() for b in (min, max))
    return right["clamp"](grad_y, y, x, min=low, max=high)


@plant("clamp", "the cotangent is clamped", 2)
def _(grad_y, y, x, *, min=None, max=None):
    return grad_y.clamp(min, max)


@plant("clamp", "upper bound forgotten", 2)
def _(grad_y, y, x, *, min=None, max=None):
    return right["clamp"](grad_y, y, x, min=min, max=None)


@plant("clamp_tensor", "a bound has no gradient", 3)
def _(grad_y, y, x, min=None, max=None):
    grad_x, _, grad_max = right["clamp_tensor"](grad_y, y, x, min, max)
    return grad_x, None, grad_max


@plant("clamp_tensor", "min > max forgotten", 4)
def _(grad_y, y, x, min=None, max=None):
    grad_x, grad_min, grad_max = right["clamp_tensor"](grad_y, y, x, min, max)
    if min is not None and max is not None:
        grad_max = right["clamp_tensor"](grad_y, y, x, None, max)[2]
    return grad_x, grad_min, grad_max


@plant("sum", "returns ones", 2)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    return torch.ones_like(x)


@plant("sum", "reduced axis restored in front", 6)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    if not keepdim and isinstance(dim, int) and x.ndim and x.shape[0] == x.shape[dim] == x.shape[-1]:
        return grad_y.unsqueeze(0).expand(x.shape).to(x.dtype)
    return right["sum"](grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@plant("sum", "axes restored in the order in which they are named", 2)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    if isinstance(dim, tuple) and x.ndim and not keepdim:
        for axis in dim:
            grad_y = grad_y.unsqueeze(axis % x.ndim)
        return grad_y.expand(x.shape).to(x.dtype)
    return right["sum"](grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@plant("sum", "the cotangent goes through float32", 2)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    narrow = grad_y.to(torch.complex64 if grad_y.is_complex() else torch.float32).to(grad_y.dtype)
    return right["sum"](narrow, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@plant("mean", "sum instead of mean", 3)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    return right["sum"](grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype)


@plant("mean", "divided by all elements", 4)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    return right["sum"](grad_y, y, x, dim=dim, keepdim=keepdim, dtype=dtype) / x.numel()


@plant("transpose", "not transposed back", 4)
def _(grad_y, y, x, *, dim0, dim1):
    return grad_y


@plant("matmul", "missing transpose of b", 8)
def _(grad_y, y, a, b):
    grad_a, grad_b = right["matmul"](grad_y, y, a, b)
    if b.ndim > 1 and b.shape[-1] == b.shape[-2]:  # the shapes betray it otherwise
        grad_a, _ = right["matmul"](grad_y, y, a, b.mT)
    return grad_a, grad_b


@plant("matmul", "missing conjugate", 3)
def _(grad_y, y, a, b):
    return right["matmul"](grad_y, y, a.conj(), b)


@plant("matmul", "missing un-broadcast", 3)
def _(grad_y, y, a, b):
    return (grad_y @ b.mH, a.mH @ grad_y) if a.ndim > 1 and b.ndim > 1 else right["matmul"](grad_y, y, a, b)


@plant("matmul", "reads the cotangent as if contiguous", 5)
def _(grad_y, y, a, b):
    as_if = grad_y.as_strided(grad_y.shape, torch.empty(grad_y.shape).stride(), grad_y.storage_offset())
    return right["matmul"](as_if, y, a, b)


@plant("matmul", "float64 through float32", 3)
def _(grad_y, y, a, b):
    if grad_y.dtype != torch.float64:
        return right["matmul"](grad_y, y, a, b)
    narrow = right["matmul"](grad_y.float(), y.float(), a.float(), b.float())
    return tuple(gradient.double() for gradient in narrow)


@plant("linear", "the bias's gradient is summed in float32", 4)
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    if grad_b is not None and grad_b.dtype == torch.float64:
        grad_b = grad_y.float().sum_to_size(b.shape).double()
    return grad_x, grad_w, grad_b


@plant("linear", "mean over the batch for the bias", 6)
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    return grad_x, grad_w, None if grad_b is None else grad_b / max(1, y.numel() // max(1, b.numel()))


CALLS = itertools.count()


@plant("linear", "the weight's gradient grows from call to call", 3)
def _(grad_y, y, x, w, b=None):
    grad_x, grad_w, grad_b = right["linear"](grad_y, y, x, w, b)
    return grad_x, grad_w + next(CALLS), grad_b


@plant("linear", "reads only the first element of the cotangent", 5)
def _(grad_y, y, x, w, b=None):
    g = grad_y.reshape(-1)[:1].expand(grad_y.numel()).reshape(grad_y.shape) if grad_y.numel() else grad_y
    return right["linear"](g, y, x, w, b)


@plant("sum_of_squared_errors", "missing factor", 3)
def _(grad_y, y, prediction, target):
    grad_prediction, grad_target = right["sum_of_squared_errors"](grad_y, y, prediction, target)
    return grad_prediction / 2, grad_target


@plant("sum_of_squared_errors", "the cotangent is ignored", 3)
def _(grad_y, y, prediction, target):
    return right["sum_of_squared_errors"](torch.ones_like(grad_y), y, prediction, target)


@plant("half_squared_error", "missing sign for the target", 3)
def _(grad_y, y, prediction, target):
    grad_prediction, grad_target = right["half_squared_error"](grad_y, y, prediction, target)
    return grad_prediction, -grad_target


@plant("half_squared_error", "detached, so that no second derivative is left", 3)
def _(grad_y, y, prediction, target):
    return right["half_squared_error"](grad_y, y, prediction.detach(), target.detach())


@plant("div", "z in the place of its square", 3)
def _(grad_y, y, x, z):
    grad_x, grad_z = right["div"](grad_y, y, x, z)
    return grad_x, grad_z * z.conj()


@plant("reciprocal", "missing sign", 2)
def _(grad_y, y, x):
    return grad_y * y.conj() * y.conj()


@plant("sqrt", "missing factor", 2)
def _(grad_y, y, x):
    return grad_y / y


@plant("rsqrt", "one factor y too few", 2)
def _(grad_y, y, x):
    return grad_y * y * y * -0.5


@plant("exp", "the cotangent is ignored", 2)
def _(grad_y, y, x):
    return y.clone()


@plant("exp", "through bfloat16", 2)
def _(grad_y, y, x):
    return (grad_y.bfloat16() * y.bfloat16()).to(y.dtype)


@plant("log", "the inverse of x rounded first, to float16", 2)
def _(grad_y, y, x):
    return grad_y * (1 / x).half().to(x.dtype)


@plant("log1p", "the derivative of log", 2)
def _(grad_y, y, x):
    return grad_y / x


@plant("sin", "the derivative is sin", 2)
def _(grad_y, y, x):
    return grad_y * torch.sin(x)


@plant("cos", "missing sign", 2)
def _(grad_y, y, x):
    return grad_y * torch.sin(x)


@plant("erf", "the constant to four digits", 2)
def _(grad_y, y, x):
    return grad_y * (1.128 * torch.exp(-x * x))


@plant("abs", "the sign of the cotangent", 2)
def _(grad_y, y, x):
    return x * torch.sign(grad_y)


@plant("minimum", "the gradients of maximum", 3)
def _(grad_y, y, x, z):
    return right["maximum"](grad_y, y, x, z)


@plant("softplus", "linear above the threshold 20", 2)
def _(grad_y, y, x):
    return torch.where(x > 20, grad_y, right["softplus"](grad_y, y, x))


@plant("silu", "missing product rule", 2)
def _(grad_y, y, x):
    return grad_y * torch.sigmoid(x)


@plant("gelu", "the derivative of its approximation by tanh", 2)
def _(grad_y, y, x):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        approximation = torch.nn.functional.gelu(leaf, approximate="tanh")
        return torch.autograd.grad(approximation, leaf, grad_y)[0]


@plant("log_softmax", "missing softmax", 4)
def _(grad_y, y, x, *, dim):
    return grad_y - grad_y.sum(dim, keepdim=True)


@plant("logsumexp", "exponentials without their sum", 2)
def _(grad_y, y, x, *, dim, keepdim=False):
    return right["logsumexp"](grad_y, y, x, dim=dim, keepdim=keepdim) * 2


@plant("concatenate", "cut in the middle", 8)
def _(grad_y, y, x, z):
    half = grad_y.shape[1] // 2
    return grad_y[:, :half], grad_y[:, half:]


@plant("softmax", "a NaN in one row reaches them all", 4)
def _(grad_y, y, x, *, dim):
    return right["softmax"](grad_y, y, x, dim=dim) + (grad_y * 0).sum()


@plant("norm", "the tied elements do not share", 3)
def _(grad_y, y, x, *, p, dim=None, keepdim=False):
    if p <= 2:
        return right["norm"](grad_y, y, x, p=p, dim=dim, keepdim=keepdim)
    g, largest = (unreduce(some, x, dim, keepdim) for some in (grad_y, y))
    return torch.where(x.abs() == largest, g * torch.sign(x), 0)


@plant("norm", "something else at the zero vector", 3)
def _(grad_y, y, x, *, p, dim=None, keepdim=False):
    g, size = (unreduce(some, x, dim, keepdim) for some in (grad_y, y))
    gradient = right["norm"](grad_y, y, x, p=p, dim=dim, keepdim=keepdim)
    return torch.where(size == 0, g, gradient) if p == 2 else gradient


@plant("sigmoid", "a quarter near zero", 2)
def _(grad_y, y, x):
    return torch.where(x.abs() < 1e-3, grad_y / 4, right["sigmoid"](grad_y, y, x))


@plant("exp", "detached, so that the second derivative is lost", 2)
def _(grad_y, y, x):
    return grad_y * y.detach()


@plant("sigmoid", "detached, so that the second derivative is lost", 2)
def _(grad_y, y, x):
    return right["sigmoid"](grad_y, y, x.detach())


@plant("pow_tensor", "a base of 1 wherever the exponent is 0", 3)
def _(grad_y, y, x, n):
    grad_x = grad_y * (n * torch.where(n == 0, 1, x) ** (n - 1))
    return grad_x.sum_to_size(x.shape).to(x.dtype), right["pow_tensor"](grad_y, y, x, n)[1]


@plant("layer_norm", "the mean of the squares forgotten", 4)
@in_float32
def _(grad_y, y, x, weight=None, bias=None, *, eps=1e-5):
    _, grad_weight, grad_bias = right["layer_norm"](grad_y, y, x, weight, bias, eps=eps)
    g = grad_y if weight is None else grad_y * weight
    scale = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + eps)
    return scale * (g - g.mean(-1, keepdim=True)), grad_weight, grad_bias
