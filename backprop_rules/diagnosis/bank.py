"""The bank of mistakes: what a backward returns that does one thing otherwise, where surgery on forward cannot say so.

Each mistake predicts, at a point and for one primal, what it would return there; None where it is no mistake, or cannot
be made. A prediction is formed from the right rule alone, so that it serves twice: to name a mistake, by matching what
was returned over several points, and to plant it, in any rule.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.diagnosis.mistake import Case, Family, Known
from backprop_rules.domain import kinds_of
from backprop_rules.properties.form import same_numbers

Predict = Callable[[Case], Tensor | None]
Slope = Callable[[Tensor], Tensor]

BANK: list[Known] = []  # of two that predict the same, the first is the plainer one


def mistake(name: str, words: str, family: Family = Family.OTHER) -> Callable[[Predict], Predict]:
    """Declare a mistake by the function that predicts what it returns."""

    def declare(predict: Predict) -> Predict:
        BANK.append(Known(name, words, family, predict=predict))
        return predict

    return declare


def _elementwise(c: Case) -> bool:
    """Say whether y has the shape of the primal."""
    return c.y.shape == c.x.shape


def _real_elementwise(c: Case) -> bool:
    return _elementwise(c) and not c.x.is_complex()


# The cotangent: passed on, applied twice, or read as it does not lie.

mistake("passed on unchanged", "the cotangent is passed on unchanged: no mask and no factor is applied to it")(
    lambda c: c.g.clone() if _elementwise(c) else None
)
mistake("cotangent squared", "the cotangent is applied twice")(
    lambda c: c.right * c.g if c.right.shape == c.g.shape else c.gradient(c.g * c.g)
)


@mistake("read as if contiguous", "the cotangent's memory is read as if it were contiguous: its strides are ignored")
def _(c: Case) -> Tensor | None:
    g = c.g
    if g.is_contiguous() or g.device.type == "meta":
        return None
    strides = torch.empty(g.shape, device="meta").stride()
    last = g.storage_offset() + sum((n - 1) * s for n, s in zip(g.shape, strides, strict=True))
    if not g.numel() or last >= g.untyped_storage().nbytes() // g.element_size():
        return None
    return c.gradient(g.as_strided(g.shape, strides, g.storage_offset()))


# Axes, and what is summed over them: paths that meet, and broadcasting.


def _turned(c: Case, turned: Tensor) -> Tensor | None:
    return turned if turned.shape == c.right.shape else None


def _all_axes_reversed(x: Tensor) -> Tensor:
    """Return what .T makes of an array of more than two axes, in NumPy and of old in torch."""
    return x.permute(tuple(reversed(range(x.ndim))))


mistake("transposed", "the gradient is transposed: its last two axes are swapped")(
    lambda c: _turned(c, c.right.mT) if c.right.ndim > 1 else None
)
mistake("all axes reversed", "all axes are reversed, as .T does, where two should be swapped")(
    lambda c: _turned(c, _all_axes_reversed(c.right)) if c.right.ndim > 2 else None
)


@mistake("diagonal of the Jacobian", "only the diagonal of the Jacobian is used: other outputs are left out")
def _(c: Case) -> Tensor | None:
    if not _elementwise(c) or c.jacobian is None:
        return None
    return c.g * c.jacobian.diagonal().reshape(c.x.shape)


def _one_path(c: Case, last: bool) -> Tensor | None:
    """Of the outputs that an element came into, only one passes its cotangent on."""
    if c.jacobian is None:
        return None
    slopes, cotangents = c.jacobian, c.g.reshape(-1, 1)
    if last:
        slopes, cotangents = slopes.flip(0), cotangents.flip(0)
    at = (slopes != 0).int().argmax(0, keepdim=True)
    return (slopes * cotangents).gather(0, at).reshape(c.x.shape)


mistake(
    "last path only",
    "cotangents overwrite each other instead of adding up: only the last output that an element came into counts",
)(partial(_one_path, last=True))
mistake("first path only", "cotangents do not add up: only the first output that an element came into counts")(
    partial(_one_path, last=False)
)


@mistake("missing un-broadcast", "a sum over the axes along which this primal was broadcast is missing (un-broadcast)")
def _unreduced(c: Case) -> Tensor | None:
    if _elementwise(c):
        return None
    shapes = [x.shape for x in c.call.tensors]
    for core in ([c.y.shape], [(*c.y.shape[: max(0, c.y.ndim - 2)], *c.x.shape[-2:])], shapes):
        try:
            wide = c.x.expand(np.broadcast_shapes(*core))  # torch's own loads SymPy
        except (RuntimeError, ValueError):
            continue
        found = c.at(wide) if wide.shape != c.x.shape else None
        if found is not None:
            return found
    return None


mistake("summed over all axes", "it is summed over all axes, also over those of this primal")(
    lambda c: c.right.sum() if c.right.ndim else None
)


@mistake("first axis only", "the sum is taken over the first axis only, not over all batch axes")
def _(c: Case) -> Tensor | None:
    wide = _unreduced(c)
    if wide is None or wide.ndim <= c.x.ndim + (c.x.shape != wide.shape[wide.ndim - c.x.ndim :]):
        return None
    return wide.sum(0)


@mistake("mean instead of sum", "a mean is taken over the broadcast axes in the place of a sum")
def _(c: Case) -> Tensor | None:
    wide = _unreduced(c) if c.x.numel() else None
    return None if wide is None else c.right / max(1, wide.numel() // c.x.numel())


# Functions of one number each: at their ties, and where their derivative is evaluated.


def _at_ties(c: Case, passes: bool) -> Tensor | None:
    """At a kink the whole cotangent passes, or nothing; NaN is tied with nothing."""
    if not _real_elementwise(c):
        return None
    tied = c.at_kink & ~c.y.isnan()
    return torch.where(tied, c.g if passes else torch.zeros_like(c.g), c.right) if tied.any() else None


mistake("strict at ties", "nothing passes at a tie: a strict comparison in the place of an inclusive one", Family.TIES)(
    partial(_at_ties, passes=False)
)
mistake("inclusive at ties", "the whole cotangent passes at a tie, to everyone: an inclusive comparison", Family.TIES)(
    partial(_at_ties, passes=True)
)

# Derivatives as they are written with the result v of the function; people put another value into them.
BY_RESULT: dict[str, Slope] = {
    "sigmoid": lambda v: v * (1 - v),
    "tanh": lambda v: 1 - v * v,
    "exp": lambda v: v,
    "sqrt": lambda v: 0.5 / v,
    "rsqrt": lambda v: -0.5 * v**3,
}
BY_OUTPUT: dict[str, Slope] = BY_RESULT | {"expm1": lambda v: v + 1, "reciprocal": lambda v: -v * v}


@mistake(
    "input in the place of the output",
    "the derivative in terms of the output is evaluated at the input (the pre-activation)",
)
def _(c: Case) -> Tensor | None:
    for name, slope in BY_OUTPUT.items() if _real_elementwise(c) else ():
        if same_numbers(getattr(torch, name)(c.x), c.y):
            return c.g * slope(c.x)
    return None


mistake(
    "output in the place of the input",
    "the derivative is evaluated at the output (the post-activation) in the place of the input",
)(lambda c: c.at(c.y) if _elementwise(c) and c.y.dtype == c.x.dtype else None)


# Several operands: the gradient of another one, or of one with another turned.

for which in (0, -1):  # of the other operands the first, or the last
    mistake(
        "gradients swapped",
        "it is the gradient of another primal: copied, or the gradients are returned in the wrong order",
    )(lambda c, which=which: c.gradient(primal=c.others[which]))  # type: ignore[misc]


@mistake("operands swapped", "it is the gradient for the primals in another order")
def _(c: Case) -> Tensor | None:
    for k in c.others:
        other = c.call.primals[k]
        if other is not None and other.shape == c.x.shape and other.dtype == c.x.dtype:
            own = list(c.call.primals)
            own[k], own[c.primal] = own[c.primal], own[k]
            return c.gradient(primals=own)
    return None


def _other_turned(c: Case, turned: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The right gradient for another operand that is turned, or is not turned where it should be."""
    for k in c.others:
        own = list(c.call.primals)
        other = own[k]
        if other is None or other.ndim < 2 or turned(other).shape != other.shape:
            continue
        own[k] = turned(other)
        found = c.gradient(primals=own)
        if found is not None and not torch.equal(found, c.right):
            return found
    return None


mistake("operand not transposed", "the other operand is not transposed, or it is where it should not be")(
    partial(_other_turned, turned=lambda x: x.mT)
)
# What stands in the place of the transposed operand, transposed back.
mistake("operand reversed", "all axes of the other operand are reversed, as .T does, where two should be swapped")(
    partial(_other_turned, turned=lambda x: _all_axes_reversed(x).mT)
)


def params_ignored(case: Case) -> list[Known]:
    """Return the mistakes of computing as if a param were another of its values everywhere."""
    kinds = case.call.rule.reference.domain.params
    names = [name for name in case.call.params if name in kinds and name not in ("keepdim", "dtype")]
    return [
        Known(
            f"{name} ignored",
            f"as if {name} were {other!r} whatever it is",
            predict=partial(_ignoring, name, other),
        )
        for name in names
        for other in (*kinds_of(kinds[name]), 0, 1, "mean", "sum")
    ]


def _ignoring(name: str, other: Any, c: Case) -> Tensor | None:
    value = c.call.params.get(name)
    if type(other) is not type(value) or other == value:
        return None
    found = c.gradient(params={**c.call.params, name: other})
    return found if found is not None and found.shape == c.x.shape else None
