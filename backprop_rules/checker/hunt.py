"""The hunt for kinks that nobody declared: one element is moved, and where the derivative jumps it is cornered."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backprop_rules.bounds import in_float64
from backprop_rules.oracles import ReverseMode
from backprop_rules.oracles.oracle import Silent
from backprop_rules.point import Point

# Where elements are moved from and to: activations have their corners here, and the powers of two lie between.
LADDER = [*sorted(sign * 2.0**k for sign in (1, -1) for k in range(-8, 9)), 0.0]
# Halvings after which the change of a smooth derivative has dwindled, and that of a jump has not.
SMOOTH = 10
# Corners that are looked at, those next to zero first.
MANY = 12
WHOLE = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@dataclass(frozen=True)
class _Line:
    """A point of which one element of one primal is moved; its values are counted in steps of the dtype."""

    point: Point
    primal: int
    element: int

    def at(self, ordinal: int) -> Point:
        """Return the point with the element at the float of that number."""
        x = self.point.primals[self.primal]
        assert x is not None
        moved = x.clone(memory_format=torch.contiguous_format)
        moved.view(-1)[self.element] = _float(ordinal, x.dtype)
        primals = (*self.point.primals[: self.primal], moved, *self.point.primals[self.primal + 1 :])
        return replace(self.point, primals=primals)

    def derivative(self, ordinal: int) -> float:
        """Return torch's derivative of <grad_y, y> by the element."""
        # In float64: in a narrow dtype every step to the next float is a jump.
        gradient = ReverseMode().gradients(in_float64(self.at(ordinal)))[self.primal]
        assert gradient is not None
        return float(gradient.reshape(-1)[self.element])


def kinks_near(point: Point) -> Iterator[Point]:
    """Yield points on both sides of each jump of the derivative by one element, and on it: neighbouring floats."""
    for k, i in enumerate(point.given):
        x = point.tensors[k]
        if x.dtype in WHOLE and x.numel():
            line = _Line(point, i, x.numel() // 2)
            try:
                corners = sorted(_corners(line, x.dtype), key=lambda corner: abs(corner[0]))
            except Silent:
                continue
            for low, high in corners[:MANY]:
                yield from (line.at(ordinal) for ordinal in (low - 1, low, high, high + 1))


def _corners(line: _Line, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    ordinals = sorted({_ordinal(value, dtype) for value in (*LADDER, *_own_values(line))})
    known = [(ordinal, line.derivative(ordinal)) for ordinal in ordinals]
    for (low, below), (high, above) in itertools.pairwise(known):
        cornered = _cornered(line, low, below, high, above)
        if cornered is not None:
            yield cornered


def _own_values(line: _Line) -> list[float]:
    """Return the values of the other elements, on which a maximum has its ties, with their neighbourhoods."""
    values = [v for x in line.point.tensors if not x.is_complex() for v in x.flatten().tolist()[:8]]
    return [factor * v for v in values for factor in (0.75, 1.25)]


def _cornered(line: _Line, low: int, below: float, high: int, above: float) -> tuple[int, int] | None:
    """Return neighbouring floats between which the derivative jumps, None where it changes smoothly."""
    change, steps = abs(above - below), 0
    while high - low > 1:
        middle = (low + high) // 2
        found = line.derivative(middle)
        if abs(found - below) >= abs(above - found):
            high, above = middle, found
        else:
            low, below = middle, found
        steps += 1
        if not abs(above - below) > 0 or (steps % SMOOTH == 0 and abs(above - below) < change / 2):
            return None
        change = abs(above - below) if steps % SMOOTH == 0 else change
    return low, high


def _ordinal(value: float, dtype: torch.dtype) -> int:
    """Return the number of the float, counted from zero in steps to the next one."""
    whole = WHOLE[dtype]
    bits = int(torch.tensor(value, dtype=dtype).view(whole))
    return bits if bits >= 0 else -(bits & torch.iinfo(whole).max)


def _float(ordinal: int, dtype: torch.dtype) -> Tensor:
    whole = WHOLE[dtype]
    size = torch.tensor(abs(ordinal), dtype=whole).view(dtype)
    return -size if ordinal < 0 else size
