"""Wrong rules that people published for functions of one number at each place."""

import math

import torch
from published import Published, right

MISTAKES = Published()
mistake = MISTAKES.mistake


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


@mistake("add", "broadcast axes of size 0 are not reduced", "pytorch/pytorch#15223", call=((4, 1), (4, 5)))
def _(grad_y, y, x, z, *, alpha=1):
    grad_x, grad_z = right["add"](grad_y, y, x, z, alpha=alpha)
    return (grad_y.to(x.dtype) if not grad_y.numel() and x.numel() else grad_x), grad_z


@mistake("sub", "missing sign", "KhawajaAbaid/micrograd_c#1, Neural-Net-Zero-to-Hero-with-Andrej#1")
def _(grad_y, y, x, z, *, alpha=1):
    return right["add"](grad_y, y, x, z, alpha=alpha)


@mistake("sigmoid", "x (1 - x) of the pre-activation", "BoltzmannEntropy/interviews.ai#4")
def _(grad_y, y, x):
    return grad_y * x * (1 - x)


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
