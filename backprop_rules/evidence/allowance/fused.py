"""Operations that torch computes in one kernel, in terms of smaller ones.

Whatever the kernel does, its result y lies within |y - z| + r of the exact value if z, the same function
in terms of smaller operations, lies within r of it. In float64, where that is wider, r is next to nothing.
Here are those of which torch has no such terms itself, or looser ones.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation
from backprop_rules.evidence.allowance.units import FEW, apart, unit
from backprop_rules.subject.ambient import F32

aten = torch.ops.aten

# sqrt(2 / pi) to twice the precision of float64
ROOT = (float.fromhex("0x1.9884533d43651p-1"), float.fromhex("-0x1.cbc0d30ebfd15p-55"))


def exactly(x: Tensor) -> Tensor:
    """Return the same values as if they were exact: copied where no mode sees it."""
    with torch._C._DisableTorchDispatch():
        return x.clone()


def _scale(largest: Tensor) -> Tensor:
    """Return a number near the largest: divided by it no square overflows, and none that counts underflows."""
    return exactly(torch.exp2(torch.frexp(exactly(largest)).exponent.double() - 1))


def absolute(a: Tensor) -> Tensor:
    """|a| of a complex number."""
    parts = torch.view_as_real(a).abs()
    scale = _scale(parts.amax(-1, keepdim=True))
    return (parts / scale).square().sum(-1).sqrt() * scale.squeeze(-1)


def norm(a: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The norm of any order: infinity is the largest size, minus infinity the smallest, and 0 counts what is not 0."""
    dims, size = list(range(a.ndim)) if dim is None or dim == [] else dim, a.abs()
    if abs(ord) == math.inf:
        return size.amax(dims, keepdim) if ord > 0 else size.amin(dims, keepdim)
    if ord == 0:
        return (size != 0).to(size.dtype).sum(dims, keepdim)
    if ord == 1:
        return size.sum(dims, keepdim)
    if ord == 2:
        scale = _scale(size.amax())
        return (size / scale).square().sum(dims, keepdim).sqrt() * scale
    powers: Tensor = size.pow(ord).sum(dims, keepdim)
    return powers.pow(powers.new_ones(()) / ord)  # of which the exponent is rounded


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2)."""
    return norm(torch.stack(torch.broadcast_tensors(a, b)), 2, [0])


def remainder(a: Any, b: Any, rounding_mode: str) -> Tensor:
    """What is left of a when b is taken away a whole number of times."""
    left: Tensor = a - b * torch.div(torch.as_tensor(a), b, rounding_mode=rounding_mode)
    return left


def outside(grad: Tensor, a: Tensor, bound: float) -> Tensor:
    """The cotangent where |a| is above a bound, and 0 elsewhere."""
    return torch.where(a.abs() > bound, grad, 0.0)


def trilinear(a: Tensor, b: Tensor, c: Tensor, *how: Any) -> Tensor:
    """The sum over some axes of the products of three tensors, each of which is the same along axes of its own."""
    *expanded, summed = how[:4]
    for axes, k in zip(expanded, range(3), strict=True):
        for axis in axes:
            a, b, c = (x.unsqueeze(axis) if j == k else x for j, x in enumerate((a, b, c)))
    return (a * b * c).sum(summed)


def products_added(a: Tensor, b: Tensor, c: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta a + alpha sum(b @ c) over a batch, one after the other."""
    for k, (x, y) in enumerate(zip(b, c, strict=True)):
        a = torch.addmm(a, x, y, beta=1 if k else beta, alpha=alpha)
    return a


def var(a: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """The sum of squares about any number s, less the square of the sum about s over n: here s is near the mean."""
    if a.is_complex():
        own: dict[str, Any] = {"correction": correction, "keepdim": keepdim}
        return var(a.real, dim, **own) + var(a.imag, dim, **own)
    dims = list(range(a.ndim)) if dim is None or dim == [] else dim
    with torch._C._DisableTorchDispatch():  # s is what it is, whatever its own roundings
        near = a.mean(dims, keepdim=True)
    count = a.numel() // max(1, near.numel())
    away = a - near
    squares = away.pow(2).sum(dims, keepdim) - away.sum(dims, keepdim).pow(2) / count  # as `square` is made of it
    return squares / (count - (1 if correction is None else correction))


def var_mean(a: Tensor, dim: Any = None, **named: Any) -> tuple[Tensor, Tensor]:
    """The variance and the mean."""
    dims = list(range(a.ndim)) if dim is None or dim == [] else dim
    return var(a, dim, **named), a.mean(dims, named.get("keepdim", False))


def layer_norm(a: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(a - mean) / sqrt(var + eps) * weight + bias, the mean, and the factor."""
    dims = list(range(a.ndim - len(shape), a.ndim))
    mean = a.mean(dims, keepdim=True)
    rstd = (var(a, dims, correction=0, keepdim=True) + eps).rsqrt()
    y = a * rstd - mean * rstd  # as torch's kernel has it, and no better than (a - mean) * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


def layer_norm_backward(
    grad: Tensor, a: Tensor, shape: Any, mean: Tensor, rstd: Tensor, weight: Any, bias: Any, mask: Any
) -> tuple[Any, Any, Any]:
    """rstd (g - mean(g) - z mean(g z)) for z = (a - mean) rstd and g = grad weight; the sums of grad z and of grad."""
    inner = list(range(a.ndim - len(shape), a.ndim))
    outer = list(range(a.ndim - len(shape)))
    z = a * rstd - mean * rstd
    g = grad if weight is None else grad * weight
    first = rstd * (g - g.mean(inner, keepdim=True) - z * (g * z).mean(inner, keepdim=True)) if mask[0] else None
    weights = (grad * z).sum(outer) if outer else grad * z
    return first, weights if mask[1] else None, (grad.sum(outer) if outer else grad) if mask[2] else None


def batch_norm(
    a: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """(a - mean) / sqrt(var + eps) * weight + bias by running statistics, as in evaluation."""
    along = (1, -1, *[1] * (a.ndim - 2))
    y = (a - mean.reshape(along)) * (var + eps).rsqrt().reshape(along)
    y = y if weight is None else y * weight.reshape(along)
    return y if bias is None else y + bias.reshape(along), None, None


def group_norm(
    a: Tensor, weight: Any, bias: Any, count: int, channels: int, places: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer norm of each group of channels, times a weight and plus a bias for each channel."""
    normed, mean, rstd = layer_norm(a.reshape(count, groups, -1), (a.numel() // (count * groups),), None, None, eps)
    along = (1, channels, *[1] * (a.ndim - 2))
    y = normed.reshape(a.shape)
    y = y if weight is None else y * weight.reshape(along)
    y = y if bias is None else y + bias.reshape(along)
    return y, mean.reshape(count, groups), rstd.reshape(count, groups)


def softmax(a: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """exp(a - m) over its sum, for any m: here the largest."""
    e = (a - exactly(a.amax(dim, True))).exp()
    return e / e.sum(dim, keepdim=True)


def log_softmax(a: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """a - m - log(sum(exp(a - m))), for any m."""
    away = a - exactly(a.amax(dim, True))
    return away - away.exp().sum(dim, keepdim=True).log()


def logsumexp(a: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """m + log(sum(exp(a - m))), for any m."""
    m = exactly(a.amax(dim, True))
    return (a - m).exp().sum(dim, keepdim).log() + (m if keepdim else m.reshape(a.sum(dim).shape))


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """m + log(1 + exp(-|a - b|)) with m the larger, but in terms of s = a - b, smooth."""
    larger, smaller = torch.maximum(a, b), torch.minimum(a, b)
    m = exactly(larger)
    return m + ((larger - m) + (smaller - larger).exp().log1p())


def gelu(a: Tensor, *, approximate: str = "none") -> Tensor:
    """a Phi(a), or with tanh for the erf."""
    if approximate == "none":
        return a * 0.5 * (1 + torch.erf(a / a.new_tensor(2.0).sqrt()))  # as kernels have it, and no better than by erfc
    cubic = a + a * a * a * 0.044715
    return (
        a * 0.5 * (1 + torch.tanh(cubic * ROOT[0] + cubic * ROOT[1]))
    )  # and no better than by the sigmoid of twice it


def log_ndtr(a: Tensor) -> Tensor:
    """log((1 + erf(t)) / 2) for t = a / sqrt(2): by erfc above 1, by exp(t^2) erfc(-t) below, where that vanishes."""
    t = a / a.new_tensor(2.0).sqrt()
    above, below = (-0.5 * torch.erfc(t)).log1p(), (torch.special.erfcx(-t) / 2).log() - t * t
    return torch.where(exactly(a) < 1, below, above)


def angle(a: Tensor) -> Tensor:
    """The angle of a complex number; of a real one 0 or pi."""
    if not a.is_complex():
        return torch.where(a < 0, torch.zeros_like(a) + math.pi, 0.0)
    parts = torch.view_as_real(a)
    return torch.atan2(parts[..., 1], parts[..., 0])


def copysign(a: Tensor, b: Any) -> Tensor:
    """The size of a with the sign of b, which a zero has, too."""
    b = torch.as_tensor(b)
    return torch.where((b < 0) | (1 / exactly(b) < 0), -a.abs(), a.abs())


def margins_backward(
    grad: Tensor, a: Tensor, target: Tensor, p: int, margin: float, weight: Any = None, reduction: int = 1
) -> Tensor:
    """Of the mean over a row of max(0, margin - a_y + a_i)^p, i != y: its slopes, and less their sum at y."""
    rows, index = a.reshape(target.numel(), -1), target.reshape(-1, 1)
    z = margin - rows.gather(1, index) + rows
    others = torch.ones_like(rows).scatter(1, index, 0.0) / rows.shape[1]
    slopes = torch.where(z > 0, others if p == 1 else 2 * z * others, 0.0)
    slopes = slopes if weight is None else slopes * weight[index]
    each = grad.reshape(-1, 1) if reduction == 0 else grad / rows.shape[0] if reduction == 1 else grad
    return (slopes.scatter_add(1, index, -slopes.sum(1, keepdim=True)) * each).reshape(a.shape)


def softplus(a: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + exp(beta a)) / beta; a itself above a threshold that is meant, as torch defines it."""
    z = a * beta
    stable = (z.clamp_min(0) + (-z.abs()).exp().log1p()) / beta
    return torch.where(z > threshold, a, stable) if is_meant(threshold) else stable


def softplus_backward(grad: Tensor, a: Tensor, beta: float, threshold: float) -> Tensor:
    """grad sigmoid(beta a); grad itself above a threshold that is meant."""
    z = a * beta
    slope = grad * torch.sigmoid(z)
    return torch.where(z > threshold, grad, slope) if is_meant(threshold) else slope


def is_meant(threshold: float) -> bool:
    """Say whether a softplus is to be another above its threshold: not where float32 does not see what is left out."""
    return threshold <= -math.log(unit(F32).u)


def nll_loss(a: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int) -> tuple[Tensor, Tensor]:
    """The negative entries of the targets, weighted, none of those ignored; and the sum of their weights."""
    rows = a if a.ndim > 1 else a.unsqueeze(0)
    index, _, chosen = _targets(rows, target, weight, ignored)
    losses = -rows.gather(1, index) * chosen
    if reduction == 0:
        return losses.reshape(target.shape), torch.zeros_like(losses[0, 0])
    total = chosen.sum()
    return losses.sum() / total if reduction == 1 else losses.sum(), total


def _targets(rows: Tensor, target: Tensor, weight: Any, ignored: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the column of each row's target, whether it counts, and its weight: 0 of one that is ignored."""
    index = target.reshape(-1, 1)
    counts = index != ignored
    index = torch.where(counts, index, 0)
    weights = torch.ones_like(rows[:1]) if weight is None else weight.reshape(1, -1)
    return index, counts, torch.where(counts, weights.expand(rows.shape).gather(1, index), 0.0)


def nll_loss_backward(
    grad: Tensor, a: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int, total: Tensor
) -> Tensor:
    """The cotangent at the targets, times their negative weights, of a mean over the sum of these; 0 elsewhere."""
    rows = a if a.ndim > 1 else a.unsqueeze(0)
    index, counts, chosen = _targets(rows, target, weight, ignored)
    one = grad / total if reduction == 1 else grad.reshape(-1, 1)
    return torch.zeros_like(rows).scatter(1, index, torch.where(counts, -one * chosen, 0.0)).reshape(a.shape)


def whole_power(x: Tensor, exponent: Any) -> Tensor:
    """x to the power 0, 1, 2 or 3; torch takes logarithms for the others."""
    if isinstance(exponent, Tensor) or exponent not in range(4):
        raise NotImplementedError(f"no formula for the rounding of a complex base to the power {exponent}")
    power = torch.ones_like(x)
    for _ in range(int(exponent)):
        power = power * x
    return power


REFERENCES: dict[Any, Callable[..., Any]] = {
    aten.linalg_vector_norm: norm, aten.var: var, aten.var_mean: var_mean, aten._softmax: softmax,
    aten._log_softmax: log_softmax, aten.logsumexp: logsumexp, aten.logaddexp: logaddexp, aten.gelu: gelu,
    aten.native_layer_norm: layer_norm, aten.native_layer_norm_backward: layer_norm_backward,
    aten._native_batch_norm_legit_no_training: batch_norm, aten.native_group_norm: group_norm,
    aten.softplus: softplus, aten.softplus_backward: softplus_backward, aten.nll_loss_forward: nll_loss,
    aten.nll_loss_backward: nll_loss_backward,
    aten.std: lambda a, dim=None, **named: var(a, dim, **named).sqrt(),
    aten.norm: lambda a, p=2, dim=None, keepdim=False, **_: norm(a, 2 if p is None else p, dim, keepdim),
    aten.hypot: hypotenuse,
    aten.fmod: lambda a, b: remainder(a, b, "trunc"), aten.remainder: lambda a, b: remainder(a, b, "floor"),
    aten.hardshrink_backward: outside, aten.softshrink_backward: outside,
    aten._trilinear: trilinear, aten.addbmm: products_added, aten.special_log_ndtr: log_ndtr, aten.angle: angle,
    aten.copysign: copysign, aten.multi_margin_loss_backward: margins_backward,
    aten.addcmul: lambda a, b, c, *, value=1: a + (b * c) * value,
    # The gradients through y: of the sigmoid, of tanh, of the softmax and its logarithm.
    aten.sigmoid_backward: lambda grad, y: grad * (y * (1 - y)).conj_physical(),
    aten.tanh_backward: lambda grad, y: grad * (1 - y * y).conj_physical(),
    aten._softmax_backward_data: lambda grad, y, dim, dtype: y * grad - y * (y * grad).sum(dim, keepdim=True),
    aten._log_softmax_backward_data: lambda grad, y, dim, dtype: grad - y.exp() * grad.sum(dim, keepdim=True),
}  # fmt: skip
# The same for complex operands alone.
COMPLEX_REFERENCES: dict[Any, Callable[..., Any]] = {
    aten.abs: absolute,
    aten.sgn: lambda a: torch.where(a == 0, a, a / a.abs()),
    aten.pow: whole_power,
}

# What the numbers of float64 nearest to pi / 180, 180 / pi and pi, by which torch's own terms multiply, are off by, and
# so the result: of sin(z) / z by |cos(z) - sin(z) / z| <= 1.07 times the share of z, and by z^2 / 3 times, near 0.
CONSTANTS: dict[Any, Callable[[Any], Any]] = {
    aten.deg2rad: lambda most: most * 2.95e-19,
    aten.rad2deg: lambda most: most * 1.99e-15,
    aten.sinc: lambda most: ((most * math.pi).square() / 3).clamp_max(1.07) * 3.9e-17,
}


def of_constants(op: Operation, a: Tensor) -> Tensor | None:
    """Return what the rounding of a constant changes of a result, in each evaluation."""
    found = CONSTANTS.get(op.func.overloadpacket)
    return found(op.operand(a).grown()) * op.evaluations if found is not None and a.numel() else None


def distance(op: Operation, found: Tensor, reference: Tensor, radius: Tensor | None) -> Tensor | None:
    """Return |y - z| + r, where y is not finite infinity."""
    if not (found.is_floating_point() or found.is_complex()):
        return radius
    off = apart(found, reference).mul_(FEW)
    if radius is None and not op.flushes and not bool(off.any()):
        return op.stored_exactly()  # type: ignore[no-any-return]
    if op.flushes:
        off += 2 * unit(found.dtype).normal
    return op.stored(off if radius is None else off.add_(radius))
