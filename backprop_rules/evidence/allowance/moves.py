"""Operations that round nothing: values are moved about, compared and chosen, and their radii with them.

A boolean's radius is 1 where the exact operands may give the other answer, and 0 elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance import choices
from backprop_rules.evidence.allowance.by_storage import place_of
from backprop_rules.evidence.allowance.operation import Operand, Operation, Radius, plus
from backprop_rules.evidence.allowance.units import FEW, apart, largest_of

aten = torch.ops.aten

# Each takes the nearest of its places.
NEAREST = {getattr(aten, f"{name}{n}d") for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)}
# The radius of the first argument goes the same way as its values.
ALIKE = {
    aten.t, aten.transpose, aten.permute, aten.expand, aten.unsqueeze, aten.squeeze, aten.clone,
    aten.alias, aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.unbind, aten.diagonal, aten.flip,
    aten.roll, aten.repeat, aten.take, aten.tril, aten.triu, aten.unfold,
    aten.diag_embed, aten.rot90, aten.narrow_copy, aten.lift_fresh, aten.lift_fresh_copy, aten.masked_select,
    *NEAREST,
    aten.masked_scatter_backward,
    aten.slice_backward, aten.select_backward, aten._neg_view, aten.expand_copy, aten.view_copy,
}  # fmt: skip
# Of a new shape, whatever the strides.
RESHAPED = {aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten._reshape_copy}
# The radius is that of the first argument, element by element.
KEPT = {aten.neg, aten.abs, aten._conj, aten._conj_physical, aten.detach}
# Made of nothing that was computed, but for a shape.
EXACT = {
    aten.zeros, aten.ones, aten.empty, aten.eye, aten.zeros_like, aten.ones_like, aten.empty_like, aten.new_zeros,
    aten.new_ones, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.tril_indices, aten.triu_indices,
    aten.empty_permuted, aten.zero, aten.bernoulli, aten.uniform, aten.normal,
    aten._efficientzerotensor, aten._new_zeros_with_same_feature_meta,
    aten.rand, aten.randn, aten.randint, aten.randperm, aten.rand_like, aten.randn_like,
}  # fmt: skip


def alike(op: Operation, a: Tensor, *args: Any, **named: Any) -> Any:
    """Do to the radius what was done to the values."""
    op.settled(*args, *named.values())
    radius = op.radius(a)
    if radius is None:
        return None
    op.choices.follow(a, op.result, lambda x: op.func(x, *args, **named))
    return op.func(radius, *args, **named)


def picked(op: Operation, a: Tensor, *how: Any, **named: Any) -> Any:
    """The radius of what lies where an index says; where that may be another, how far this one's is."""
    return plus(alike(op, a, *how, **named), choices.otherwise(op, a, *how))


def reshaped(op: Operation, a: Tensor, shape: Any, *_: Any) -> Any:
    """The radius in the result's shape."""
    if isinstance(shape, torch.dtype):
        raise op.refuse("as bits of another dtype")
    radius, shape = op.radius(a), op.result.shape
    op.choices.follow(a, op.result, lambda x: x.reshape(shape))
    return None if radius is None else radius.reshape(shape)


def strided(op: Operation, a: Tensor, size: Any, stride: Any, offset: int | None = None) -> Any:
    """What lies in the same memory."""
    radius = op.radius(a)
    if radius is None:
        return None
    every = torch.zeros(a.untyped_storage().nbytes() // a.itemsize, dtype=torch.float64, device=a.device)
    every.as_strided(a.shape, a.stride(), a.storage_offset()).copy_(radius)
    return every.as_strided(size, stride, a.storage_offset() if offset is None else offset)


def kept(op: Operation, a: Tensor, *_: Any, **__: Any) -> Any:
    """The same radius; but where the arithmetic flushes, it may flush here."""
    return op.operand(a, a.dtype).radius if op.flushes else op.radius(a)


def _joined(op: Operation, tensors: Any, *dim: int) -> Any:
    radii = op.radii(*tensors)
    return None if radii is None else op.func(radii, *dim)


def inserted(op: Operation, a: Tensor, source: Tensor, *args: Any, **named: Any) -> Any:
    """The radius of the source in its place."""
    radii = op.radii(a, source)
    return None if radii is None else op.func(*radii, *args, **named)


def _masked_scatter(op: Operation, a: Tensor, mask: Tensor, source: Tensor) -> Any:
    op.settled(mask)
    radii = op.radii(a, source)
    return None if radii is None else op.func(radii[0], mask, radii[1])


def padded(op: Operation, a: Tensor, pad: Any, value: Any = 0) -> Any:
    """The radius, and the value's beside it."""
    radii = op.radii(a, value)
    return None if radii is None else aten.constant_pad_nd(radii[0], pad, radii[1].item())


def scattered(op: Operation, a: Tensor, dim: int, index: Tensor, source: Any) -> Any:
    """The radius of the source at the places to which it goes."""
    op.settled(index)
    radii, either = op.radii(a, source), choices.contested(op, index, dim, source, a)
    if radii is None:
        return either
    return plus(radii[0].scatter(dim, index, radii[1] if isinstance(source, Tensor) else radii[1].item()), either)


def parts(op: Operation, a: Tensor) -> Any:
    """Both parts of a complex number may be as far off as itself."""
    radius = op.radius(a)
    return None if radius is None else radius.unsqueeze(-1).expand(op.result.shape)


def joined_parts(op: Operation, *args: Any) -> Any:
    """A complex number is off by the hypotenuse."""
    radii = op.radii(*args)
    return None if radii is None else op.up(torch.hypot(*(radii if len(args) == 2 else radii[0].unbind(-1))))


def exact(op: Operation, *args: Any, **_: Any) -> None:
    """What is known exactly, and the index of an extreme: that of the computed numbers, taken as known."""


def split_binary(op: Operation, a: Tensor) -> tuple[None, None]:
    """The mantissa and the exponent of a number that is exact."""
    if op.radius(a) is not None:
        raise op.refuse("of a number that is not exact")
    return None, None


# In a difference of two numbers in float64, and in its own size, are fewer errors of 2^-53 than this.
DOWN = 1 - 2.0**-50


def comparison(op: Operation, a: Any, b: Any) -> Any:
    """Ambiguous where the operands are no farther apart than their radii; what is exact is compared exactly."""
    common = torch.result_type(a, b)
    if common == torch.bool:
        return parity(op, a, b)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and place_of(a) == place_of(b):
        return finiteness(op, a)  # with itself, as in x == x of what is no NaN
    x, y = op.operand(a, common), op.operand(b, common)
    radius = plus(x.radius, y.radius)
    if radius is None:
        return choices.differing(op, a, b)
    return op.choices.compared(op, a, b, close(a, b, radius)).double()


def close(a: Any, b: Any, radius: Any) -> Tensor:
    """Return where two numbers are no farther apart than their radii: NaN, from an overflow, may be anything."""
    found: Tensor = ~(apart(a, b) * DOWN > radius) & (torch.as_tensor(radius) > 0)
    return found


def _sure(op: Operation, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a boolean is surely true, and where it may be."""
    radius = op.radius(x)
    truth = x if x.dtype == torch.bool else x != 0
    if radius is None:
        return truth, truth
    if x.dtype != torch.bool:
        raise op.refuse(f"of an inexact {x.dtype}")
    return truth & (radius == 0), truth | (radius > 0)


def monotone(op: Operation, *args: Any, **named: Any) -> Tensor | None:
    """And, or, any and all: exact where what is sure decides."""
    if all(op.radius(x) is None for x in args):
        return None
    pairs = [_sure(op, x) if isinstance(x, Tensor) else (x, x) for x in args]
    low, high = (op.func(*some, **named) for some in zip(*pairs, strict=True))
    return (high != low).double()  # type: ignore[no-any-return]


def parity(op: Operation, a: Any, b: Any = None) -> Radius:
    """Exclusive or, equality of booleans, and not: ambiguous where an operand is."""
    if any(isinstance(x, Tensor) and x.dtype != torch.bool and op.radius(x) is not None for x in (a, b)):
        raise op.refuse("of inexact numbers")
    return largest_of((op.radius(a), op.radius(b)))


def places(op: Operation, mask: Tensor) -> None:
    """The places where a mask is true: taken as they came out, though another may have been chosen."""
    op.settled(mask)


def finiteness(op: Operation, a: Tensor) -> Tensor | None:
    """Whether a number is finite, infinite or NaN: known unless it may be anything."""
    radius = op.radius(a)
    return None if radius is None else radius.isinf().double()


def sign(op: Operation, a: Tensor) -> Tensor | None:
    """The sign: -1, 0 or 1 where the radius reaches zero."""
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
    other = apart(a, b) * FEW + torch.where(condition, r_y, r_x)
    return torch.where(ambiguous > 0, op.of_either(chosen, other, a, b), chosen)


def _masked_fill(op: Operation, a: Tensor, mask: Tensor, value: Any) -> Radius:
    return where(op, mask, value if isinstance(value, Tensor) else a.new_tensor(value), a)


def _reach(x: Operand, value: Any, extreme: Tensor) -> Any:
    """Return how far the exact operand may reach beyond an extreme of several computed ones."""
    return None if x.radius is None else (x.radius - apart(value, extreme) * DOWN).clamp_min(0)


def extremum(op: Operation, *operands: Any) -> Radius:
    """The larger or the smaller of numbers: one that lies farther than its radius behind does not count."""
    largest = largest_of(_reach(op.operand(x), x, op.result) for x in operands)
    return None if largest is None else torch.where(largest == 0, 0.0, op.up(largest))


def clamp(op: Operation, a: Tensor, min: Any = None, max: Any = None) -> Radius:
    """A, no less than min and no more than max; without these a relu."""
    bounds = [op.operand(x).radius for x in (min, max) if x is not None]
    return largest_of((extremum(op, a), *bounds))


def _ends(x: Any, radius: Radius) -> list[Tensor]:
    """Return the least and the most that a number may be, rounded outwards: it may lie on what it is held against."""
    off = torch.as_tensor(0.0 if radius is None else radius, dtype=torch.float64)
    return [choices.end_of(torch.as_tensor(x), off, sign).contiguous() for sign in (-1, 1)]


def step(op: Operation, a: Tensor, decimals: int = 0) -> Radius:
    """To a whole number: another one, where the radius reaches it."""
    if decimals:
        raise op.refuse("to decimals")
    radius = op.operand(a).radius
    if radius is None:
        return None
    low, high = map(op.func, _ends(a, radius))
    return torch.maximum(high - op.result, op.result - low)


def searched(
    op: Operation, bounds: Tensor, a: Any, *, right: bool = False, side: str | None = None, **how: Any
) -> Radius:
    """The place of a number among bounds in order: another one, where the radii of both reach across."""
    if how.get("sorter") is not None:
        raise op.refuse("of numbers in another order")
    bound, x, right = (*(op.operand(y, bounds.dtype) for y in (bounds, a)), right or side == "right")
    if bound.radius is None and x.radius is None:
        return None
    (low, high), (least, most) = _ends(bounds, bound.radius), _ends(a, x.radius)
    low, high = low.flip(-1).cummin(-1).values.flip(-1).contiguous(), high.cummax(-1).values.contiguous()
    least, most = (torch.searchsorted(*pair, right=right) for pair in ((high, least), (low, most)))
    return torch.maximum(op.result - least, most - op.result).double()


def _in_buckets(op: Operation, a: Any, bounds: Tensor, **how: Any) -> Radius:
    return searched(op, bounds, a, **how)


# What may come out otherwise for the exact operands, and so choose another branch.
COMPARED = (aten.ge, aten.le, aten.gt, aten.lt, aten.eq, aten.ne)
AMBIGUOUS = {
    *COMPARED, aten.sign, aten.sgn, aten.floor, aten.ceil, aten.trunc, aten.round, aten.searchsorted, aten.bucketize,
}  # fmt: skip

FORMULAS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(EXACT, exact), **dict.fromkeys(ALIKE, alike), **dict.fromkeys(RESHAPED, reshaped),
    **dict.fromkeys(KEPT, kept), **dict.fromkeys(COMPARED, comparison),
    **dict.fromkeys((aten.cat, aten.stack, aten.block_diag), _joined), aten.constant_pad_nd: padded,
    aten.scatter: scattered, aten.select_scatter: inserted, aten.slice_scatter: inserted, aten.as_strided: strided,
    aten.diagonal_scatter: inserted, **dict.fromkeys((aten.gather, aten.index, aten.index_select), picked),
    aten.view_as_real: parts, aten.view_as_complex: joined_parts, aten.complex: joined_parts,
    aten.frexp: split_binary, aten.nonzero: places,
    aten.logical_and: monotone, aten.bitwise_and: monotone, aten.logical_or: monotone, aten.bitwise_or: monotone,
    aten.any: monotone, aten.all: monotone,
    aten.logical_xor: parity, aten.bitwise_xor: parity, aten.logical_not: parity, aten.bitwise_not: parity,
    aten.isnan: finiteness, aten.isinf: finiteness, aten.isfinite: finiteness,
    aten.sign: sign, aten.sgn: sign, aten.where: where, aten.masked_fill: _masked_fill,
    **dict.fromkeys((aten.maximum, aten.minimum, aten.fmax, aten.fmin), extremum),
    **dict.fromkeys((aten.relu, aten.clamp, aten.clamp_min, aten.clamp_max, aten.hardtanh), clamp),
    **choices.FORMULAS,
    **dict.fromkeys((aten.floor, aten.ceil, aten.trunc, aten.round), step),
    aten.masked_scatter: _masked_scatter, aten.searchsorted: searched, aten.bucketize: _in_buckets,
}  # fmt: skip
