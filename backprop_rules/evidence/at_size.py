"""Gradients at a point of the user's own, of any size: the truth, and how far an implementation may be from it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backprop_rules.evidence.allowance.declared import Declared, Precision
from backprop_rules.evidence.allowance.units import unit
from backprop_rules.subject.ambient import F64, Ambient, at, inexact, running
from backprop_rules.subject.function import Cotangents, Function, Gradients, NoPoint, Outputs


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of the truth in float64, and how far an implementation may be from it, element by element."""

    truth: Tensor
    radius: Tensor
    dtype: torch.dtype

    def joined(self, other: "Held") -> "Held":
        """Return what holds this and the same in another algebraic form."""
        apart = (self.truth - other.truth).abs()
        return Held(self.truth, torch.maximum(self.radius, other.radius + apart), self.dtype)

    @property
    def blind(self) -> float:
        """The share of elements whose enclosure holds 0, of those whose is not {0}: 0 would have passed as well."""
        known = (self.truth != 0) | (self.radius != 0)
        total = int(known.sum())
        return float((known & (self.truth.abs() <= self.radius)).sum()) / total if total else 0.0


@dataclass(frozen=True, eq=False)
class AtSize:
    """What holds the outputs and the gradients of one call; None for what has no gradient.

    `roundings` is how many roundings in a row a number may come through, sums in full length; `either` says whether a
    choice on the way, such as a mask of what is positive, may come out either way in a right implementation.
    """

    y: tuple[Held, ...]
    gradients: tuple[Held | None, ...]
    roundings: int = 0
    either: bool = False

    def joined(self, other: "AtSize") -> "AtSize":
        """Return what holds this and the same in another algebraic form."""
        gradients = tuple(
            a if a is None or b is None else a.joined(b) for a, b in zip(self.gradients, other.gradients, strict=True)
        )
        return AtSize(self.y, gradients, max(self.roundings, other.roundings), self.either or other.either)


def at_size(function: Function, leaves: Sequence[Any], grads: Cotangents, declared: Precision) -> AtSize:
    """Return what holds the outputs and gradients at the leaves, given in their own dtypes.

    Raises NoPoint where forward or torch's backward raises, and NotImplementedError at an operation without a formula.
    """
    mode = Declared(declared)
    y, gradients = run_at_size(mode, function, leaves, grads)
    return AtSize(
        tuple(held(mode, out, mode.dtype_of(out)) for out in y if inexact(out)),
        tuple(None if g is None else held(mode, g, x.dtype) for g, x in zip(gradients, leaves, strict=True)),
        mode.roundings,
        mode.ambiguous,
    )


def held(mode: Declared, x: Tensor, dtype: torch.dtype) -> Held:
    """Return what holds a result, which is rounded once to its dtype."""
    radius, used = mode.radius(x), unit(dtype)
    return Held(x.detach(), radius + ((x.detach().abs() + radius) * used.u).clamp_min(used.tiny) * (x != 0), dtype)


def widened(mode: Declared, tensors: Sequence[Any]) -> list[Any]:
    """Return the tensors in float64, of which the mode knows in which dtype they were given."""
    wide = [x.detach().to(at(F64, x), copy=True) if inexact(x) else x for x in tensors]
    for x, own in zip(wide, tensors, strict=True):
        if inexact(x):
            mode.tag(x, own.dtype)
    return wide


def run_at_size(
    mode: Declared, function: Function, leaves: Sequence[Any], grads: Cotangents, create_graph: bool = False
) -> tuple[Outputs, Gradients]:
    """Return the outputs and the gradients in float64, while a mode looks on at every operation."""
    live, cotangents = widened(mode, leaves), widened(mode, grads)
    asked = [x.requires_grad_() for x in live if inexact(x)]
    ambient = Ambient(F64, shadow=mode)
    with ExitStack() as inside:
        inside.enter_context(sdpa_kernel(SDPBackend.MATH))
        within = inside.enter_context(running(ambient))
        inside.enter_context(torch.enable_grad())
        inside.enter_context(mode)
        y = function.outputs(live, within)
        if len(y) != len(grads):
            raise NoPoint(f"forward returns {len(y)} tensors, and {len(grads)} cotangents were given")
        pairs = [(out, g) for out, g in zip(y, cotangents, strict=True) if g is not None and out.requires_grad]
        if not pairs:
            return y, (None,) * len(live)
        outs, along = zip(*pairs, strict=True)
        try:
            found = torch.autograd.grad(outs, asked, along, allow_unused=True, create_graph=create_graph)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            raise NoPoint(f"torch's backward raises {type(error).__name__}: {str(error).splitlines()[0]}") from error
        left = iter(found)
        return y, tuple(next(left) if inexact(x) else None for x in live)
