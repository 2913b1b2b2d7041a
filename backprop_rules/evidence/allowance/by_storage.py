"""What is known of tensors by the memory in which they lie: it goes when that does."""

import weakref
from typing import Any

from torch import Tensor


def place_of(x: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from others that look into the same storage."""
    return x.data_ptr(), x.dtype, x.shape, x.stride()


class ByStorage:
    """A mapping from tensors: those that look into one storage are one key, for as long as it lives.

    What autograd saves comes back as another tensor in the same storage.
    """

    def __init__(self) -> None:
        # By the address of the storage, of which there is no other while it lives: with what ends with it, the value.
        self._at: dict[int, list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._at)

    def __contains__(self, x: Tensor) -> bool:
        return bool(self._at) and x.untyped_storage()._cdata in self._at

    def get(self, x: Tensor, default: Any = None) -> Any:
        """Return the value, or the default where there is none."""
        found = self._at.get(x.untyped_storage()._cdata) if self._at else None
        return default if found is None else found[1]

    def __setitem__(self, x: Tensor, value: Any) -> None:
        storage = x.untyped_storage()
        address = storage._cdata
        known = self._at.get(address)
        if known is not None:
            known[1] = value
            return
        mine = weakref.ref(self)  # no circle: what is kept is given back with the mapping

        def ends(_: Any) -> None:
            left = mine()
            if left is not None:
                left._at.pop(address, None)

        self._at[address] = [weakref.ref(storage, ends), value]

    def setdefault(self, x: Tensor, default: Any) -> Any:
        """Return the value, which is the default from now on where there was none."""
        found = self.get(x, self)
        if found is self:
            self[x] = found = default
        return found

    def pop(self, x: Tensor, default: Any = None) -> Any:
        """Return the value, and forget it."""
        found = self._at.pop(x.untyped_storage()._cdata, None) if self._at else None
        return default if found is None else found[1]
