"""Wrong rules for reductions, products, losses and normalisations, one change each from the right one."""

import itertools

import torch
from planting import Plantings, right

from backprop_rules.catalogue.broadcasting import in_float32, unreduce

PLANTED = Plantings()
plant = PLANTED.plant


@plant("sum", "returns ones", 2)
def _(grad_y, y, x, *, dim=None, keepdim=False, dtype=None):
    return torch.ones_like(x)


@plant("sum", "reduced axis restored in front", 12)
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


@plant("transpose", "not transposed back", 8)
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


@plant("matmul", "missing un-broadcast", 5)
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


@plant("log_softmax", "missing softmax", 4)
def _(grad_y, y, x, *, dim):
    return grad_y - grad_y.sum(dim, keepdim=True)


@plant("logsumexp", "exponentials without their sum", 2)
def _(grad_y, y, x, *, dim, keepdim=False):
    return right["logsumexp"](grad_y, y, x, dim=dim, keepdim=keepdim) * 2


@plant("concatenate", "cut in the middle", 6)
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


@plant("norm", "something else at the zero vector", 2)
def _(grad_y, y, x, *, p, dim=None, keepdim=False):
    g, size = (unreduce(some, x, dim, keepdim) for some in (grad_y, y))
    gradient = right["norm"](grad_y, y, x, p=p, dim=dim, keepdim=keepdim)
    return torch.where(size == 0, g, gradient) if p == 2 else gradient


@plant("layer_norm", "the mean of the squares forgotten", 4)
@in_float32
def _(grad_y, y, x, weight=None, bias=None, *, eps=1e-5):
    _, grad_weight, grad_bias = right["layer_norm"](grad_y, y, x, weight, bias, eps=eps)
    g = grad_y if weight is None else grad_y * weight
    scale = torch.rsqrt(x.var(-1, correction=0, keepdim=True) + eps)
    return scale * (g - g.mean(-1, keepdim=True)), grad_weight, grad_bias
