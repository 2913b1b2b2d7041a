"""Whether code takes the memory of tensors, for C or NumPy to read and write: what is made of it nobody follows."""

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

_MEMORY = {Tensor.data_ptr, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist}


class NothingHandedOut(TorchFunctionMode):
    """While it is entered, code that is followed by a dispatch mode raises NotImplementedError where it does that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function; what the dispatch mode itself asks of tensors is its own business."""
        if func in _MEMORY and _get_current_dispatch_mode() is not None:
            raise NotImplementedError("the memory of a tensor is handed to something else than operations of torch")
        return func(*args, **(kwargs or {}))
