"""Code that takes the address of a tensor, for C to read and write there, and never looks at its dtype.

It is made for one dtype: of a wider one C reads halves of numbers, and in a narrower one it writes past the end. Code
of torch may take addresses as well, to compare or to write down, and computes with none: it is asked in any dtype.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


class Addresses:
    """In which dtypes a backward may take addresses: its own, unless it turns out to compute with none.

    It is asked for that `at_the_example`, which gives its gradients there; none where it raises.
    """

    def __init__(self, dtypes: Collection[torch.dtype], at_the_example: Callable[[], Sequence[Any]]) -> None:
        self.dtypes, self.refused = dtypes, False
        self._at_the_example = at_the_example
        self._used: bool | None = None
        self._none: set[Any] = set()  # where none was taken: in these dtypes, at about these sizes

    @contextmanager
    def around(self, given: Iterable[Any]) -> Iterator[None]:
        """Until the end of the block, of a call with these arguments, refuse addresses in other dtypes."""
        tensors = [x for x in given if inexact(x)]
        kind = tuple((x.dtype, x.numel().bit_length()) for x in tensors)
        if self._used is False or kind in self._none or all(x.dtype in self.dtypes for x in tensors):
            yield
            return
        with _AddressesIn(self) as asked:
            yield
        if not asked.takes_some:
            self._none.add(kind)

    def may_be_taken_after_all(self) -> bool:
        """Say whether a call may be made again, that has just raised: it was refused, and need not have been."""
        if not self.refused:
            return False
        if self._used is None:
            self._used = computes_with_addresses(self._at_the_example)
        self.refused = False
        return not self._used


class _AddressesIn(TorchFunctionMode):
    """While it is entered, such code raises TypeError for a tensor in none of its dtypes, as it should itself."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__()
        self._addresses, self._looked, self.takes_some = addresses, False, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        self._looked = self._looked or (func in _OF_A_DTYPE and not _is_ours(sys._getframe(1).f_globals))
        if func is Tensor.data_ptr and inexact(args[0]):
            self.takes_some = True
            with torch._C.DisableTorchFunction():
                dtype = args[0].dtype
            # Who looks may still make room by that dtype alone, and half of it is written past its end.
            if dtype not in self._addresses.dtypes and not (self._looked and dtype.itemsize >= F32.itemsize):
                self._addresses.refused = True
                own = " or ".join(map(dtype_name, self._addresses.dtypes))
                raise TypeError(f"the address of a tensor in {dtype_name(dtype)} is taken as if it were in {own}")
        return func(*args, **(kwargs or {}))


class _Elsewhere(TorchFunctionMode):
    """While it is entered, the address of a tensor is that of a copy, in which numbers are others of the same range."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        if func is not Tensor.data_ptr or not args[0].numel():
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction(), torch.no_grad():
            x = args[0].detach()
            storage = x.untyped_storage()
            if storage._cdata not in self._copies:
                whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(storage)
                copy = _others(whole) if inexact(x) else whole.clone()  # which may be places, that must be right
                self._copies[storage._cdata] = x, copy, copy.clone()
            return self._copies[storage._cdata][1].data_ptr() + x.storage_offset() * x.itemsize

    @property
    def is_written(self) -> bool:
        """Whether something was written into a copy."""
        return not all(_same(copy, before) for _, copy, before in self._copies.values())


def computes_with_addresses(call: Callable[[], Sequence[Any]]) -> bool:
    """Say whether a call that takes addresses may give what is read there, or write there.

    It does not where it gives the same numbers, which are not all 0, with the addresses of other memory.
    """
    gradients = call()
    with _Elsewhere() as elsewhere:
        others = call()
    if elsewhere.is_written or len(gradients) != len(others):
        return True
    pairs = [(a, b) for a, b in zip(gradients, others, strict=True) if a is not None or b is not None]
    told = all(isinstance(x, Tensor) and bool(x.any()) for pair in pairs for x in pair)
    return not (pairs and told and all(_same(a, b) for a, b in pairs))


def _others(x: Tensor) -> Tensor:
    return -x if x.is_complex() else x.amin() + x.amax() - x


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _is_ours(names: dict[str, Any]) -> bool:
    """Say whether code of these global names is torch's or this package's, and nobody's kernel."""
    return str(names.get("__name__")).partition(".")[0] in ("torch", "backprop_rules")
