"""What a process has set, its threads or how it takes subnormal numbers, changes no verdict, and is left as it was."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from backprop_rules import CATALOGUE, check
from backprop_rules.call import call
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.verdict import judge
from backprop_rules.testing import assert_gradients, enclose
from backprop_rules.verify import verify_rule

DEADLOCK = """
import gc, threading, torch
from backprop_rules.subject.ambient import running

def ask():
    for _ in range(300):
        ring = [torch.ones(3, requires_grad=True) / 2]
        ring.append(ring)
        with running(None):
            pass

gc.set_threshold(5)
threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_no_two_threads_wait_for_the_random_generator_for_good():
    """torch holds it while it makes a tensor, which may collect garbage and let the other thread run."""
    subprocess.run([sys.executable, "-c", DEADLOCK], check=True, timeout=120)


def flushes():
    return sys.float_info.min * 0.5 == 0.0


@pytest.fixture
def flushing():
    assert torch.set_flush_denormal(True)
    yield
    assert flushes(), "it was not left as it was"
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushing")
def test_the_catalogue_holds_where_subnormal_numbers_are_flushed():
    for rule in ("mul", "softmax", "pow_tensor"):
        assert not verify_rule(CATALOGUE[rule], 40).problem


@pytest.mark.usefixtures("flushing")
def test_a_backward_is_called_as_the_process_would_and_all_else_is_not():
    found = []

    def backward(grad_y, x):
        found.append(flushes())
        return 2 * grad_y * x

    assert check(backward, forward=lambda x: x * x, example=(torch.randn(3),), max_examples=5).passed
    assert all(found)


@pytest.mark.usefixtures("flushing")
def test_comparisons_are_followed_where_subnormal_numbers_are_flushed():
    """So they are as soon as a library that was linked with -ffast-math is loaded."""
    x, g = torch.linspace(-3, 3, 30).reshape(5, 6), torch.linspace(1, 2, 30).reshape(5, 6)
    for holds in (lambda x: x < -1, lambda x: x > x.flip(1), lambda x: x.argmax(1, keepdim=True) == x.long()):
        forward = partial(lambda holds, x: torch.where(holds(x), 2 * x, x), holds)
        assert assert_gradients(torch.where(holds(x), 2 * g, g), forward=forward, primals=(x,), grad_y=g)


@pytest.mark.usefixtures("flushing")
def test_a_gradient_of_0_is_nothing_that_is_flushed():
    x, i, j = torch.randn(3, 6, 5), torch.tensor([0, 2, 2]), torch.tensor([1, 1, 3])
    one, other = torch.tensor([0.3, 0.5, 0.7]), torch.tensor([0.6, 0.4, 0.1])
    held = enclose(lambda x: one * x[:, i, j] + other * x[:, j, i], (x,), grad_y=torch.ones(3, 3))[0]
    assert bool((held.truth == 0).any())
    assert bool((held.radius[held.truth == 0] == 0).all())


@pytest.mark.usefixtures("flushing")
def test_a_flushed_gradient_is_none_that_is_wrong():
    x, w, g = torch.tensor([2.0**-100, 1.0]), torch.tensor([2.0**-40, 3.0]), torch.tensor([1.0, 1.0])
    own = (g * w * 2.0**-100, g * x * 2.0**-100)
    assert own[0][0] == 0, "it is flushed here"
    assert_gradients(own, forward=lambda x, w: x * w * 2.0**-100, primals=(x, w), grad_y=g, blind="allow")


@pytest.mark.usefixtures("flushing")
def test_a_count_of_zeros_rounds_nothing_where_subnormal_numbers_are_flushed():
    with RunningError() as errors:
        count = (torch.tensor([0.0, 2.0, 0.0]) == 0).cumsum(0)
    assert count.tolist() == [1, 1, 2]
    assert not errors.radius(count).any()


def test_a_scalar_that_vanishes_beside_a_narrow_tensor_keeps_a_radius():
    x, z = torch.tensor(-5e-324, dtype=torch.float64), torch.tensor([4.0], dtype=torch.float16)
    made = call("div", torch.tensor([1126.0], dtype=torch.float16), x, z)
    assert not any(verdict.disagrees for verdict in judge(made) if not verdict.witness)
