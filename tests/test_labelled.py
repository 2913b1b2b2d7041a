"""Labelled wrong backwards: twenty of each forward are wrong, for the primals that their labels name."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import torch
from labelled import EDITS, Forward
from reported import torchs_own

from backprop_rules import check

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("labelled_*.py"))
FORWARDS = [value for name in MODULES for value in vars(import_module(name)).values() if isinstance(value, Forward)]
WRONG = [pytest.param(f, w, id=f"{f}: {w}") for f in FORWARDS for w in f.wrong]


def verdict(forward, backward):
    report = check(backward, forward=forward.forward, example=forward.example, raise_on_failure=False, explain=False)
    return report.verdict, str(report)


def test_there_are_twelve_with_twenty_wrong_ones_each():
    assert len(FORWARDS) == 12
    assert all(len(f.wrong) == 20 for f in FORWARDS)
    assert all(sum(len(w.edits) == 1 and not w.source for w in f.wrong) <= 10 for f in FORWARDS)


@pytest.mark.parametrize("forward", FORWARDS, ids=str)
def test_the_right_backward_is_right(forward):
    found, words = verdict(forward, forward.right)
    assert found in ("right", "convention"), words


@pytest.mark.parametrize(("forward", "labelled"), WRONG)
def test_a_labelled_one_is_wrong(forward, labelled):
    found, words = verdict(forward, labelled.backward)
    assert found == "wrong", words


@pytest.mark.parametrize(("forward", "labelled"), WRONG)
def test_its_label_names_its_lines_and_its_primals(forward, labelled):
    lines = inspect.getsource(forward.forward).splitlines()
    assert all(edit.what in EDITS and sum(edit.at in line for line in lines) == 1 for edit in labelled.edits)
    y = forward.forward(*forward.example)
    numbers = torch.Generator().manual_seed(3)
    several = tuple(
        torch.randn(out.shape, dtype=out.dtype, generator=numbers) for out in (y if type(y) is tuple else [y])
    )
    grad_y = several if type(y) is tuple else several[0]
    takes_y = list(inspect.signature(labelled.backward).parameters)[1] == "y"
    got = labelled.backward(grad_y, *([y] if takes_y else []), *forward.example)
    right = torchs_own(forward.forward)(grad_y, *forward.example)
    names = list(inspect.signature(forward.forward).parameters)
    off = [n for n, g, r in zip(names, got, right, strict=True) if g.shape != r.shape or differ(g, r)]
    assert off == [n for n in names if n in labelled.wrong]


def differ(a, b):
    return bool((a - b).abs().max() > 2.0**-26 * b.abs().max())
