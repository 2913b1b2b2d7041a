"""The time of every rule's backward beside that of autograd's backward of the same operation.

Run: pytest tests/benchmarks/test_backward.py --benchmark-group-by=param:rule,param:side
"""

import pytest
import torch

from backprop_rules import CATALOGUE
from backprop_rules.domain import BATCH, Axes, Axis, Bound, Dtype, Exponent, Factor, Flag, axes_of
from backprop_rules.point import Point, probe

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
sizes = pytest.mark.parametrize("side", [4, 512], ids=["small", "large"])

PARAMS = {Flag: False, Axis: -1, Axes: -1, Exponent: 3, Factor: 2, Bound: 0.0, Dtype: None}


def point_of(rule, side):
    """Return a point whose primals have two axes of that side (a batch axis and a named one, or two named ones)."""
    primals = []
    for k, names in enumerate(axes_of(rule.domain.shapes)):
        ndim = len(names) if names != (BATCH,) else 2
        if names[0] == BATCH and len(names) > 2:
            ndim = 2
        primals.append(probe(torch.empty((side,) * ndim, dtype=torch.float32), k))
    params = {name: PARAMS[type(param)] for name, param in rule.domain.params.items()}
    y = rule.forward(*primals, **params)
    return Point(rule, tuple(primals), params, torch.ones_like(y))


@every_rule
@sizes
def test_the_rules_backward(benchmark, rule, side):
    point = point_of(rule, side)
    benchmark(point.backward, point.grad_y, point.y, *point.primals)


@every_rule
@sizes
def test_autograds_backward(benchmark, rule, side):
    point = point_of(rule, side)
    leaves = [x.requires_grad_() for x in point.primals]
    y = rule.forward(*leaves, **point.params)
    benchmark(torch.autograd.grad, y, leaves, point.grad_y, retain_graph=True)
