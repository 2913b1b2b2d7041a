"""A definition, in exact numbers, of a function that is given in torch alone."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flint import acb
from torch import Tensor

from backprop_rules.evidence.proof.balls import Balls, Number, as_balls, head
from backprop_rules.evidence.proof.translate.arguments import refusal
from backprop_rules.evidence.proof.translate.mode import Exactly
from backprop_rules.evidence.proof.translate.outlets import Outlets

__all__ = ["definition_of"]


def _middle(v: Number) -> complex | float:
    value = head(v.value)
    return complex(value.mid()) if isinstance(value, acb) else float(value.mid())


def _complex(array: Any) -> bool:
    return isinstance(array, Balls) and any(isinstance(v.value, acb) for v in array.flat)


def _tensor(array: Any, like_complex: bool) -> Tensor:
    if not isinstance(array, Balls):
        return torch.from_numpy(np.array(array))
    # An array without elements may be of either kind, and mixes with all.
    dtype = torch.complex128 if _complex(array) or (like_complex and not array.size) else torch.float64
    return torch.tensor([_middle(v) for v in array.flat], dtype=dtype).reshape(array.shape)


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
        with warnings.catch_warnings(), torch.no_grad(), Outlets(mode), mode:
            warnings.simplefilter("ignore")  # torch's own operations give them, to which a decomposition adds some
            y = forward(*primals, **params)
        if not isinstance(y, Tensor):
            raise refusal(f"it returns a {type(y).__name__}, not a tensor")
        found = mode.numbers(y)
        return as_balls(np.array(found, dtype=object))

    return definition
