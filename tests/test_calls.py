"""What is asked of memory and calls leaves nothing behind, ends, and accuses no right backward."""

import itertools
import threading
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.nn import functional

from backprop_rules import check, check_function
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties.calls import answers_its_arguments
from backprop_rules.properties.finding import Kind
from backprop_rules.question import Asked, question
from backprop_rules.subject.memory import poisoned

SINE = {"forward": torch.sin, "example": (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),)}


def test_nothing_is_left_behind():
    empty, like = np.empty, np.empty_like

    def slow(g, x):
        time.sleep(1e-4)
        return g * x.cos()

    for _ in range(10):
        assert check(slow, **SINE).verdict == "right"
        assert np.empty is empty and np.empty_like is like and not torch.are_deterministic_algorithms_enabled()
    assert not torch.empty(64).isnan().all()


def test_what_was_set_before_is_set_after():
    torch.use_deterministic_algorithms(True)
    try:
        with suppress(ValueError), poisoned():
            assert torch.empty(3).isnan().all() and np.isnan(np.empty(3)).all()
            raise ValueError
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_thread_that_dies_leaves_nobody_waiting(error):
    calls = itertools.count()

    def in_the_main_thread(g, x):
        if threading.current_thread() is not threading.main_thread() and next(calls):
            raise error
        return g * x.cos()

    before = threading.active_count()
    try:
        expected = ("inconclusive",) if error is KeyboardInterrupt else ("right", "wrong")
        assert check(in_the_main_thread, **SINE, raise_on_failure=False).verdict in expected
    except SystemExit:
        assert error is SystemExit
    assert threading.active_count() == before


def of_main_alone(g, x):
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals only work in the main thread")
    return g * x.cos()


def with_warnings_as_errors(g, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.zeros_like(x)
        return found.put_(torch.arange(x.numel()), (g * x.cos()).reshape(-1))


def with_warnings_as_errors_for_long(g, x, threads={}):  # noqa: B006 - shared on purpose
    mine = threads.setdefault(threading.current_thread(), len(threads))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.zeros_like(x)
        time.sleep(0.001 if mine % 2 else 0.006)  # of two calls at once one is here for longer than the other
        return found.put_(torch.arange(x.numel()), (g * x.cos()).reshape(-1))


def into_an_empty(g, x):
    return torch.mul(g, x.cos(), out=torch.empty_like(x))


def scaled_by_zero_times_nothing(g, x):
    return torch.baddbmm(torch.empty(1, *x.shape), g[None] * x.cos()[None], torch.eye(x.shape[1])[None], beta=0)[0]


def with_a_lock(g, x, lock=threading.Lock(), kept={}):  # noqa: B006, B008 - shared on purpose
    with lock:
        kept["x"] = x.cos()
        return g * kept["x"]


@pytest.mark.parametrize(
    "backward",
    [
        of_main_alone,
        with_warnings_as_errors,
        with_warnings_as_errors_for_long,
        into_an_empty,
        scaled_by_zero_times_nothing,
        with_a_lock,
    ],
)
def test_right_backwards_that_do_unusual_things_are_right(backward):
    assert check(backward, **SINE).verdict == "right"


def test_a_mask_that_is_drawn_again_from_its_seed_is_right():
    def mask(x):
        torch.manual_seed(7)
        return torch.rand(x.shape) > 0.5

    for _ in range(3):
        report = check(lambda g, x: g * mask(x), forward=lambda x: x * mask(x), example=SINE["example"])
        assert report.verdict == "right"


def uniform_where_nothing_is_kept(g, x, m):
    p = torch.softmax(x.masked_fill(~m, -1e9), -1)
    return p * (g - (p * g).sum(-1, keepdim=True)), None


@pytest.mark.parametrize(
    ("forward", "backward", "example"),
    [
        (
            lambda w, i: w[i - 1],
            lambda g, w, i: (torch.zeros_like(w).index_add_(0, i - 1, g), None),
            (torch.randn(6, 3), torch.tensor([1, 4, 6, 2])),
        ),
        (
            lambda x, t: -x[torch.arange(len(t)), t - 1].mean(),
            lambda g, x, t: (-g / len(t) * functional.one_hot(t - 1, x.shape[1]).to(x.dtype), None),
            (torch.randn(4, 3), torch.tensor([1, 3, 2, 3])),
        ),
        (
            lambda x, m: torch.softmax(x.masked_fill(~m, -1e9), -1),
            uniform_where_nothing_is_kept,
            (torch.randn(3, 4), torch.tensor([[True, False, True, True]] * 3)),
        ),
    ],
)
def test_whole_numbers_as_the_example_has_none_accuse_nobody(forward, backward, example):
    assert check(backward, forward=forward, example=example).verdict == "right"


class Centred(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        mean = x.mean(-1, keepdim=True)
        ctx.mark_non_differentiable(mean)
        return x - mean, mean

    @staticmethod
    def backward(ctx, g, _):
        return g - g.mean(-1, keepdim=True)


class FreesWhatItSaved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.y = x.exp()
        return ctx.y.clone()

    @staticmethod
    def backward(ctx, g):
        found = g * ctx.y
        del ctx.y
        return found


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.exp_())
        return x

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class PairAlone(torch.autograd.Function):
    """The second gradient is right only where the first is asked for."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w, x + w

    @staticmethod
    def backward(ctx, g, h):
        x, w = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return g * w + h if first else None, (g * x + h if first else g * x) if second else None


def test_functions_of_several_outputs_are_asked_as_those_of_one():
    def centred(x):
        return x - x.mean(-1, keepdim=True), x.mean(-1, keepdim=True).detach()

    assert check_function(Centred, forward=centred, example=SINE["example"]).verdict == "right"
    assert check_function(FreesWhatItSaved, forward=torch.exp, example=SINE["example"]).verdict == "right"
    assert check_function(InPlace, forward=torch.exp, example=SINE["example"]).verdict == "right"
    asked = {"forward": lambda x, w: (x * w, x + w), "example": (torch.randn(3), torch.randn(3))}
    report = check_function(PairAlone, **asked, raise_on_failure=False)
    assert report.verdict == "wrong" and "some other primal requires no gradient" in str(report)


def test_groups_whose_lengths_must_add_up_are_written_as_far_as_they_do():
    def forward(x, w, n):
        return torch.cat([part @ w[k] for k, part in enumerate(x[: int(n.sum())].split(n.tolist()))])

    def backward(g, x, w, n):
        dx, dw, start = torch.empty_like(x), torch.empty_like(w), 0
        for k, count in enumerate(n.tolist()):
            here = slice(start, start + count)
            dx[here], dw[k] = g[here] @ w[k].mT, x[here].mT @ g[here]
            start += count
        return dx, dw, None

    example = torch.randn(6, 3), torch.randn(3, 3, 2), torch.tensor([3, 1, 2])
    assert check(backward, forward=forward, example=example).verdict == "right"


def test_memory_that_comes_again_in_the_first_call_is_told_as_what_it_is():
    kept = {}

    def by_pointer(g, x):
        kept.setdefault("of memory given back", (x.data_ptr(), 2 * g))
        place, stale = kept["of memory given back"]
        return stale.clone() if x.data_ptr() == place else g * x.cos()

    example = (torch.randn(3, 5, dtype=torch.float64),)
    subject, points = question(by_pointer, (None, torch.sin, None, example, {}, None), Asked())
    evidence = Evidence(subject, next(iter(points)))
    assert len(evidence.user) == 1 and kept.pop("of memory given back")
    (found,) = answers_its_arguments(evidence)
    assert found.kind is Kind.REPLAYED


def in_its_own_dtype(grad_y, x, w):
    """As a kernel of float32 alone, which makes its gradient in the memory of the cotangent."""
    if grad_y.dtype is torch.float64:
        raise TypeError("float64 is not supported")
    of_w = (grad_y * x).sum(0)
    return grad_y.mul_(w), of_w


def test_what_takes_float32_alone_and_writes_to_the_cotangent_is_told_so():
    example = torch.randn(4, 5), torch.randn(5)
    report = check(in_its_own_dtype, forward=lambda x, w: x * w, example=example, raise_on_failure=False)
    assert "writes to its argument grad_y" in str(report), str(report)
    right = check(
        lambda g, x, w: in_its_own_dtype(g.clone(), x, w),
        forward=lambda x, w: x * w,
        example=example,
        dtypes=["float32"],
    )
    assert right.verdict == "right"
