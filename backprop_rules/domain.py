"""The inputs that a rule accepts, as data: shapes, dtypes, params, and the degree of the polynomial it computes."""

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
class Exponent:
    """A param that is an integer from 0 to `largest`."""

    largest: int


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


Param = Flag | Axis | Axes | Exponent | Factor | Bound | Dtype
Count = int | Callable[..., int]


@dataclass(frozen=True)
class Domain:
    """The inputs of a rule whose forward is, piece by piece, a polynomial with rational coefficients.

    `shapes` lists the named axes of each primal, as in "... m? n, ... n p?": equal names have equal
    sizes, a name with a question mark may be missing (then its primal has no batch axes), and "..."
    stands for batch axes, which broadcast. `degree` is the total degree in all primals together,
    `power` the highest power of a single element, `weight` the sum of the absolute coefficients of
    the terms that one point of the iteration space adds to a sum, and `divisor` the number that a
    sum is divided by. Each may be a function of the params, the divisor of the first shape as well.
    """

    shapes: str
    params: Mapping[str, Param] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = REAL + COMPLEX
    degree: Count = 1
    power: Count = 1
    weight: Count = 1
    divisor: Callable[..., int] | None = None
    promotes: bool = False
    requires: tuple[str, Callable[..., bool]] | None = None

    def __post_init__(self) -> None:
        strangers = [dtype for dtype in self.dtypes if dtype not in REAL + COMPLEX]
        if strangers or not self.dtypes:
            known = ", ".join(map(str, REAL + COMPLEX))
            raise InputError(f"a domain's dtypes must be of {known}; got {strangers or 'none'}.")

    def count(self, which: str, params: Mapping[str, Any]) -> int:
        """Return `degree`, `power` or `weight` at these params."""
        value: Count = getattr(self, which)
        return value if isinstance(value, int) else value(**params)

    def accepts(self, *primals: torch.Tensor | None, **params: Any) -> bool:
        """Say whether the requirement that the signature alone cannot state is met."""
        return self.requires is None or self.requires[1](*primals, **params)


@cache
def axes_of(shapes: str) -> tuple[tuple[str, ...], ...]:
    """Return the axis names of each primal: "... m? n, n" gives (("...", "m?", "n"), ("n",))."""
    return tuple(tuple(primal.split()) for primal in shapes.split(","))
