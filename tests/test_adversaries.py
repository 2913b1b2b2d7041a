"""Kernels that fool checkers are caught, with their kind in the message; their right twins pass."""

import inspect
import itertools
import re

import pytest
import torch
from adversaries import MEMORY, REPLAY, Adversary
from adversaries_of_values import BATCHES, INVARIANCE, PRECISION, RAGGED, WHICH

from backprop_rules import InputError, Report, check, check_function, testing

KINDS = {
    "memory": MEMORY, "replay": REPLAY, "batches": BATCHES, "ragged": RAGGED, "which": WHICH, "precision": PRECISION,
    "invariance": INVARIANCE,
}  # fmt: skip
EVERY = [one for kind in KINDS.values() for one in kind]


def answer(adversary: Adversary, backward: object) -> Report:
    ask = check_function if isinstance(backward, type) else check
    asked = {"forward": adversary.forward, "example": adversary.example, **adversary.options}
    return ask(backward, **asked, raise_on_failure=False)


@pytest.mark.parametrize("adversary", EVERY, ids=lambda one: one.name)
def test_what_fools_checkers_is_caught_and_its_kind_told(adversary):
    report = answer(adversary, adversary.wrong())
    assert report.verdict in ("wrong", "inaccurate"), str(report)
    assert re.search(adversary.says, str(report)), str(report)


@pytest.mark.parametrize("adversary", EVERY, ids=lambda one: one.name)
def test_its_right_twin_passes(adversary):
    report = answer(adversary, adversary.right())
    assert report.verdict == "right", str(report)


def one_call(adversary, backward, primals, grad_y):
    """Return what a backward gives in one call, in memory that is poisoned."""
    y = adversary.forward(*primals)
    takes_y = list(inspect.signature(backward).parameters)[1] == "y"
    with testing.poisoned():
        found = backward(grad_y, *([y] if takes_y else []), *(x.clone() for x in primals))
    return found if isinstance(found, tuple) else (found,)


def keep_half_of_the_digits(a, b):
    if a is None or b is None or a.shape != b.shape:
        return a is b
    return (
        bool((a - b).abs().max() <= torch.finfo(a.dtype).eps ** 0.5 * b.abs().max()) if a.is_floating_point() else True
    )


def with_a_hard_row(primals):
    """The last row of each array is so large that its exponentials, squares and sums are of another kind."""
    last = torch.ones(len(primals[0]), *[1] * (primals[0].ndim - 1))
    last[-1] = 30
    return (primals[0] * last, *primals[1:])


@pytest.mark.parametrize("at", [tuple, with_a_hard_row])
@pytest.mark.parametrize("adversary", EVERY, ids=lambda one: one.name)
def test_assert_gradients_sees_what_one_call_shows(adversary, at):
    if (asked := held_in_one_call(adversary, at)) is None:
        return
    got, expected, held = asked
    testing.assert_gradients(expected, **held)
    if not all(map(keep_half_of_the_digits, got, expected)):
        with pytest.raises((testing.WrongGradients, InputError)):
            testing.assert_gradients(got, **held)


def held_in_one_call(adversary, at):
    """Return what a wrong backward and its right twin give, and the question; None of a whole function."""
    wrong, right, primals = adversary.wrong(), adversary.right(), at(adversary.example)
    y = adversary.forward(*primals)
    if isinstance(wrong, type) or isinstance(y, tuple):
        return None
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    held = {"forward": adversary.forward, "primals": primals, "grad_y": grad_y, "blind": "allow"}
    return one_call(adversary, wrong, primals, grad_y), one_call(adversary, right, primals, grad_y), held


def test_one_call_shows_at_least_a_third_of_them():
    pairs = [asked[:2] for one in EVERY for at in (tuple, with_a_hard_row) if (asked := held_in_one_call(one, at))]
    assert 3 * sum(not all(map(keep_half_of_the_digits, *pair)) for pair in pairs) >= len(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_of_each_kind_there_are_three_of_our_own(kind):
    assert sum(not one.source for one in KINDS[kind]) >= 3


@pytest.mark.parametrize("adversary", INVARIANCE, ids=lambda one: one.name)
def test_what_changes_with_the_batch_is_noted_and_no_mistake_unless_it_is_asked_for(adversary):
    asked = {k: v for k, v in adversary.options.items() if k != "invariance"}
    report = check(adversary.wrong(), forward=adversary.forward, example=adversary.example, **asked)
    assert report.verdict == "right" and re.search(adversary.says, str(report)), str(report)


def test_sums_in_any_order_are_no_mistake_of_what_is_declared_non_deterministic():
    calls = itertools.count()

    def by_chance(g, x):
        e, s, c = x.exp(), x.sin(), x.cos()
        return g * e * (s + c) if next(calls) % 2 else g * e * s + g * e * c

    held = {"forward": lambda x: x.exp() * x.sin(), "example": (torch.randn(3, 4),)}
    assert check(by_chance, **held, raise_on_failure=False).verdict == "wrong"
    assert check(by_chance, **held, deterministic=False).verdict == "right"


def a_long_row_of_one_number(g, x):
    return torch.zeros_like(x) if g.numel() > 256 and g.stride(0) == 0 else 2 * g * x


@pytest.mark.parametrize(
    ("forward", "backward", "verdict", "says"),
    [
        (lambda x: x**-1, lambda g, x: torch.where(x == 0, 0.0, -g / x**2), "convention", "derivative grows"),
        (torch.rsqrt, lambda g, x: torch.where(x == 0, 0.0, -0.5 * g * x**-1.5), "convention", "derivative grows"),
        (torch.log, lambda g, x: g / (x + 1e-30), "convention", "derivative grows"),
        (torch.sin, lambda g, x: g.clamp(min=-1e30) * x.cos(), "wrong", "swallows NaN or infinity"),
        (torch.sin, lambda g, x: torch.nan_to_num(g) * x.cos(), "wrong", "swallows NaN or infinity"),
        (torch.square, a_long_row_of_one_number, "wrong", "strides|is wrong"),
        (lambda x: (x.round() - x).detach() + x, lambda g, x: torch.zeros_like(g), "wrong", "is wrong"),
    ],
)
def test_limits_infinities_strides_and_straight_through(forward, backward, verdict, says):
    report = check(backward, forward=forward, example=(torch.rand(3, 4) + 0.5,), raise_on_failure=False)
    assert report.verdict == verdict and re.search(says, str(report)), str(report)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (lambda x: x**-1, lambda g, x: -g / x**2),
        (torch.rsqrt, lambda g, x: -0.5 * g / (x * x.sqrt())),
        (lambda x: x.abs() ** -1, lambda g, x: -g * x.sign() / x**2),
        (torch.log, lambda g, x: g / x),
        (lambda x: (x.round() - x).detach() + x, lambda g, x: g.clone()),
    ],
)
def test_what_has_its_limits_is_right(forward, backward):
    assert check(backward, forward=forward, example=(torch.rand(3, 4) + 0.5,)).verdict == "right"
