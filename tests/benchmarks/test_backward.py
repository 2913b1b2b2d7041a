"""The time of every rule's backward beside that of autograd's backward of the same operation.

Run: pytest tests/benchmarks/test_backward.py --benchmark-group-by=param:rule,param:side
"""

import pytest
import torch
from benchmarks.points import point_of

from backprop_rules import CATALOGUE

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
sizes = pytest.mark.parametrize("side", [4, 512], ids=["small", "large"])


@every_rule
@sizes
def test_the_rules_backward(benchmark, rule, side):
    point = point_of(rule, side)
    benchmark(point.backward, point.grad_y, point.y, *point.primals)


@every_rule
@sizes
def test_autograds_backward(benchmark, rule, side):
    point = point_of(rule, side)
    leaves = [x.requires_grad_() for x in point.tensors]
    y = point.forward(*point.placed(leaves))
    benchmark(torch.autograd.grad, y, leaves, point.grad_y, retain_graph=True)
