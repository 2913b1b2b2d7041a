"""No right backward is objected to: the full campaign, in every dtype, is `python tests/campaign.py`."""

import pytest
import torch
from campaign import Task, answered
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


@pytest.mark.parametrize(
    ("kind", "name", "points", "seed"),
    [
        ("right", "solve", 11, 508),  # a pole between two points was taken for a jump of the backward's own
        ("right", "det", 41, 7114),  # what singular values lose in the norm, where torch's LU is exact by luck
        ("modules", "attention with capped logits", 74, 507),  # torch's 1 - tanh² is 0 where the proved one is not
        ("modules", "a causal convolution", 74, 501),  # of no channels torch makes an output of none
    ],
)
def test_what_a_campaign_called_wrong_is_right(kind, name, points, seed):
    answer = answered(Task(kind, name, torch.float64, points, seed))
    assert answer.verdict == "right", answer.text
