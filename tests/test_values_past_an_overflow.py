"""Points at which forward overflows, or solves what has no solution: no form is held to another there."""

import torch

from backprop_rules import check


def test_another_form_overflows_elsewhere_where_torchs_own_does():
    """Of a large row exp is infinite, and so are parts of torch's own gradient."""

    def forward(t):
        return torch.tanh(t[:, 0] / (1 + t[:, 1].exp()))

    def backward(g, t):
        e = t[:, 1].exp()
        share, inner = e / (1 + e), g * (1 - torch.tanh(t[:, 0] / (1 + e)) ** 2)
        return torch.stack([inner * (1 - share), -inner * t[:, 0] / (1 + e) * share], 1)

    example = (torch.randn(5, 2, dtype=torch.float64),)
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

    example = torch.randn(4), torch.randn(2, 4), torch.randn(2)
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "right"
