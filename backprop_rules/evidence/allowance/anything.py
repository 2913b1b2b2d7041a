"""Numbers that may be anything: what is made of them may be, too, and is not computed.

Through a long loop worst cases grow past every number of a dtype, and say then no more than an infinite one.
"""

import math
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# What these make may be anything where one of their operands may be; but a product with what is exactly 0.
INNER = {aten.mm, aten.bmm}
CARRYING = {*INNER, aten.add, aten.sub, aten.mul, aten.sigmoid_backward, aten.tanh_backward}


class Anything:
    """Radii that are infinite everywhere: all look at one number, and are known by that."""

    def __init__(self) -> None:
        self._made: dict[torch.device, Tensor] = {}
        self._places: set[int] = set()

    def like(self, x: Tensor) -> Tensor:
        """Return such a radius for a tensor."""
        if x.device not in self._made:
            one = torch.full((), math.inf, dtype=torch.float64, device=x.device)
            self._made[x.device] = one
            self._places.add(one.data_ptr())
        return self._made[x.device].expand(x.shape)

    def __bool__(self) -> bool:
        return bool(self._made)

    def __contains__(self, radius: Any) -> bool:
        return isinstance(radius, Tensor) and radius.data_ptr() in self._places
