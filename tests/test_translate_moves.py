"""The definition that is made of a torch function moves and writes the numbers that the function does."""

import numpy as np
import pytest
import torch
from exact_numbers import ROW, R, agree, each, kinked, same, written
from torch.nn import functional


def through_views(x):
    made = torch.empty(2, 6, dtype=x.dtype)
    made[0] = x
    made[1].copy_(x * x)
    made.t()[2:4].exp_()
    made.view(-1)[5:7].zero_()
    return made.transpose(0, 1)


def through_views_in_numpy(x):
    made = np.stack([x, x * x])
    made[:, 2:4] = np.exp(made[:, 2:4])
    made[0, 5] = made[1, 0] = x[0] * 0
    return made.T


def into_a_constant(x):
    made = torch.zeros(8, dtype=x.dtype)
    made[1:7] = x
    return made + made.flip(0)


def swapped(x):
    made = x.clone()
    made[[0, 1]] = made[[1, 0]]
    return made


MOVES = {
    "in place": (written, lambda x: (np.maximum(x, 0) + np.eye(6)[0]) * 2),
    "through views": (through_views, through_views_in_numpy),
    "into a constant": (into_a_constant, lambda x: np.pad(x, 1) + np.pad(x, 1)[::-1]),
    "swapped": (swapped, lambda x: x[[1, 0, 2, 3, 4, 5]]),
    "cat": (lambda x: torch.cat([x, torch.arange(2), x * x]), lambda x: np.concatenate([x, x[:2] * 0 + [0, 1], x * x])),
    "stack": (lambda x: torch.stack([x, 2 * x], 1), lambda x: np.stack([x, 2 * x], 1)),
    "split": (lambda x: x.split(2)[1] * x.chunk(3)[2], lambda x: x[2:4] * x[4:]),
    "roll": (lambda x: x.roll(2) * x.flip(0), lambda x: np.roll(x, 2) * x[::-1]),
    "repeat": (lambda x: x.repeat(2, 2), lambda x: np.tile(x, (2, 2))),
    "expand": (lambda x: x.expand(2, 6).reshape(-1), lambda x: np.tile(x, 2)),
    "diagonal": (lambda x: torch.diag_embed(x).diagonal() * x, lambda x: x * x),
    "tril": (lambda x: torch.outer(x, x).tril(-1), lambda x: x[:, None] * x * np.tri(6, k=-1)),
    "pad": (lambda x: functional.pad(x, (1, 2), value=3.0), lambda x: np.concatenate([[3], x, [3, 3]])),
    "reflect": (lambda x: functional.pad(x[None], (2, 1), mode="reflect")[0], lambda x: np.pad(x, (2, 1), "reflect")),
    "index": (lambda x: x[torch.tensor([[0, 5], [5, 1]])], lambda x: x[[[0, 5], [5, 1]]]),
    "masked": (lambda x: x[x > 0.6], lambda x: x[[2, 4, 5]]),
    "embedding": (
        lambda x: functional.embedding(torch.tensor([1, 1, 0]), x.view(2, 3)), lambda x: x.reshape(2, 3)[[1, 1, 0]],
    ),
    "scatter_add": (
        lambda x: torch.ones(3).double().scatter_add(0, torch.tensor([0, 2, 0, 2, 2]), x),
        lambda x: 1 + np.stack([x[0] + x[2], 0 * x[0], x[1] + x[3] + x[4]]),
    ),
    "index_add": (
        lambda x: x.index_add(0, torch.tensor([1, 1]), x[:2] * x[:2], alpha=2),
        lambda x: x + 2 * np.array([0, 1, 0, 0, 0, 0]) * (x[0] * x[0] + x[1] * x[1]),
    ),
    "index_put": (
        lambda x: x.index_put((torch.tensor([1, 1]),), x[:2] * x[:2], accumulate=True),
        lambda x: x + np.array([0, 1, 0, 0, 0, 0]) * (x[0] * x[0] + x[1] * x[1]),
    ),
    "scatter": (
        lambda x: x.scatter(0, torch.tensor([2, 1]), x[4:]).scatter(0, torch.tensor([0]), 7.0),
        lambda x: np.concatenate([x[:1] * 0 + 7, x[5:], x[4:5], x[3:]]),
    ),
    "unfold": (lambda x: x.unfold(0, 3, 2), lambda x: np.stack([x[:3], x[2:5]])),
    "where": (lambda x: torch.where(x > 0, x, 0.1), kinked(0, lambda v: 0 * v + 0.1, same)),
    "equal to itself": (lambda x: torch.where(x.le(x) & x.eq(x) & x.isfinite(), x, 7.0), same),
    "masked_fill": (
        lambda x: x.masked_fill((x > 0) & ~(x > 1), 2.0), each(lambda v: 2 + 0 * v if v > 0 and not v > 1 else v),
    ),
    "times a condition": (lambda x: x * (x > 0) + (x < 3).float(), lambda x: np.maximum(x, 0) + (R < 3)),
    "vmap": (lambda x: torch.vmap(lambda row: row.sin() * row.sum())(x.view(2, 3)).view(-1), lambda x: (
        np.sin(x).reshape(2, 3) * np.sum(x.reshape(2, 3), 1, keepdims=True)).reshape(-1)),
    "control flow": (lambda x: x * 2 if (x > 3).any() and x.sum() > 0 else x, lambda x: x * 2),
    "a gradient": (torch.func.grad(lambda x: (x**3).sum()), lambda x: 3 * x * x),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_and_writes_numbers_is_the_same_in_numpy(name):
    agree(*MOVES[name], ROW)
