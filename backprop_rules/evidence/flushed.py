"""Gradients of kernels that take numbers below the smallest normal one for 0, as the hardware's fast functions do.

Few do, and few numbers are so small: it is asked where elements lie outside, by so little that it may be that.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.at_size import AtSize, Held, Question, at_size
from backprop_rules.subject.ambient import F32

# What is lost is multiplied on the way; by this and more it is not looked for.
FACTOR = math.sqrt(1 / torch.finfo(F32).smallest_normal)


def where_flushed(
    question: Question, declared: Precision, held: AtSize, got: Sequence[Tensor | None], outputs: Sequence[Tensor]
) -> AtSize:
    """Return what holds gradients and outputs, at elements outside as if numbers were flushed, where they may be."""
    outside = [_outside(h, g) for h, g in pairs_of(held, got, outputs)] if declared.fast else []
    masks = [mask for mask, _ in outside]
    if not any(bool(mask.any()) for mask in masks) or not all(near for _, near in outside):
        return held
    flushed = at_size(question, declared, flushes=True)
    own = masks[len(held.gradients) :] or [torch.zeros((), dtype=torch.bool)] * len(held.computed)
    of_gradients = zip(held.gradients, flushed.gradients, masks, strict=False)
    gradients = (None if h is None else _widened(h, wide, mask) for h, wide, mask in of_gradients)
    computed = map(_widened, held.computed, flushed.computed, own)
    return replace(held, gradients=tuple(gradients), computed=tuple(computed))


def all_inside(held: AtSize, got: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> bool:
    """Say whether every element of gradients and outputs is."""
    return all(_is_inside(h, g) for h, g in pairs_of(held, got, outputs))


def pairs_of(held: AtSize, got: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[tuple[Any, Any]]:
    """Return what holds each gradient, and each output if these were given, beside it."""
    return [*zip(held.gradients, got, strict=True), *zip(held.y if outputs else (), outputs, strict=True)]


def _is_inside(held: Held | None, got: Tensor | None) -> bool:
    """Say whether every element is, block by block: that of most calls, of which nothing else is asked."""
    if held is None or got is None:
        return True
    pairs = ((held.part(block), got[block]) for block in held.parts)
    return all(one.off_inside(its) is not None or bool(one.contains(its).all()) for one, its in pairs)


def _outside(held: Held | None, got: Tensor | None) -> tuple[Tensor, bool]:
    """Return a mask of the elements outside, and whether they are off by so little that numbers may be flushed."""
    if held is None or got is None:
        return torch.zeros((), dtype=torch.bool), True
    outside, most = ~held.contains(got), torch.finfo(F32).smallest_normal * FACTOR
    return outside, bool(((got.to(held.truth) - held.truth).abs()[outside] <= most).all())


def _widened(held: Held, wide: Held | None, outside: Tensor) -> Held:
    if wide is None or not bool(outside.any()):
        return held
    return Held(held.truth, torch.where(outside, torch.maximum(held.radius, wide.radius), held.radius), held.dtype)
