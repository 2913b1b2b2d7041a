"""What is remembered of a run's operations: whose error counts where, and what roundings reach by it."""

import pytest
import torch

from backprop_rules import testing
from backprop_rules.evidence.recorded import Recorded
from backprop_rules.evidence.sensitivity import Sensitivities


def long_sum(x, w):
    total = x @ w
    for _ in range(5):
        total = total + (x.sin() @ w).tanh()
    return total


def term_used_twice(x, w):
    term = x @ w
    total = term + w.sin()
    return term * total


def term_of_two_sums(x, w):
    term = x @ w
    return (term + w) * (w + term)


def written_over(x, w):
    total = x @ w
    total.mul_(w.sin())
    total.add_(x)
    return total.mul_(x)


def not_written_over(x, w):
    return ((x @ w) * w.sin() + x) * x


def reaches(forward, dtype=torch.float32, precision=None):
    """Return how far roundings take single elements of each gradient, and how many results are asked for."""
    numbers = torch.Generator().manual_seed(1)
    x, w, g = (torch.randn(6, 6, generator=numbers).to(dtype) for _ in range(3))
    asked = testing._asked(forward, (x, w), g, None, precision, ())
    sensitivities = Sensitivities(asked.question.runs[0], asked.declared)
    found = []
    for leaf in range(2):
        for k in range(6):
            c = torch.zeros(6, 6, dtype=torch.float64)
            c[k, (3 * k) % 6] = 1
            found.append(sensitivities.reach(leaf, c, torch.zeros_like(c), dtype))
    return found, len(sensitivities._made)


def are_the_same(some, others):
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(some, others, strict=True) for n in ("worst", "squares")]
    return all(abs(a - b) <= 2.0**-40 * b for a, b in pairs)


@pytest.mark.parametrize("precision", ["float32", "tensorcore", "eager"])
@pytest.mark.parametrize("forward", [long_sum, term_used_twice, term_of_two_sums], ids=lambda f: f.__name__)
def test_roundings_reach_as_far_where_each_error_is_asked_by_itself(forward, precision, monkeypatch):
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    together, few = reaches(forward, dtype, precision)
    monkeypatch.setattr(Recorded, "_join_terms", lambda self: None)
    alone, many = reaches(forward, dtype, precision)
    assert all(reach.worst > 0 for reach in alone)
    assert are_the_same(together, alone)
    assert few < many if forward is long_sum and precision == "float32" else few <= many


def test_what_is_written_over_counts_as_it_was_before():
    assert are_the_same(reaches(written_over)[0], reaches(not_written_over)[0])
