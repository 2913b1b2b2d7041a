"""Right backwards of smooth functions, element by element."""

import math

import torch
from right_entry import Right, into, normal, positive, wide
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

ELEMENTWISE: dict[str, Right] = {}
right = into(ELEMENTWISE)


@right("exp", torch.exp, normal(float64, (2, 3)))
def _(grad_y, y, x):
    return grad_y * y


@right("expm1", torch.expm1, normal(float32, (4,)))
def _(grad_y, x):
    return grad_y * torch.exp(x)


@right("log", torch.log, positive(float32, (2, 3)))
def _(grad_y, x):
    return grad_y / x


@right("log1p", torch.log1p, positive(bfloat16, (3,)))
def _(grad_y, x):
    return grad_y / (1 + x)


@right("sin", torch.sin, normal(float64, (3, 2)))
def _(grad_y, x):
    return grad_y * torch.cos(x)


@right("tanh", torch.tanh, normal(float64, (2, 3)))
def _(grad_y, y, x):
    return grad_y * (1 - y * y)


@right("sigmoid", torch.sigmoid, normal(bfloat16, (2, 3)))
def _(grad_y, x):
    s = torch.sigmoid(x)
    return grad_y * s * (1 - s)


@right("logsigmoid", functional.logsigmoid, normal(float32, (5,)))
def _(grad_y, x):
    return grad_y * torch.sigmoid(-x)


@right("gelu", functional.gelu, normal(float32, (2, 3)))
def _(grad_y, x):
    v = wide(x)
    cdf = torch.special.erfc(-v / math.sqrt(2)) / 2
    pdf = torch.exp(-v * v / 2) / math.sqrt(2 * math.pi)
    return (grad_y * (cdf + v * pdf)).to(x.dtype)


@right("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh"), normal(float16, (2, 3)))
def _(grad_y, x):
    # Further out the tanh is flat, and the cube would overflow.
    v, scale = wide(x).clamp(-30, 30), math.sqrt(2 / math.pi)
    t = torch.tanh(scale * (v + 0.044715 * v**3))
    slope = (1 - t * t) * scale * (1 + 3 * 0.044715 * v * v)
    return (grad_y * (0.5 * (1 + t) + 0.5 * v * slope)).to(x.dtype)


@right("silu", functional.silu, normal(float64, (2, 3)))
def _(grad_y, x):
    v = wide(x)
    s = torch.sigmoid(v)
    return (grad_y * s * (1 + v * (1 - s))).to(x.dtype)


@right("softplus, by its exact derivative", functional.softplus, normal(float64, (4, 5)))
def _(grad_y, x):
    return grad_y * torch.sigmoid(x)


@right("softplus", functional.softplus, normal(float32, (2, 3)))
def _(grad_y, x):
    # Beyond 20 torch's softplus is x itself.
    return torch.where(x > 20, grad_y, grad_y * torch.sigmoid(x))


@right("mish", functional.mish, normal(float64, (4,)))
def _(grad_y, x):
    v = wide(x)
    t, s = torch.tanh(functional.softplus(v)), torch.sigmoid(v)
    return (grad_y * (t + v * s * (1 - t * t))).to(x.dtype)


@right("erf", torch.erf, normal(bfloat16, (3,)))
def _(grad_y, x):
    v = wide(x)
    return (grad_y * (2 / math.sqrt(math.pi)) * torch.exp(-v * v)).to(x.dtype)


@right("atan", torch.atan, normal(float64, (2, 3)))
def _(grad_y, x):
    return grad_y / (1 + x * x)


@right("atan2", torch.atan2, normal(float32, (2, 3), (2, 3)))
def _(grad_y, a, b):
    r = torch.hypot(a, b)
    grad_a, grad_b = grad_y * (b / r) / r, -grad_y * (a / r) / r
    return torch.where(r == 0, 0, grad_a), torch.where(r == 0, 0, grad_b)


@right("hypot", torch.hypot, normal(float64, (2, 3), (3,)))
def _(grad_y, y, a, b):
    return (grad_y * (a / y)).sum_to_size(a.shape), (grad_y * (b / y)).sum_to_size(b.shape)


@right("pow", torch.pow, positive(float64, (2, 3), (3,)))
def _(grad_y, y, x, n):
    v, m = wide(x), wide(n)
    grad_x = torch.where(n == 0, 0, grad_y * m * v.pow(m - 1))
    grad_n = torch.where((x == 0) & (n >= 0), 0, grad_y * y * v.log())
    return grad_x.sum_to_size(x.shape).to(x.dtype), grad_n.sum_to_size(n.shape).to(n.dtype)


@right("cube", lambda x: x**3, normal(float16, (3, 2)))
def _(grad_y, x):
    return grad_y * 3 * x**2


@right("sqrt", torch.sqrt, positive(float64, (2, 3)))
def _(grad_y, y, x):
    return grad_y / (2 * y)


@right("rsqrt", torch.rsqrt, positive(float32, (2, 3)))
def _(grad_y, y, x):
    return -0.5 * grad_y * y**3


@right("mul", torch.mul, normal(float16, (2, 3), (2, 1)))
def _(grad_y, x, z):
    return (grad_y * z).sum_to_size(x.shape), (grad_y * x).sum_to_size(z.shape)


@right("div", torch.div, positive(float32, (2, 3), (3,)))
def _(grad_y, y, x, z):
    return (grad_y / z).sum_to_size(x.shape), (-grad_y * (y / z)).sum_to_size(z.shape)


@right("lerp", torch.lerp, normal(float64, (2, 3), (2, 3), (2, 3)))
def _(grad_y, a, b, w):
    return grad_y * (1 - w), grad_y * w, grad_y * (b - a)


@right("addcmul", lambda x, a, b: torch.addcmul(x, a, b, value=0.5), normal(float32, (3,), (2, 3), (2, 1)))
def _(grad_y, x, a, b):
    shares = (grad_y, 0.5 * grad_y * b, 0.5 * grad_y * a)
    return tuple(share.sum_to_size(v.shape) for share, v in zip(shares, (x, a, b), strict=True))


@right("swiglu", lambda gate, up: functional.silu(gate) * up, normal(bfloat16, (2, 4), (2, 4)))
def _(grad_y, gate, up):
    g, v = wide(grad_y), wide(gate)
    s = torch.sigmoid(v)
    grad_gate = g * wide(up) * s * (1 + v * (1 - s))
    return grad_gate.to(gate.dtype), (g * v * s).to(up.dtype)


def lstm_state(i, f, g, o, c):
    return torch.sigmoid(o) * torch.tanh(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))


@right("lstm_cell", lstm_state, normal(float64, (2, 3), (2, 3), (2, 3), (2, 3), (2, 3)))
def _(grad_y, i, f, g, o, c):
    dtype, (grad_y, i, f, g, o, c) = i.dtype, map(wide, (grad_y, i, f, g, o, c))
    i, f, o, g = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)
    t = torch.tanh(f * c + i * g)
    grad_o = grad_y * t * o * (1 - o)
    grad_state = grad_y * o * (1 - t * t)
    grad_i = grad_state * g * i * (1 - i)
    grad_f = grad_state * c * f * (1 - f)
    grad_g = grad_state * i * (1 - g * g)
    return tuple(v.to(dtype) for v in (grad_i, grad_f, grad_g, grad_o, grad_state * f))
