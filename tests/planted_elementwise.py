"""Wrong rules for functions of one number at each place, one change each from the right one."""

import math

import torch
from planting import Plantings, right

PLANTED = Plantings()
plant = PLANTED.plant


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
