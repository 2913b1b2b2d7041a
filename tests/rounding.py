"""An operation is held to its radius: at operands of any size, against exact numbers."""

import math
import random

import flint
import numpy as np
import torch
from flint import acb, arb

from backprop_rules.evidence.allowance import RunningError

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex128, torch.complex64)
PRECISION = 3000  # bits: a sum of the largest and the smallest float64 takes 2100, and the balls need some below


def exact(x):
    numbers = [acb(v.real, v.imag) if isinstance(v, complex) else arb(v) for v in x.flatten().tolist()]
    array = np.empty(len(numbers), dtype=object)
    array[:] = numbers
    return array.reshape(tuple(x.shape))


def widened(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


ANY, REAL_ONLY, POSITIVE = "any", "real", "positive"

# What operands are: exact, rounded once, or, after cancellation, with radii that may be as large as themselves.
OPERANDS = (lambda a, b: a, lambda a, b: a + b, lambda a, b: a * b, lambda a, b: (a + b) - b)


def drawn(generator, shape, dtype, spread, positive):
    if dtype.is_complex:
        return torch.complex(*(drawn(generator, shape, dtype.to_real(), spread, positive) for _ in range(2)))
    info = torch.finfo(dtype)
    low, high = math.log2(info.smallest_normal) + math.log2(info.eps), math.log2(info.max)
    reaches = {"near": (-4, 4), "middle": (low / 3, high / 3), "all": (low, high), "subnormal": (low, low + 4)}
    low, high = reaches[spread]
    x = torch.exp2(torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low)
    if not positive:
        x = x * torch.randint(-8, 9, shape, generator=generator).sign()  # now and then 0
    return x.to(dtype)


def worst(case, dtype, seed, evaluations=1):
    """Return the largest part of a finite radius that an error takes; more than 1 if one is outside."""
    function, exactly, operands, numbers = case
    generator, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    shape, spread = (
        choose.choice([(1, 1), (2, 3), (3, 5), (2, 17)]),
        choose.choice(["near", "middle", "all", "subnormal"]),
    )
    made = [choose.choice(OPERANDS) for _ in range(operands)]
    draw = [[drawn(generator, shape, dtype, spread, numbers == POSITIVE) for _ in range(2)] for _ in range(operands)]
    with RunningError(evaluations) as errors:
        y = function(*(make(a, b) for make, (a, b) in zip(made, draw, strict=True)))
    radius = errors.radius(y)
    assert radius.shape == y.shape and radius.dtype == torch.float64 and (radius >= 0).all()
    if radius.isinf().all():
        return 0
    with flint.ctx.workprec(PRECISION):
        true = exactly(*(make(exact(a), exact(b)) for make, (a, b) in zip(made, draw, strict=True)))
        return max(map(part, exact(y).ravel(), np.asarray(true).ravel(), radius.flatten().tolist()))


def part(y, true, radius):
    if math.isinf(radius):
        return 0
    error = abs(y - true)
    assert error <= radius, f"{y.str(20)} is {error.str(5)} from {true.str(20)}, outside the radius {radius!r}"
    return float((error / radius).mid()) if radius else 0
