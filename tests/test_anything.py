"""Numbers that may be anything: nothing is computed of them, and what is said of them is what it was."""

import pytest
import torch

from backprop_rules.evidence.allowance import anything, mode
from backprop_rules.evidence.allowance.declared import Declared
from backprop_rules.evidence.allowance.precision import precision_named
from backprop_rules.testing import enclose


def recurrent(x, w):
    h = torch.zeros_like(x[0])
    for step in x:
        h = torch.sigmoid(step + 4) * (step + h @ w)
    return h


def primals(dtype, steps):
    numbers = torch.Generator().manual_seed(0)
    x, w = torch.randn(steps, 3, 8, generator=numbers), torch.randn(8, 8, generator=numbers) / 8**0.5
    return x.to(dtype), w.to(dtype)


@pytest.mark.parametrize("precision", ["float32", "tensorcore", "eager"])
@pytest.mark.parametrize("steps", [40, 200])
def test_a_loop_is_held_as_if_each_radius_were_computed(precision, steps, monkeypatch):
    asked, said_nothing = primals(torch.bfloat16, steps), []
    grad_y = torch.ones(3, 8, dtype=torch.bfloat16)
    now = enclose(recurrent, asked, grad_y=grad_y, precision=precision)
    monkeypatch.setattr(mode, "CARRYING", {})
    monkeypatch.setattr(Declared, "_far", mode.RunningError._far)
    before = enclose(recurrent, asked, grad_y=grad_y, precision=precision)
    for one, other in zip(now.every, before.every, strict=True):
        said_nothing.append(bool(one.radius.isinf().all()))
        differs = one.radius != other.radius
        assert bool(one.radius[differs].isinf().all())
        assert bool((other.radius[differs] > 2.0**64).all())  # which said nothing, either
        assert torch.equal(one.truth, other.truth)
    assert all(said_nothing) if steps > 100 else not any(said_nothing)


def test_of_numbers_that_may_be_anything_no_formula_is_asked(monkeypatch):
    asked = []
    for packet in anything.CARRYING & mode.FORMULAS.keys():
        own = mode.FORMULAS[packet]
        monkeypatch.setitem(
            mode.FORMULAS, packet, lambda op, *a, own=own, **k: (asked.append(op.func), own(op, *a, **k))[1]
        )
    with Declared(precision_named("float32", torch.float32)) as errors:
        x = torch.full((4, 4), 3.0, dtype=torch.float64)
        errors.keep(x, torch.full_like(x, 1e39))  # beyond all numbers of float32
        y = x @ x
        count = len(asked)
        z = torch.ones_like(y) + (y @ x) * 2
        assert len(asked) == count
    assert bool(errors.radius(z).isinf().all())


def test_an_infinity_of_the_reference_is_what_it_is():
    with Declared(precision_named("float32", torch.float32)) as errors:
        x = torch.full((2,), 3.0, dtype=torch.float64)
        errors.keep(x, torch.full_like(x, 1e39))
        y = x * torch.ones(2, dtype=torch.float64)
        z = y + torch.tensor([-torch.inf, 0.0], dtype=torch.float64)
    assert errors.radius(z).tolist() == [0.0, torch.inf]


def test_nothing_times_a_number_that_may_be_anything_is_nothing():
    with Declared(precision_named("float32", torch.float32)) as errors:
        x = torch.full((2,), 3.0, dtype=torch.float64)
        errors.keep(x, torch.full_like(x, 1e39))
        y = x * torch.ones(2, dtype=torch.float64) * 2
        z = y * torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert errors.radius(z).tolist() == [0.0, torch.inf]


def test_what_is_beyond_its_dtype_on_a_way_that_is_not_taken_hides_nothing():
    def softplus(x):
        return torch.where(x > 20, x, torch.log1p(torch.exp(x)))

    x = torch.tensor([200.0, 300.0])
    found = enclose(softplus, (x,), grad_y=torch.ones(2))
    assert found.truth.tolist() == [1.0, 1.0]
    assert found.radius.tolist() == [0.0, 0.0]
