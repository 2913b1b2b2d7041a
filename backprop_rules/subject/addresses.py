"""Code that takes the address of a tensor, for C to read and write there, and never looks at its dtype.

It is made for one dtype: of a wider one C reads halves of numbers, and in a narrower one it writes past the end.
"""

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.domain import dtype_name
from backprop_rules.subject.ambient import F32, inexact

_OF_A_DTYPE = {
    Tensor.dtype.__get__, Tensor.element_size, Tensor.is_floating_point, Tensor.itemsize.__get__,  # type: ignore[attr-defined]
    Tensor.type, torch.is_floating_point,
}  # fmt: skip


class AddressesIn(TorchFunctionMode):
    """While it is entered, such code raises TypeError for a tensor in none of these dtypes, as it should itself."""

    def __init__(self, dtypes: Collection[torch.dtype]) -> None:
        super().__init__()
        self._dtypes, self._looked, self.taken = dtypes, False, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        self._looked = self._looked or (func in _OF_A_DTYPE and not _is_ours(sys._getframe(1).f_globals))
        if func is Tensor.data_ptr and inexact(args[0]):
            self.taken = True
            with torch._C.DisableTorchFunction():
                dtype = args[0].dtype
            # Who looks may still make room by that dtype alone, and half of it is written past its end.
            if dtype not in self._dtypes and not (self._looked and dtype.itemsize >= F32.itemsize):
                own = " or ".join(map(dtype_name, self._dtypes))
                raise TypeError(f"the address of a tensor in {dtype_name(dtype)} is taken as if it were in {own}")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Addresses:
    """Whether code that is made for some dtypes, if these are known, takes addresses: else it is called as it is."""

    dtypes: Collection[torch.dtype] = ()
    _none: set[Any] = field(default_factory=set)  # where it took none, in dtypes and at about the sizes of a call

    @contextmanager
    def guarded(self, given: Iterable[Any]) -> Iterator[None]:
        """Until the end of the block, of a call, take care of addresses in other dtypes than those."""
        tensors = [x for x in given if inexact(x)]
        kind = tuple((x.dtype, x.numel().bit_length()) for x in tensors)
        if kind in self._none or not self.dtypes or all(x.dtype in self.dtypes for x in tensors):
            yield
            return
        with AddressesIn(self.dtypes) as asked:
            yield
        if not asked.taken:
            self._none.add(kind)


def _is_ours(names: dict[str, Any]) -> bool:
    """Say whether code of these global names is torch's or this package's, and nobody's kernel."""
    return str(names.get("__name__")).partition(".")[0] in ("torch", "backprop_rules")
