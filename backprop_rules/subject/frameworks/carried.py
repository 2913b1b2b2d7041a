"""Functions of NumPy and JAX arrays, carried over to torch, in which everything else here works."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.errors import InputError, unknown

FRAMEWORKS = ("torch", "numpy", "jax")
# JAX knows these only while its 64-bit types are switched on.
WIDE = (torch.float64, torch.complex128)


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
    if framework not in FRAMEWORKS:
        raise unknown("framework", framework, FRAMEWORKS)
    if framework == "torch":
        return function
    into = _numpy_of if framework == "numpy" else _jax_of
    if framework == "jax":
        _installed("jax", "A function of JAX arrays needs JAX")
        function = _compiled(function) if whole else function

    @functools.wraps(function)
    def of_tensors(*args: Any, **params: Any) -> Any:
        with _wide([*args, *params.values()]) if framework == "jax" else nullcontext():
            made = [each(into, x) for x in args]
            return each(tensor_of, function(*made, **{name: each(into, x) for name, x in params.items()}))

    return of_tensors


def framework_of(x: object) -> str:
    """Return the framework that an example array belongs to: torch, numpy or jax; InputError if it is no array."""
    if isinstance(x, Tensor):
        return "torch"
    if of_jax(x):
        return "jax"
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    raise InputError(
        f"an example must be an array of torch, NumPy or JAX; got {type(x).__name__} {x!r}. "
        "Its type says which framework the function is written for, so make it one, as in np.asarray(...)."
    )


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


def vjp_of_custom(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the backward of a JAX function, by its own custom_vjp where it has one.

    It is called as `backward(grad_y, *primals, **params)`, with JAX arrays, and returns a tuple with
    one gradient per primal: None for a None, and JAX's float0 for integers. Carry it over to call
    it with tensors: `carried(vjp_of_custom(function), "jax")`.
    """

    def backward(grad_y: Any, *primals: Any, **params: Any) -> Any:
        jax = _installed("jax", "The backward of a JAX function needs JAX")
        return jax.vjp(lambda *those: function(*those, **params), *primals)[1](grad_y)

    return backward


def tensor_of(x: Any) -> Any:
    """Return an array or scalar of NumPy or JAX as a tensor, anything else as it is; InputError if torch cannot."""
    if isinstance(x, np.ndarray | np.generic):
        return _from_numpy(x)
    if not of_jax(x) or isinstance(x, int | float | complex):
        return x
    try:
        return torch.utils.dlpack.from_dlpack(x).clone()  # a tensor can be written to, and JAX may use its array again
    except Exception as error:  # whatever JAX or torch makes of it
        shape, dtype = getattr(x, "shape", "unknown"), getattr(x, "dtype", "unknown")
        raise InputError(
            f"a JAX array of dtype {dtype} and shape {shape} has no counterpart in torch, or is a tracer: "
            f"{_first_line(error)}. Convert it, as in x.astype('float32'), and call the function outside of jax.jit."
        ) from None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Callable[..., Any]] = {}  # by params, as JAX compiles an object anew, but not the same one

    @functools.wraps(function)
    def in_one_piece(*args: Any, **params: Any) -> Any:
        try:
            key = tuple((name, type(value), value) for name, value in params.items())
            if key not in made:
                made[key] = import_module("jax").jit(lambda *those: function(*those, **params))
            return made[key](*args)
        except Exception:  # it cannot be traced, a param is no key, or it raises: then it does so again
            return function(*args, **params)

    return in_one_piece


def each(change: Callable[[Any], Any], x: Any) -> Any:
    """Return it with what tuples and lists hold changed."""
    if isinstance(x, tuple | list):
        changed = [each(change, one) for one in x]
        return changed if isinstance(x, list) else tuple(changed)
    return change(x)


def _installed(module: str, needed: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{needed}, which cannot be imported here: {_first_line(error)}. Run: pip install 'backprop-rules[jax]'"
        ) from None


def of_jax(x: object) -> bool:
    """Say whether it is an array of JAX's."""
    # By the name of its module, as importing JAX takes half a second.
    return type(x).__module__.partition(".")[0] in ("jax", "jaxlib")


def _wide(given: list[Any]) -> AbstractContextManager[Any]:
    dtypes = [x if isinstance(x, torch.dtype) else x.dtype for x in given if isinstance(x, Tensor | torch.dtype)]
    if not any(dtype in WIDE for dtype in dtypes):
        return nullcontext()
    context: AbstractContextManager[Any] = import_module("jax").enable_x64(True)
    return context


def _plain(x: Tensor) -> Tensor:
    """Return the tensor without a graph, and without the bits that put off a conjugation or a change of sign."""
    return x.detach().resolve_conj().resolve_neg()


def _numpy_of(x: Any) -> Any:
    """Return a tensor as an array in the same memory, and a dtype as NumPy's."""
    if isinstance(x, torch.dtype):
        return _numpy_of(torch.empty(0, dtype=x)).dtype
    if not isinstance(x, Tensor):
        return x
    if x.device.type != "cpu":
        raise InputError(
            f"a NumPy function cannot take a tensor on {x.device}: NumPy's arrays are in the CPU's memory. "
            "Check it with devices=['cpu'] or call x.cpu() first."
        )
    try:
        if x.dtype is torch.bfloat16:
            wanted = _installed("ml_dtypes", "NumPy has no bfloat16 by itself; it takes that of the package ml_dtypes")
            return _plain(x).view(torch.int16).numpy().view(wanted.bfloat16)
        return _plain(x).numpy()
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"a tensor of dtype {x.dtype}, layout {x.layout} and shape {tuple(x.shape)} has no counterpart in NumPy, "
            f"or is one of torch's transforms: {_first_line(error)}. Convert it first, as in x.float() or x.to_dense()."
        ) from None


def _jax_of(x: Any) -> Any:
    """Return a tensor as a JAX array of its own, and a dtype as NumPy's, which JAX takes."""
    if not isinstance(x, Tensor):
        return _numpy_of(x)
    try:
        # JAX shares the memory that it is given and reads none that has gaps.
        fresh = _plain(x).clone(memory_format=torch.contiguous_format)
        return import_module("jax").dlpack.from_dlpack(fresh)
    except Exception as error:  # whatever JAX or torch makes of it
        raise InputError(
            f"JAX cannot take a tensor of dtype {x.dtype}, shape {tuple(x.shape)} on {x.device}: {_first_line(error)}. "
            "Its build may lack that device or dtype: call x.cpu() or x.float() first."
        ) from None


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
