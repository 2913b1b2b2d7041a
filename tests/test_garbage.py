"""The collector of garbage is off, or looks at what is new alone, for as long as we compute, and no longer."""

import gc
import weakref

import pytest
import torch
from real_sizes import KERNELS, stored

from backprop_rules import CATALOGUE, check
from backprop_rules.call import Call
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.sensitivity import Sensitivities
from backprop_rules.subject.garbage import of_what_is_new, set_aside, uncollected
from backprop_rules.testing import WrongGradients, assert_gradients


@pytest.fixture(autouse=True)
def nothing_set_aside(monkeypatch):
    """What the tests have loaded is set aside, in all other files."""
    monkeypatch.setattr("backprop_rules.subject.garbage._Before.set_aside", False)
    gc.unfreeze()
    yield
    gc.freeze()


def test_what_was_set_aside_for_good_stays_so():
    set_aside()
    with of_what_is_new():
        pass
    assert gc.get_freeze_count()


@pytest.mark.parametrize("quiet", [of_what_is_new, uncollected])
def test_the_collector_is_as_it_was(quiet):
    assert gc.isenabled() and not gc.get_freeze_count()
    with pytest.raises(KeyError), quiet(), quiet():
        raise KeyError
    assert gc.isenabled() and not gc.get_freeze_count()
    gc.disable()
    try:
        with quiet():
            assert not gc.isenabled() and not gc.get_freeze_count()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_new_is_collected_and_what_was_before_later():
    class Ring:
        def __init__(self):
            self.own = self

    before = weakref.ref(Ring())
    gc.disable()
    before = weakref.ref(Ring())
    gc.enable()
    with of_what_is_new():
        new = weakref.ref(Ring())
        gc.collect()
        assert new() is None and before() is not None
    gc.collect()
    assert before() is None


def test_a_check_leaves_it_alone():
    check(lambda grad_y, x: grad_y * x.cos(), forward=torch.sin, example=(torch.ones(3),))
    assert gc.isenabled() and not gc.get_freeze_count()


@pytest.mark.parametrize("most", [10**6, 20])
def test_the_numbers_of_a_proof_are_gone_without_the_collector(most):
    def numbers() -> int:
        return sum(type(x).__name__ == "Number" for x in gc.get_objects())

    gc.collect()
    before = numbers()
    x = torch.rand(20, dtype=torch.float64)
    call = Call(CATALOGUE["exp"], (x,), {}, torch.ones_like(x))
    with uncollected():
        try:
            with certified.at_most(most):
                certified.certify(call)
        except Silent:
            assert most == 20
        assert numbers() == before


@pytest.mark.parametrize("name", ["attention", "cross_entropy", "max_pool", "lstm"])
def test_tensors_of_gradients_held_at_a_point_are_gone_without_the_collector(name):
    """At real sizes they are gigabytes."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    primals = kernel.primals(torch.float32, large=False)
    grad_y = kernel.cotangent(primals)
    got = stored(kernel.fused(grad_y, *primals), primals)

    def tensors() -> int:
        return sum(type(x) is torch.Tensor for x in gc.get_objects())

    assert_gradients(got, forward=kernel.forward, primals=primals, grad_y=grad_y)
    gc.collect()
    gc.disable()
    gc.freeze()  # what was before is not told
    try:
        assert_gradients(got, forward=kernel.forward, primals=primals, grad_y=grad_y)
        assert not tensors()
    finally:
        gc.unfreeze()
        gc.enable()


def test_an_error_that_is_kept_keeps_no_run():
    def runs() -> int:
        gc.collect()
        return sum(type(x) is Sensitivities for x in gc.get_objects())

    before, x = runs(), torch.linspace(-1, 1, 7)
    with pytest.raises(WrongGradients) as error:
        assert_gradients(2 * x.cos(), forward=torch.sin, primals=(x,), grad_y=torch.ones(7))
    assert "allowance" in str(error.value) and runs() == before
