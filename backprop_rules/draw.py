"""Points drawn by Hypothesis: the only module that imports it."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from torch import Tensor

from backprop_rules import layout
from backprop_rules.domain import (
    BATCH,
    Axes,
    Axis,
    Bound,
    Domain,
    Dtype,
    Exponent,
    Factor,
    Flag,
    Param,
    axes_of,
    dtype_name,
)
from backprop_rules.errors import InputError
from backprop_rules.grid import DOUBLE, Grid, Room, odd_part, room
from backprop_rules.objection import WrongGradient
from backprop_rules.point import Point, probe
from backprop_rules.rule import Rule

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]
Params = dict[str, Any]
T = TypeVar("T")

# Bytes in the shortest string from which a tensor is drawn.
SHORT = 64
# The bits of a wide element that its value comes from; the eight above say how many of them to drop.
LOW = np.uint64(2**56 - 1)

# The first is the simplest, to which a counterexample shrinks; 9 and 17 are past the length of a vector register.
SIDES = (1, 2, 3, 4, 5, 9, 0, 17)
# How many batch axes, beside named axes and without: a batch of one hides a missing sum.
CORE_RANKS, RANKS = (0, 1, 2, 1, 3), (0, 1, 2, 3, 2, 4)
# Narrow grids draw ties, zeros and equal elements on purpose; the widest use every bit.
WIDTHS = (1, 2, 8, 2**DOUBLE, 2**DOUBLE)
# The largest iteration space: what keeps the differences, quadratic in it, within milliseconds.
LARGEST = 300


@cache
def _whole(first: int, last: int) -> st.SearchStrategy[int]:
    return st.integers(first, last)


def _pick(draw: Draw, options: Sequence[T]) -> T:
    """Draw one of the options, the first being the simplest."""
    return options[draw(_whole(0, len(options) - 1))]


@st.composite
def points(
    draw: Draw,
    rule: Rule,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
    sides: Sequence[int] = SIDES,
) -> Point:
    """Draw a point of the exact tier: shapes, params, dtypes, device, layouts, values and a cotangent.

    `dtypes`, `devices` and `sides` limit the choice; a dtype that the domain does not have is left out.
    """
    every, iterations = _shapes(draw, rule, sides)
    params = {name: _param(draw, param, every[0]) for name, param in rule.domain.params.items()}
    shapes, params = _left_out(draw, rule, every, params)
    own, params, space = _dtypes(draw, rule, shapes, params, iterations, dtypes or rule.domain.dtypes)
    width = min(space.width, _pick(draw, WIDTHS))
    grid = Grid(width, draw(_whole(0, width.bit_length() - 1)), _unit(rule.domain, every[0], params))
    device = _pick(draw, devices)
    if device == "cuda" and grid.unit > 1:
        device = "cpu"  # a GPU may divide by a number as it multiplies by the rounded reciprocal
    primals = tuple(
        None if shape is None else tensor(draw, shape, dtype, grid, device)
        for shape, dtype in zip(shapes, own, strict=True)
    )
    if rule.conventions:
        primals = _tied(draw, primals, grid)
    for name, param in rule.domain.params.items():
        if isinstance(param, Bound) and params[name] is not None:
            params[name] = _bound(draw, primals[0], grid)
        elif isinstance(param, Factor):
            params[name] = _factor(draw, param, any(dtype.is_complex for dtype in own))
    y = Point(rule, primals, params, torch.empty(0), grid.spacing).y
    wide = replace(grid, width=min(space.for_cotangent(width), _pick(draw, WIDTHS)))
    return Point(rule, primals, params, tensor(draw, tuple(y.shape), y.dtype, wide, device), grid.spacing)


def _tied(draw: Draw, primals: tuple[Tensor | None, ...], grid: Grid) -> tuple[Tensor | None, ...]:
    """Draw whether the later primals, bounds say, lie on the first one's elements and next to them."""
    first = primals[0]
    assert first is not None

    def near(start: int, x: Tensor) -> Tensor:
        aligned = torch.broadcast_to(first, np.broadcast_shapes(first.shape, x.shape))
        aligned = aligned[(0,) * (aligned.ndim - x.ndim)][tuple(slice(0, n) for n in x.shape)]
        return (aligned + probe(x, start) * grid.spacing).clamp(-grid.largest, grid.largest).to(x.dtype)

    return first, *(
        near(k, x) if x is not None and x.numel() and first.numel() and draw(_whole(0, 2)) == 2 else x
        for k, x in enumerate(primals[1:])
    )


def _bound(draw: Draw, x: Tensor | None, grid: Grid) -> float:
    """Draw a number on the grid, two times in three an element of x or its neighbour."""
    offset = draw(_whole(-grid.width, grid.width))
    if x is None or not x.numel() or x.device.type == "meta" or draw(_whole(0, 2)) == 0:
        return float(grid.spacing * offset)
    element = float(x.flatten()[draw(_whole(0, x.numel() - 1))])
    neighbour: float = element + grid.spacing * max(-1, min(1, offset))
    return min(max(neighbour, -grid.largest), grid.largest)


def _left_out(draw: Draw, rule: Rule, shapes: list[Shape], params: Params) -> tuple[list[Shape | None], Params]:
    """Draw which optional primals and bounds are left out, none or all of them where the domain requires it."""
    optional = [*rule.optional, *(name for name, param in rule.domain.params.items() if isinstance(param, Bound))]
    drawn = {name for name in sorted(optional) if draw(_whole(0, 2)) == 2}
    choices = []
    for absent in (drawn, set[str](), set(optional)):
        kept = [None if name in absent else shape for name, shape in zip(rule.primals, shapes, strict=True)]
        values = {name: None if name in absent else value for name, value in params.items()}
        if not rule.domain.requires or rule.domain.accepts(*_zeros(kept, rule.domain.dtypes[0]), **values):
            choices.append((kept, values))
    assume(choices)
    return choices[0]


def _dtypes(
    draw: Draw, rule: Rule, shapes: list[Shape | None], params: Params, iterations: int, among: Sequence[torch.dtype]
) -> tuple[list[torch.dtype], Params, Room]:
    """Draw a dtype for each primal, and for the params, among those in which the rule computes exactly."""
    domain, given_shapes = rule.domain, [shape for shape in shapes if shape is not None]
    sizes = [_outputs(rule, shapes, params), *map(math.prod, given_shapes)]
    unit = _unit(domain, given_shapes[0], params)

    def space(*some: torch.dtype) -> Room:
        return room(domain, params, iterations, sizes, some, unit, bool(rule.conventions))

    allowed = [dtype for dtype in domain.dtypes if dtype in among and space(dtype).width]
    if domain.requires:
        allowed = [dtype for dtype in allowed if domain.accepts(*_zeros(shapes, dtype), **params)]
    assume(allowed)
    own = [_pick(draw, allowed)] * len(shapes)
    if domain.promotes and draw(_whole(0, 3)) == 3:
        mixed = [_pick(draw, allowed) for _ in shapes]
        # torch may promote to a dtype outside the domain: float16 and a complex number make complex32.
        ends = (torch.zeros(shape, dtype=d) for shape, d in zip(given_shapes, mixed, strict=True))
        own = mixed if space(*mixed).width and torch.result_type(*ends) in domain.dtypes else own
    for name, param in domain.params.items():
        if isinstance(param, Dtype):
            same_kind = [d for d in domain.dtypes if d.is_complex == own[0].is_complex and space(*own, d).width]
            params = {**params, name: _pick(draw, [None, *same_kind])}
    return own, params, space(*own, *(value for value in params.values() if isinstance(value, torch.dtype)))


def _outputs(rule: Rule, shapes: Sequence[Shape | None], params: Params) -> int:
    """Return the number of elements of y; InputError if the forward does not take what its domain promises."""
    try:
        return rule.forward(*_zeros(shapes, rule.domain.dtypes[0]), **params).numel()
    except Exception as error:
        given = ", ".join(f"{name} of shape {shape}" for name, shape in zip(rule.primals, shapes, strict=True))
        raise InputError(
            f"{rule}: its forward raises {type(error).__name__} for {given}, {params or 'no params'}, which its domain "
            f"'{rule.domain.shapes}' accepts: {(str(error).splitlines() or [''])[0]}. Change the one or the other."
        ) from error


def _unit(domain: Domain, shape: Shape, params: Params) -> int:
    """Return the odd part of what the rule divides by, of which every drawn value is a multiple."""
    return odd_part(domain.divisor(shape, **params)) if domain.divisor else 1


def _zeros(shapes: Sequence[Shape | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if shape is None else torch.zeros(shape, dtype=dtype) for shape in shapes]


def tensor(draw: Draw, shape: Shape, dtype: torch.dtype, grid: Grid, device: str = "cpu") -> Tensor:
    """Draw a tensor of values on the grid, from one string of bytes, in some memory layout."""
    arrangement = _pick(draw, layout.LAYOUTS)
    small = shape
    if arrangement == "expanded":
        small = layout.expanded_axes(shape, draw(_whole(0, len(shape))))
    if device == "meta":
        return torch.empty(small, dtype=dtype, device=device).expand(shape)
    parts = (*small, 2) if dtype.is_complex else small
    values = torch.from_numpy(_whole_numbers(draw, math.prod(parts), grid.width).reshape(parts)) * grid.spacing
    x = (torch.view_as_complex(values) if dtype.is_complex else values).to(device, dtype)
    if arrangement == "transposed":
        return layout.transposed(x)
    if arrangement == "sliced":
        return layout.sliced(x)
    return x.expand(shape)


def _whole_numbers(draw: Draw, count: int, width: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Draw that many integers from -width to width; the bytes 0, 1, 2, ... are 0, 1, -1, ..., so that they shrink."""
    choices = 2 * width + 1
    size = 1 if choices <= 256 else 8
    # Small tensors take a string of one length, so that their values outlive a change of shape in shrinking, and
    # the last byte goes to the first element: shrinking moves what is not zero to the end of a string.
    length = max(SHORT, count * size)
    data = draw(st.binary(min_size=length, max_size=length))
    numbers = np.frombuffer(data, dtype=f">u{size}")[::-1][:count]
    ranks = ((numbers & LOW) % choices).astype(np.int64)
    sizes = (ranks + 1) >> 1
    if size == 8:
        # The first byte says how many bits to drop: a wide grid has small numbers beside large ones.
        sizes >>= (numbers >> 56).astype(np.int64) % width.bit_length()
    return np.where(ranks & 1, sizes, -sizes).astype(np.float64)


def _shapes(draw: Draw, rule: Rule, among: Sequence[int]) -> tuple[list[Shape], int]:
    """Draw a shape for each primal and count the points of the iteration space."""
    primals = axes_of(rule.domain.shapes)
    names = {name for primal in primals for name in primal if name != BATCH}
    missing = {name.rstrip("?") for name in sorted(names) if name.endswith("?") and draw(st.booleans())}
    present = sorted({name.rstrip("?") for name in names} - missing)
    left, sides = LARGEST, list[int]()
    for _ in range(len(present) + _pick(draw, CORE_RANKS if names else RANKS)):
        # Equal sides hide a transpose, and make it silent: a side often repeats the last one.
        options = [n for n in (*among, *sides[-1:] * 3) if n <= left]
        sides.append(_pick(draw, options))
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
    return shapes, math.prod(max(1, n) for n in (*np.broadcast_shapes(*batches), *sizes.values()))


def _broadcastable(draw: Draw, batch: Shape) -> Shape:
    """Draw a shape that broadcasts to `batch`: leading axes left out, others of size 1."""
    ones = draw(_whole(0, 2 ** len(batch) - 1)) if batch else 0
    kept = tuple(1 if ones >> i & 1 else n for i, n in enumerate(batch))
    return kept[_pick(draw, (0, 0, *range(1, len(batch) + 1))) :] if batch else kept


def _param(draw: Draw, param: Param, shape: Shape) -> Any:
    """Draw what can be drawn before the grid is known; a bound or factor is 0 or 1 until then."""
    ndim = max(1, len(shape))
    match param:
        case Flag():
            return draw(st.booleans())
        case Axis():
            return draw(_whole(-ndim, ndim - 1))
        case Axes():
            return _axes(draw, ndim)
        case Exponent():
            return draw(_whole(0, param.largest))
        case Bound():
            return 0.0
        case Factor():
            return 1
        case Dtype():
            return None


def _axes(draw: Draw, ndim: int) -> int | tuple[int, ...] | None:
    kind = draw(_whole(0, 2))
    if kind == 0:
        return None
    if kind == 1:
        return int(draw(_whole(-ndim, ndim - 1)))
    chosen, backwards = draw(_whole(1, 2**ndim - 1)), draw(_whole(0, 2**ndim - 1))
    axes = [axis - ndim * (backwards >> axis & 1) for axis in range(ndim) if chosen >> axis & 1]
    return tuple(axes[::-1] if draw(st.booleans()) else axes)


def _factor(draw: Draw, param: Factor, complex_y: bool) -> complex:
    whole = _whole(-param.largest, param.largest)
    halvings = draw(_whole(0, 2))
    real, imaginary = draw(whole) / 2**halvings, draw(whole) / 2**halvings if complex_y else 0
    return complex(real, imaginary) if imaginary else real


QUIET = settings(
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
)


def search(
    rule: Rule,
    check: Callable[[Point], None],
    examples: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
    sides: Sequence[int] = SIDES,
) -> WrongGradient | None:
    """Return the objection at the smallest point found at which the check fails, None where it never does.

    Equal seeds draw equal points. Raises InputError where no point can be drawn.
    """
    last: list[WrongGradient] = []

    @seeded(seed)
    @settings(QUIET, max_examples=examples)
    @given(points(rule, dtypes, devices, sides))
    def hold(point: Point) -> None:
        try:
            check(point)
        except WrongGradient as objection:
            # Shrinking must not slip from one mistake to another, say from a wrong value to a wrong dtype.
            if not last or objection.kind == last[0].kind:
                last.append(objection)
                raise

    try:
        with warnings.catch_warnings():
            # torch's own forward mode of mixed dtypes passes through complex32 under vmap, and says so.
            warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
            hold()
    except WrongGradient as objection:
        return objection
    except Unsatisfiable as error:
        raise _nothing_drawn(rule, dtypes) from error
    except Flaky:
        # The rule answers otherwise when asked again; the last failure shown is still a failure.
        return last[-1]
    return None


def _nothing_drawn(rule: Rule, dtypes: Sequence[torch.dtype] | None) -> InputError:
    among = ", ".join(map(dtype_name, dtypes or rule.domain.dtypes))
    return InputError(
        f"{rule}: no point could be drawn on which nothing rounds: the sums are too long, or the degree too high, "
        f"for {among}. Check the degree and the weight of its domain."
    )
