"""Points of a rule's domain in bulk: on a grid so narrow that nothing rounds, and of any magnitude, with roundings."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from backprop_rules.call import Call, probe
from backprop_rules.domain import EVERYWHERE, Bound, Domain, Dtype, Factor, Index, Interval, Mask
from backprop_rules.errors import InputError
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.draw import Draw, Refused
from backprop_rules.strategies.drawing.shapes import (
    SIDES,
    Params,
    Shape,
    Sizes,
    accepts,
    draw_param,
    draw_shapes,
    left_out,
    outputs,
)
from backprop_rules.strategies.drawing.values import indices, of_any_magnitude, on_grid, tensor
from backprop_rules.strategies.grid import DOUBLE, Grid, Room, odd_part, room

# Narrow grids draw ties, zeros and equal elements on purpose; the widest use every bit.
WIDTHS = (1, 2, 8, 2**DOUBLE, 2**DOUBLE)


def exact_point(
    draw: Draw,
    rule: Rule,
    dtypes: Sequence[torch.dtype],
    sides: Sequence[int],
) -> Call:
    """Draw a point of the exact tier: shapes, params, dtypes, layouts, values and a cotangent."""
    every, sizes, iterations = draw_shapes(draw, rule, sides)
    first = every[rule.differentiable[0]]
    params = {name: draw_param(draw, p, first, sizes, exact=True) for name, p in rule.domain.params.items()}
    shapes, params = left_out(draw, rule, every, params)
    own, params, space = _dtypes(draw, rule, shapes, params, iterations, dtypes)
    width = min(space.width, draw.pick(WIDTHS))
    grid = Grid(width, draw.whole(0, width.bit_length() - 1), _unit(rule.domain, first, params))
    primals = tuple(
        None if shape is None else draw_without_gradient(draw, rule, name, shape, sizes)
        if name in rule.domain.indices else tensor(draw, shape, dtype, partial(on_grid, draw, grid=grid))
        for name, shape, dtype in zip(rule.primals, shapes, own, strict=True)
    )  # fmt: skip
    if rule.conventions:
        primals = tied(draw, primals, grid)
    for name, param in rule.domain.params.items():
        if isinstance(param, Bound) and params[name] is not None:
            params[name] = _bound(draw, primals[0], grid)
        elif isinstance(param, Factor):
            params[name] = draw_factor(draw, param, any(dtype.is_complex for dtype in own))
    y = Call(rule, primals, params, torch.empty(0), grid.spacing).y
    wide = replace(grid, width=min(space.for_cotangent(width), draw.pick(WIDTHS)))
    grad_y = tensor(draw, tuple(y.shape), y.dtype, partial(on_grid, draw, grid=wide))
    return Call(rule, primals, params, grad_y, grid.spacing)


def bounded_point(
    draw: Draw,
    rule: Rule,
    dtypes: Sequence[torch.dtype],
    sides: Sequence[int],
) -> Call:
    """Draw a point of the bounded tier: shapes, params, dtypes, layouts, values and a cotangent."""
    every, sizes, _ = draw_shapes(draw, rule, sides)
    first = every[rule.differentiable[0]]
    params = {name: draw_param(draw, p, first, sizes, exact=False) for name, p in rule.domain.params.items()}
    shapes, params = left_out(draw, rule, every, params)
    outputs(rule, shapes, params)  # what does not take its domain is refused here
    own = draw_dtypes(draw, rule, shapes, params, [d for d in rule.domain.dtypes if d in dtypes])

    def primal(k: int) -> Tensor | None:
        name, shape = rule.primals[k], shapes[k]
        if shape is None:
            return None
        if name in rule.domain.indices:
            return draw_without_gradient(draw, rule, name, shape, sizes)
        within: Interval = rule.domain.interval(name, params)
        return tensor(draw, shape, own[k], of_any_magnitude(draw, own[k], within, bool(rule.conventions)))

    primals = tuple(primal(k) for k in range(len(shapes)))
    if rule.conventions:
        primals = tied(draw, primals)
    params = {name: _value(draw, rule, name, params[name], primals, own[0]) for name in rule.domain.params}
    draw.assume(rule.domain.accepts(*primals, **params))  # some functions take not every layout
    y = Call(rule, primals, params, torch.empty(0)).y
    grad_y = tensor(draw, tuple(y.shape), y.dtype, of_any_magnitude(draw, y.dtype, EVERYWHERE))
    return Call(rule, primals, params, grad_y)


def _value(
    draw: Draw, rule: Rule, name: str, value: object, primals: Sequence[Tensor | None], dtype: torch.dtype
) -> object:
    """Draw a param that depends on the primals: a bound, a factor, a dtype; any other is drawn already."""
    param = rule.domain.params[name]
    if isinstance(param, Bound) and value is not None:
        x = primals[0]
        if x is None or not x.numel() or draw.flag():
            return float(torch.tensor(draw.whole(-8, 8) / 4, dtype=dtype))
        return float(x.flatten()[draw.whole(0, x.numel() - 1)])
    if isinstance(param, Factor):
        return draw_factor(draw, param, dtype.is_complex)
    if isinstance(param, Dtype):
        return draw.pick([None, *(d for d in rule.domain.dtypes if d.is_complex == dtype.is_complex)])
    return value


def draw_without_gradient(draw: Draw, rule: Rule, name: str, shape: Shape, sizes: Sizes) -> Tensor:
    """Draw a mask, or indices into the axis that the domain names."""
    holds = rule.domain.indices[name]
    size = sizes[holds.axis] if isinstance(holds, Index) else 2
    dtype = torch.bool if isinstance(holds, Mask) else torch.int64
    return tensor(draw, shape, dtype, lambda count: indices(draw, count, size))


def tied(draw: Draw, primals: tuple[Tensor | None, ...], grid: Grid | None = None) -> tuple[Tensor | None, ...]:
    """Draw whether the later primals, bounds say, lie on the first one's elements, on a grid next to them as well."""
    first = primals[0]
    assert first is not None

    def near(start: int, x: Tensor) -> Tensor:
        found = _at_the_shape_of(x, first)
        if grid is not None:
            found = (found + probe(x, start) * grid.spacing).clamp(-grid.largest, grid.largest)
        return found.to(x.dtype)

    return first, *(
        near(k, x) if x is not None and x.numel() and first.numel() and draw.whole(0, 2) == 2 else x
        for k, x in enumerate(primals[1:])
    )


def _at_the_shape_of(x: Tensor, first: Tensor) -> Tensor:
    """Return those elements of the first primal that stand where x broadcasts to, in x's shape."""
    aligned = torch.broadcast_to(first, np.broadcast_shapes(first.shape, x.shape))
    return aligned[(0,) * (aligned.ndim - x.ndim)][tuple(slice(0, n) for n in x.shape)]


def _bound(draw: Draw, x: Tensor | None, grid: Grid) -> float:
    """Draw a number on the grid, two times in three an element of x or its neighbour."""
    offset = draw.whole(-grid.width, grid.width)
    if x is None or not x.numel() or draw.whole(0, 2) == 0:
        return float(grid.spacing * offset)
    element = float(x.flatten()[draw.whole(0, x.numel() - 1)])
    neighbour: float = element + grid.spacing * max(-1, min(1, offset))
    return min(max(neighbour, -grid.largest), grid.largest)


def _dtypes(
    draw: Draw, rule: Rule, shapes: list[Shape | None], params: Params, iterations: int, among: Sequence[torch.dtype]
) -> tuple[list[torch.dtype], Params, Room]:
    """Draw a dtype for each primal, and for the params, among those in which the rule computes exactly."""
    domain = rule.domain
    given_shapes = [shape for i in rule.differentiable if (shape := shapes[i]) is not None]
    sizes = [outputs(rule, shapes, params), *map(math.prod, given_shapes)]
    unit = _unit(domain, given_shapes[0], params)

    def space(*some: torch.dtype) -> Room:
        return room(domain, params, iterations, sizes, some, unit, bool(rule.conventions))

    allowed = [dtype for dtype in domain.dtypes if dtype in among and space(dtype).width]
    own = draw_dtypes(draw, rule, shapes, params, allowed)
    if not space(*own).width:
        own = own[:1] * len(own)
    for name, param in domain.params.items():
        if isinstance(param, Dtype):
            same_kind = [d for d in domain.dtypes if d.is_complex == own[0].is_complex and space(*own, d).width]
            params = {**params, name: draw.pick([None, *same_kind])}
    return own, params, space(*own, *(value for value in params.values() if isinstance(value, torch.dtype)))


def draw_dtypes(
    draw: Draw, rule: Rule, shapes: Sequence[Shape | None], params: Params, allowed: Sequence[torch.dtype]
) -> list[torch.dtype]:
    """Draw a dtype for each primal: one for all, or now and then several where the rule promotes; its own, if any."""
    if rule.domain.requires:
        allowed = [dtype for dtype in allowed if accepts(rule, shapes, dtype, params)]
    draw.assume(allowed)
    if rule.domain.own_dtypes:
        return list(rule.domain.own_dtypes)
    one = [draw.pick(allowed)] * len(shapes)
    if not rule.domain.promotes or draw.whole(0, 3) < 3:
        return one
    mixed = [draw.pick(allowed) for _ in shapes]
    # torch may promote to a dtype outside the domain: float16 and a complex number make complex32.
    ends = [torch.zeros(shapes[i] or (), dtype=mixed[i]) for i in rule.differentiable]
    return mixed if torch.result_type(*ends) in rule.domain.dtypes else one


def _unit(domain: Domain, shape: Shape, params: Params) -> int:
    """Return the odd part of what the rule divides by, of which every drawn value is a multiple."""
    return odd_part(domain.divisor(shape, **params)) if domain.divisor else 1


def draw_factor(draw: Draw, param: Factor, complex_y: bool) -> complex:
    """Draw a whole number, or its half or quarter."""
    halvings = draw.whole(0, 2)
    real = draw.whole(-param.largest, param.largest) / 2**halvings
    imaginary = draw.whole(-param.largest, param.largest) / 2**halvings if complex_y else 0
    return complex(real, imaginary) if imaginary else real


TIERS = {"exact": exact_point, "bounded": bounded_point}
TRIES = 10  # to draw a point, where some are refused


def tiers_of(rule: Rule) -> tuple[str, ...]:
    """Return the tiers in which points of the rule can be drawn: exact only for polynomials."""
    return tuple(TIERS) if rule.domain.degree is not None else ("bounded",)


def drawn(
    rule: Rule,
    count: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    sides: Sequence[int] = SIDES,
    tiers: Collection[str] = tuple(TIERS),
) -> Iterator[Call]:
    """Yield so many points, shared among the tiers that the rule has, each drawn when it is asked for.

    Equal seeds draw equal points. Raises InputError where none can be drawn.
    """
    own = [tier for tier in tiers_of(rule) if tier in tiers]
    for k, tier in enumerate(own):
        share = left = (count + k) // len(own)
        draw = Draw(seed)
        for _ in range(TRIES * share):
            if not left:
                break
            call = _one(draw, tier, rule, dtypes or rule.domain.dtypes, sides)
            if call is not None:
                left -= 1
                yield call
        if share and left == share:
            raise InputError(
                f"{rule}: no point could be drawn on which nothing rounds: the sums are too long, or the degree too "
                f"high, for the dtypes asked for. Check the degree and the weight of its domain."
            )


def _one(draw: Draw, tier: str, rule: Rule, dtypes: Sequence[torch.dtype], sides: Sequence[int]) -> Call | None:
    with suppress(Refused):
        return TIERS[tier](draw, rule, dtypes, sides)
    return None
