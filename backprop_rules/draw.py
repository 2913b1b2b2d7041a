"""Points drawn by Hypothesis: the only module that imports it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from torch import Tensor

from backprop_rules import layout
from backprop_rules.domain import BATCH, Axes, Axis, Bound, Domain, Dtype, Exponent, Factor, Flag, Param, axes_of
from backprop_rules.grid import DOUBLE, Grid, odd_part, widest
from backprop_rules.objection import WrongGradient
from backprop_rules.point import Point
from backprop_rules.rule import Rule

Draw = Callable[[st.SearchStrategy[Any]], Any]
Shape = tuple[int, ...]
T = TypeVar("T")

# The first is the simplest, to which a counterexample shrinks; 9 is past the length of a vector register.
SIDES = (1, 2, 3, 4, 5, 9, 0)
# Narrow grids draw ties, zeros and equal elements on purpose; the widest use every bit.
WIDTHS = (1, 2, 8, 2**DOUBLE)
# The largest iteration space: what keeps the differences, quadratic in it, within milliseconds.
LARGEST = 300


def _pick(draw: Draw, options: Sequence[T]) -> T:
    """Draw one of the options, the first being the simplest."""
    return options[draw(st.integers(0, len(options) - 1))]


@st.composite
def points(
    draw: Draw, rule: Rule, dtypes: Sequence[torch.dtype] | None = None, devices: Sequence[str] = ("cpu",)
) -> Point:
    """Draw a point of the exact tier: shapes, params, dtypes, device, layouts, values and a cotangent.

    `dtypes` and `devices` limit the choice; a dtype that the domain does not have is left out.
    """
    domain = rule.domain
    shapes, iterations = _shapes(draw, domain, rule)
    given_shapes = [shape for shape in shapes if shape is not None]
    params = {name: _param(draw, param, given_shapes[0]) for name, param in domain.params.items()}
    allowed = [dtype for dtype in domain.dtypes if dtypes is None or dtype in dtypes]
    unit = odd_part(domain.divisor(given_shapes[0], **params)) if domain.divisor else 1

    def zeros(dtype: torch.dtype) -> list[Tensor | None]:
        return [None if shape is None else torch.zeros(shape, dtype=dtype) for shape in shapes]

    allowed = [dtype for dtype in allowed if domain.accepts(*zeros(dtype), **params)]
    assume(allowed)
    y = rule.forward(*zeros(allowed[0]), **params)
    sizes = [y.numel(), *map(math.prod, given_shapes)]

    def width(*some: torch.dtype) -> int:
        return widest(domain, params, iterations, sizes, some, unit, bool(rule.conventions))

    allowed = [dtype for dtype in allowed if width(dtype)]
    assume(allowed)
    own = [_pick(draw, allowed)] * len(shapes)
    if domain.promotes and draw(st.integers(0, 3)) == 3:
        mixed = [_pick(draw, allowed) for _ in shapes]
        # torch may promote to a dtype outside the domain: float16 and a complex number make complex32.
        result = torch.result_type(*(x.to(d) for x, d in zip(zeros(own[0]), mixed, strict=True) if x is not None))
        own = mixed if width(*mixed) and result in domain.dtypes else own
    for name, param in domain.params.items():
        if isinstance(param, Dtype):
            same_kind = [d for d in domain.dtypes if d.is_complex == own[0].is_complex and width(*own, d)]
            params[name] = _pick(draw, [None, *same_kind])
    extra = [value for value in params.values() if isinstance(value, torch.dtype)]
    largest = min(width(*own, *extra), _pick(draw, WIDTHS))
    grid = Grid(largest, draw(st.integers(0, largest.bit_length() - 1)), unit)
    complex_y = any(dtype.is_complex for dtype in own)
    for name, param in domain.params.items():
        if isinstance(param, Bound) and params[name] is not None:
            params[name] = grid.spacing * draw(st.integers(-largest, largest))
        elif isinstance(param, Factor):
            params[name] = _factor(draw, param, complex_y)
    device = _pick(draw, devices)
    primals = tuple(
        None if shape is None else tensor(draw, shape, dtype, grid, device)
        for shape, dtype in zip(shapes, own, strict=True)
    )
    y = Point(rule, primals, params, torch.empty(0), grid.spacing).y
    return Point(rule, primals, params, tensor(draw, tuple(y.shape), y.dtype, grid, device), grid.spacing)


def tensor(draw: Draw, shape: Shape, dtype: torch.dtype, grid: Grid, device: str = "cpu") -> Tensor:
    """Draw a tensor of values on the grid, from one string of bytes, in some memory layout."""
    arrangement = _pick(draw, layout.LAYOUTS)
    small = shape
    if arrangement == "expanded":
        small = layout.expanded_axes(shape, draw(st.integers(0, len(shape))))
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
    size = next(n for n in (1, 2, 4, 8) if choices <= 256**n)
    data = draw(st.binary(min_size=count * size, max_size=count * size))
    ranks = (np.frombuffer(data, dtype=f">u{size}") % choices).astype(np.int64)
    return np.where(ranks % 2 == 1, (ranks + 1) // 2, -(ranks // 2)).astype(np.float64)


def _shapes(draw: Draw, domain: Domain, rule: Rule) -> tuple[list[Shape | None], int]:
    """Draw a shape for each primal (None for an optional one left out) and count the iteration space."""
    primals = axes_of(domain.shapes)
    names = {name for primal in primals for name in primal if name != BATCH}
    missing = {name.rstrip("?") for name in sorted(names) if name.endswith("?") and draw(st.booleans())}
    present = sorted({name.rstrip("?") for name in names} - missing)
    room = LARGEST
    sides = []
    for _ in range(len(present) + draw(st.integers(0, 2 if names else 3))):
        sides.append(_pick(draw, [n for n in SIDES if n <= room]))
        room //= max(1, sides[-1])
    sizes, batch = dict(zip(present, sides, strict=False)), tuple(sides[len(present) :])
    shapes: list[Shape | None] = []
    stretched: list[Shape] = []
    for primal, name in zip(primals, rule.primals, strict=True):
        if name in rule.optional and draw(st.booleans()):
            shapes.append(None)
            continue
        core = tuple(sizes[axis.rstrip("?")] for axis in primal if axis.rstrip("?") in sizes)
        own: Shape = ()
        if primal[0] == BATCH and not any(axis.rstrip("?") in missing for axis in primal):
            own = _broadcastable(draw, batch) if len(primals) > 1 else batch
        stretched.append(own)
        shapes.append(own + core)
    iterations = math.prod(max(1, n) for n in (*torch.broadcast_shapes(*stretched), *sizes.values()))
    return shapes, iterations


def _broadcastable(draw: Draw, batch: Shape) -> Shape:
    """Draw a shape that broadcasts to `batch`: leading axes left out, others of size 1."""
    ones = draw(st.integers(0, 2 ** len(batch) - 1)) if batch else 0
    kept = tuple(1 if ones >> i & 1 else n for i, n in enumerate(batch))
    return kept[draw(st.integers(0, len(batch))) :] if batch else kept


def _param(draw: Draw, param: Param, shape: Shape) -> Any:
    """Draw what can be drawn before the grid is known; a bound or factor is 0 or 1 until then."""
    ndim = max(1, len(shape))
    match param:
        case Flag():
            return draw(st.booleans())
        case Axis():
            return draw(st.integers(-ndim, ndim - 1))
        case Axes():
            return _axes(draw, ndim)
        case Exponent():
            return draw(st.integers(0, param.largest))
        case Bound():
            return _pick(draw, (0.0, None))
        case Factor():
            return 1
        case Dtype():
            return None


def _axes(draw: Draw, ndim: int) -> int | tuple[int, ...] | None:
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return None
    if kind == 1:
        return int(draw(st.integers(-ndim, ndim - 1)))
    chosen, backwards = draw(st.integers(1, 2**ndim - 1)), draw(st.integers(0, 2**ndim - 1))
    return tuple(axis - ndim * (backwards >> axis & 1) for axis in range(ndim) if chosen >> axis & 1)


def _factor(draw: Draw, param: Factor, complex_y: bool) -> complex:
    whole = st.integers(-param.largest, param.largest)
    real = draw(whole)
    imaginary = draw(whole) if complex_y else 0
    return complex(real, imaginary) if imaginary else real


def search(
    rule: Rule,
    check: Callable[[Point], None],
    examples: int,
    at: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
) -> WrongGradient | None:
    """Return the objection at the smallest point found at which the check fails, None where it never does.

    `at` is the seed: equal seeds draw equal points.
    """
    last: list[WrongGradient] = []

    @seed(at)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(points(rule, dtypes, devices))
    def hold(point: Point) -> None:
        try:
            check(point)
        except WrongGradient as objection:
            last.append(objection)
            raise

    try:
        hold()
    except WrongGradient as objection:
        return objection
    except Flaky:
        # The rule answers otherwise when asked again; the last failure shown is still a failure.
        return last[-1]
    return None
