"""The formulas of grid samples: images at places between their pixels, by the four around each.

A place is off by what it is computed of. The value is continuous in the place, and its slope that of the cell in which
the place lies: near a whole number, either neighbour's. The gradient for a pixel is its hat function's value, which has
slopes of at most 1; that for the place is the slope, which jumps.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.operation import Operation, plus
from backprop_rules.evidence.allowance.units import gamma, unit

aten = torch.ops.aten

BILINEAR, ZEROS, BORDER = 0, 0, 1


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
    """Return the places along x and y."""
    if mode != BILINEAR or padding not in (ZEROS, BORDER) or a.ndim != 4:
        raise op.refuse("but in two dimensions, bilinear, with zeros or the border beyond the edge")
    g, axes = op.operand(grid, grid.dtype), []
    for k, size in enumerate((a.shape[3], a.shape[2])):
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


def _at(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the pixels at whole places, 0 outside, for every channel."""
    height, width = image.shape[2:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, 0).long().flatten(1).unsqueeze(1)
    found = image.flatten(2).gather(2, index.expand(-1, image.shape[1], -1)).reshape(*image.shape[:2], *x.shape[1:])
    return torch.where(inside.unsqueeze(1), found, 0.0)


def _corners(x: _Axis, y: _Axis) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield, of each cell in which a place may lie, its corners: by x first."""
    for left, top in itertools.product(x.cells, y.cells):
        yield [(left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)]


def sampled(op: Operation, a: Tensor, grid: Tensor, *how: Any) -> Tensor:
    """The mean of four pixels, by how near each is."""
    image, (x, y) = op.operand(a), _axes(op, a, grid, *how)
    radius = None if image.radius is None else image.radius.double()
    slope_x = slope_y = size = varies = torch.zeros((), dtype=torch.float64, device=a.device)
    for corners in _corners(x, y):
        ul, ur, dl, dr = (_at(a.double(), *corner) for corner in corners)
        slope_x = torch.maximum(slope_x, torch.maximum((ur - ul).abs(), (dr - dl).abs()))
        slope_y = torch.maximum(slope_y, torch.maximum((dl - ul).abs(), (dr - ur).abs()))
        size = torch.maximum(size, ul.abs() + ur.abs() + dl.abs() + dr.abs())
        if radius is not None:
            varies = torch.maximum(varies, torch.stack([_at(radius, *corner) for corner in corners]).amax(0))
    moved = slope_x * x.off.unsqueeze(1) + slope_y * y.off.unsqueeze(1)
    return op.summed(moved + varies, size, 8, 4, narrow=True)


def sampled_backward(op: Operation, grad: Tensor, a: Tensor, grid: Tensor, *how: Any) -> list[Any]:
    """The cotangent at each of four pixels, by how near it is, and times how the pixels differ."""
    of = [replace(op, result=y) if asked else None for y, asked in zip(op.result, how[-1], strict=True)]
    x, y = _axes(next(one for one in of if one is not None), a, grid, *how[:-1])
    return [
        None if one is None else find(one, grad, a, x, y)
        for one, find in zip(of, (_of_pixels, _of_places), strict=True)
    ]


def _of_pixels(op: Operation, grad: Tensor, a: Tensor, x: _Axis, y: _Axis) -> Tensor:
    """Return the radius of the sum, for each pixel, of the cotangents times its weight."""
    g, u = op.operand(grad), unit(op.dtype).u
    size, varies, counts = (torch.zeros(a.shape, dtype=torch.float64, device=a.device).flatten(2) for _ in range(3))
    for dx, dy in itertools.product(range(3), repeat=2):
        at_x, at_y = x.cells[0] + dx, y.cells[0] + dy
        near = (at_x <= x.cells[1] + 1) & (at_y <= y.cells[1] + 1)
        inside = near & (at_x >= 0) & (at_x < x.size) & (at_y >= 0) & (at_y < y.size)
        exact = x.hat(at_x) * y.hat(at_y)
        most = (x.hat(at_x) + x.off + 2 * u) * (y.hat(at_y) + y.off + 2 * u)
        most, off = (torch.where(inside, w, 0.0).unsqueeze(1) for w in (most, most - exact))
        index = torch.where(inside, at_y * x.size + at_x, 0).long().flatten(1).unsqueeze(1).expand(*grad.shape[:2], -1)
        size.scatter_add_(2, index, (g.size * most).flatten(2))
        moved = g.size * off if g.radius is None else g.size * off + g.radius * most
        varies.scatter_add_(2, index, moved.flatten(2))
        counts.scatter_add_(2, index, inside.double().unsqueeze(1).expand(grad.shape).flatten(2))
    count = int(counts.max()) + 6 if counts.numel() else 6
    return op.summed(varies.reshape(a.shape), size.reshape(a.shape), count, 4 * count, narrow=True)


def _of_places(op: Operation, grad: Tensor, a: Tensor, x: _Axis, y: _Axis) -> Tensor:
    """Return the radius of the sum over channels of the cotangent times the slope along x, and along y."""
    g, image = op.operand(grad), op.operand(a)
    radius = torch.zeros_like(a, dtype=torch.float64) if image.radius is None else image.radius
    off = torch.zeros((), dtype=torch.float64) if g.radius is None else g.radius
    found, count = [], a.shape[1] + 12
    for k, (along, across) in enumerate(((x, y), (y, x))):
        its, speed = op.result[..., k].double(), torch.where(along.held, along.size / 2, along.speed)
        size = varies = jumps = torch.zeros_like(its)
        for corners in _corners(x, y):
            ul, ur, dl, dr = (_at(a.double(), *corner) for corner in corners)
            near, far = (ur - ul, dr - dl) if k == 0 else (dl - ul, dr - ur)
            base = (corners[0][1] if k == 0 else corners[0][0]).unsqueeze(1)
            part = (across.place.unsqueeze(1) - base).clamp(0, 1)
            slope = near * (1 - part) + far * part
            lost = sum(_at(radius, *corner) for corner in corners)
            each = g.grown() * ((far - near).abs() * across.off.unsqueeze(1) + lost) + off * slope.abs()
            varies = torch.maximum(varies, each.sum(1))
            size = torch.maximum(size, (g.grown() * (ul.abs() + ur.abs() + dl.abs() + dr.abs())).sum(1))
            jumps = torch.maximum(jumps, ((grad.double() * slope).sum(1) * along.speed - its).abs())
        jumps = torch.where(along.held, torch.maximum(jumps, size * speed), jumps)
        rounded = size * speed * (2 * gamma(count, 2.0**-53))  # here, of the slope and of the result, in any order
        jumps = torch.where(jumps > rounded, jumps, 0.0)  # others are of the same cell, or no larger than that
        found.append((plus(varies * speed + rounded, op.either(jumps)), size * speed))
    varies, size = (torch.stack(those, -1) for those in zip(*found, strict=True))
    return op.summed(varies, size, count, count, narrow=True)


FORMULAS: dict[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d: sampled, aten.grid_sampler_2d_backward: sampled_backward,
}  # fmt: skip
