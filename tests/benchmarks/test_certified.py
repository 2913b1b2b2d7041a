"""The time of the certified oracle for a point of 16 elements, by rule: under 5 ms in the median.

Run: pytest tests/benchmarks/test_certified.py --benchmark-columns=median,iqr,rounds --benchmark-sort=mean
"""

import pytest
import torch
from benchmarks.points import point_of

from backprop_rules import CATALOGUE
from backprop_rules.call import Call, probe
from backprop_rules.evidence.proof.certified import certify


@pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
def test_certifying_16_elements(benchmark, rule):
    plain = point_of(rule, 4)
    generator = torch.Generator().manual_seed(0)

    def ordinary(x):
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return x.double() + noise if x.is_floating_point() else x

    primals = tuple(map(ordinary, plain.primals))
    call = Call(rule, primals, plain.params, probe(plain.grad_y).double())
    benchmark(certify.__wrapped__, call)
    if benchmark.stats:  # none where it is run once, to see that it runs
        assert benchmark.stats.stats.median < 5e-3
