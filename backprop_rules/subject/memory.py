"""Memory that comes from the allocator: poisoned, so that what is never written shows."""

import math
import sys
import threading
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
NUMPYS_OWN = {"empty": np.empty, "empty_like": np.empty_like}
ASKS_FOR_DETERMINISM = "deterministic"  # in what torch says of operations that cannot be so


class _Held:
    """How often the poison is in force, in all threads together: the first puts it in, and the last takes it out."""

    lock = threading.Lock()
    count = 0
    before = (False, False)


@contextmanager
def poisoned(fill: float | None = math.nan) -> Iterator[None]:
    """Until the end of the block, memory that torch and NumPy hand out is NaN, or a number, until it is written to.

    Torch fills it by itself where it is told to be deterministic, also for what calls it from C++. Numba knows NumPy's
    functions by their identity: where it is loaded NumPy's stay as they are. With None, all stays as it is.
    """
    if fill is None:
        yield
        return
    with _Held.lock:
        if _Held.count == 0:
            own = torch._C._get_deterministic_algorithms(), torch._C._get_deterministic_algorithms_warn_only()
            _Held.before = own
            torch._C._set_deterministic_algorithms(True, warn_only=True)
            if "numba" not in sys.modules:
                np.__dict__.update({name: _filled(make, fill) for name, make in NUMPYS_OWN.items()})
        _Held.count += 1
    try:
        if math.isnan(fill):
            yield
        else:
            with _Filled(fill):
                yield
    finally:
        with _Held.lock:
            _Held.count -= 1
            if _Held.count == 0:
                torch._C._set_deterministic_algorithms(_Held.before[0], warn_only=_Held.before[1])
                np.__dict__.update(NUMPYS_OWN)


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
