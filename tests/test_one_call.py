"""Mistakes within one call of torch, and in a function of a few: what each is called."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import check


def without_its_mean_term(grad_y, x):
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)
    normal = centred * scale
    return scale * (grad_y - normal * (normal * grad_y).mean(-1, keepdim=True))


def summed_over_every_axis(grad_y, y, x):
    return y * (grad_y - (grad_y * y).sum())


def ignoring(grad_y, x, w, b):
    ones = torch.ones_like(grad_y)
    return ones @ w, ones.mT @ x, ones.sum(0)


def scanned(a, x):
    kept = [x[0]]
    for t in range(1, len(x)):
        kept.append(a[t] * kept[-1] + x[t])
    return torch.stack(kept)


def scanned_back(grad_y, a, x):
    kept, back = scanned(a, x), [grad_y[-1]]
    of_a = [torch.zeros_like(grad_y[-1])]
    for t in range(len(x) - 1, 0, -1):
        of_a.insert(1, back[0] * kept[t - 1])
        back.insert(0, grad_y[t - 1] + a[t] * back[0])
    return torch.stack(of_a), torch.stack(back)


NAMED = {
    "a layer norm without its mean term": (
        without_its_mean_term,
        lambda x: functional.layer_norm(x, x.shape[-1:]),
        (torch.randn(4, 5),),
        "constant",
    ),
    "a softmax with the sum over every axis": (
        summed_over_every_axis,
        lambda x: x.softmax(-1),
        (torch.randn(4, 5),),
        "axis",
    ),
    "a linear layer that ignores its cotangent": (
        ignoring,
        functional.linear,
        (torch.randn(4, 5), torch.randn(3, 5), torch.randn(3)),
        "cotangent ignored",
    ),
    "a recurrence without conjugates": (
        scanned_back,
        scanned,
        (torch.randn(4, 2, dtype=torch.complex64), torch.randn(4, 2, dtype=torch.complex64)),
        "missing conjugate",
    ),
    "two gradients in the wrong order": (
        lambda grad_y, x, w: (x.T @ grad_y, grad_y @ w.T),
        torch.matmul,
        (torch.randn(4, 5), torch.randn(5, 3)),
        "gradients swapped",
    ),
    "three gradients in the wrong order": (
        lambda grad_y, x, w, b: (grad_y.sum(0), x.T @ grad_y, grad_y @ w.T),
        lambda x, w, b: x @ w + b,
        (torch.randn(4, 5), torch.randn(5, 3), torch.randn(3)),
        "gradients swapped",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_mistake_within_one_call_is_named(case):
    backward, forward, example, name = NAMED[case]
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert report.mistake.name == name
