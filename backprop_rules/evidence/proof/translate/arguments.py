"""The arguments of torch's operations: the tensors among them, and what is said of one that cannot be taken."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError

ADVICE = "Give the definition itself, `definition=`: the same function in NumPy notation."


def refusal(what: str) -> InputError:
    """Return the refusal to make a definition of a forward that does this."""
    return InputError(f"no definition can be made of this forward, as {what}. {ADVICE}")


def tensors(x: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments, in lists as well."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for one in x:
            yield from tensors(one)


def mapped(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Return arguments with a function of each tensor in its place."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, list | tuple):
        made = [mapped(function, one) for one in x]
        return tuple(made) if isinstance(x, tuple) else made
    return x


def inexact(x: Tensor) -> bool:
    """Say whether a tensor holds real or complex numbers."""
    return x.is_floating_point() or x.is_complex()


def wide(x: Tensor) -> Tensor:
    """Return the same values as a float64, or complex128, on the CPU."""
    if not inexact(x):
        return x.cpu()
    return x.to("cpu", torch.complex128 if x.is_complex() else torch.float64)
