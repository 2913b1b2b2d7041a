"""NumPy's arrays: they share memory with the tensors, strides and offset included."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.errors import InputError, first_line
from backprop_rules.subject.frameworks.bridge import Bridge, Function, installed, plain


def array_of(x: Any) -> Any:
    """Return a tensor as an array in the same memory, and a dtype as NumPy's."""
    if isinstance(x, torch.dtype):
        return array_of(torch.empty(0, dtype=x)).dtype
    if not isinstance(x, Tensor):
        return x
    if x.device.type != "cpu":
        raise InputError(
            f"a NumPy function cannot take a tensor on {x.device}: NumPy's arrays are in the CPU's memory. "
            "Check it with devices=['cpu'] or call x.cpu() first."
        )
    try:
        if x.dtype is torch.bfloat16:
            needed = "NumPy has no bfloat16 by itself; it takes that of the package ml_dtypes"
            wanted = installed("ml_dtypes", needed, "ml_dtypes").bfloat16
            return plain(x).view(torch.int16).numpy().view(wanted)
        return plain(x).numpy()
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"a tensor of dtype {x.dtype}, layout {x.layout} and shape {tuple(x.shape)} has no counterpart in NumPy, "
            f"or is one of torch's transforms: {first_line(error)}. Convert it first, as in x.float() or x.to_dense()."
        ) from None


def tensor_of(x: Any) -> Any:
    """Return an array or scalar of NumPy as a tensor, anything else as it is; InputError if torch cannot."""
    return _from_numpy(x) if owns(x) else x


def owns(x: object) -> bool:
    """Say whether it is an array, or a scalar, of NumPy's."""
    return isinstance(x, np.ndarray | np.generic)


def _from_numpy(x: Any) -> Tensor | None:
    x = np.asarray(x)  # of a scalar, which 0-d arrays become in arithmetic, an array again
    if x.dtype.names == ("float0",):  # how JAX says that integers have no gradient
        return None
    if x.dtype.name == "bfloat16":
        return _from_numpy(x.view(np.int16)).view(torch.bfloat16)  # type: ignore[union-attr]
    if x.dtype.kind in "biufc":
        even = all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
        if not (even and x.flags.writeable and x.flags.aligned and x.dtype.isnative):
            x = np.array(x, dtype=x.dtype.newbyteorder("="), order="C")  # torch has no tensors of these
        try:
            return torch.from_numpy(x)
        except TypeError:  # longdouble
            pass
    raise InputError(
        f"a NumPy array of dtype {x.dtype} and shape {x.shape} has no counterpart in torch. An object array is often "
        "made of rows of unequal length. Make an array of numbers first, as in x.astype(np.float64)."
    )


def _followed(function: Function) -> Function:
    from backprop_rules.subject.frameworks.arrays import on_tensors  # which brings ball arithmetic along

    return on_tensors(function)


NUMPY = Bridge("numpy", owns, array_of, tensor_of, "{}.numpy()", followed=_followed, borrowed=(torch.bfloat16,))
