"""Points at which forward overflows, or solves what has no solution: nothing is held to what is lost there."""

import math

import torch

from backprop_rules import check
from backprop_rules.testing import assert_gradients, enclose


def test_another_form_overflows_elsewhere_where_torchs_own_does():
    """Of a large row exp is infinite, and so are parts of torch's own gradient."""

    def forward(t):
        w, part = t[:, 1].exp(), t[:, 0].relu()
        return part / (w + 10 + part)

    def backward(g, t):
        w, part = t[:, 1].exp(), t[:, 0].relu()
        whole = w + 10 + part
        return torch.stack([g * (whole - part) / whole**2 * (t[:, 0] > 0), -g * part / whole**2 * w], 1)

    example = (torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),)
    assert check(backward, forward=forward, example=example, raise_on_failure=False).verdict == "right"


def test_a_singular_system_has_no_kink():
    """With more constraints than unknowns the system is singular, and is solved all the same."""

    def system(p, a):
        n, m = len(p), len(a)
        return torch.cat([torch.cat([torch.eye(n).to(p), a.mT], 1), torch.cat([a, torch.zeros(m, m).to(p)], 1)])

    def forward(p, a, b):
        return torch.linalg.solve(system(p, a), torch.cat([-p, b]))[: len(p)]

    def backward(g, p, a, b):
        n = len(p)
        k = system(p, a)
        s = torch.linalg.solve(k, torch.cat([-p, b]))
        d = torch.linalg.solve(k, torch.cat([g, torch.zeros(len(b)).to(g)]))
        return -d[:n], -torch.outer(s[n:], d[:n]) - torch.outer(d[n:], s[:n]), d[n:]

    random = torch.Generator().manual_seed(0)
    example = tuple(torch.randn(*shape, generator=random) for shape in ((4,), (2, 4), (2,)))
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "right"


def test_what_stands_out_is_asked_without_the_elements_that_overflow():
    """All others are off by two ulps in one direction, as the exponential of a kernel may be."""
    x = torch.tensor([1.0, 2.0, 600.0, 3.0])
    got = (torch.exp2(x.double()) * math.log(2) * (1 + 2 * 2.0**-23)).float()
    assert got.isinf().tolist() == [False, False, True, False]
    assert_gradients((got,), forward=torch.exp2, primals=(x,), grad_y=torch.ones(4))


def test_what_overflows_on_the_way_is_told_beside_an_infinity_that_is_meant():
    x, masked = torch.tensor([12.0, 1.0], dtype=torch.float16), torch.tensor([False, True])
    held = enclose(lambda x: (1 / x.masked_fill(masked, math.inf).exp()).sum(), (x,), precision="eager")
    said = held.agreement((torch.zeros(2, dtype=torch.float16),), None, blind="allow").said
    assert said.overflow == "aten.exp gives 1.63e+05 on the way, and float16 ends at 65504"
