"""A function that checkpoints, of no module: its steps are computed again in the precision in which it ran."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
import torch
import torch.utils.checkpoint as torchs
from torch.utils.checkpoint import checkpoint

from backprop_rules import check, check_function
from backprop_rules.subject.recomputed import GENERATOR, as_watched, recomputed_by
from backprop_rules.testing import WrongGradients, assert_gradients, enclose

again = partial(checkpoint, use_reentrant=False)


def steps(x, w, v):
    return torch.tanh(x @ w) @ v


def in_part(x, w, v):
    return again(lambda x, w: torch.tanh(x @ w), x, w) @ v


def one_in_another(x, w, v):
    return again(lambda x, w, v: again(lambda x, w: torch.tanh(x @ w), x, w) @ v, x, w, v)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return g @ b.T, a.T @ g


FORMS = {"in part": in_part, "whole": partial(again, steps), "one in another": one_in_another}


def lowered(form, *primals):
    with torch.autocast("cpu", torch.bfloat16):
        return form(*primals).float()


def at_a_point(form):
    numbers = torch.Generator().manual_seed(0)
    primals = [torch.randn(s, generator=numbers).requires_grad_() for s in ((4, 16), (16, 32), (32, 8))]
    g = torch.randn(4, 8, generator=numbers)
    got = torch.autograd.grad(form(*primals), primals, g)
    return got, {"forward": form, "primals": [x.detach() for x in primals], "grad_y": g, "precision": "eager"}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_function_computes_again_under_autocast_may_round_as_in_its_forward(name):
    got, held = at_a_point(partial(lowered, FORMS[name]))
    assert assert_gradients(got, **held).right
    with pytest.raises(WrongGradients, match="gradient of x"):
        assert_gradients((1.25 * got[0], *got[1:]), **held)
    plain = enclose(partial(lowered, steps), held["primals"], grad_y=held["grad_y"], precision="eager")
    again = enclose(held["forward"], held["primals"], grad_y=held["grad_y"], precision="eager")
    assert all(torch.equal(a.radius, b.radius) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_casts_are_none_in_float64_where_they_are_computed_again(name):
    def narrowed(x, w, v):
        return FORMS[name](x.bfloat16(), w.bfloat16(), v.bfloat16()).float()

    got, held = at_a_point(narrowed)
    assert assert_gradients(got, **held).right
    assert check_function(narrowed, example=held["primals"]).verdict == "right"


def test_a_cast_within_a_checkpoint_leaves_the_witnesses():
    def forward(x):
        return again(lambda x: x.bfloat16().sin().float(), x)

    backward = {"right": lambda g, x: g * x.cos(), "wrong": lambda g, x: g * x.sin()}
    for verdict, own in backward.items():
        report = check(own, forward=forward, example=(torch.rand(3),), raise_on_failure=False)
        assert report.verdict == verdict, report


def test_torchs_checkpoint_is_its_own_afterwards():
    before = torch.utils.checkpoint._checkpoint_without_reentrant_generator
    got, held = at_a_point(in_part)
    assert_gradients(got, **held)
    assert torch.utils.checkpoint._checkpoint_without_reentrant_generator is before


def test_it_is_so_after_two_threads_that_leave_in_the_order_in_which_they_came():
    before, entered, left = vars(torchs).copy(), Event(), Event()

    def first():
        with recomputed_by(as_watched):
            assert entered.wait(60)
        left.set()

    def second():
        with recomputed_by(as_watched):
            entered.set()
            assert left.wait(60)
            assert torchs._checkpoint_without_reentrant_generator is not before[GENERATOR]

    with ThreadPoolExecutor(2) as threads:
        for job in [threads.submit(first), threads.submit(second)]:
            job.result()
    assert vars(torchs) == before


def test_what_another_thread_checkpoints_meanwhile_is_computed_again_as_it_was():
    calls = []

    def counted(function):
        return lambda *arguments: calls.append(function) or function(*arguments)

    def gradient():
        x = torch.ones(3, requires_grad=True)
        return torch.autograd.grad(again(torch.sin, x).sum(), x)[0]

    with recomputed_by(counted), ThreadPoolExecutor(1) as threads:
        assert torch.equal(threads.submit(gradient).result(), torch.ones(3).cos()) and not calls
        assert torch.equal(gradient(), torch.ones(3).cos()) and len(calls) == 1


def test_an_autograd_function_in_a_checkpoint_may_be_a_reference():
    def both(x, w, v):
        return steps(x, w, v) + Product.apply(x @ w, v)

    got, held = at_a_point(partial(again, both))
    assert assert_gradients(got, **held).right
