"""Functions of other frameworks' arrays, carried over to torch, in which everything else here works."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError, unknown
from backprop_rules.subject.frameworks.bridge import Bridge, each
from backprop_rules.subject.frameworks.of_jax import JAX
from backprop_rules.subject.frameworks.of_numpy import NUMPY

TORCH = Bridge("torch", lambda x: isinstance(x, Tensor), lambda x: x, lambda x: x, "{}", followed=lambda f: f)
# A framework is one of these. An array belongs to the first that owns it.
BRIDGES: dict[str, Bridge] = {bridge.name: bridge for bridge in (TORCH, JAX, NUMPY)}


def bridge_of(framework: str) -> Bridge:
    """Return the bridge of that name; InputError for one that is not known."""
    if not isinstance(framework, str) or framework not in BRIDGES:
        raise unknown("framework", str(framework), BRIDGES)
    return BRIDGES[framework]


def carried(function: Callable[..., Any], framework: str, whole: bool = False) -> Callable[..., Any]:
    """Return a function of torch tensors that calls `function`, which is written for arrays of the framework.

    It is called with arrays of the same values, dtype and shape, and whatever arrays it returns, in
    tuples and lists too, come back as tensors. All else passes as it is, but for a torch.dtype,
    which becomes NumPy's, and JAX's mark of a gradient that is none, which becomes None. The result
    has no graph: torch cannot differentiate it.

    NumPy's arrays share memory with the tensors, strides and offset included, so that what the
    function writes is seen in them. JAX's arrays, which nobody can write to, are copies; its 64-bit
    types are switched on for the call where an argument is float64 or complex128, and otherwise left
    as the caller has them, so that an int64 may arrive as an int32. Raises InputError for an unknown
    or missing framework and, when called, for a tensor or an array that has no counterpart.

    With `whole`, JAX compiles the function in one piece where it can, rather than each of its operations, and traces
    it once for each shape: where nothing is asked of what it remembers.
    """
    bridge = bridge_of(framework)
    if bridge is TORCH:
        return function
    function = bridge.prepared(function, whole)

    @functools.wraps(function)
    def of_tensors(*args: Any, **params: Any) -> Any:
        with bridge.around([*args, *params.values()]):
            made = [each(bridge.array_of, x) for x in args]
            return each(tensor_of, function(*made, **{name: each(bridge.array_of, x) for name, x in params.items()}))

    return of_tensors


def framework_of(x: object) -> str:
    """Return the framework that an example array belongs to; InputError if it is no array."""
    for bridge in BRIDGES.values():
        if bridge.owns(x):
            return bridge.name
    raise InputError(
        f"an example must be an array of {' or '.join(BRIDGES)}; got {type(x).__name__} {x!r}. "
        "Its type says which framework the function is written for, so make it one, as in np.asarray(...)."
    )


def tensor_of(x: Any) -> Any:
    """Return an array of any framework as a tensor, anything else as it is; InputError if torch cannot."""
    bridge = next((bridge for bridge in BRIDGES.values() if bridge.owns(x)), TORCH)
    return bridge.tensor_of(x)


def as_torch(x: object, name: str) -> Tensor:
    """Return an example array as a torch tensor; InputError, which begins with its name, if it cannot be one.

    A tensor is returned as it is, and NumPy's arrays share their memory where torch can look into it.
    """
    try:
        framework_of(x)
        found = tensor_of(x)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if isinstance(found, Tensor) and found.layout != torch.strided:
        raise InputError(
            f"{name}: its layout is {found.layout}, and gradients of dense tensors are checked: give x.to_dense()."
        )
    if not isinstance(found, Tensor):
        raise InputError(f"{name}: it holds no values that torch can hold; got {type(x).__name__} {x!r}.")
    return found
