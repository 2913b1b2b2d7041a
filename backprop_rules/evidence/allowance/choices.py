"""The formulas of choices: comparisons, which may be ambiguous, logic, and what is chosen by them.

A boolean's radius is 1 where the exact operands may give the other answer, and 0 elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operand, Operation, Radius, plus
from backprop_rules.evidence.allowance.units import FEW

aten = torch.ops.aten

# In a difference of two numbers in float64, and in its own size, are fewer errors of 2^-53 than this.
DOWN = 1 - 2.0**-50


def _double(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.to(torch.complex128) if x.is_complex() else x.double()


def _apart(a: Any, b: Any) -> Tensor:
    return (_double(a) - _double(b)).abs()  # type: ignore[no-any-return]


def comparison(op: Operation, a: Any, b: Any) -> Any:
    """Ambiguous where the operands are no farther apart than their radii; what is exact is compared exactly."""
    common = torch.result_type(a, b)
    if common == torch.bool:
        return parity(op, a, b)
    x, y = op.operand(a, common), op.operand(b, common)
    radius = plus(x.radius, y.radius)
    if radius is None:
        return None
    close = ~(_apart(a, b) * DOWN > radius)  # NaN, from an overflow on the way, may be anything
    return (close & (torch.as_tensor(radius) > 0)).double()


def _sure(op: Operation, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a boolean is surely true, and where it may be."""
    radius = op.radius(x)
    truth = x if x.dtype == torch.bool else x != 0
    if radius is None:
        return truth, truth
    if x.dtype != torch.bool:
        raise op.refuse(f"of an inexact {x.dtype}")
    return truth & (radius == 0), truth | (radius > 0)


def _monotone(op: Operation, a: Any, b: Any, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    if op.radius(a) is None and op.radius(b) is None:
        return None
    pairs = [_sure(op, torch.as_tensor(x)) for x in (a, b)]
    low, high = (combine(x, y) for x, y in zip(*pairs, strict=True))
    return (high & ~low).double()


def conjunction(op: Operation, a: Any, b: Any) -> Tensor | None:
    """And: exact where one is surely false."""
    return _monotone(op, a, b, torch.logical_and)


def disjunction(op: Operation, a: Any, b: Any) -> Tensor | None:
    """Or: exact where one is surely true."""
    return _monotone(op, a, b, torch.logical_or)


def parity(op: Operation, a: Any, b: Any = None) -> Tensor | None:
    """Exclusive or, equality of booleans, and not: ambiguous where an operand is."""
    radii = [radius for radius in (op.radius(a), op.radius(b)) if radius is not None]
    if any(isinstance(x, Tensor) and x.dtype != torch.bool and op.radius(x) is not None for x in (a, b)):
        raise op.refuse("of inexact numbers")
    return torch.maximum(*radii) if len(radii) == 2 else radii[0] if radii else None


def anywhere(op: Operation, a: Tensor, *args: Any, **named: Any) -> Tensor | None:
    """Any and all: exact where those that are sure decide."""
    if op.radius(a) is None:
        return None
    low, high = (op.func(x, *args, **named) for x in _sure(op, a))
    return (high != low).double()  # type: ignore[no-any-return]


def finiteness(op: Operation, a: Tensor) -> Tensor | None:
    """Whether a number is finite, infinite or NaN: known unless it may be anything."""
    radius = op.radius(a)
    return None if radius is None else radius.isinf().double()


def sign(op: Operation, a: Tensor) -> Tensor | None:
    """The sign: -1, 0 or 1 where the radius reaches zero."""
    if a.is_complex():
        raise op.refuse(f"in {a.dtype}")
    x = op.operand(a)
    if x.radius is None:
        return None
    return torch.where(~(x.size > x.radius) & (torch.as_tensor(x.radius) > 0), 1 + op.size, 0.0)


def where(op: Operation, condition: Tensor, a: Any, b: Any) -> Radius:
    """The chosen operand; either, where the condition is ambiguous."""
    x, y, ambiguous = op.operand(a), op.operand(b), op.radius(condition)
    if ambiguous is None and x.radius is None and y.radius is None:
        return None
    zero = torch.zeros((), dtype=torch.float64, device=op.result.device)
    r_x, r_y = (zero if r is None else torch.as_tensor(r, dtype=torch.float64) for r in (x.radius, y.radius))
    chosen = torch.where(condition, r_x, r_y)
    if ambiguous is None:
        return chosen
    other = _apart(a, b) * FEW + torch.where(condition, r_y, r_x)
    return torch.where(ambiguous > 0, torch.maximum(chosen, other), chosen)


def masked_fill(op: Operation, a: Tensor, mask: Tensor, value: Any) -> Radius:
    """The value where the mask is true."""
    return where(op, mask, value if isinstance(value, Tensor) else a.new_tensor(value), a)


def _reach(x: Operand, value: Any, extreme: Tensor) -> Any:
    """Return how far the exact operand may reach beyond an extreme of several computed ones."""
    return None if x.radius is None else (x.radius - _apart(value, extreme) * DOWN).clamp_min(0)


def _largest(radii: list[Any]) -> Radius:
    known = [radius for radius in radii if radius is not None]
    if not known:
        return None
    largest = torch.as_tensor(known[0], dtype=torch.float64)
    for radius in known[1:]:
        largest = torch.maximum(largest, torch.as_tensor(radius, dtype=torch.float64))
    return largest


def extremum(op: Operation, *operands: Any) -> Radius:
    """The larger or the smaller of numbers: one that lies farther than its radius behind does not count."""
    largest = _largest([_reach(op.operand(x), x, op.result) for x in operands])
    return None if largest is None else op.up(largest)


def clamp(op: Operation, a: Tensor, min: Any = None, max: Any = None) -> Radius:
    """A, no less than min and no more than max."""
    bounds = [op.operand(x).radius for x in (min, max) if x is not None]
    return _largest([extremum(op, a), *bounds])


def relu(op: Operation, a: Tensor) -> Radius:
    """The larger of a and 0."""
    return extremum(op, a)


def extreme(op: Operation, a: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest or the smallest along dimensions; its index is that of the computed numbers."""
    values = op.result[0] if isinstance(op.result, tuple) else op.result
    x = op.operand(a, a.dtype)
    if x.radius is None:
        return (None, None) if isinstance(op.result, tuple) else None
    dims = list(range(a.ndim)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    if not keepdim:
        for axis in sorted(d % a.ndim for d in dims) if a.ndim else ():
            values = values.unsqueeze(axis)
    reach = _reach(x, a, values) * FEW
    radius = torch.amax(reach, dims, keepdim) if a.ndim else reach
    return (radius, None) if isinstance(op.result, tuple) else radius


def index_only(op: Operation, *_: Any, **__: Any) -> None:
    """The index of an extreme: that of the computed numbers, taken as known."""


# What may come out otherwise for the exact operands, and so choose another branch.
COMPARISONS = {aten.ge, aten.le, aten.gt, aten.lt, aten.eq, aten.ne, aten.sign, aten.sgn}

FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.ge: comparison, aten.le: comparison, aten.gt: comparison, aten.lt: comparison, aten.eq: comparison,
    aten.ne: comparison, aten.logical_and: conjunction, aten.bitwise_and: conjunction,
    aten.logical_or: disjunction, aten.bitwise_or: disjunction, aten.logical_xor: parity, aten.bitwise_xor: parity,
    aten.logical_not: parity, aten.bitwise_not: parity, aten.any: anywhere, aten.all: anywhere,
    aten.isnan: finiteness, aten.isinf: finiteness, aten.isfinite: finiteness, aten.sign: sign, aten.sgn: sign,
    aten.where: where, aten.masked_fill: masked_fill, aten.maximum: extremum, aten.minimum: extremum,
    aten.clamp: clamp, aten.clamp_min: clamp, aten.clamp_max: clamp, aten.hardtanh: clamp, aten.relu: relu,
    aten.amax: extreme, aten.amin: extreme, aten.max: extreme, aten.min: extreme, aten.argmax: index_only,
    aten.argmin: index_only,
}  # fmt: skip
