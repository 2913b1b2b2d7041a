"""Gradients at a point of the user's own, of any size: the truth, and how far a declared implementation may be from it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backprop_rules.evidence.allowance.declared import Declared, Precision
from backprop_rules.evidence.allowance.units import unit
from backprop_rules.subject.ambient import F64, Ambient, at, inexact
from backprop_rules.subject.function import Cotangents, Function


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of the truth in float64, and how far an implementation may be from it, element by element."""

    truth: Tensor
    radius: Tensor


@dataclass(frozen=True, eq=False)
class AtSize:
    """What holds the outputs and the gradients of one call; None for what has no gradient."""

    y: tuple[Held, ...]
    gradients: tuple[Held | None, ...]


def at_size(function: Function, leaves: Sequence[Any], grads: Cotangents, declared: Precision) -> AtSize:
    """Return what holds the outputs and gradients at the leaves, given in their own dtypes.

    Raises NoPoint where forward or torch's backward raises, and NotImplementedError at an operation without a formula.
    """
    mode = Declared(declared)
    wide = [x.detach().to(at(F64, x)) if inexact(x) else x for x in leaves]
    for x, own in zip(wide, leaves, strict=True):
        if inexact(x):
            mode.tag(x, own.dtype)
    own_grads = tuple(None if g is None else g.detach().to(at(F64, g)) for g in grads)
    for g, own in zip(own_grads, grads, strict=True):
        if g is not None and own is not None:
            mode.tag(g, own.dtype)
    function.ambients[F64] = Ambient(F64, shadow=mode)
    with ExitStack() as inside:
        inside.enter_context(sdpa_kernel(SDPBackend.MATH))
        inside.enter_context(mode)
        run, _ = function.run(wide, own_grads, F64)
    y = tuple(_held(mode, out, mode.dtype_of(out)) for out in run.y if inexact(out))
    gradients = tuple(
        None if g is None else _held(mode, g, own.dtype) for g, own in zip(run.gradients, leaves, strict=True)
    )
    return AtSize(y, gradients)


def _held(mode: Declared, x: Tensor, dtype: torch.dtype) -> Held:
    """Return what holds a result, which is rounded once to its dtype."""
    radius, used = mode.radius(x), unit(dtype)
    return Held(x, radius + ((x.abs() + radius) * used.u).clamp_min(used.tiny))
