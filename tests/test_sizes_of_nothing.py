"""Where forward makes nothing of something, as by broadcasting one against none, nothing is asked; of nothing it is."""

import pytest
import torch
from torch import Tensor

from backprop_rules import check


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def turned(x: Tensor, way: float = 1.0) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * 0.6 - odd * 0.8 * way, even * 0.8 * way + odd * 0.6], -1).flatten(-2)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT


def scores_back(grad_y: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    times = q.shape[1] // k.shape[1]
    grad_k = (grad_y.mT @ q).reshape(len(k), k.shape[1], times, *k.shape[2:])
    return grad_y @ k.repeat_interleave(times, 1), grad_k.sum(2)


def weight_normed(x: Tensor, v: Tensor) -> Tensor:
    return x @ (v / v.norm(dim=1, keepdim=True)).mT


def weight_normed_back(grad_y: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    norm = v.norm(dim=1, keepdim=True)
    along, inner = v / norm, grad_y.mT @ x
    return grad_y @ along, (inner - along * (inner * along).sum(1, keepdim=True)) / norm


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    weights = torch.softmax(q @ k.repeat_interleave(times, 1).mT, -1)
    return weights @ v.repeat_interleave(times, 1)


def attention_back(grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    times, heads = q.shape[1] // k.shape[1], k.shape[1]
    wide_k, wide_v = (x.repeat_interleave(times, 1) for x in (k, v))
    weights = torch.softmax(q @ wide_k.mT, -1)
    grad_weights = grad_y @ wide_v.mT
    grad_scores = weights * (grad_weights - (grad_weights * weights).sum(-1, keepdim=True))
    grad_k, grad_v = grad_scores.mT @ q, weights.mT @ grad_y
    grad_k, grad_v = (g.reshape(len(g), heads, times, *g.shape[2:]).sum(2) for g in (grad_k, grad_v))
    return grad_scores @ wide_k, grad_k, grad_v


CASES = {
    "attention of grouped heads": (
        attention,
        attention_back,
        (numbers(2, 4, 5, 4), numbers(2, 2, 5, 4), numbers(2, 2, 5, 3)),
    ),
    "pairs": (turned, lambda grad_y, x: turned(grad_y, -1.0), (numbers(3, 8),)),
    "pairs of heads": (turned, lambda grad_y, x: turned(grad_y, -1.0), (numbers(2, 3, 5, 8),)),
    "heads for each of fewer": (scores, scores_back, (numbers(2, 4, 5, 3), numbers(2, 2, 6, 3))),
    "a norm that may be 0": (weight_normed, weight_normed_back, (numbers(5, 4), numbers(3, 4))),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_right(name, seed):
    forward, backward, example = CASES[name]
    report = check(backward, forward=forward, example=example, seed=seed)
    assert report.verdict == "right"


@pytest.mark.parametrize("sizes", [{}, {8: 8}, {8: (8, 6)}], ids=str)
def test_sizes_that_are_named_are_tried_beside(sizes):
    forward, backward, example = CASES["pairs"]
    assert check(backward, forward=forward, example=example, sizes=sizes).verdict == "right"


def test_what_divides_by_how_many_there_are_is_wrong_of_none():
    def backward(grad_y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return grad_y * w, (grad_y * x).sum(0) / len(x) * len(x)

    report = check(backward, forward=lambda x, w: x * w, example=(numbers(4, 3), numbers(3)), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert "x = torch.zeros((0, 1)" in str(report)


def test_where_torchs_own_gradient_of_an_empty_axis_is_nan_nothing_is_held_to_zero():
    def scaled(x, s):
        return x * (s / x.sum(1))[:, None]

    def backward(g, x, s):
        n, q = x.sum(1), (g * x).sum(1)
        return g * (s / n)[:, None] - (q * s / n**2)[:, None], q / n

    def normed(x, v, s):
        return x @ (v * (s / v.norm(dim=1))[:, None]).T

    def of_a_norm(g, x, v, s):
        n = v.norm(dim=1)
        of_w = g.T @ x
        q = (of_w * v).sum(1)
        return g @ (v * (s / n)[:, None]), of_w * (s / n)[:, None] - v * (q * s / n**3)[:, None], q / n

    numbers = torch.Generator().manual_seed(0)
    x, v, s = (torch.rand(*shape, generator=numbers) + 0.5 for shape in ((3, 4), (5, 4), (5,)))
    assert check(backward, forward=scaled, example=(x, s[:3])).verdict == "right"
    assert check(of_a_norm, forward=normed, example=(x, v, s)).verdict == "right"
