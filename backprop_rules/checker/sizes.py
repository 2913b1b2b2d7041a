"""The example at other sizes: small enough to be certified at once, and longer than the blocks that a kernel reads."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.domain import Index
from backprop_rules.oracles import certified
from backprop_rules.point import Point
from backprop_rules.simplify import MANY, axis_names

# Numbers that the definition may make of an example for it to be certified, and shrunk, in hundredths of a second.
QUICK = 1 << 12
# Kernels read blocks of up to 256: more than one of these, and no multiple of any.
LONG = 259
SHORT = 2  # of the other axes then


def is_quick(point: Point) -> bool:
    """Say whether the point is certified at once."""
    try:
        return not certified.makes_more_than(QUICK, point)
    except Exception:  # Silent, or a definition that raises: of that it is told where it is asked
        return True


def is_small(point: Point) -> bool:
    """Say whether it can be simplified one element after the other."""
    return sum(x.numel() for x in point.tensors) <= MANY and is_quick(point)


def quick(point: Point) -> Point:
    """Return the point itself, or with its longest axes halved until it is certified at once."""
    while not is_quick(point):
        sizes = _sizes(point)
        halved = (_resized(point, {axis: size // 2}) for axis, size in _longest_first(sizes) if size > 1)
        smaller = next((p for p in halved if p is not None), None)
        if smaller is None:
            return point
        point = smaller
    return point


def halved(point: Point) -> Iterator[Point]:
    """Yield the points with one axis halved, or one index less, the longest axis first."""
    for axis, size in _longest_first(_sizes(point)):
        for less in {size // 2, size - 1} - {0, size}:
            found = _resized(point, {axis: less})
            if found is not None:
                yield found


def with_a_long_axis(point: Point) -> Iterator[Point]:
    """Yield the point with each of its axes in turn made long, and the others short where the forward takes that."""
    sizes = _sizes(point)
    for axis in sizes:
        short = {other: min(SHORT, size) for other, size in sizes.items()}
        candidates = (_resized(point, {**rest, axis: LONG}) for rest in (short, {}))
        found = next((p for p in candidates if p is not None and is_quick(p)), None)
        if found is not None:
            yield found


def shapes_of(point: Point) -> str:
    """Return the shapes of the primals in words: x of shape (3, 4) and w of shape (4, 5)."""
    return " and ".join(
        f"{name} of shape {tuple(x.shape)}" for name, x in zip(point.rule.primals, point.primals, strict=True)
        if x is not None
    )  # fmt: skip


def is_related_as(example: Point, point: Point) -> bool:
    """Say whether sizes that are multiples of others, or of two, in the example are the same multiples at the point."""
    before, now = _sizes(example), _sizes(point)
    for axis, size in before.items():
        if size % 2 == 0 and now.get(axis, 0) % 2:
            return False
        for other, part in before.items():
            if 1 < part < size and size % part == 0 and now.get(axis, 0) * part != now.get(other, 0) * size:
                return False
    return True


def broadcasts_as(example: Point, point: Point) -> bool:
    """Say whether sizes that face each other in the example, neither equal nor 1, have the same ratio at the point."""
    for (a, p), (b, q) in itertools.combinations(zip(example.tensors, point.tensors, strict=True), 2):
        for m, n, k, j in zip(a.shape[::-1], b.shape[::-1], p.shape[::-1], q.shape[::-1], strict=False):
            if m != n and 1 not in (m, n) and m * j != n * k:
                return False
    return True


def cotangent(y: Tensor) -> Tensor:
    """Return a cotangent in which neighbours are not alike."""
    return (1 + torch.arange(y.numel()).reshape(y.shape) % 64 / 4).to(y)


def _longest_first(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda pair: -pair[1])


def _sizes(point: Point) -> dict[str, int]:
    found = zip(axis_names(point), point.primals, strict=True)
    return {name: n for names, x in found if x is not None for name, n in zip(names, x.shape, strict=True) if n}


def _resized(point: Point, sizes: Mapping[str, int]) -> Point | None:
    """Return the point with axes of these sizes, None where the forward does not take them."""
    indices = point.rule.domain.indices
    primals: list[Tensor | None] = []
    for name, names, x in zip(point.rule.primals, axis_names(point), point.primals, strict=True):
        kind = indices.get(name)
        resized = None if x is None else _with_sizes(x, names, sizes)
        if resized is not None and isinstance(kind, Index) and kind.axis in sizes:
            resized = resized % sizes[kind.axis]
        primals.append(resized)
    try:
        if not point.rule.domain.accepts(*primals, **point.params):
            return None
        there = replace(point, primals=tuple(primals), grad_y=torch.empty(0))
        return replace(there, grad_y=cotangent(there.y))
    except Exception:  # whatever the forward raises, it does not take this
        return None


def _with_sizes(x: Tensor, names: Sequence[str], sizes: Mapping[str, int]) -> Tensor:
    for dim, name in enumerate(names):
        x = _with_size(x, dim, sizes.get(name, x.shape[dim]))
    return x


def _with_size(x: Tensor, dim: int, size: int) -> Tensor:
    """Return x cut off along an axis, or repeated, where each number that is repeated is a bit smaller."""
    n = x.shape[dim]
    if size <= n:
        return x.narrow(dim, 0, size).clone()
    repeated = x.index_select(dim, torch.arange(size) % n)
    if not (x.is_floating_point() or x.is_complex()):
        return repeated
    # By less than a quarter in all, so that it stays in most domains; equal numbers would be ties.
    less = 1 - torch.arange(size, dtype=torch.float64) / (4 * size)
    return (repeated * less.reshape([-1 if d == dim else 1 for d in range(x.ndim)])).to(x.dtype)
