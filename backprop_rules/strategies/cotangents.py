"""The cotangents of a point."""

import torch
from torch import Tensor

from backprop_rules.strategies.values import KINDS, laid_out, numbers_from
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.function import Cotangents, Outputs

MAGNITUDES = {"big": 2.0**10, "small": 2.0**-30}
WIDE = 20  # powers of two by which elements differ: fewer than float32 has digits


def cotangents(y: Outputs, kind: str, seed: int, digits: bool = False) -> Cotangents:
    """Return a cotangent for each output that can have one, in float64; if `digits`, with all that float32 has."""
    numbers = numbers_from(seed ^ 0x5EED)
    found: list[Tensor | None] = []
    chosen = 0
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
            g = g if len(found) == chosen else torch.zeros_like(g)
        found.append(laid_out(g, kind).to(out.device) if out.device.type == "cuda" else laid_out(g, kind))
    return tuple(found)
