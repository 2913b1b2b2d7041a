"""An enclosure of one directional derivative from two values of the forward, at any point: wide, but never wrong.

The mean value theorem says that (f(x + h t) - f(x - h t)) / (2 h) is the derivative along t somewhere between
the two points. So the derivative at x is off by no more than the derivative varies in between, which ball
arithmetic bounds, and by the rounding of the two values, divided by h, which running error analysis bounds. With
a relative step h the first error is about h, the second about u / h for the unit roundoff u: they balance at
h = sqrt(u), in float64, in which the forward is evaluated whatever the point's own dtype, 2^-26.
"""

import torch
from flint import arb, ctx
from torch import Tensor

from backprop_rules.call import Call, probe
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.enclosure import as_real
from backprop_rules.evidence.oracles.oracle import widest
from backprop_rules.evidence.proof.certified import BITS, derivative_over

STEP = 2.0**-26


def directions(call: Call) -> list[Tensor]:
    """Return for each primal a direction that changes every element by plus or minus its own order of magnitude.

    It is zero where a step along it would round.
    """
    found = []
    for start, x in enumerate(call.tensors):
        real = as_real(x)
        sizes = torch.ldexp(torch.ones_like(real), torch.frexp(real).exponent - 1)
        along = probe(real, start) * torch.where(real == 0, torch.ones_like(real), sizes)
        step = STEP * along
        exact = (step / STEP == along) & ((real + step) - real == step) & (real - (real - step) == step)
        found.append(torch.where(exact & real.isfinite(), along, 0))
    return found


def derivative_along(call: Call, along: list[Tensor]) -> arb:
    """Return a ball that holds the derivative of <grad_y, y> along these directions; of no use where it is infinite.

    Raises Silent where the definition has no value, and NotImplementedError where the forward's rounding has no bound.
    """
    with ctx.workprec(BITS):
        total = arb(0)
        for sign in (1, -1):
            y, radius = _moved(call, along, sign)
            for g, v, r in zip(*(x.flatten().tolist() for x in (as_real(call.grad_y), y, radius)), strict=True):
                if g:
                    total += sign * arb(g) * arb(v, r)
        varies = derivative_over(call, along, STEP)
        return total / (2 * arb(STEP)) + (varies - varies)


def _moved(call: Call, along: list[Tensor], sign: int) -> tuple[Tensor, Tensor]:
    """Return the forward in float64, or complex128, a step away along the directions, and its radius."""
    params = {name: widest(value) for name, value in call.params.items()}
    moved = []
    for x, t in zip(call.tensors, along, strict=True):
        there = as_real(x) + sign * STEP * t
        moved.append(torch.view_as_complex(there.contiguous()) if x.is_complex() else there)
    primals = [None if x is None else x.cpu() for x in call.placed(moved)]
    with torch.no_grad(), RunningError() as errors:
        y = call.rule.forward(*primals, **params)
    radius = errors.radius(y)
    return as_real(y), torch.stack([radius, radius], -1) if y.is_complex() else radius
