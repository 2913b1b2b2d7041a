"""The inputs that a rule accepts, as data: shapes, dtypes, params, values, and the degree of a polynomial."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from backprop_rules.errors import InputError

REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex128, torch.complex64)
BATCH = "..."


def dtype_name(dtype: torch.dtype) -> str:
    """Return the dtype's name as users type it: float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


@cache
def precision(dtype: torch.dtype) -> int:
    """Return the number of significant bits of the dtype: 53, 24, 11 or 8."""
    return 1 - int(math.log2(torch.finfo(dtype).eps))


@dataclass(frozen=True)
class Flag:
    """A param that is True or False."""


@dataclass(frozen=True)
class Axis:
    """A param that names one axis of the first primal, counted from the front or, negative, from the back."""


@dataclass(frozen=True)
class Axes:
    """A param that names axes of the first primal: None for all, an int, or a tuple of ints without repeats."""


@dataclass(frozen=True)
class Whole:
    """A param that is an integer from 0; it is drawn up to `largest`."""

    largest: int


@dataclass(frozen=True)
class Exponent:
    """A param that is a real number; in the exact tier it is drawn as an integer from 0 to `largest`."""

    largest: int


@dataclass(frozen=True)
class Choice:
    """A param that is one of these values."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class Positive:
    """A param that is a positive real number."""


@dataclass(frozen=True)
class Label:
    """A param that is any integer, often an index into the named axis."""

    axis: str


@dataclass(frozen=True)
class Factor:
    """A param that is a whole number of at most `largest`, or its half or quarter; complex where y may be."""

    largest: int


@dataclass(frozen=True)
class Bound:
    """A param that is None or a real number in the range of the primals, often equal to one of their elements."""


@dataclass(frozen=True)
class Dtype:
    """A param that is None or the dtype to compute in: real for a real primal, complex for a complex one."""


Param = Flag | Axis | Axes | Whole | Exponent | Choice | Positive | Label | Factor | Bound | Dtype
Count = int | Callable[..., int]


@dataclass(frozen=True)
class Mask:
    """What a primal without a gradient holds: True and False."""


@dataclass(frozen=True)
class Index:
    """What a primal without a gradient holds: indices into the named axis, from 0."""

    axis: str


Interval = tuple[float, float]
EVERYWHERE: Interval = (-math.inf, math.inf)


@dataclass(frozen=True)
class Domain:
    """The inputs of a rule.

    `shapes` lists the named axes of each primal, as in "... m? n, ... n p?": equal names have equal
    sizes, a name with a question mark may be missing (then its primal has no batch axes), and "..."
    stands for batch axes, which broadcast. `indices` says what the primals without a gradient hold,
    and `values` gives the closed interval in which the function of a primal is differentiable, where
    that is not everywhere. `own_dtypes` has one for each primal, where forward does not take any.

    The rest is for the exact tier. `degree` is the total degree in all primals together of the
    polynomial that forward is, piece by piece, and None where it is none; `power` is the highest
    power of a single element, `weight` the sum of the absolute coefficients of the terms that one
    point of the iteration space adds to a sum, and `divisor` the number that a sum is divided by.
    `values` and these may be functions of the params, the divisor of the first shape as well.
    """

    shapes: str
    params: Mapping[str, Param] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = REAL + COMPLEX
    indices: Mapping[str, Mask | Index] = field(default_factory=dict)
    values: Mapping[str, Interval | Callable[..., Interval]] = field(default_factory=dict)
    degree: Count | None = 1
    power: Count = 1
    weight: Count = 1
    divisor: Callable[..., int] | None = None
    promotes: bool = False
    own_dtypes: tuple[torch.dtype, ...] = ()
    requires: tuple[str, Callable[..., bool]] | None = None

    def __post_init__(self) -> None:
        strangers = [dtype for dtype in self.dtypes if dtype not in REAL + COMPLEX]
        if strangers or not self.dtypes:
            known = ", ".join(map(str, REAL + COMPLEX))
            raise InputError(f"a domain's dtypes must be of {known}; got {strangers or 'none'}.")
        if not isinstance(self.shapes, str):
            raise InputError(f"a domain's shapes are named as in '... m n, n'; got {self.shapes!r}.")
        # Of a higher degree not even two values can be multiplied in float64 without rounding.
        for which, most in (("degree", 53), ("power", 53), ("weight", math.inf)):
            value = getattr(self, which)
            if not (
                callable(value) or (type(value) is int and 0 < value <= most) or (which, value) == ("degree", None)
            ):
                raise InputError(f"a domain's {which} is a whole number from 1 to {most}; got {value!r}.")
        for name, ends in self.values.items():
            if not (callable(ends) or (isinstance(ends, tuple) and len(ends) == 2 and ends[0] < ends[1])):
                raise InputError(f"a domain's values are (low, high) with low < high; got {ends!r} for {name}.")

    def count(self, which: str, params: Mapping[str, Any]) -> int:
        """Return `degree`, `power` or `weight` at these params."""
        value: Count = getattr(self, which)
        return value if isinstance(value, int) else value(**params)

    def interval(self, primal: str, params: Mapping[str, Any]) -> Interval:
        """Return the interval of that primal's values at these params."""
        found = self.values.get(primal, EVERYWHERE)
        return found if isinstance(found, tuple) else found(**params)

    def accepts(self, *primals: torch.Tensor | None, **params: Any) -> bool:
        """Say whether the requirement that the signature alone cannot state is met."""
        return self.requires is None or self.requires[1](*primals, **params)


def moved_into(interval: Interval, x: torch.Tensor) -> torch.Tensor:
    """Return positive numbers, moved into the inside of the interval where one of them lies elsewhere."""
    low, high = interval
    if bool(((low < x) & (x < high)).all()):
        return x
    return high - x if math.isinf(low) else low + (x if math.isinf(high) else (high - low) * x / (1 + x.max()))


def kinds_of(param: Param) -> tuple[Any, ...]:
    """Return values of a param that make its function behave in different ways, the plainest first."""
    match param:
        case Exponent():
            return (2, 1, 0, 0.5, -1)
        case Choice(options):
            return options
        case Flag():
            return (False,)
        case Axis():
            return (-1,)
        case Whole() | Factor():
            return (1,)
        case Positive() | Bound():
            return (1.0,)
        case Label():
            return (-100,)
        case Axes() | Dtype():
            return (None,)


@cache
def axes_of(shapes: str) -> tuple[tuple[str, ...], ...]:
    """Return the axis names of each primal: "... m? n, n" gives (("...", "m?", "n"), ("n",))."""
    return tuple(tuple(primal.split()) for primal in shapes.split(","))
