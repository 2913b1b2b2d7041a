import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backprop_rules.evidence.enclosure import Enclosure, as_real, real_shape

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]


@given(st.floats(-10, 10), st.floats(0, 10), st.floats(-25, 25))
def test_an_interval_holds_what_lies_between_its_ends_and_nothing_else(lo, width, value):
    enclosure = Enclosure(torch.tensor([lo]).double(), torch.tensor([lo + width]).double())
    inside = enclosure.lo.item() <= value <= enclosure.hi.item()
    assert (enclosure.outside(torch.tensor([value], dtype=torch.float64)) is None) == inside


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_lies_in_the_enclosure_that_is_exactly_it(dtype):
    value = torch.tensor([1.5, -2.0, 0.0], dtype=dtype)
    assert Enclosure.exactly(value).outside(value) is None
    assert Enclosure.exactly(value).outside(value + 1).tolist() == [True, True, True]
    assert as_real(value).shape == real_shape(value)


def test_the_two_zeros_are_equal():
    assert Enclosure.exactly(torch.tensor([0.0])).outside(torch.tensor([-0.0])) is None


def test_nan_lies_only_inside_nan():
    nan, one = torch.tensor([math.nan]), torch.tensor([1.0])
    assert Enclosure.exactly(nan).outside(nan) is None
    assert Enclosure.exactly(nan).outside(one) is not None
    assert Enclosure.exactly(one).outside(nan) is not None


def test_a_value_of_another_shape_lies_nowhere_even_if_it_broadcasts():
    assert Enclosure.exactly(torch.zeros(3)).outside(torch.zeros(1)).all()
    assert Enclosure.exactly(torch.zeros(1)).outside(torch.zeros(3)).all()


def test_each_part_of_a_complex_number_must_lie_inside():
    assert Enclosure.exactly(torch.tensor([1 + 2j])).outside(torch.tensor([1 - 2j])).tolist() == [True]
