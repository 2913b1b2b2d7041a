"""A definition, in exact numbers, of a function that is given in torch alone."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flint import acb
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from backprop_rules.evidence.proof.balls import Balls, Number, as_balls, head
from backprop_rules.evidence.proof.translate.mode import Exactly, refusal, wide
from backprop_rules.subject.ambient import inexact, tensors_in

aten = torch.ops.aten

OUTLETS = {
    Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.data_ptr, Tensor.__dlpack__, Tensor.new_tensor, torch.tensor,
}  # fmt: skip


class Outlets(TorchFunctionMode):
    """While it is entered, see to what `Exactly` does not see, or sees too late.

    That is what takes values out of a tensor past torch's operations, and what torch makes of others with a
    constant that it rounds.
    """

    def __init__(self, mode: Exactly) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        named = kwargs or {}
        held = any(self._mode.holds(x) for x in tensors_in((args, named)))
        if held and func in OUTLETS:
            raise refusal(f"it takes values out of a tensor by {func.__name__}")
        if func is functional.rms_norm and named.get("eps", args[3] if len(args) > 3 else None) is None:
            raise refusal("without its eps rms_norm takes one that depends on the dtype")
        if held and func is functional.scaled_dot_product_attention:
            return self._mode.whole(aten.scaled_dot_product_attention.default, args, named)
        if held and not func.__name__.endswith("_"):  # nothing is written
            # Some operations mix no dtypes, and those of the constants need not be the primals'.
            args, named = tree_map_only(Tensor, self._widened, (args, named))
        return func(*args, **named)

    def _widened(self, x: Tensor) -> Tensor:
        return x if self._mode.holds(x) or not inexact(x) else wide(x)


def _tensor(array: Any, like_complex: bool) -> Tensor:
    if not isinstance(array, Balls):
        return torch.from_numpy(np.array(array))
    middles = [head(v.value).mid() for v in array.flat]
    # An array without elements may be of either kind, and mixes with all.
    if _complex(array) or (like_complex and not array.size):
        return torch.tensor([complex(v) for v in middles], dtype=torch.complex128).reshape(array.shape)
    return torch.tensor([float(v) for v in middles], dtype=torch.float64).reshape(array.shape)


def _complex(array: Any) -> bool:
    return isinstance(array, Balls) and any(isinstance(v.value, acb) for v in array.flat)


def definition_of(forward: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return the definition of a torch function: the same function of arrays of exact numbers.

    It runs `forward` on tensors of float64, and does each operation in exact numbers as well. Constants are
    exact, as torch has them. Raises InputError at an operation that it does not know, and Undecided where the
    result depends on a choice between numbers that are equal, or cannot be told apart.
    """

    def definition(*arrays: Any, **params: Any) -> Any:
        given = [as_balls(x) for x in arrays]
        tape: list[Number] = next((v.tape for x in given if isinstance(x, Balls) for v in x.flat), [])
        mode = Exactly(tape)
        any_complex = any(map(_complex, given))
        primals = [None if x is None else _tensor(x, any_complex) for x in given]
        for x, array in zip(primals, given, strict=True):
            if x is not None and isinstance(array, Balls):
                mode.keep(x, array.view(np.ndarray))
        with warnings.catch_warnings(), torch.enable_grad(), Outlets(mode), mode:
            warnings.simplefilter("ignore")  # torch's own operations give them, to which a decomposition adds some
            y = forward(*primals, **params)
        if not isinstance(y, Tensor):
            raise refusal(f"it returns a {type(y).__name__}, not a tensor")
        found = mode.numbers(y)
        return as_balls(np.array(found, dtype=object))

    return definition
