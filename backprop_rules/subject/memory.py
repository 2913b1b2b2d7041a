"""Memory that comes from the allocator: poisoned, so that what is never written shows."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
UNWRITTEN = (
    aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.empty_permuted,
)  # fmt: skip


@contextmanager
def poisoned(fill: float = math.nan) -> Iterator[None]:
    """Until the end of the block, memory that torch and NumPy hand out is NaN, or a number, until it is written to.

    Torch fills it by itself where it is told to be deterministic, also for what calls it from C++.
    """
    before = torch._C._get_deterministic_algorithms(), torch._C._get_deterministic_algorithms_warn_only()
    own = np.empty, np.empty_like
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    _ours(_filled(own[0], fill), _filled(own[1], fill))
    try:
        if math.isnan(fill):
            yield
        else:
            with _Filled(fill):
                yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])
        _ours(*own)


def _ours(empty: Any, empty_like: Any) -> None:
    np.__dict__.update(empty=empty, empty_like=empty_like)


def _filled(make: Any, fill: float) -> Any:
    def made(*args: Any, **named: Any) -> Any:
        found = make(*args, **named)
        if found.dtype.kind in "fc":
            found.fill(fill)
        return found

    return made


class _Filled(TorchDispatchMode):
    """While it is entered, memory that torch hands out is filled with a number."""

    def __init__(self, fill: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fill = fill

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in UNWRITTEN and isinstance(found, Tensor) and found.is_floating_point():
            found.fill_(self._fill)
        return found
