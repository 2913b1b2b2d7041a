"""Shapes and params: what is drawn before a value is."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.domain import (
    BATCH,
    Axes,
    Axis,
    Bound,
    Choice,
    Dtype,
    Exponent,
    Factor,
    Flag,
    Index,
    Label,
    Mask,
    Param,
    Positive,
    Whole,
    axes_of,
)
from backprop_rules.errors import InputError, first_line
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.draw import Draw

Shape = tuple[int, ...]
Sizes = dict[str, int]
Params = dict[str, Any]

# The first is the simplest, to which a counterexample shrinks; 9 and 17 are past the length of a vector register.
SIDES = (1, 2, 3, 4, 5, 9, 0, 17, 1, 2, 3)
# How many batch axes, beside named axes and without: a batch of one hides a missing sum.
CORE_RANKS, RANKS = (0, 1, 2, 1, 3), (0, 1, 2, 3, 2, 4)
# The largest iteration space: what keeps the differences, quadratic in it, within milliseconds.
LARGEST = 300


def draw_shapes(draw: Draw, rule: Rule, among: Sequence[int]) -> tuple[list[Shape], Sizes, int]:
    """Draw a shape for each primal; return the sizes of the named axes and of the iteration space as well."""
    primals = axes_of(rule.domain.shapes)
    names = {name for primal in primals for name in primal if name != BATCH}
    missing = {name.rstrip("?") for name in sorted(names) if name.endswith("?") and draw.flag()}
    present = sorted({name.rstrip("?") for name in names} - missing)
    pointed_into = {holds.axis for holds in rule.domain.indices.values() if isinstance(holds, Index)}
    left, sides = LARGEST, list[int]()
    for k in range(len(present) + draw.pick(CORE_RANKS if names else RANKS)):
        # Equal sides hide a transpose, and make it silent: a side repeats the last one in half of all cases.
        options = [n for n in (*among, *sides[-1:] * len(among)) if n <= left]
        if k < len(present) and present[k] in pointed_into:
            options = [n for n in options if n] or [1]  # there is no index into an empty axis
        sides.append(draw.pick(options))
        left //= max(1, sides[-1])
    sizes, batch = dict(zip(present, sides, strict=False)), tuple(sides[len(present) :])
    shared = sum(primal[0] == BATCH for primal in primals)
    shapes: list[Shape] = []
    batches: list[Shape] = [()]
    for primal in primals:
        core = tuple(sizes[axis.rstrip("?")] for axis in primal if axis.rstrip("?") in sizes)
        if primal[0] == BATCH and not any(axis.rstrip("?") in missing for axis in primal):
            batches.append(_broadcastable(draw, batch) if shared > 1 else batch)
            core = batches[-1] + core
        shapes.append(core)
    return shapes, sizes, math.prod(max(1, n) for n in (*np.broadcast_shapes(*batches), *sizes.values()))


def _broadcastable(draw: Draw, batch: Shape) -> Shape:
    """Draw a shape that broadcasts to `batch`: leading axes left out, others of size 1."""
    ones = draw.whole(0, 2 ** len(batch) - 1) if batch else 0
    kept = tuple(1 if ones >> i & 1 else n for i, n in enumerate(batch))
    return kept[draw.pick((0, 0, *range(1, len(batch) + 1))) :] if batch else kept


def draw_param(draw: Draw, param: Param, shape: Shape, sizes: Sizes, exact: bool) -> Any:
    """Draw what does not depend on values; a bound, a factor or a dtype is 0, 1 or None until those are known."""
    ndim = max(1, len(shape))
    match param:
        case Flag():
            return draw.flag()
        case Axis():
            return draw.whole(-ndim, ndim - 1)
        case Axes():
            return _axes(draw, ndim)
        case Whole(largest):
            return draw.whole(0, largest)
        case Exponent(largest):
            # In eighths: the rule's n - 1 must not round either.
            return draw.whole(0, largest) if exact or draw.flag() else draw.whole(-64, 64) / 8
        case Choice(options):
            return draw.pick(options)
        case Positive():
            return draw.pick((1.0, 1e-5, 1e-3, 1e-12, 100.0))
        case Label(axis):
            return draw.pick((-100, 0, 1, *range(sizes.get(axis, 0))))
        case Bound():
            return 0.0
        case Factor():
            return 1
        case Dtype():
            return None


def _axes(draw: Draw, ndim: int) -> int | tuple[int, ...] | None:
    kind = draw.whole(0, 5)  # several axes in half of all cases: their order is what is mistaken
    if kind == 0:
        return None
    if kind < 3:
        return int(draw.whole(-ndim, ndim - 1))
    chosen, backwards = draw.whole(1, 2**ndim - 1), draw.whole(0, 2**ndim - 1)
    axes = [axis - ndim * (backwards >> axis & 1) for axis in range(ndim) if chosen >> axis & 1]
    return tuple(axes[::-1] if draw.flag() else axes)


def left_out(draw: Draw, rule: Rule, shapes: list[Shape], params: Params) -> tuple[list[Shape | None], Params]:
    """Draw which optional primals and bounds are left out, none or all of them where the domain requires it."""
    optional = [*rule.optional, *(name for name, param in rule.domain.params.items() if isinstance(param, Bound))]
    drawn = {name for name in sorted(optional) if draw.whole(0, 2) == 2}
    choices = []
    for absent in (drawn, set[str](), set(optional)):
        kept = [None if name in absent else shape for name, shape in zip(rule.primals, shapes, strict=True)]
        values = {name: None if name in absent else value for name, value in params.items()}
        if not rule.domain.requires or accepts(rule, kept, rule.domain.dtypes[0], values):
            choices.append((kept, values))
    draw.assume(choices)
    return choices[0]


def accepts(rule: Rule, shapes: Sequence[Shape | None], dtype: torch.dtype, params: Params) -> bool:
    """Say whether the domain's requirement is met by zeros of these shapes."""
    return rule.domain.accepts(*zeros(rule, shapes, dtype), **params)


def zeros(rule: Rule, shapes: Sequence[Shape | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Return zeros for the primals, of the dtype where they have a gradient."""
    dtypes = {Mask: torch.bool, Index: torch.int64}
    own = rule.domain.own_dtypes or [
        dtypes[type(holds)] if holds else dtype for holds in map(rule.domain.indices.get, rule.primals)
    ]
    return [None if shape is None else torch.zeros(shape, dtype=d) for shape, d in zip(shapes, own, strict=True)]


def outputs(rule: Rule, shapes: Sequence[Shape | None], params: Params) -> int:
    """Return the number of elements of y; InputError if the forward does not take what its domain promises."""
    try:
        return rule.forward(*zeros(rule, shapes, rule.domain.dtypes[0]), **params).numel()
    except Exception as error:
        given = ", ".join(f"{name} of shape {shape}" for name, shape in zip(rule.primals, shapes, strict=True))
        raise InputError(
            f"{rule}: its forward raises {type(error).__name__} for {given}, {params or 'no params'}, which its domain "
            f"'{rule.domain.shapes}' accepts: {first_line(error)}. Change the one or the other."
        ) from error
