"""Reports on functions of one number and another."""

import math

import torch
from reported import Reported, complexes, into, numbers
from torch.nn import functional

ELEMENTWISE: list[Reported] = []
reported = into(ELEMENTWISE)
X, OTHER = numbers(3, 4), numbers(3, 4, seed=1)
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772


@reported("selu by its output: scaled once more", "RubixML/ML#427", functional.selu, X)
def _(grad_y, y, x):
    return grad_y * torch.where(x > 0, SCALE, SCALE * (y + ALPHA))


@reported("elu of negative alpha: who was above 0 is read from the output", "pytorch/pytorch#47671",
          lambda x: functional.elu(x, -0.5), X)  # fmt: skip
def _(grad_y, y, x):
    return grad_y * torch.where(y <= 0, y - 0.5, 1)


@reported("softplus: the threshold is held against the output", "pytorch/pytorch#55587",
          lambda x: functional.softplus(x, 3.0, 1.0), X)  # fmt: skip
def _(grad_y, y, x):
    return grad_y * torch.where(3 * y > 1, 1, -torch.expm1(-3 * y))


@reported("softplus: its slope where the cotangent is", "NVlabs/tiny-cuda-nn#130",
          lambda x: functional.softplus(x, 10.0), X)  # fmt: skip
def _(grad_y, x):
    return grad_y * torch.sigmoid(10 * grad_y)


@reported("smooth L1 without a smooth part: 0 / 0 where both are equal", "pytorch/pytorch#96813",
          lambda x, t: functional.smooth_l1_loss(x, t, beta=0.0, reduction="none"), X, OTHER)  # fmt: skip
def _(grad_y, x, t):
    grad = grad_y * torch.where(x < t, -1, torch.where(x > t, 1, (x - t) / 0.0))
    return grad, -grad


@reported("remainder of a division: rounded down, not towards 0", "jax-ml/jax#11466",
          torch.fmod, 4 * X, OTHER.abs() + 0.5)  # fmt: skip
def _(grad_y, x, d):
    return grad_y.clone(), -grad_y * torch.floor(x / d)


@reported("remainder of a division: no gradient for the divisor", "shader-slang/slang#10080",
          torch.fmod, 4 * X, OTHER.abs() + 0.5)  # fmt: skip
def _(grad_y, x, d):
    return grad_y.clone(), torch.zeros_like(d)


@reported("copysign: its own sign forgotten", "chalk-lab/Mooncake.jl#1195",
          lambda x: torch.copysign(x, OTHER[0].to(x)), X)  # fmt: skip
def _(grad_y, x):
    return grad_y * OTHER[0].to(x).sign()


@reported("cosh: the sign of cos", "casadi/casadi#2585", torch.cosh, X)
def _(grad_y, x):
    return -grad_y * torch.sinh(x)


@reported("atan2: the two terms exchanged", "getkeops/keops#155", torch.atan2, X, OTHER)
def _(grad_y, a, b):
    square = a * a + b * b
    return -grad_y * a / square, grad_y * b / square


@reported("atan2: divided by the length, and no minus", "JuliaDiff/ChainRules.jl#79", torch.atan2, X, OTHER)
def _(grad_y, a, b):
    return grad_y * b / torch.hypot(a, b), grad_y * a / torch.hypot(a, b)


@reported("hypot: the two partial derivatives exchanged", "JuliaDiff/ChainRules.jl#74", torch.hypot, X, OTHER)
def _(grad_y, y, a, b):
    return grad_y * b / y, grad_y * a / y


@reported("ldexp: the cotangent twice", "tenstorrent/tt-metal#6542", lambda x, e: x * 2**e, X, OTHER)
def _(grad_y, x, e):
    grad_x = grad_y * 2**e
    return grad_x, grad_y * x * math.log(2) * grad_x


@reported("atanh: NaN where the cotangent is 0", "tenstorrent/tt-metal#56378", torch.atanh, X.tanh() * 0.9)
def _(grad_y, x):
    return torch.where((grad_y == 0) & (x != 0), math.nan, grad_y / ((1 - x) * (1 + x)))


@reported("the gradient of log, differentiated: the cotangent of the inner one squared", "apache/mxnet#15120",
          lambda grad, x: grad / x, X, OTHER.abs() + 0.5)  # fmt: skip
def _(grad_y, grad, x):
    return grad_y * grad / x, -grad_y * (grad / x) ** 2


@reported("product of complex numbers: the conjugate is missing", "ml-explore/mlx#3433",
          torch.prod, complexes(3))  # fmt: skip
def _(grad_y, y, z):
    return grad_y * y / z


@reported("sign of a complex number: taken for a constant", "JuliaDiff/ChainRules.jl#211",
          torch.sgn, complexes(4))  # fmt: skip
def _(grad_y, z):
    return torch.zeros_like(z)


@reported("exp of a complex number: the conjugate is missing", "ml-explore/mlx#3605", torch.exp, complexes(4))
def _(grad_y, y, z):
    return grad_y * y


@reported("sign: the rule of the absolute value", "NVIDIA/warp#1466", lambda v: v.sign() + 0 * v, X)
def _(grad_y, v):
    return torch.where(v < 0, -grad_y, grad_y)


@reported("sqrt: the power of the reciprocal", "raskr/rust-autograd#37", torch.sqrt, X.abs() + 0.25)
def _(grad_y, x):
    return grad_y / 2 / x


@reported("logaddexp: the numbers in the place of their exponentials", "rsokl/MyGrad#21", torch.logaddexp, X, OTHER)
def _(grad_y, a, b):
    total = a.exp() + b.exp()
    return grad_y * a / total, grad_y * b / total


@reported("squared difference: what came in is returned", "SciSharp/TensorFlow.NET#787",
          lambda a, b: (a - b) ** 2, X, OTHER)  # fmt: skip
def _(grad_y, a, b):
    return a.clone(), b.clone()


@reported("mish in closed form: a term is missing", "explosion/thinc#578", functional.mish, X)
def _(grad_y, x):
    e = x.exp()
    return grad_y * e * (4 * (x + 1) + 4 * e * e + e * (4 * x + 6)) / (2 * e + e * e + 2) ** 2


@reported("leaky relu of slope 0: who was below 0 is read from the output", "chainer/chainer#5922",
          lambda x: functional.leaky_relu(x, 0.0), X)  # fmt: skip
def _(grad_y, y, x):
    return torch.where(y < 0, 0, grad_y)


@reported("leaky relu: the rule of relu", "scientific-computing/FKB#15", lambda x: functional.leaky_relu(x, 0.3), X)
def _(grad_y, x):
    return torch.where(0.3 * x > 0, grad_y, 0)


@reported("absolute: x / |x| at 0", "HIPS/autograd#712", torch.absolute, X)
def _(grad_y, x):
    return grad_y * x / x.abs()


@reported("asin: the cotangent is left out", "autodiff/autodiff#205", torch.asin, X.tanh() * 0.9)
def _(grad_y, x):
    return torch.rsqrt((1 - x) * (1 + x))


@reported("a power of a constant: the rule of the constant power", "tenstorrent/tt-metal#52144", lambda x: 1.5**x, X)
def _(grad_y, x):
    return torch.where(x < 0, math.nan, grad_y * 1.5 * x**0.5)


@reported("logarithm to a base: its factor is missing", "eggzec/ad#10", torch.log10, X.abs() + 0.25)
def _(grad_y, x):
    return grad_y / x


@reported("additive angular margin: the cotangent is left out", "xialuxi/arcface-caffe#19",
          lambda c: torch.cos(torch.acos(c) + 0.5), X.tanh() * 0.9)  # fmt: skip
def _(grad_y, c):
    return math.cos(0.5) + math.sin(0.5) * c / torch.sqrt((1 - c) * (1 + c))


@reported("weighted logsumexp: a weight of 0 has no gradient", "jax-ml/jax#22398",
          lambda x, b: (b * x.exp()).sum(-1).log(), numbers(2, 3),
          torch.tensor([[0.5, 0.0, 1.0], [1.0, 2.0, 0.0]], dtype=torch.float64))  # fmt: skip
def _(grad_y, y, x, b):
    share = (x - y[..., None]).exp() * grad_y[..., None]
    return share * b, torch.where(b != 0, share, 0)
