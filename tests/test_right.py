"""No right backward is objected to: the full campaign, in every dtype, is `python tests/campaign.py`."""

import pytest
import torch
from right import RIGHT, THEMES

from backprop_rules import check


def test_there_are_forty_with_names_of_their_own():
    assert len(RIGHT) == sum(map(len, THEMES)) >= 40


def test_the_examples_are_in_every_dtype():
    found = {x.dtype for entry in RIGHT.values() for x in entry.example}
    assert found >= {torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_backward_is_right(name):
    entry = RIGHT[name]
    report = check(entry.backward, forward=entry.forward, example=entry.example, raise_on_failure=False)
    assert report.verdict in ("right", "convention"), str(report)
