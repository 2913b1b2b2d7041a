"""Numbers in bulk, from a seed, of every kind that a mistake may need to show: of primals and of cotangents."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from backprop_rules import layout
from backprop_rules.strategies.recipes import SOME
from backprop_rules.subject.ambient import BF16, F32, F64, all_finite, inexact
from backprop_rules.subject.function import Cotangents, Outputs

Draw = Callable[[torch.Generator, tuple[int, ...]], Tensor]


def _few(x: Tensor) -> Tensor:
    """Round to bfloat16's eight bits, so that every dtype has the value, and products of few of them are exact."""
    return x.to(BF16).to(F64)


def _normal(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return _few(torch.randn(shape, generator=numbers, dtype=F64))


def _with_all_digits(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Return numbers that float32 has, and no narrower dtype: what rounds them to one shows."""
    return torch.randn(shape, generator=numbers, dtype=F64).to(F32).to(F64)


def _integers(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(-2, 3, shape, generator=numbers).to(F64)


def _with_zeros(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    x = _normal(numbers, shape)
    return torch.where(torch.rand(shape, generator=numbers) < 0.3, torch.zeros_like(x), x)


def _wide(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return _normal(numbers, shape) * 2.0 ** torch.randint(-10, 6, shape, generator=numbers).to(F64)


def _with_a_hard_row(numbers: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    x = _normal(numbers, shape)
    if shape:
        x[-1:] *= 2.0**10
    return x


# Of which kind the values of a point are. Ties need integers, kinks need zeros; large values show what overflows, one
# large row what is judged by the others, some tens what is taken for saturated before it is.
KINDS: dict[str, Draw] = {
    "normal": _normal,
    "digits": _with_all_digits,
    "integers": _integers,
    "zeros among": _with_zeros,
    "ones": lambda numbers, shape: torch.ones(shape, dtype=F64),
    "zero": lambda numbers, shape: torch.zeros(shape, dtype=F64),
    "big": lambda numbers, shape: _normal(numbers, shape) * 2.0**7,
    "small": lambda numbers, shape: _normal(numbers, shape) * 2.0**-8,
    "tens": lambda numbers, shape: _normal(numbers, shape) * 2.0**3,
    "wide": _wide,
    "hard row": _with_a_hard_row,
}


def numbers_from(seed: int) -> torch.Generator:
    """Return the generator of a seed."""
    return torch.Generator().manual_seed(seed)


# Kinds that are drawn of either sign where forward takes that, though all of the example's values are positive; or
# else with zeros.
SIGNED = ("integers", "zeros among", "wide")
RANGES = ("of either sign", "from zero", "the example's")


def drawn(
    numbers: torch.Generator,
    like: Any,
    shape: tuple[int, ...],
    kind: str,
    within: str = RANGES[-1],
    checked: bool = False,
    kept: bool = False,
) -> Any:
    """Return a leaf of a shape like the example's: values of a kind, `within` the example's range or a wider one.

    Integers and masks keep the example's values: what they mean is not known, and a random length corrupts memory.
    Where forward has them `checked` there are zeros and equal ones among them too. Other values may be `kept`, too.
    """
    if not isinstance(like, Tensor):
        return like
    if kept:
        own = like.detach().to("cpu", F64)
        return _rearranged(numbers, own / own.sum(-1, keepdim=True) if _are_shares(like) else own, shape, kind)
    if not inexact(like):
        return _whole(numbers, like, shape, kind, checked)
    if like.is_complex():
        if kind in ("example", "near") and shape == like.shape:
            return like.to(torch.complex128)
        parts = [KINDS.get(kind, _normal)(numbers, shape) for _ in range(2)]
        return torch.complex(*parts)
    own = like.detach().to("cpu", F64)
    if kind == "example" and shape == like.shape:
        return _few(own) if like.dtype in (BF16,) else own.to(F32).to(F64)
    if kind == "near":
        return _near(numbers, own, shape)
    if shape == like.shape and is_positive_definite(own):
        return _positive_definite(numbers, own)
    values = KINDS.get(kind, _normal)(numbers, shape)
    if within == RANGES[-1] or _is_mask(own):
        return _in_range_of(own, values)
    return values.abs() if within == RANGES[1] and bool((own >= 0).all()) else values


def _whole(numbers: torch.Generator, like: Tensor, shape: tuple[int, ...], kind: str, checked: bool) -> Tensor:
    varies = checked and shape == like.shape and like.dim() > 0 and like.numel() > 0
    if kind == SOME and shape == like.shape and keeps_all(like):
        return _mixed_with_others(like)
    if varies and kind == "zeros among":
        return _with_nothing(like)
    if varies and kind == "ones" and not is_ordered(like) and like.unique().numel() < like.numel():
        return like.reshape(-1)[0].expand(shape).clone()  # all of one class, all to one expert
    return _rearranged(numbers, like, shape, kind)


def _rearranged(numbers: torch.Generator, like: Tensor, shape: tuple[int, ...], kind: str) -> Tensor:
    if shape == like.shape:
        stays = kind in ("example", "near") or like.numel() < 2 or like.dim() == 0 or is_ordered(like)
        return like.clone() if stays or is_symmetric(like) else like[torch.randperm(len(like), generator=numbers)]
    if is_ordered(like) and len(like) > 1 and like.dtype != torch.bool:  # from the first to the last, in order
        return like[torch.linspace(0, len(like) - 1, shape[0]).long()]
    if inexact(like) and _rows_grow(like):  # each row from its first to its last
        rows = _repeated(like, (*shape[:-1], like.shape[-1]))
        return rows[..., torch.linspace(0, like.shape[-1] - 1, shape[-1]).long()]
    return mended(_mixed(_repeated(like, shape), like), like)


def _mixed(x: Tensor, like: Tensor) -> Tensor:
    """Return a mask of another shape, of which no row is all alike where none of the example's is so."""
    if x.dtype != torch.bool or not like.dim() or min(x.shape[-1:], default=0) < 2 or not x.numel():
        return x
    for whole in (Tensor.all, lambda rows, d: ~rows.any(d)):
        if not bool(whole(like, -1).any()):
            x = torch.cat([x[..., :-1], x[..., -1:] ^ whole(x, -1)[..., None]], -1)
    return x


def have_a_meaning(x: Tensor) -> bool:
    """Say whether numbers are a mask, classes, shares, symmetric or in order: others would mean something else."""
    if x.is_complex() or x.numel() < 2:
        return False
    return _is_zero_or_another(x) or _are_shares(x) or is_symmetric(x) or _grow(x) or _rows_grow(x)


def _is_zero_or_another(x: Tensor) -> bool:
    """Say whether numbers are 0, some of them, or one other number."""
    none = x == 0
    others = x[~none] if bool(none.any()) else x[:0].reshape(-1)
    return others.numel() > 0 and bool((others == others[0]).all())


def _grow(x: Tensor) -> bool:
    return is_ordered(x) and bool(x[-1] > x[0])


def _rows_grow(x: Tensor) -> bool:
    """Say whether numbers grow along the last axis of several, in each row."""
    if x.dim() < 2 or x.shape[-1] < 2 or not x.numel():
        return False
    return bool((x[..., 1:] >= x[..., :-1]).all()) and bool((x[..., -1] > x[..., 0]).all())


def mended(x: Tensor, like: Tensor) -> Tensor:
    """Return values in another shape, which add up to one along the last axis if the example's do, as classes do."""
    if not _are_shares(like) or not x.numel() or _are_shares(x):
        return x
    if not inexact(like) or _is_mask(like):
        return torch.nn.functional.one_hot(x.to(F64).argmax(-1), x.shape[-1]).to(x.dtype)
    sums = x.sum(-1, keepdim=True)
    return torch.where(sums > 0, x / sums, 1.0 / x.shape[-1])


def _are_shares(x: Tensor) -> bool:
    """Say whether numbers along the last axis are not negative, and add up to one."""
    if not x.dim() or x.shape[-1] < 2 or not x.numel():
        return False
    few = x.shape[-1] * max(torch.finfo(x.dtype).eps, torch.finfo(F32).eps) if inexact(x) else 0.0
    return bool((x >= 0).all()) and bool(((x.to(F64).sum(-1) - 1).abs() <= few).all())


def _repeated(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the values in another shape, cut, or repeated where there are more of them; zeros where there are none."""
    if any(n and not own for n, own in zip(shape, x.shape, strict=True)):
        return torch.zeros(shape, dtype=x.dtype)
    for dim, n in enumerate(shape):
        if n != x.shape[dim]:
            x = x.index_select(dim, torch.arange(n) % x.shape[dim])
    return x


def keeps_all(like: Any) -> bool:
    """Say whether it is a mask, all alike along rows of several numbers, as one that leaves nothing out."""
    if not isinstance(like, Tensor) or like.dtype != torch.bool or not like.dim() or like.shape[-1] < 2:
        return False
    return like.numel() > 0 and bool((like == like.reshape(-1)[0]).all())


def _mixed_with_others(like: Tensor) -> Tensor:
    """Return a mask whose rows are not all alike: every third number is another one than the first."""
    others = torch.arange(like.numel()).reshape(like.shape) % 3 == 1
    others[..., 0] = False  # no row is all of the other kind
    return like ^ others.to(like.device)


def _with_nothing(like: Tensor) -> Tensor:
    """Return a mask whose last row keeps nothing, offsets between which nothing lies, lengths of which one is 0.

    The first row of a mask keeps all. Of whole numbers none is repeated that was not, and none is negative.
    """
    x = like.clone()
    if like.dtype == torch.bool:
        x[-1 if like.dim() > 1 else slice(None)] = False
        x[: int(like.dim() > 1 and len(like) > 1)] = True  # a mask may say what is left out
    elif is_ordered(like) and bool(like[0] == 0):
        x[-2:] = x[-1]
    elif bool((like > 0).all()):
        x.view(-1)[x.argmin()] = 0
    return x


def is_ordered(x: Tensor) -> bool:
    """Say whether numbers grow along their only axis, as offsets do, which mean nothing in disorder."""
    return x.dim() == 1 and bool((x[1:] >= x[:-1]).all())


def _near(numbers: torch.Generator, own: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return values within a few sixteenths of the example's, repeated where there are more of them."""
    own = _repeated(own, shape)
    factor = 1 + _few(torch.randn(shape, generator=numbers, dtype=F64)) / 16
    if is_symmetric(own):
        factor = (factor + factor.mT) / 2
    return (own * factor).to(F32).to(F64)


def is_symmetric(x: Tensor) -> bool:
    """Say whether it holds symmetric matrices, and no trivial ones."""
    return x.dim() >= 2 and x.shape[-1] == x.shape[-2] > 1 and torch.equal(x, x.mT)


def move_of(x: Tensor, least: float, numbers: torch.Generator) -> Tensor:
    """Return random numbers of the order of x's, or the `least`; of symmetric matrices symmetric ones."""
    move = torch.randn(x.shape, generator=numbers, dtype=F64)
    if x.is_complex():
        move = torch.complex(move, torch.randn(x.shape, generator=numbers, dtype=F64))
    elif is_symmetric(x):
        move = (move + move.mT) / 2
    return x.abs().clamp(min=least) * move.to(x.device)


def is_positive_definite(x: Tensor) -> bool:
    """Say whether it holds symmetric matrices whose eigenvalues are all positive."""
    return is_symmetric(x) and x.numel() > 0 and bool(torch.linalg.cholesky_ex(x).info.eq(0).all())


def _positive_definite(numbers: torch.Generator, own: Tensor) -> Tensor:
    root = _normal(numbers, tuple(own.shape))
    size = own.shape[-1]
    return (root @ root.mT / size + own.diagonal(dim1=-2, dim2=-1).amax() * torch.eye(size, dtype=F64)).to(F32).to(F64)


def _is_mask(own: Tensor) -> bool:
    return own.numel() > 1 and bool(((own == 0) | (own == 1)).all())


def _in_range_of(own: Tensor, x: Tensor) -> Tensor:
    """Return the values, moved to where the example's lie: zeros and ones, non-negative, at most one."""
    if not own.numel():
        return x
    if _is_mask(own):
        return (x > -0.2).to(F64)
    if bool((own >= 0).all()) and bool((own > 0).any()):
        x = x.abs()
        if own.numel() > 3 and bool((own <= 1).all()):
            x = x % 1
        if bool((own > 0).all()):
            x = torch.where(x == 0, torch.ones_like(x), x)
    return x


ALIKE = {"alike in rows": -1, "alike rows": 0}  # an axis that is expanded, as a cotangent's is behind a sum over it


def laid_out(x: Any, how: str) -> Any:
    """Return the tensor in a memory layout: as it is, transposed, sliced, ..., or its first part along an axis."""
    if not isinstance(x, Tensor) or not x.dim():
        return x
    if how in ALIKE:
        axis = ALIKE[how]
        return x.narrow(axis, 0, min(1, x.shape[axis])).expand(x.shape) if x.dim() > 1 else x
    return layout.arranged(x, how, x.shape)


def with_element(x: Tensor, k: int, value: float) -> Tensor:
    """Return the tensor with its k-th element replaced, in memory where it lies in order."""
    changed = x.clone(memory_format=torch.contiguous_format)
    changed.view(-1)[k] = value
    return changed


def recast(x: Any, dtype: torch.dtype) -> Any:
    """Return the values in another dtype, in the same memory layout: strides, offset and what is expanded."""
    if x.dtype == dtype or x.device.type == "meta":
        return x
    return relaid(x.to(dtype), x)


def in_dtypes(leaves: Iterable[Any], dtypes: Iterable[torch.dtype | None]) -> tuple[Any, ...]:
    """Return leaves each in its dtype, as `recast` does; those as they are whose dtype is None."""
    return tuple(x if d is None or x is None else recast(x, d) for x, d in zip(leaves, dtypes, strict=True))


def cast_like(g: Tensor | None, out: Tensor) -> Tensor | None:
    """Return a cotangent in the dtype, and on the device, of its output; None if that can have none."""
    if g is None or not inexact(out):
        return None
    if out.device.type == "meta":
        return torch.empty_like(out)
    moved: Tensor = recast(g, out.dtype).to(out.device)
    return moved


def relaid(values: Tensor, like: Tensor) -> Tensor:
    """Return values in the memory layout of another tensor: its strides, its offset, and what it expands."""
    if (like.is_contiguous() and not like.storage_offset()) or not like.numel():
        return values.contiguous()
    span = like.storage_offset() + sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True)) + 1
    buffer = torch.zeros(span, dtype=values.dtype, device=values.device)
    stored = tuple(slice(0, 1) if s == 0 else slice(None) for s in like.stride())
    small = values[stored]
    buffer.as_strided(small.shape, like.stride(), like.storage_offset()).copy_(small)
    return buffer.as_strided(like.shape, like.stride(), like.storage_offset())


MAGNITUDES = {"big": 2.0**13, "small": 2.0**-30}  # a norm is clipped long before, and float16 still holds the former
WIDE = 20  # powers of two by which elements differ: fewer than float32 has digits


def cotangents(y: Outputs, kind: str, seed: int, digits: bool = False) -> Cotangents:
    """Return a cotangent for each output that can have one, in float64; if `digits`, with all that float32 has."""
    numbers, found = numbers_from(seed ^ 0x5EED), list[Tensor | None]()
    places = [k for k, out in enumerate(y) if inexact(out)]
    for out in y:
        if not inexact(out):
            found.append(None)
            continue
        shape = tuple(out.shape)
        draw = KINDS["integers" if kind in ("integers", "one") else "digits" if digits else "normal"]
        g = torch.complex(draw(numbers, shape), draw(numbers, shape)) if out.is_complex() else draw(numbers, shape)
        if kind in MAGNITUDES:  # what is clipped, or thought negligible, shows
            g = g * MAGNITUDES[kind]
        if kind == "wide":  # so that what is negligible beside the largest shows, where it is left out
            g = g * 2.0 ** torch.randint(-WIDE, 1, shape, generator=numbers)
        if kind == "constant":
            g = torch.full((), -1.5, dtype=g.dtype).expand(shape)
        if kind == "one":  # one element of one output
            place = int(torch.randint(0, max(g.numel(), 1), (), generator=numbers))
            g = torch.where((torch.arange(g.numel()) == place).reshape(shape), torch.ones_like(g), torch.zeros_like(g))
            g = g if len(found) == places[seed % len(places)] else torch.zeros_like(g)
        if not all_finite(out):  # as a score that is masked: what it is no function of is not asked for
            g = torch.where(out.isfinite().to(g.device), g, 0)
        found.append(laid_out(g, kind).to(out.device) if out.device.type == "cuda" else laid_out(g, kind))
    return tuple(found)
