"""A function that is written for NumPy, run on torch tensors: torch can differentiate it and follow its roundings."""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor
from torch.utils._pytree import tree_leaves

from backprop_rules.subject.frameworks.bridge import each
from backprop_rules.subject.frameworks.carried import tensor_of
from backprop_rules.subject.frameworks.numpy_functions import (
    COPIES,
    FUNCTIONS,
    METHODS,
    UFUNCS,
    computed,
    memory,
    numpy_dtype,
    torch_dtype,
)


class Unsupported(NotImplementedError, AttributeError):
    """An attribute of NumPy's arrays that `Array` lacks; an AttributeError as well, so that hasattr works."""


def on_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the NumPy function as one of torch tensors: each of its operations is the one of torch of that meaning.

    None, params and tuples pass as they are, and a torch.dtype as NumPy's. Dtypes promote as NumPy 2
    promotes them, but for bfloat16, of which NumPy knows nothing. Raises NotImplementedError, with
    the name, for a function of NumPy that is not in the tables, for what takes values out of
    the arrays (np.asarray, float() of what has a gradient), for a write into a leaf, and under the
    transforms of torch.func, which have no memory to ask for.
    """

    @functools.wraps(function)
    def of_tensors(*args: Any, **params: Any) -> Any:
        try:
            made = function(*map(_given, args), **{name: _given(x) for name, x in params.items()})
        except ValueError as error:  # in which NumPy wraps what an array refuses while it is written into an ndarray
            if isinstance(error.__cause__, NotImplementedError):
                raise error.__cause__ from None
            raise
        return each(lambda x: x.tensor if isinstance(x, Array) else tensor_of(x), made)

    return of_tensors


def _as(kind: Callable[[Any], Any]) -> Callable[["Array"], Any]:
    return lambda array: kind(array.item())


class Array(NDArrayOperatorsMixin):
    """A tensor that behaves as an array of NumPy's does.

    Where nothing else looks into its memory, a write makes a new tensor, through which gradients
    and radii pass; elsewhere it writes into the tensor, so that the others see it.
    """

    def __init__(self, tensor: Tensor, shared: bool = False, copied: bool = False) -> None:
        self.tensor, self._shared, self._copied = tensor, shared, copied

    def _made(self, result: Any, *sources: Any) -> Any:
        """Return tensors as arrays that know whether they look into the memory of a source."""
        if not isinstance(result, Tensor):
            return each(lambda x: self._made(x, *sources), result) if isinstance(result, tuple) else result
        made = Array(result)
        for source in (self, *sources):
            if isinstance(source, Array) and memory(source.tensor) == memory(result):
                source._shared = made._shared = True
                made._copied |= source._copied
        return made

    def _operand(self, x: Any) -> Any:
        """Return an array as a tensor on this device, and anything else as it is."""
        if isinstance(x, Array):
            return x.tensor
        return tensor_of(x).to(self.tensor.device) if isinstance(x, np.ndarray | np.generic) else x

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        name = f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
        if ufunc not in UFUNCS or method != "__call__" or options:
            raise NotImplementedError(f"{name}{_named(options)} is not supported on tensors")
        if any(not isinstance(target, Array) for target in out):
            raise NotImplementedError(f"{name} writes into an ndarray: make it with np.zeros_like(x), not np.zeros")
        operands = [torch.tensor(x) if isinstance(x, bool) else self._operand(x) for x in inputs]
        if not all(isinstance(x, Tensor | int | float | complex) for x in operands):
            raise NotImplementedError(f"{name} of {', '.join(type(x).__name__ for x in inputs)} is not supported")
        result = computed(ufunc, operands, self.tensor.device)
        # What begins as a scalar of NumPy's, with no memory that others could see, gets a new value.
        return out[0]._write(result) if out and out[0].ndim else Array(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function of the table."""
        if func not in FUNCTIONS:
            raise NotImplementedError(f"{_name(func)} is not supported on tensors")
        plain = [each(self._operand, x) for x in args]
        named = {name: each(self._operand, x) for name, x in kwargs.items()}
        try:
            result = FUNCTIONS[func](*plain, **named)
        except TypeError as error:  # an argument that the table's function lacks
            raise NotImplementedError(f"{_name(func)}{_named(kwargs)} is not supported on tensors: {error}") from error
        made = self._made(result, *tree_leaves(args))
        if func in COPIES:
            made._copied = True
        return made

    def _write(self, new: Tensor) -> "Array":
        if new.shape != self.tensor.shape:
            raise ValueError(f"what has shape {tuple(new.shape)} cannot be written into an array of shape {self.shape}")
        if not torch.can_cast(new.dtype, self.tensor.dtype):
            raise TypeError(f"{new.dtype} cannot be written into an array of {self.tensor.dtype}")
        if self._copied or (self._shared and self.tensor.is_leaf and self.tensor.requires_grad):
            what = "a view that steps backwards" if self._copied else "an argument"
            raise NotImplementedError(f"a write into {what} is not supported on tensors")
        if self._shared:
            self.tensor.copy_(new)
        else:
            self.tensor = new.to(self.tensor.dtype)
        return self

    def _index(self, key: Any) -> tuple[Any, ...]:
        """Return an index whose arrays are tensors."""
        device = self.tensor.device
        made = [_index(self._operand(k), device) for k in (key if isinstance(key, tuple) else (key,))]
        if any(isinstance(k, Tensor) for k in made):
            # NumPy counts a number among the index arrays, torch not: it decides where their axes go.
            made = [torch.tensor([k], device=device) if isinstance(k, int) else k for k in made]
        return tuple(made)

    def _positions(self, key: tuple[Any, ...]) -> Tensor:
        """Return where in the flattened array the elements are that an index selects."""
        shape, device = self.tensor.shape, self.tensor.device
        if not _backwards(key):
            return torch.arange(shape.numel(), device=device).reshape(shape)[key]
        if any(isinstance(k, Tensor) for k in key):
            raise NotImplementedError("an index array beside a slice that steps backwards is not supported on tensors")
        numbers = np.arange(shape.numel()).reshape(shape)[key]
        return torch.from_numpy(numbers.copy()).to(device)

    def __getitem__(self, key: Any) -> "Array":
        key = self._index(key)
        if _backwards(key):
            return Array(self.tensor.reshape(-1)[self._positions(key)], copied=True)
        made = self.tensor[key]
        # An element is a scalar, which later writes do not change.
        found: Array = self._made(made if made.ndim else made.clone())
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        key = self._index(key)
        new = torch.as_tensor(self._operand(value), device=self.tensor.device).to(self.tensor.dtype)
        mask = key[0] if len(key) == 1 and isinstance(key[0], Tensor) and key[0].dtype == torch.bool else None
        if mask is not None and mask.shape == self.tensor.shape and new.ndim == 0:
            self._write(torch.where(mask, new, self.tensor))
            return
        at = self._positions(key)
        if any(isinstance(k, Tensor) and k.dtype != torch.bool for k in key) and len(at.unique()) != at.numel():
            raise NotImplementedError("a write to an element more than once is not supported on tensors")
        new = new.reshape(new.shape[max(0, new.ndim - at.ndim) :]).expand(at.shape)
        flat = self.tensor.reshape(-1).index_put((at.reshape(-1),), new.reshape(-1))
        self._write(flat.reshape(self.tensor.shape))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("np.array and np.asarray, which take the values out, are not supported on tensors")

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise Unsupported(f"ndarray.{name} is not supported on tensors")
        return functools.partial(METHODS[name], self)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator["Array"]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def item(self) -> Any:
        """The one element, as a Python number."""
        if self.tensor.requires_grad:
            raise NotImplementedError("float(), int() or item() of what has a gradient would lose it")
        return self.tensor.item()

    T, real, imag = property(np.transpose), property(np.real), property(np.imag)
    shape, ndim, size = property(np.shape), property(np.ndim), property(np.size)
    dtype = property(lambda self: numpy_dtype(self.tensor.dtype))
    __float__, __int__ = _as(float), _as(int)
    __complex__, __index__ = _as(complex), _as(operator.index)

    def __repr__(self) -> str:
        return f"Array({self.tensor!r})"

    def astype(self, dtype: Any) -> "Array":
        """A copy in another dtype."""
        return Array(self.tensor.to(torch_dtype(dtype), copy=True))


def _given(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return numpy_dtype(x)
    return Array(x, shared=True) if isinstance(x, Tensor) else x


def _name(function: Any) -> str:
    return f"{function.__module__.replace('numpy', 'np', 1)}.{function.__name__}"


def _named(options: Any) -> str:
    return f" with {', '.join(options)}" if options else ""


def _index(k: Any, device: torch.device) -> Any:
    if isinstance(k, list):
        k = tensor_of(np.asarray(k, dtype=None if k else np.int64))
    if isinstance(k, Tensor) and k.ndim == 0 and k.dtype != torch.bool:
        return int(k.item())
    if isinstance(k, bool) or (isinstance(k, Tensor) and k.ndim == 0):
        raise NotImplementedError("True and False as an index are not supported on tensors")
    if isinstance(k, Tensor):
        return k.to(device) if k.dtype == torch.bool else k.to(device, torch.int64)
    if isinstance(k, slice):
        return slice(*(None if part is None else operator.index(part) for part in (k.start, k.stop, k.step)))
    return k


def _backwards(key: tuple[Any, ...]) -> bool:
    """Say whether a slice steps backwards, as torch's cannot."""
    return any(isinstance(k, slice) and k.step is not None and k.step < 0 for k in key)
