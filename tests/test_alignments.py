"""The loss over all alignments of labels is held to what its steps round, whatever memory holds."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from backprop_rules.evidence.allowance import alignments
from backprop_rules.testing import WrongGradients, assert_gradients, enclose

LABELS = torch.tensor([[1, 3, 3, 2, 4], [2, 4, 0, 0, 0], [1, 1, 1, 1, 1]])
STEPS, LENGTHS = (24, 15, 7), (5, 2, 5)  # the last has no path: between equal labels there is a blank
SCORES = torch.randn(24, 3, 6, generator=torch.Generator().manual_seed(7)).log_softmax(-1)
COTANGENT = torch.tensor([0.7, -1.3, 0.4])


def loss(x, labels=LABELS, steps=STEPS, lengths=LENGTHS):
    return functional.ctc_loss(x, labels, steps, lengths, reduction="none", zero_infinity=True)


def gradient(forward, x, grad_y):
    live = x.clone().requires_grad_()
    return torch.autograd.grad(forward(live), live, grad_y)[0]


HELD = {"forward": loss, "primals": (SCORES,), "grad_y": COTANGENT}


def test_what_was_never_written_counts_nowhere(monkeypatch):
    def written_to(scores, targets, steps, lengths, blank):
        y, alpha = torch.ops.aten._ctc_loss(scores, targets, steps, lengths, blank)
        behind = torch.arange(alpha.shape[-1]) > 2 * torch.tensor(lengths).reshape(-1, 1, 1)
        return y, torch.where(behind, 1e300, alpha)

    before = enclose(**HELD)[0].radius
    monkeypatch.setattr(alignments, "aten", SimpleNamespace(_ctc_loss=written_to))
    assert torch.equal(enclose(**HELD)[0].radius, before)
    assert float(before.max()) < 1e-3


@pytest.mark.parametrize("place", [(3, 2, 1), (6, 2, 0), (15, 1, 4), (8, 2, 0)], ids=str)
def test_where_there_is_no_path_or_no_step_any_other_number_is_wrong(place):
    got = gradient(loss, SCORES, COTANGENT)
    assert_gradients((got,), **HELD)
    got[place] += 1e-3
    with pytest.raises(WrongGradients, match="1 of 432 elements"):
        assert_gradients((got,), **HELD)


def step_by_step(x):
    """The same loss of the first two, by logarithms of sums of two at a time."""
    found = []
    for n in range(2):
        row = torch.zeros(2 * LENGTHS[n] + 1, dtype=torch.long)
        row[1::2] = LABELS[n, : LENGTHS[n]]
        skips = torch.zeros(len(row), dtype=torch.bool)
        skips[2:] = (row[2:] != 0) & (row[2:] != row[:-2])
        alpha = torch.where(torch.arange(len(row)) < 2, x[0, n, row], -1e30)
        for t in range(1, STEPS[n]):
            one, two = (functional.pad(alpha, (k, 0), value=-1e30)[: len(row)] for k in (1, 2))
            alpha = torch.logaddexp(torch.logaddexp(torch.where(skips, two, -1e30), alpha), one) + x[t, n, row]
        found.append(-torch.logaddexp(alpha[-1], alpha[-2]))
    return torch.stack((*found, x.new_zeros(())))


def test_another_order_of_the_steps_is_inside():
    # The share alone: the kernel gives that less the probability, as it takes scores for logarithms of these.
    both = gradient(step_by_step, SCORES, COTANGENT)
    behind = torch.arange(24).unsqueeze(1) < torch.tensor([*STEPS[:2], 0])
    got = both + torch.where(behind.unsqueeze(-1), SCORES.exp(), 0.0) * COTANGENT.unsqueeze(-1)
    assert_gradients((got,), **HELD, y=step_by_step(SCORES))


def test_a_hundredth_more_is_wrong_after_fifty_steps():
    x = torch.randn(50, 1, 8, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    held = {"forward": lambda x: loss(x, torch.arange(8).unsqueeze(0) % 7 + 1, (50,), (8,)), "primals": (x,)}
    got = gradient(held["forward"], x, torch.ones(1))
    assert_gradients((got,), **held, grad_y=torch.ones(1))
    with pytest.raises(WrongGradients, match="farther off than rounding goes"):
        assert_gradients((got * 1.01,), **held, grad_y=torch.ones(1))


def test_of_a_cotangent_of_nearly_nothing_the_share_may_be_all():
    # Both labels have to come: their share is 1, where their probability is a hundredth.
    x = torch.tensor([[[0.98, 0.01, 0.01]], [[0.98, 0.01, 0.01]]]).log()

    def forward(x, a):
        return loss(x, torch.tensor([[1, 2]]), (2,), (2,)) * (a.exp().log() - a)

    held = enclose(forward, (x, torch.ones(1)), grad_y=torch.ones(1))
    factor = torch.ones(1).exp().log() - 1 + 2.0**-24
    assert bool((held[0].radius >= (x.exp() - torch.tensor([[[0.0, 1, 0]], [[0.0, 0, 1]]])).abs() * factor).all())
