"""How small an error in one element of a gradient is rejected, in proportion to the terms that the element sums.

The table is printed by `pytest tests/test_sensitivity.py -s`.
"""

import pytest
import torch

from backprop_rules import CATALOGUE
from backprop_rules.call import Call
from backprop_rules.evidence.verdict import judge
from backprop_rules.properties.of_rules import agrees_with_every_oracle

SIDE = 64


def normal(seed, dtype, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def linear(dtype):
    x, w, b, g = normal(1, dtype, SIDE, SIDE), normal(2, dtype, SIDE, SIDE), normal(3, dtype, SIDE), None
    g = normal(4, dtype, SIDE, SIDE)
    return Call(CATALOGUE["linear"], (x, w, b), {}, g), 1, g.abs().double().T @ x.abs().double()


def softmax(dtype):
    x, g = normal(1, dtype, SIDE, SIDE), normal(2, dtype, SIDE, SIDE)
    call = Call(CATALOGUE["softmax"], (x,), {"dim": 1}, g)
    y, g = call.y.double(), g.abs().double()
    return call, 0, y * (g + (g * y).sum(1, keepdim=True))


def layer_norm(dtype):
    x, w, b = normal(1, dtype, SIDE, SIDE), normal(2, dtype, SIDE), normal(3, dtype, SIDE)
    g = normal(4, dtype, SIDE, SIDE)
    call = Call(CATALOGUE["layer_norm"], (x, w, b), {"eps": 1e-5}, g)
    wide = x.double()
    scale = (wide.var(1, correction=0, keepdim=True) + 1e-5).rsqrt()
    size, h = ((wide - wide.mean(1, keepdim=True)) * scale).abs(), (g * w).abs().double()
    return call, 0, scale * (h + h.mean(1, keepdim=True) + size * (size * h).mean(1, keepdim=True))


POINTS = {"linear, weight": linear, "softmax": softmax, "layer_norm": layer_norm}
# The parts asked for; in the narrow dtypes the rounding to storage decides what is caught.
ASKED = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_small_error_in_one_element_is_rejected(name, dtype):
    call, i, terms = POINTS[name](dtype)
    assert not list(agrees_with_every_oracle(call))
    (verdict,) = [v for v in judge(call) if v.primal == i and not v.witness]
    radius = torch.maximum(verdict.enclosure.hi - verdict.gradient, verdict.gradient - verdict.enclosure.lo)
    caught = radius / terms
    print(f"\n{name:16}{dtype!s:16}largest {caught.max():.1e}  median {caught.median():.1e}", end="")
    element = (3, 5)
    for part in [ASKED[dtype]] if dtype in ASKED else []:
        wrong = call.gradients[i].clone()
        wrong[element] += part * terms[element]
        (found,) = agrees_with_every_oracle(with_gradient(call, i, wrong))
        assert (found.element, found.wrong, found.of) == (element, 1, 4096)


def with_gradient(call, i, wrong):
    """Return the same call of a rule whose i-th gradient comes out as this."""

    class Wrong(Call):
        @property
        def gradients(self):
            return (*call.gradients[:i], wrong, *call.gradients[i + 1 :])

    return Wrong(call.rule, call.primals, call.params, call.grad_y)
