"""JAX functions on torch tensors: JAX traces what they do, and each step of that is an operation of torch."""

import math
import string
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.subject.frameworks.carried import tensor_of
from backprop_rules.subject.frameworks.numpy_functions import prod, torch_dtype

WIDE = (torch.float64, torch.complex128, torch.int64)
Step = Callable[..., Any]


def on_tensors_by_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a JAX function as one of torch tensors: the steps of its jaxpr, one operation of torch for each.

    Raises NotImplementedError for a step that it does not know, and for a function that JAX cannot trace.
    """

    def through(*tensors: Any) -> Any:
        jax = import_module("jax")
        given = [x for x in tensors if isinstance(x, Tensor)]
        x64 = any(x.dtype in WIDE for x in given)

        def placed(*arrays: Any) -> Any:
            some = iter(arrays)
            return function(*(next(some) if isinstance(x, Tensor) else x for x in tensors))

        with jax.enable_x64(x64):
            try:
                dtypes = (jax.numpy.dtype(str(x.dtype).removeprefix("torch.")) for x in given)
                shapes = [jax.ShapeDtypeStruct(tuple(x.shape), d) for x, d in zip(given, dtypes, strict=True)]
                closed, made = jax.make_jaxpr(placed, return_shape=True)(*shapes)
            except Exception as error:  # it looks at values, or does not take these
                raise NotImplementedError(f"JAX cannot trace it: {type(error).__name__}") from error
            found = _evaluated(closed, given)
            return jax.tree.unflatten(jax.tree.structure(made), found)

    return through


def _evaluated(closed: Any, given: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a jaxpr."""
    jaxpr = closed.jaxpr
    values: dict[Any, Tensor] = dict(zip(jaxpr.invars, given, strict=True))
    consts = (torch.clone(tensor_of(const)) for const in closed.consts)
    values.update(zip(jaxpr.constvars, consts, strict=True))

    def read(atom: Any) -> Tensor:
        if hasattr(atom, "val"):  # a literal
            return torch.tensor(np.asarray(atom.val).item(), dtype=torch_dtype(atom.aval.dtype))
        return values[atom]

    for step in jaxpr.eqns:
        operands, name = [read(atom) for atom in step.invars], step.primitive.name
        inner = next((step.params[key] for key in ("jaxpr", "call_jaxpr") if key in step.params), None)
        if inner is not None and name in CALLS:
            found: Any = _evaluated(inner, operands)
        elif name in PLAIN:  # it takes no notice of how precise XLA is asked to be
            found = PLAIN[name](*operands)
        elif name in STEPS:
            found = STEPS[name](*operands, **step.params)
        else:
            raise NotImplementedError(f"the primitive {name} of JAX")
        several = found if isinstance(found, tuple | list) else [found]
        values.update(zip(step.outvars, several, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}


def _broadcast(x: Tensor, *, shape: Sequence[int], broadcast_dimensions: Sequence[int], **_: Any) -> Tensor:
    sizes = [1] * len(shape)
    for dim, size in zip(broadcast_dimensions, x.shape, strict=True):
        sizes[dim] = size
    return x.reshape(sizes).expand(*shape)


def _dot(a: Tensor, b: Tensor, *, dimension_numbers: Any, preferred_element_type: Any = None, **_: Any) -> Tensor:
    (summed_a, summed_b), (batch_a, batch_b) = dimension_numbers
    letters = iter(string.ascii_letters)
    left, right = [next(letters) for _ in a.shape], [next(letters) for _ in b.shape]
    for i, j in (*zip(summed_a, summed_b, strict=True), *zip(batch_a, batch_b, strict=True)):
        right[j] = left[i]
    free = [x for i, x in enumerate(left) if i not in (*summed_a, *batch_a)]
    free += [x for j, x in enumerate(right) if j not in (*summed_b, *batch_b)]
    made = torch.einsum(f"{''.join(left)},{''.join(right)}->{''.join([*(left[i] for i in batch_a), *free])}", a, b)
    return made if preferred_element_type is None else made.to(torch_dtype(preferred_element_type))


def _slice(x: Tensor, *, start_indices: Any, limit_indices: Any, strides: Any = None, **_: Any) -> Tensor:
    steps = strides or [1] * x.ndim
    return x[tuple(slice(*three) for three in zip(start_indices, limit_indices, steps, strict=True))]


def _pad(x: Tensor, value: Tensor, *, padding_config: Any, **_: Any) -> Tensor:
    if any(low < 0 or high < 0 or between for low, high, between in padding_config):
        raise NotImplementedError("the primitive pad of JAX, with less than nothing or between elements")
    ends = [end for low, high, _ in reversed(padding_config) for end in (low, high)]
    return torch.nn.functional.pad(x, ends, value=float(value))


def _iota(*, dtype: Any, shape: Sequence[int], dimension: int, **_: Any) -> Tensor:
    sizes = [-1 if d == dimension else 1 for d in range(len(shape))]
    return torch.arange(shape[dimension], dtype=torch_dtype(dtype)).reshape(sizes).expand(*shape).clone()


def _over(reduce: Callable[[Tensor, list[int]], Tensor]) -> Step:
    return lambda x, *, axes, **_: reduce(x, list(axes)) if axes else x


SAME_NAME = (
    "abs add ceil conj cos div eq erf erfc exp exp2 expm1 floor ge gt le log log1p lt mul ne neg pow real rsqrt sign "
    "sin sqrt square sub tanh"
)
PLAIN: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in SAME_NAME.split()},
    "add_any": torch.add, "max": torch.maximum, "min": torch.minimum, "rem": torch.fmod, "logistic": torch.sigmoid,
    "is_finite": torch.isfinite, "copy": torch.clone, "copy_p": torch.clone, "stop_gradient": torch.clone,
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor, "not": torch.bitwise_not,
    "select_n": lambda which, no, yes: torch.where(which, yes, no),
    "clamp": lambda low, x, high: torch.minimum(torch.maximum(x, low), high),
}  # fmt: skip

STEPS: dict[str, Step] = {
    "integer_pow": lambda x, *, y, **_: torch.pow(x, y),
    "reduce_sum": _over(torch.sum),
    "reduce_max": _over(torch.amax),
    "reduce_min": _over(torch.amin),
    "reduce_prod": _over(prod),
    "reduce_and": _over(torch.all),
    "reduce_or": _over(torch.any),
    "cumsum": lambda x, *, axis, reverse, **_: x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis),
    "broadcast_in_dim": _broadcast,
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, *, dimensions, **_: x.reshape([n for d, n in enumerate(x.shape) if d not in dimensions]),
    "expand_dims": lambda x, *, dimensions, **_: x[
        tuple(None if d in dimensions else slice(None) for d in range(x.ndim + len(dimensions)))
    ],
    "transpose": lambda x, *, permutation, **_: x.permute(*permutation) if math.prod(x.shape) or x.ndim else x,
    "rev": lambda x, *, dimensions, **_: x.flip(*dimensions) if dimensions else x,
    "concatenate": lambda *xs, dimension, **_: torch.cat(xs, dimension),
    "split": lambda x, *, sizes, axis, **_: torch.split(x, list(sizes), axis),
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "dot_general": _dot,
    "convert_element_type": lambda x, *, new_dtype, **_: x.to(torch_dtype(new_dtype)),
}
