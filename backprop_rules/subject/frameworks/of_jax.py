"""JAX's arrays, which nobody can write to: they are copies, and 64-bit types are switched on where a call has some."""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError, first_line
from backprop_rules.subject.frameworks import of_numpy
from backprop_rules.subject.frameworks.bridge import Bridge, Function, installed, plain

# JAX knows these only while its 64-bit types are switched on.
WIDE = (torch.float64, torch.complex128)


def vjp_of_custom(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the backward of a JAX function, by its own custom_vjp where it has one.

    It is called as `backward(grad_y, *primals, **params)`, with JAX arrays, and returns a tuple with
    one gradient per primal: None for a None, a number or a name, which is no argument of the derivative, and JAX's
    float0 for integers. Carry it over to call it with tensors: `carried(vjp_of_custom(function), "jax")`.
    """

    def backward(grad_y: Any, *primals: Any, **params: Any) -> Any:
        jax = installed("jax", "The backward of a JAX function needs JAX")
        live = [k for k, x in enumerate(primals) if not isinstance(x, bool | int | float | complex | str | None)]

        def of_arrays(*those: Any) -> Any:
            given = dict(zip(live, those, strict=True))
            return function(*(given.get(k, x) for k, x in enumerate(primals)), **params)

        found = dict(zip(live, jax.vjp(of_arrays, *(primals[k] for k in live))[1](grad_y), strict=True))
        return tuple(found.get(k) for k in range(len(primals)))

    backward.__name__ = getattr(function, "__name__", "backward")
    return backward


def array_of(x: Any) -> Any:
    """Return a tensor as a JAX array of its own, and a dtype as NumPy's, which JAX takes."""
    if not isinstance(x, Tensor):
        return of_numpy.array_of(x)
    try:
        # JAX shares the memory that it is given and reads none that has gaps.
        fresh = plain(x).clone(memory_format=torch.contiguous_format)
        return import_module("jax").dlpack.from_dlpack(fresh)
    except Exception as error:  # whatever JAX or torch makes of it
        raise InputError(
            f"JAX cannot take a tensor of dtype {x.dtype}, shape {tuple(x.shape)} on {x.device}: {first_line(error)}. "
            "Its build may lack that device or dtype: call x.cpu() or x.float() first."
        ) from None


def tensor_of(x: Any) -> Any:
    """Return an array of JAX as a tensor, anything else as it is; InputError if torch cannot."""
    if not owns(x) or isinstance(x, int | float | complex) or of_numpy.owns(x):
        return of_numpy.tensor_of(x)  # so does JAX return integers' gradients, which are none
    try:
        return torch.utils.dlpack.from_dlpack(x).clone()  # a tensor can be written to, and JAX may use its array again
    except Exception as error:  # whatever JAX or torch makes of it
        shape, dtype = getattr(x, "shape", "unknown"), getattr(x, "dtype", "unknown")
        raise InputError(
            f"a JAX array of dtype {dtype} and shape {shape} has no counterpart in torch, or is a tracer: "
            f"{first_line(error)}. Convert it, as in x.astype('float32'), and call the function outside of jax.jit."
        ) from None


def owns(x: object) -> bool:
    """Say whether it is an array of JAX's."""
    # By the name of its module, as importing JAX takes half a second.
    return type(x).__module__.partition(".")[0] in ("jax", "jaxlib")


def _prepared(function: Function, whole: bool) -> Function:
    installed("jax", "A function of JAX arrays needs JAX")
    return _compiled(function) if whole else function


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


def _wide(given: Sequence[Any]) -> AbstractContextManager[Any]:
    dtypes = [x if isinstance(x, torch.dtype) else x.dtype for x in given if isinstance(x, Tensor | torch.dtype)]
    if not any(dtype in WIDE for dtype in dtypes):
        return nullcontext()
    context: AbstractContextManager[Any] = import_module("jax").enable_x64(True)
    return context


def _followed(function: Function) -> Function:
    def through(*args: Any, **params: Any) -> Any:
        from backprop_rules.subject.frameworks.jaxprs import on_tensors_by_jax

        return on_tensors_by_jax(lambda *those: function(*those, **params))(*args)

    return through


JAX = Bridge(
    "jax", owns, array_of, tensor_of, "jnp.from_dlpack({})", "import jax.numpy as jnp", _followed, _prepared, _wide,
    compiles=True, flushes=True, conjugates=True,
)  # fmt: skip
