"""Sizes that are equal in an example by chance are told apart, in however many arguments they come together."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from backprop_rules import check
from backprop_rules.strategies.sizes import lengthened, together_longer


def scaled(axis):
    return lambda g, x, y: (g * y / x.shape[axis], g * x / x.shape[axis])


def pooled(axis):
    def backward(g, x, m):
        share = g[:, :, None, None] / (x.shape[2] * x.shape[axis])
        return share * m, share * x

    return backward


def contrasted(axis):
    def backward(g, a, b):
        d = g * ((a @ b.T).softmax(1) - torch.eye(len(a), dtype=a.dtype)) / a.shape[axis]
        return d @ b, d.T @ a

    return backward


def mean_of_products(axis):
    return lambda g, x, w: (g @ w.T / x.shape[axis], x.T @ g / x.shape[axis])


def contrasted_by_the_others(number):
    def backward(g, a, b):
        d = g * ((a @ b.T).softmax(1) - torch.eye(len(a), len(b), dtype=a.dtype)) / len((a, b)[number])
        return d @ b, d.T @ a

    return backward


CASES = {
    "elementwise": (lambda x, y: x * y / x.shape[1], scaled, (1, 0), ((5, 5), (5, 5))),
    "a pool": (lambda x, m: (x * m).mean((2, 3)), pooled, (3, 2), ((2, 3, 8, 8), (2, 3, 8, 8))),
    "a contrast": (lambda a, b: cross_entropy(a @ b.T, torch.arange(len(a))), contrasted, (0, 1), ((4, 4), (4, 4))),
    "a contrast with more": (
        lambda a, b: cross_entropy(a @ b.T, torch.arange(len(a))),
        contrasted_by_the_others,
        (0, 1),
        ((4, 4), (4, 4)),
    ),
    "a product": (lambda x, w: x @ w / x.shape[1], mean_of_products, (1, 0), ((6, 6), (6, 6))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_size_of_another_axis_is_wrong_though_they_are_equal(name):
    forward, backward, (right, wrong), shapes = CASES[name]
    example = tuple(torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in shapes)
    assert check(backward(right), forward=forward, example=example).verdict == "right"
    assert check(backward(wrong), forward=forward, example=example, raise_on_failure=False).verdict == "wrong"


def test_fewest_axes_come_first_and_never_all_that_are_equal():
    shapes = [(5, 5), None, (5,), (3,)]
    found = together_longer(shapes)
    assert set(found) == {(0, 0), (0, 1), (2, 0)}
    assert found[0, 1] == [{(0, 1)}, {(0, 1), (2, 0)}, {(0, 0), (0, 1)}]
    assert lengthened(shapes, found[0, 1][1], 2) == [(5, 10), None, (10,), (3,)]
    assert together_longer([(5,), (5,)]) == {(0, 0): [{(0, 0)}], (1, 0): [{(1, 0)}]}


def test_where_all_sizes_are_equal_those_that_vary_together_keep_their_proportion():
    """Three chunks of a row of three broadcast: forward runs, and is another function."""

    def forward(x, m):
        scale, shift, gate = m.chunk(3, -1)
        return x * (1 + scale[:, None]) + shift[:, None], gate.tanh()

    def backward(g, x, m):
        seen.append((tuple(x.shape), tuple(m.shape)))
        scale, _, gate = m.chunk(3, -1)
        of_m = [(g[0] * x).sum(1), g[0].sum(1), g[1] * (1 - gate.tanh() ** 2)]
        return g[0] * (1 + scale[:, None]), torch.cat(of_m, -1)

    seen = []
    example = tuple(torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 3, 4), (2, 12)))
    assert check(backward, forward=forward, example=example).verdict == "right"
    assert ((3, 3, 3), (3, 9)) in seen
