"""Operations that move values about, and those that make exact ones: radii move as the values do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation

aten = torch.ops.aten

# The radius of the first argument goes the same way as its values.
ALIKE = {
    aten.t, aten.transpose, aten.permute, aten.expand, aten.unsqueeze, aten.squeeze, aten.clone,
    aten.alias, aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.unbind, aten.diagonal, aten.flip,
    aten.roll, aten.repeat, aten.gather, aten.index_select, aten.index, aten.take, aten.tril, aten.triu, aten.unfold,
    aten.diag_embed, aten.rot90, aten.narrow_copy, aten.lift_fresh, aten.lift_fresh_copy, aten.masked_select,
    aten.take_along_dim, aten.movedim, aten.contiguous, aten.real,
    aten.imag, aten.slice_backward, aten._neg_view, aten.expand_copy, aten.view_copy,
}  # fmt: skip
# Of a new shape, whatever the strides.
RESHAPED = {aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten._reshape_copy}
# The radius is that of the first argument, element by element.
KEPT = {aten.neg, aten.abs, aten._conj, aten._conj_physical, aten.resolve_conj, aten.resolve_neg, aten.detach}
# Several tensors into one.
JOINED = {aten.cat, aten.stack}
# Made of nothing that was computed, but for a shape.
EXACT = {
    aten.zeros, aten.ones, aten.empty, aten.eye, aten.zeros_like, aten.ones_like, aten.empty_like, aten.new_zeros,
    aten.new_ones, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.tril_indices, aten.triu_indices,
    aten.empty_permuted, aten.zero, aten.rand, aten.randn, aten.randint, aten.randperm, aten.rand_like, aten.randn_like,
}  # fmt: skip


def alike(op: Operation, a: Tensor, *args: Any, **named: Any) -> Any:
    """Do to the radius what was done to the values."""
    op.settled(*args, *named.values())
    radius = op.radius(a)
    return None if radius is None else op.func(radius, *args, **named)


def reshaped(op: Operation, a: Tensor, shape: Any, *_: Any) -> Any:
    """The radius in the result's shape."""
    if isinstance(shape, torch.dtype):
        raise op.refuse("as bits of another dtype")
    radius = op.radius(a)
    return None if radius is None else radius.reshape(op.result.shape)


def kept(op: Operation, a: Tensor, *_: Any, **__: Any) -> Any:
    """The same radius; but where the arithmetic flushes, it may flush here."""
    return op.operand(a, a.dtype).radius if op.flushes else op.radius(a)


def joined(op: Operation, tensors: Any, dim: int = 0) -> Any:
    """The radii joined as the values are."""
    radii = [op.operand(x).radius for x in tensors]
    if all(radius is None for radius in radii):
        return None
    known = [torch.zeros(x.shape, dtype=torch.float64, device=x.device) if r is None else r
             for x, r in zip(tensors, radii, strict=True)]  # fmt: skip
    return op.func(known, dim)


def inserted(op: Operation, a: Tensor, source: Tensor, *args: Any, **named: Any) -> Any:
    """The radius of the source in its place."""
    if op.radius(a) is None and op.radius(source) is None:
        return None
    both = [torch.zeros(x.shape, dtype=torch.float64, device=x.device) if op.radius(x) is None else op.radius(x)
            for x in (a, source)]  # fmt: skip
    return op.func(*both, *args, **named)


def padded(op: Operation, a: Tensor, pad: Any, value: Any = 0) -> Any:
    """The radius, and 0 beside it."""
    radius = op.radius(a)
    lost = op.operand(value).radius
    if radius is None and lost is None:
        return None
    inner = torch.zeros(a.shape, dtype=torch.float64, device=a.device) if radius is None else radius
    return aten.constant_pad_nd(inner, pad, lost or 0)


def scattered(op: Operation, a: Tensor, dim: int, index: Tensor, source: Any) -> Any:
    """The radius of the source at the places to which it goes."""
    op.settled(index)
    radius, other = op.radius(a), op.operand(source).radius
    if radius is None and other is None:
        return None
    zeros = torch.zeros(a.shape, dtype=torch.float64, device=a.device)
    return (zeros if radius is None else radius).scatter(dim, index, 0.0 if other is None else other)


def parts(op: Operation, a: Tensor) -> Any:
    """Both parts of a complex number may be as far off as itself."""
    radius = op.radius(a)
    return None if radius is None else radius.unsqueeze(-1).expand(op.result.shape)


def joined_parts(op: Operation, *args: Any) -> Any:
    """A complex number is off by the hypotenuse."""
    radii = [op.radius(x) for x in args]
    if all(radius is None for radius in radii):
        return None
    if len(args) == 2:
        pair = [torch.zeros((), dtype=torch.float64) if r is None else r for r in radii]
        return op.up(torch.hypot(*torch.broadcast_tensors(*pair)))
    return op.up(torch.hypot(*radii[0].unbind(-1)))  # type: ignore[union-attr]


def counted(op: Operation, *args: Any, **_: Any) -> None:
    """Whole numbers."""
    if op.result.is_floating_point() and not all(float(x).is_integer() for x in args if isinstance(x, int | float)):
        raise op.refuse("with steps that are not whole")


def copied(op: Operation, a: Tensor, source: Tensor, *_: Any) -> Any:
    """The radius of what is copied, which is rounded to the dtype."""
    return op.operand(source).radius


def split_binary(op: Operation, a: Tensor) -> tuple[None, None]:
    """The mantissa and the exponent of a number that is exact."""
    if op.radius(a) is not None:
        raise op.refuse("of a number that is not exact")
    return None, None


def exact(op: Operation, *args: Any, **_: Any) -> None:
    """What is known exactly."""


FORMULAS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(EXACT, exact), **dict.fromkeys(ALIKE, alike), **dict.fromkeys(RESHAPED, reshaped),
    **dict.fromkeys(KEPT, kept), **dict.fromkeys(JOINED, joined), aten.constant_pad_nd: padded,
    aten.scatter: scattered, aten.view_as_real: parts, aten.view_as_complex: joined_parts,
    aten.complex: joined_parts, aten.arange: counted, aten.frexp: split_binary, aten.copy: copied,
    aten.select_scatter: inserted, aten.slice_scatter: inserted, aten.diagonal_scatter: inserted,
}  # fmt: skip
