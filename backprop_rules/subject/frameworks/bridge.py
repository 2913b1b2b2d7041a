"""What a framework of arrays is to the checker: one Bridge, from which all that knows of frameworks reads."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError, first_line

Function = Callable[..., Any]


def _unfollowed(function: Function) -> Function:
    def through(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("its operations cannot be followed")

    return through


@dataclass(frozen=True)
class Bridge:
    """A framework: whose arrays are whose, and how a tensor becomes one of its arrays and comes back.

    `array_of` and `tensor_of` return what is none of theirs as it is, and raise InputError where there is no
    counterpart. A backward is asked in float32 beside the example's dtype: for a dtype that the framework lacks,
    `array_of` raises TypeError, and the point is not asked in it.
    """

    name: str
    owns: Callable[[object], bool]
    array_of: Callable[[Any], Any]  # of a tensor, or of a torch.dtype
    tensor_of: Callable[[Any], Any]
    code: str  # of an array, made of a tensor named {}: for a counterexample that can be pasted
    imports: str = ""  # what that needs
    followed: Callable[[Function], Function] = _unfollowed  # the function as one of torch's operations on tensors
    # Before it is called: compiled in one piece, if so asked.
    prepared: Callable[[Function, bool], Function] = lambda f, whole: f
    # Around each call, with these tensors.
    around: Callable[[Sequence[Any]], AbstractContextManager[Any]] = lambda given: nullcontext()
    compiles: bool = False  # each operation anew for each shape and dtype, so that few shapes are asked
    flushes: bool = False  # subnormal numbers to zero
    borrowed: tuple[torch.dtype, ...] = ()  # dtypes of another package, which Python's numbers do not leave as they are
    conjugates: bool = False  # complex cotangents and gradients: g v is paired, where torch pairs g* v

    def lacks(self, dtype: torch.dtype) -> bool:
        """Say whether a dtype is another package's that cannot be imported here."""
        try:
            if dtype in self.borrowed:
                self.array_of(dtype)
        except InputError:
            return True
        return False


def each(change: Callable[[Any], Any], x: Any) -> Any:
    """Return it with what tuples, lists and dicts hold changed."""
    if isinstance(x, dict):
        return {key: each(change, one) for key, one in x.items()}
    if isinstance(x, tuple | list):
        changed = [each(change, one) for one in x]
        return changed if isinstance(x, list) else tuple(changed)
    return change(x)


def installed(module: str, needed: str, by: str = "'backprop-rules[jax]'") -> Any:
    """Return the module; InputError, which says for what it is needed and by what it comes, where it is not here."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{needed}, which cannot be imported here: {first_line(error)}. Run: pip install {by}"
        ) from None


def plain(x: Tensor) -> Tensor:
    """Return the tensor without a graph, and without the bits that put off a conjugation or a change of sign."""
    return x.detach().resolve_conj().resolve_neg()
