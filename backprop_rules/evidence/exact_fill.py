"""Primals and cotangents at which no implementation rounds anything, in any order of its sums."""

import math
from dataclasses import dataclass, replace

import torch

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.at_size import Question, rounds
from backprop_rules.strategies.sparse import LARGEST, sparse_like
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import inexact

aten = torch.ops.aten
# What is exact of numbers that are all 0.
EXPONENTIAL = {str(packet) for packet in (aten._softmax, aten.exp)}


@dataclass(frozen=True, eq=False)
class Fill:
    """A question at which nothing rounds, and which share of its numbers is not 0; or `why` something always does."""

    question: Question
    density: float
    why: str = ""


def exact_fill(question: Question, declared: Precision, seed: int) -> Fill:
    """Return a fill of small whole numbers, as dense as the digits of its dtypes allow, at which nothing rounds.

    If an exponential rounds at the sparsest, then in the primals' own columns each, in turn: queries and keys are
    orthogonal there, their scores 0, and a softmax of a power of two of them is exact.
    """
    floats = [x for x in question.leaves if inexact(x)]
    density = _densest(question)
    first = _filled(question, density, 1, seed)
    if not rounds(first, declared):
        return Fill(first, density)
    step, sparsest = 1, _filled(question, 0.0, 1, seed)
    why = rounds(sparsest, declared)
    if why in EXPONENTIAL:
        step = len(floats)
        sparsest = _filled(question, 0.0, step, seed)
        why = why if rounds(sparsest, declared) else ""
    if why:
        return Fill(question, 0.0, why)
    density /= 2 if step == 1 else 1  # the first was tried
    while density * max(x.numel() for x in floats) >= 1:
        filled = _filled(question, density, step, seed)
        if not rounds(filled, declared):
            return Fill(filled, density)
        density /= 2
    return Fill(sparsest, 0.0)


def _densest(question: Question) -> float:
    """Return the power of two from which on a sum of as many products of random signs may fit into the digits."""
    floats = [x for x in question.leaves if inexact(x)]
    digits, most = min(precision(x.dtype) for x in floats), max(x.numel() for x in floats)
    return min(1.0, 2.0 ** math.floor(math.log2(2.0**digits / LARGEST**2 / math.sqrt(max(1, most)))))


def _filled(question: Question, density: float, step: int, seed: int) -> Question:
    numbers, floats = numbers_from(seed), [k for k, x in enumerate(question.leaves) if inexact(x)]
    leaves = tuple(
        sparse_like(x, density, numbers, (floats.index(k) % step, step)) if k in floats else x
        for k, x in enumerate(question.leaves)
    )
    grads = tuple(None if g is None else sparse_like(g, density, numbers) for g in question.grads)
    return replace(question, leaves=leaves, grads=grads)
