"""What is known of the gradients of slices, which are 0 but there, and of their views and sums."""

import pytest
import torch

from backprop_rules.evidence.allowance.slices import Slices
from backprop_rules.testing import assert_gradients

aten = torch.ops.aten
SHAPE = (4, 4)


def known(slices, *which):
    """Return the gradient of a slice, one of a row or of a range of columns, as it is remembered."""
    if len(which) == 1:
        args = torch.ones(4), SHAPE, 0, *which
        func = aten.select_backward
    else:
        args = torch.ones(torch.zeros(SHAPE)[:, slice(*which)].shape), SHAPE, 1, *which
        func = aten.slice_backward
    made = func(*args)
    slices.keep(func.default, args, made)
    return made


def looked_at(slices, a, b):
    """Return where a sum rounds nothing, and whether that was found without a look at the numbers."""
    found = slices.adds_nothing(lambda _: None, a, b)
    assert bool((found | (a != 0) & (b != 0)).all()) and not bool((found & (a != 0) & (b != 0)).any())
    return not found.ndim


def added(slices, a, b):
    made = a + b
    slices.keep(aten.add.Tensor, (a, b), made)
    return made


def test_slices_in_other_places_and_their_sums_are_told_apart_without_a_look_at_the_numbers():
    slices = Slices()
    total = known(slices, 0)
    for k in (2, -1):
        assert looked_at(slices, total, known(slices, k))
        total = added(slices, total, known(slices, k))
    assert not looked_at(slices, total, known(slices, 3)) and looked_at(slices, known(slices, 1), total)
    assert looked_at(slices, known(slices, 0, 2, 1), known(slices, 2, 9, 1))
    assert looked_at(slices, known(slices, 0, 4, 2), known(slices, 1, 4, 2))
    assert not looked_at(slices, known(slices, 0, 3, 1), known(slices, 1, 4, 2))
    assert not looked_at(slices, known(slices, 0), known(slices, 0, 2, 1))  # of a row and of columns


VIEWS = {
    "the same rows": (lambda x: x[1:], True),
    "the same columns": (lambda x: x[:, 1:3], True),
    "other rows": (lambda x: x.T, False),
    "half of the columns": (lambda x: x[:, ::2], False),
    "a row as a column": (lambda x: x[0].reshape(4, 1), False),
    "across the rows": (lambda x: x.as_strided((2, 4), (4, 1), 2), False),
    "flat": (lambda x: x.reshape(-1), False),
}


@pytest.mark.parametrize("case", VIEWS)
def test_parts_are_told_apart_as_well_and_no_other_views(case):
    look, knows = VIEWS[case]
    slices = Slices()
    a, b = known(slices, 1), known(slices, 2)
    assert looked_at(slices, look(a), look(b)) == knows


def test_parts_that_are_shifted_may_meet():
    slices = Slices()
    a, b = known(slices, 2), known(slices, 1)
    assert not looked_at(slices, a[1:], b[:-1]) and looked_at(slices, a[:-1], b[1:])
    assert not looked_at(slices, a, known(slices, 2).T)


def test_what_is_written_to_is_forgotten():
    slices = Slices()
    a, b = known(slices, 0), known(slices, 1)
    a.fill_(1.0)
    slices.forget(a)
    assert not looked_at(slices, a, b)
    slices.forget(b)
    assert slices.adds_nothing(lambda _: None, a, b) is None


def test_gradients_of_slices_without_elements_are_added_up():
    def forward(x):
        return x[:, :2].sum() + x[:, 1:].sin().sum() + x[:, :1].cos().sum()

    assert assert_gradients((torch.zeros(0, 3),), forward=forward, primals=(torch.zeros(0, 3),)).right
