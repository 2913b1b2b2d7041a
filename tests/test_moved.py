"""Cotangents that are moved as forward moves numbers, and not back; copies and axes that are taken for others."""

import pytest
import torch
from reported import numbers

from backprop_rules import check

ORDER = torch.tensor([2, 0, 1, 3])


WRONG = {
    "moved by `x.roll(1, -1)`": (lambda x: x.roll(1, -1), lambda g, x: g.roll(1, -1), (3, 5)),
    "moved by `x.permute(1, 2, 0)`": (lambda x: x.permute(1, 2, 0), lambda g, x: g.permute(1, 2, 0), (4, 4, 4)),
    "moved by `x[:, ORDER]`": (lambda x: x[:, ORDER].sin(), lambda g, x: (g * x[:, ORDER].cos())[:, ORDER], (3, 4)),
    "as if `x.repeat_interleave(2, 1)`": (
        lambda x: x.repeat_interleave(2, 1),
        lambda g, x: g.unflatten(1, (2, x.shape[1])).sum(1),
        (2, 3, 4),
    ),
    "as if `x.repeat(3, 1)`": (lambda x: x.repeat(3, 1), lambda g, x: g.unflatten(0, (x.shape[0], 3)).sum(1), (4, 5)),
    "axis -2 of the cotangent of `x[:, :, None].expand(-1, -1, 2, -1).flatten(1, 2)`": (
        lambda x: x[:, :, None].expand(-1, -1, 2, -1).flatten(1, 2),  # keys of grouped heads, and their sums
        lambda g, x: g.unflatten(1, (2, x.shape[1])).sum(1),
        (2, 3, 4),
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_moved_once_more_is_named(words):
    forward, backward, shape = WRONG[words]
    report = check(backward, forward=forward, example=(numbers(*shape),), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert words in report.mistake.words, str(report)
