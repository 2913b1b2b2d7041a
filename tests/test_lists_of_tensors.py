"""Primals in lists: each is one of its own for the proof, the allowance, and the bank of mistakes."""

import numpy as np
import pytest
import torch

from backprop_rules import check, check_function

A, B, W = (torch.randn(*s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate([(3, 4), (2, 4), (4, 5)]))
EXAMPLE = ([A, B], W)


def forward(xs, w):
    return torch.cat(xs) @ w


def backward(g, xs, w):
    return list((g @ w.T).split([len(x) for x in xs])), torch.cat(xs).T @ g


def half(g, xs, w):
    of_xs, of_w = backward(g, xs, w)
    return [of_xs[0], of_xs[1] / 2], of_w


def test_what_is_in_lists_is_allowed_and_proved():
    for report in (
        check(backward, forward=forward, example=EXAMPLE),
        check(backward, forward=forward, definition=lambda xs, w: np.concatenate(xs) @ w, example=EXAMPLE),
        check(lambda g, y, xs, w: backward(g, xs, w), forward=forward, example=EXAMPLE),
        check_function(forward, example=EXAMPLE),
    ):
        assert report.verdict == "right"
        assert report.rungs["allowed"] and report.rungs["proved"], report


def test_a_wrong_gradient_in_a_list_is_certified():
    report = check(half, forward=forward, example=EXAMPLE, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert "the gradient of xs[1] is wrong" in str(report)
    assert "against   certified" in str(report)


def test_a_definition_of_lists_that_is_another_function_is_refused():
    with pytest.raises(ValueError, match="forward and definition are different functions"):
        check(backward, forward=forward, definition=lambda xs, w: 2 * np.concatenate(xs) @ w, example=EXAMPLE)


def test_a_backward_of_numpys_arrays_takes_lists():
    def of_arrays(g, xs, w):
        return np.split(g @ w.T, [len(xs[0])]), np.concatenate(xs).T @ g

    report = check(of_arrays, forward=forward, example=EXAMPLE, framework="numpy")
    assert report.rungs["proved"], report


def test_an_argument_that_is_called_as_what_is_in_a_list_costs_the_proof_alone():
    def both(xs, xs_0):
        return xs[0] * xs_0

    report = check(lambda g, xs, xs_0: ([g * xs_0], g * xs[0]), forward=both, example=([A], A + 1))
    assert (report.verdict, report.rungs["proved"]) == ("right", 0)


def test_gradients_of_lists_in_lists_may_have_their_structure():
    example = (((A, A + 1), A - 1),)
    for made in (lambda *some: ([some[:2], some[2]],), lambda *some: some, lambda *some: [list(some)]):

        def of_nested(g, p, made=made):
            return made(g * p[0][1], g * p[0][0], g.clone())

        assert check(of_nested, forward=lambda p: p[0][0] * p[0][1] + p[1], example=example).verdict == "right"
