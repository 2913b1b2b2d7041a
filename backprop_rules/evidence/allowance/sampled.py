"""The formulas of grid samples: images at places between their pixels, by the four around each, or eight in a volume.

A place is off by what it is computed of. The value is continuous in the place, and its slope that of the cell in which
the place lies: near a whole number, either neighbour's. The gradient for a pixel is its hat function's value, which has
slopes of at most 1; that for the place is the slope, which jumps.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, plus
from backprop_rules.evidence.allowance.units import gamma, unit

aten = torch.ops.aten

BILINEAR, ZEROS, BORDER = 0, 0, 1
Corner = Sequence[Tensor]  # whole places along x, y, and so on


@dataclass(frozen=True, eq=False)
class _Axis:
    """The places along one axis: in pixels, how far they may be off, and how fast they move with the grid."""

    place: Tensor
    off: Tensor
    size: int
    speed: Tensor  # 0 where the place is held at an edge
    held: Tensor  # where it may be held, or not

    @property
    def cells(self) -> tuple[Tensor, ...]:
        """The cells in which the place may lie, by their lower ends."""
        return (self.place - self.off).floor(), (self.place + self.off).floor()

    def hat(self, pixel: Tensor) -> Tensor:
        """Return the weight of a pixel."""
        return (1 - (self.place - pixel).abs()).clamp_min(0)


def _axes(op: Operation, a: Tensor, grid: Tensor, mode: int, padding: int, align: bool) -> list[_Axis]:
    """Return the places along x and y, and z in three dimensions."""
    if mode != BILINEAR or padding not in (ZEROS, BORDER):
        raise op.refuse("but linear, with zeros or the border beyond the edge")
    g, axes = op.operand(grid, grid.dtype), []
    for k, size in enumerate(reversed(a.shape[2:])):
        x, scale = grid[..., k].double(), (size - align) / 2
        place = (x + 1) * scale - (0 if align else 0.5)
        # A sum, a product and a difference, in any order, and in the dtype itself in torch's kernel for narrow ones.
        off = 6 * unit(op.dtype).u * ((x.abs() + 1) * scale + 1)
        off = off if g.radius is None else off + g.radius[..., k] * scale
        speed, held = torch.full_like(x, scale), torch.zeros_like(x, dtype=torch.bool)
        if padding == BORDER:
            held = (place.abs() <= off) | ((place - (size - 1)).abs() <= off)
            speed = torch.where((place > 0) & (place < size - 1), speed, 0.0)
        beyond = (place < -1 - off) | (place > size + off)  # it stays there: at the edge, or where nothing is
        off = torch.where(beyond, 0.0, off)
        if bool((off >= 1).any()):
            raise op.refuse("at places that may be off by a pixel")
        place = place.clamp(0, size - 1) if padding == BORDER else place
        axes.append(_Axis(place, off, size, speed, held))
    return axes


def _index(axes: Sequence[_Axis], pixel: Corner) -> tuple[Tensor, Tensor]:
    """Return where pixels are in an image that lies in order, and whether they are in it."""
    index, inside = torch.zeros_like(pixel[0]), torch.ones_like(pixel[0], dtype=torch.bool)
    for axis, place in zip(reversed(axes), reversed(pixel), strict=True):
        index, inside = index * axis.size + place, inside & (place >= 0) & (place < axis.size)
    return torch.where(inside, index, 0).long().flatten(1).unsqueeze(1), inside.unsqueeze(1)


def _at(image: Tensor, axes: Sequence[_Axis], pixel: Corner) -> Tensor:
    """Return the pixels at whole places, 0 outside, for every channel."""
    index, inside = _index(axes, pixel)
    found = image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1))
    return torch.where(inside, found.reshape(*image.shape[:2], *pixel[0].shape[1:]), 0.0)


def _cells(axes: Sequence[_Axis]) -> Iterator[tuple[Corner, list[Corner]]]:
    """Yield each cell in which a place may lie, by its lowest corner, with all of its corners: along x the fastest."""
    for low in itertools.product(*(axis.cells for axis in axes)):
        ends = itertools.product(*((end, end + 1) for end in reversed(low)))
        yield low, [corner[::-1] for corner in ends]


def _sides(corners: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the corners at the lower end along an axis, and at the upper one."""
    both = corners.unflatten(0, (-1, 2, 2**k))
    return both[:, 0].flatten(0, 1), both[:, 1].flatten(0, 1)


def _apart(corners: Tensor, k: int) -> Tensor:
    """Return by how much corners differ along an axis, for each pair of them."""
    low, high = _sides(corners, k)
    return high - low


def sampled(op: Operation, a: Tensor, grid: Tensor, *how: Any) -> Tensor:
    """The mean of the pixels around, by how near each is."""
    image, axes = op.operand(a), _axes(op, a, grid, *how)
    radius = None if image.radius is None else image.radius.double()
    slopes: list[Any] = [0.0] * len(axes)
    size = varies = torch.zeros((), dtype=torch.float64, device=a.device)
    for _, corners in _cells(axes):
        found = torch.stack([_at(a.double(), axes, corner) for corner in corners])
        steepest = [_apart(found, k).abs().amax(0) for k in range(len(axes))]
        slopes = [torch.maximum(one, torch.as_tensor(slope)) for one, slope in zip(steepest, slopes, strict=True)]
        size = torch.maximum(size, found.abs().sum(0))
        if radius is not None:
            varies = torch.maximum(varies, torch.stack([_at(radius, axes, corner) for corner in corners]).amax(0))
    moved = sum(slope * axis.off.unsqueeze(1) for slope, axis in zip(slopes, axes, strict=True))
    # Of each of these terms the weight is a product of as many differences as there are axes.
    terms = 2 ** len(axes)
    return op.summed(moved + varies, size, terms + 2 * len(axes), terms, narrow=True)


def sampled_backward(op: Operation, grad: Tensor, a: Tensor, grid: Tensor, *how: Any) -> list[Any]:
    """The cotangent at each pixel around, by how near it is, and times how the pixels differ."""
    of = [replace(op, result=y) if asked else None for y, asked in zip(op.result, how[-1], strict=True)]
    axes = _axes(next(one for one in of if one is not None), a, grid, *how[:-1])
    return [
        None if one is None else find(one, grad, a, axes)
        for one, find in zip(of, (_of_pixels, _of_places), strict=True)
    ]


def _of_pixels(op: Operation, grad: Tensor, a: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Return the radius of the sum, for each pixel, of the cotangents times its weight."""
    g, u, n = op.operand(grad), unit(op.dtype).u, len(axes)
    size, varies, counts = (torch.zeros(a.shape, dtype=torch.float64, device=a.device).flatten(2) for _ in range(3))
    for steps in itertools.product(range(3), repeat=n):
        pixel = [axis.cells[0] + step for axis, step in zip(axes, steps, strict=True)]
        index, inside = _index(axes, pixel)
        index = index.expand(*grad.shape[:2], -1)
        exact = most = torch.ones_like(pixel[0])
        for axis, at in zip(axes, pixel, strict=True):
            inside = inside & (at <= axis.cells[1] + 1).unsqueeze(1)
            exact, most = exact * axis.hat(at), most * (axis.hat(at) + axis.off + 2 * u)
        most, off = (torch.where(inside, w.unsqueeze(1), 0.0) for w in (most, most - exact))
        size.scatter_add_(2, index, (g.size * most).flatten(2))
        moved = g.size * off if g.radius is None else g.size * off + g.radius * most
        varies.scatter_add_(2, index, moved.flatten(2))
        counts.scatter_add_(2, index, inside.double().expand(grad.shape).flatten(2))
    count = int(counts.max() if counts.numel() else 0) + 2 * n + 2
    return op.summed(varies.reshape(a.shape), size.reshape(a.shape), count, 4 * count, narrow=True)


def _of_places(op: Operation, grad: Tensor, a: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Return the radius of the sum over channels of the cotangent times the slope along each axis."""
    g, image = op.operand(grad), op.operand(a)
    radius = torch.zeros_like(a, dtype=torch.float64) if image.radius is None else image.radius
    off = torch.zeros((), dtype=torch.float64) if g.radius is None else g.radius
    found, count = [], 2 ** len(axes) * a.shape[1] + 12
    for k, along in enumerate(axes):
        its, speed = op.result[..., k].double(), torch.where(along.held, along.size / 2, along.speed)
        size = varies = jumps = torch.zeros_like(its)
        for low, corners in _cells(axes):
            pixels = torch.stack([_at(a.double(), axes, corner) for corner in corners])
            slope, bends = _slope(_apart(pixels, k), k, axes, low)
            lost = sum(_at(radius, axes, corner) for corner in corners)
            varies = torch.maximum(varies, (g.grown() * (bends + lost) + off * slope.abs()).sum(1))
            size = torch.maximum(size, (g.grown() * pixels.abs().sum(0)).sum(1))
            jumps = torch.maximum(jumps, ((grad.double() * slope).sum(1) * along.speed - its).abs())
        jumps = torch.where(along.held, torch.maximum(jumps, size * speed), jumps)
        rounded = size * speed * (2 * gamma(count, 2.0**-53))  # here, of the slope and of the result, in any order
        jumps = torch.where(jumps > rounded, jumps, 0.0)  # others are of the same cell, or no larger than that
        found.append((plus(varies * speed + rounded, op.either(jumps)), size * speed))
    varies, size = (torch.stack(those, -1) for those in zip(*found, strict=True))
    return op.summed(varies, size, count, count, narrow=True)


def _slope(slopes: Tensor, k: int, axes: Sequence[_Axis], low: Corner) -> tuple[Tensor, Tensor]:
    """Return the mean of a cell's slopes along an axis, by how near each is, and how far it may be off by the place."""
    bends = torch.zeros_like(slopes[0])
    others = [(axis, end) for j, (axis, end) in enumerate(zip(axes, low, strict=True)) if j != k]
    for j, (axis, _) in enumerate(others):
        bends = bends + _apart(slopes, j).abs().amax(0) * axis.off.unsqueeze(1)
    for axis, end in others:  # the fastest first: what is left are those at its lower end, and at its upper one
        part = (axis.place - end).clamp(0, 1).unsqueeze(1)
        slopes = slopes[::2] * (1 - part) + slopes[1::2] * part
    return slopes[0], bends


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d: sampled, aten.grid_sampler_2d_backward: sampled_backward,
    aten.grid_sampler_3d: sampled, aten.grid_sampler_3d_backward: sampled_backward,
}  # fmt: skip
