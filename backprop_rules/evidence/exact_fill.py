"""Primals and cotangents at which no implementation rounds anything, in any order of its sums."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.at_size import Question, rounds
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import inexact

aten = torch.ops.aten
LARGEST = 2  # in size: a product of a few such numbers has few digits
# What is exact of numbers that are all 0.
EXPONENTIAL = {str(packet) for packet in (aten._softmax, aten.exp)}


@dataclass(frozen=True, eq=False)
class Fill:
    """A question at which nothing rounds, and which share of its numbers is not 0; or `why` something always does."""

    question: Question
    density: float
    why: str = ""


def exact_fill(question: Question, declared: Precision, seed: int, kept: Collection[int] = ()) -> Fill:
    """Return a fill of small whole numbers, as dense as the digits of its dtypes allow, at which nothing rounds.

    The leaves in the places `kept` stay as they are.

    If an exponential rounds at the sparsest, then in the primals' own columns each, in turn: queries and keys are
    orthogonal there, their scores 0, and a softmax of a power of two of them is exact.
    """
    floats = [k for k, x in enumerate(question.leaves) if inexact(x) and k not in kept]
    density, made = _densest([question.leaves[k] for k in floats]), partial(_filled, question, floats, seed)
    first = made(density, 1)
    if not rounds(first, declared):
        return Fill(first, density)
    step, sparsest = 1, made(0.0, 1)
    why = rounds(sparsest, declared)
    if why in EXPONENTIAL:
        step = len(floats)
        sparsest = made(0.0, step)
        why = why if rounds(sparsest, declared) else ""
    if why:
        return Fill(question, 0.0, why)
    density /= 2 if step == 1 else 1  # the first was tried
    while density * max(question.leaves[k].numel() for k in floats) >= 1:
        filled = made(density, step)
        if not rounds(filled, declared):
            return Fill(filled, density)
        density /= 2
    return Fill(sparsest, 0.0)


def _densest(floats: Sequence[Tensor]) -> float:
    """Return the power of two from which on a sum of as many products of random signs may fit into the digits."""
    digits, most = min(precision(x.dtype) for x in floats), max(x.numel() for x in floats)
    return min(1.0, 2.0 ** math.floor(math.log2(2.0**digits / LARGEST**2 / math.sqrt(max(1, most)))))


def _filled(question: Question, floats: Sequence[int], seed: int, density: float, step: int) -> Question:
    numbers = numbers_from(seed)
    leaves = tuple(
        sparse_like(x, density, numbers, (floats.index(k) % step, step)) if k in floats else x
        for k, x in enumerate(question.leaves)
    )
    grads = tuple(None if g is None else sparse_like(g, density, numbers) for g in question.grads)
    return replace(question, leaves=leaves, grads=grads)


def sparse_like(x: Any, density: float, numbers: torch.Generator, columns: tuple[int, int] = (0, 1)) -> Any:
    """Return a tensor like x of whole numbers from -2 to 2, of which about this share is not 0; others as they are.

    No row is all zeros, so that a row that is forgotten is seen. `columns` (k, n) leaves numbers in every n-th column
    alone, from k: rows of tensors with other ones are orthogonal.
    """
    if not inexact(x):
        return x
    u = 2 * torch.rand(x.shape, generator=numbers) - 1  # its sign, and whether it is small, say everything
    size = u.abs()
    made = (size.lt(density).float() + size.lt(density / LARGEST)).mul_(u.sign())
    if x.ndim and x.shape[-1]:
        first, step = columns if columns[0] < x.shape[-1] else (0, 1)
        if step > 1:
            made *= torch.zeros(x.shape[-1]).index_fill(0, torch.arange(first, x.shape[-1], step), 1.0)
        places = torch.arange(first, x.shape[-1], step)
        at = places[torch.randint(0, len(places), (*x.shape[:-1], 1), generator=numbers)]
        one, here = torch.where(u.gather(-1, at) < 0, -1.0, 1.0), made.gather(-1, at)
        made.scatter_(-1, at, torch.where(here == 0, one, here))
    return made.to(x.dtype).to(x.device)
