"""A function that is written for NumPy, run on torch tensors: torch can differentiate it and follow its roundings."""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from backprop_rules.subject.frameworks.carried import tensor_of


class Unsupported(NotImplementedError, AttributeError):
    """An attribute of NumPy's arrays that `Array` lacks; an AttributeError as well, so that hasattr works."""


def on_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the NumPy function as one of torch tensors: each of its operations is the one of torch of that meaning.

    None, params and tuples pass as they are, and a torch.dtype as NumPy's. Dtypes promote as NumPy 2
    promotes them, but for bfloat16, of which NumPy knows nothing. Raises NotImplementedError, with
    the name, for a function of NumPy that is not in the tables below, for what takes values out of
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
        return _each(lambda x: x.tensor if isinstance(x, Array) else tensor_of(x), made)

    return of_tensors


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
            return _each(lambda x: self._made(x, *sources), result) if isinstance(result, tuple) else result
        made = Array(result)
        for source in (self, *sources):
            if isinstance(source, Array) and _memory(source.tensor) == _memory(result):
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
        result = _computed(ufunc, operands, self.tensor.device)
        # What begins as a scalar of NumPy's, with no memory that others could see, gets a new value.
        return out[0]._write(result) if out and out[0].ndim else Array(result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Compute a function of the table."""
        if func not in FUNCTIONS:
            raise NotImplementedError(f"{_name(func)} is not supported on tensors")
        plain = [_each(self._operand, x) for x in args]
        named = {name: _each(self._operand, x) for name, x in kwargs.items()}
        try:
            result = FUNCTIONS[func](*plain, **named)
        except TypeError as error:  # an argument that the table's function lacks
            raise NotImplementedError(f"{_name(func)}{_named(kwargs)} is not supported on tensors: {error}") from error
        return self._made(result, *_leaves(args))

    def _write(self, new: Tensor) -> "Array":
        if new.shape != self.shape:
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

    def __getitem__(self, key: Any) -> "Array":
        key = _indices(key, self.tensor.device)
        if _backwards(key):
            return Array(self.tensor.reshape(-1)[self._positions(key)], copied=True)
        made = self.tensor[key]
        # An element is a scalar, which later writes do not change.
        found: Array = self._made(made if made.ndim else made.clone())
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        key = _indices(key, self.tensor.device)
        new = torch.as_tensor(self._operand(value), device=self.tensor.device).to(self.tensor.dtype)
        mask = key[0] if len(key) == 1 and isinstance(key[0], Tensor) and key[0].dtype == torch.bool else None
        if mask is not None and mask.shape == self.shape and new.ndim == 0:
            self._write(torch.where(mask, new, self.tensor))
            return
        at = self._positions(key)
        if any(isinstance(k, Tensor) and k.dtype != torch.bool for k in key) and len(at.unique()) != at.numel():
            raise NotImplementedError("a write to an element more than once is not supported on tensors")
        new = new.reshape(new.shape[max(0, new.ndim - at.ndim) :]).expand(at.shape)
        flat = self.tensor.reshape(-1).index_put((at.reshape(-1),), new.reshape(-1))
        self._write(flat.reshape(self.shape))

    def _positions(self, key: tuple[Any, ...]) -> Tensor:
        """Return where in the flattened array the elements are."""
        if not _backwards(key):
            places = torch.arange(self.size, device=self.tensor.device).reshape(self.shape)
            return places[key]
        if any(isinstance(k, Tensor) for k in key):
            raise NotImplementedError("an index array beside a slice that steps backwards is not supported on tensors")
        numbers = np.arange(self.size).reshape(self.shape)[key]
        return torch.from_numpy(numbers.copy()).to(self.tensor.device)

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

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __repr__(self) -> str:
        return f"Array({self.tensor!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.tensor.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.tensor.numel()

    @property
    def dtype(self) -> Any:
        """NumPy's dtype; torch's where NumPy has none."""
        return _numpy_dtype(self.tensor.dtype)

    @property
    def T(self) -> Any:  # noqa: N802
        """The array with its axes in reverse order."""
        return np.transpose(self)

    @property
    def real(self) -> Any:
        """The real part."""
        return np.real(self)

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return np.imag(self)

    def astype(self, dtype: Any) -> "Array":
        """A copy in another dtype."""
        return Array(self.tensor.to(_torch_dtype(dtype), copy=True))

    def copy(self) -> "Array":
        """A copy."""
        return Array(self.tensor.clone())

    def flatten(self) -> "Array":
        """A copy with one axis."""
        return Array(self.tensor.clone().reshape(-1))

    def reshape(self, *shape: Any) -> Any:
        """The array with other axes."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Any:
        """The array with its axes in another order, the reverse by default."""
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)


def _given(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return _numpy_dtype(x)
    return Array(x, shared=True) if isinstance(x, Tensor) else x


def _each(change: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, tuple | list):
        changed = [_each(change, one) for one in x]
        return changed if isinstance(x, list) else tuple(changed)
    return change(x)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple | list):
        for one in x:
            yield from _leaves(one)
    else:
        yield x


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _name(function: Any) -> str:
    return f"{function.__module__.replace('numpy', 'np', 1)}.{function.__name__}"


def _named(options: Any) -> str:
    return f" with {', '.join(options)}" if options else ""


def _numpy_dtype(dtype: torch.dtype) -> Any:
    return dtype if dtype is torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))


def _torch_dtype(dtype: Any) -> torch.dtype:
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, np.dtype(dtype).name, None)
    if not isinstance(found, torch.dtype):
        raise NotImplementedError(f"the dtype {dtype} is not supported on tensors")
    return found


def _indices(key: Any, device: torch.device) -> tuple[Any, ...]:
    """Return an index whose arrays are tensors."""
    made = [_index(k, device) for k in (key if isinstance(key, tuple) else (key,))]
    if any(isinstance(k, Tensor) for k in made):
        # NumPy counts a number among the index arrays, torch not: it decides where their axes go.
        made = [torch.tensor([k], device=device) if isinstance(k, int) else k for k in made]
    return tuple(made)


def _index(k: Any, device: torch.device) -> Any:
    if isinstance(k, list):
        k = np.asarray(k, dtype=None if k else np.int64)
    if isinstance(k, np.ndarray | np.generic):
        k = tensor_of(k)
    k = k.tensor if isinstance(k, Array) else k
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
    return any(isinstance(k, slice) and k.step is not None and k.step < 0 for k in key)


def _computed(ufunc: Any, operands: Sequence[Any], device: torch.device) -> Tensor:
    """Return what the ufunc's counterpart in torch makes of tensors and Python numbers, in the dtypes of NumPy's."""
    function = UFUNCS[ufunc]
    if any(isinstance(x, Tensor) and x.dtype == torch.bfloat16 for x in operands):
        common = functools.reduce(torch.promote_types, [x.dtype for x in operands if isinstance(x, Tensor)])
        dtypes: list[Any] = [common] * len(operands)
        result_dtype = None
    else:
        kinds = [_numpy_dtype(x.dtype) if isinstance(x, Tensor) else type(x) for x in operands]
        *dtypes, result_dtype = map(_torch_dtype, ufunc.resolve_dtypes((*kinds, None)))
    cast = [
        x.to(dtype)
        if isinstance(x, Tensor)
        # Only operators take Python numbers, which they do not round before they compute.
        else x
        if ufunc in OPERATORS
        else torch.tensor(x, dtype=dtype, device=device)
        for x, dtype in zip(operands, dtypes, strict=True)
    ]
    result: Tensor = function(*cast)
    if any(isinstance(x, Tensor) and _memory(x) == _memory(result) for x in operands):
        result = result.clone()  # NumPy's are always new
    return result if result_dtype is None else result.to(result_dtype)


def _promoted(*operands: Any) -> list[Tensor]:
    """Return tensors and Python numbers as tensors of the dtype in which NumPy puts them together."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if any(x.dtype == torch.bfloat16 for x in tensors):
        common = functools.reduce(torch.promote_types, [x.dtype for x in tensors])
    else:
        common = _torch_dtype(
            np.result_type(*(_numpy_dtype(x.dtype) if isinstance(x, Tensor) else x for x in operands))
        )
    device = tensors[0].device if tensors else None
    return [torch.as_tensor(x, device=device).to(common) for x in operands]


def _sign(x: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), x, torch.sgn(x))  # torch's sign of NaN is 0


OPERATORS: dict[Any, Callable[..., Any]] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul, np.divide: operator.truediv,
    np.floor_divide: operator.floordiv, np.remainder: operator.mod, np.power: operator.pow,
    np.less: operator.lt, np.less_equal: operator.le, np.greater: operator.gt, np.greater_equal: operator.ge,
    np.equal: operator.eq, np.not_equal: operator.ne,
    np.bitwise_and: operator.and_, np.bitwise_or: operator.or_, np.bitwise_xor: operator.xor,
}  # fmt: skip
SAME_NAME = (
    "absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh ceil copysign cos cosh deg2rad exp exp2 expm1 floor "
    "fmax fmin fmod heaviside hypot isfinite isinf isnan log log10 log1p log2 logaddexp logaddexp2 logical_and "
    "logical_not logical_or logical_xor matmul maximum minimum negative positive rad2deg reciprocal signbit sin sinh "
    "sqrt square tan tanh trunc"
)
UFUNCS: dict[Any, Callable[..., Any]] = {
    **OPERATORS,
    **{getattr(np, name): getattr(torch, name) for name in SAME_NAME.split()},
    np.conjugate: torch.conj_physical, np.fabs: torch.abs, np.invert: torch.bitwise_not, np.rint: torch.round,
    np.sign: _sign,
}  # fmt: skip


def _axes(axis: Any) -> Any:
    return axis if axis is None or isinstance(axis, tuple | list) else (axis,)


def _inexact(a: Tensor) -> Tensor:
    return a if a.is_floating_point() or a.is_complex() else a.to(torch.float64)


def _reduction(compute: Callable[..., Tensor], order: str = "axis dtype out keepdims") -> Callable[..., Tensor]:
    """Return a reduction whose arguments come in NumPy's order, from one by axes and whether they are kept."""

    def reduction(a: Tensor, *args: Any, **named: Any) -> Tensor:
        given = dict(zip(order.split(), args, strict=False)) | named
        if given.pop("out", None) is not None:
            raise TypeError("out is for element-by-element functions")
        dtype, axes, kept = given.pop("dtype", None), _axes(given.pop("axis", None)), given.pop("keepdims", False)
        a = a if dtype is None else a.to(_torch_dtype(dtype))
        if axes == ():  # of which torch makes all
            return compute(a[None], (0,), False, **given)
        return compute(a, tuple(range(a.ndim)) if axes is None else axes, kept, **given)

    return reduction


def _prod(a: Tensor, axes: tuple[int, ...], kept: bool) -> Tensor:
    a = a.clone() if a.is_floating_point() or a.is_complex() else a.to(torch.int64, copy=True)
    for i in sorted((i % a.ndim for i in axes), reverse=True):
        a = torch.prod(a, i, kept)
    return a


def _running(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def running(a: Tensor, axis: int | None = None, dtype: Any = None) -> Tensor:
        a = a if dtype is None else a.to(_torch_dtype(dtype))
        return function(a.reshape(-1), 0) if axis is None else function(a, axis)

    return running


def _where(condition: Any, x: Any, y: Any) -> Tensor:
    condition, (x, y) = torch.as_tensor(condition), _promoted(x, y)
    return torch.where(condition.to(torch.bool), x.to(condition.device), y.to(condition.device))


def _clip(a: Tensor, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Tensor:
    low, high = a_min if min is None else min, a_max if max is None else max
    a, *bounds = _promoted(a, *(bound for bound in (low, high) if bound is not None))
    if not bounds:
        return a.clone()
    return torch.clamp(a, min=None if low is None else bounds[0], max=None if high is None else bounds[-1])


def _dot(a: Any, b: Any) -> Tensor:
    a, b = _promoted(a, b)
    return _tensordot(a, b, ([a.ndim - 1], [max(b.ndim - 2, 0)])) if a.ndim and b.ndim else a * b


def _tensordot(a: Any, b: Any, axes: Any = 2) -> Tensor:
    dims = axes if isinstance(axes, int) else [list(_axes(some)) for some in axes]
    a, b = _promoted(a, b)
    made: Tensor = torch.tensordot(a, b, dims=dims)
    return made


def _einsum(subscripts: str, *operands: Any, optimize: Any = False) -> Tensor:
    return torch.einsum(subscripts, *_promoted(*operands))


def _transpose(a: Tensor, axes: Any = None) -> Tensor:
    return a.permute(tuple(reversed(range(a.ndim))) if axes is None else tuple(axes))


def _expand_dims(a: Tensor, axis: Any) -> Tensor:
    axes = _axes(axis)
    for i in sorted(i % (a.ndim + len(axes)) for i in axes):
        a = a.unsqueeze(i)
    return a


def _squeeze(a: Tensor, axis: Any = None) -> Tensor:
    if axis is not None and any(a.shape[i] != 1 for i in _axes(axis)):
        raise ValueError(f"axis {axis} of shape {tuple(a.shape)} cannot be squeezed: its size is not one")
    return torch.squeeze(a) if axis is None else torch.squeeze(a, _axes(axis))


def _take(a: Tensor, indices: Any, axis: int | None = None) -> Tensor:
    at = torch.as_tensor(indices, dtype=torch.int64, device=a.device)
    return a.reshape(-1)[at] if axis is None else a[(slice(None),) * (axis % a.ndim) + (at,)]


def _take_along_axis(arr: Tensor, indices: Tensor, axis: int | None = -1) -> Tensor:
    if axis is None:
        arr, indices, axis = arr.reshape(-1), indices.reshape(-1), 0
    return torch.take_along_dim(arr, torch.where(indices < 0, indices + arr.shape[axis], indices), axis)


def _full_like(a: Tensor, fill_value: Any, dtype: Any = None) -> Tensor:
    wanted = a.dtype if dtype is None else _torch_dtype(dtype)
    return torch.as_tensor(fill_value, device=a.device).to(wanted).expand(a.shape).clone()


def _filled(value: int) -> Callable[..., Tensor]:
    return lambda a, dtype=None: _full_like(a, value, dtype)


def _trace(a: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    return torch.diagonal(a, offset, axis1, axis2).sum(-1)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _reduction(torch.sum), np.prod: _reduction(_prod),
    np.mean: _reduction(lambda a, axes, kept: torch.mean(_inexact(a), axes, kept)),
    **{function: _reduction(
        lambda a, axes, kept, ddof=0, its=its: its(_inexact(a), axes, correction=ddof, keepdim=kept),
        "axis dtype out ddof keepdims",
    ) for function, its in ((np.var, torch.var), (np.std, torch.std))},
    np.max: _reduction(torch.amax, "axis out keepdims"), np.min: _reduction(torch.amin, "axis out keepdims"),
    np.any: _reduction(lambda a, axes, kept: torch.any(a.to(torch.bool), axes, kept), "axis out keepdims"),
    np.all: _reduction(lambda a, axes, kept: torch.all(a.to(torch.bool), axes, kept), "axis out keepdims"),
    np.argmax: lambda a, axis=None, *, keepdims=False: torch.argmax(a, axis, keepdims),
    np.argmin: lambda a, axis=None, *, keepdims=False: torch.argmin(a, axis, keepdims),
    np.cumsum: _running(torch.cumsum), np.cumprod: _running(torch.cumprod),
    np.linalg.norm: lambda x, *, axis=None, keepdims=False:
        torch.linalg.vector_norm(_inexact(x), 2, _axes(axis), keepdims),
    np.where: _where, np.clip: _clip, np.round: lambda a, decimals=0: torch.round(a, decimals=decimals),
    np.dot: _dot, np.tensordot: _tensordot, np.einsum: _einsum,
    np.inner: lambda a, b: torch.inner(*_promoted(a, b)),
    np.outer: lambda a, b: torch.outer(*(x.reshape(-1) for x in _promoted(a, b))),
    np.concatenate: lambda arrays, axis=0: torch.cat(_promoted(*arrays), axis),
    np.stack: lambda arrays, axis=0: torch.stack(_promoted(*arrays), axis),
    np.transpose: _transpose, np.swapaxes: lambda a, axis1, axis2: a.swapaxes(axis1, axis2), np.moveaxis: torch.movedim,
    np.expand_dims: _expand_dims, np.squeeze: _squeeze,
    np.ravel: lambda a: a.reshape(-1), np.reshape: lambda a, shape: a.reshape(shape),
    np.broadcast_to: lambda array, shape: array.expand(shape),
    np.broadcast_arrays: lambda *arrays: tuple(torch.broadcast_tensors(*arrays)),
    # NumPy's is a view, torch's a copy.
    np.flip: lambda m, axis=None: Array(m.flip(tuple(range(m.ndim)) if axis is None else _axes(axis)), copied=True),
    np.roll: lambda a, shift, axis=None: torch.roll(a, shift, axis),
    np.tile: lambda a, reps: torch.tile(a, _axes(reps)),
    np.repeat: lambda a, repeats, axis=None: torch.repeat_interleave(a, repeats, axis),
    np.take: _take, np.take_along_axis: _take_along_axis,
    np.diagonal: lambda a, offset=0, axis1=0, axis2=1: torch.diagonal(a, offset, axis1, axis2),
    np.trace: _trace, np.diag: lambda v, k=0: torch.diag(v, k),
    np.tril: lambda m, k=0: torch.tril(m, k), np.triu: lambda m, k=0: torch.triu(m, k),
    np.zeros_like: _filled(0), np.ones_like: _filled(1), np.empty_like: _filled(0), np.full_like: _full_like,
    np.copy: lambda a: a.clone(), np.real: torch.real,
    np.imag: lambda val: torch.imag(val) if val.is_complex() else torch.zeros_like(val),
    np.shape: lambda a: tuple(a.shape), np.ndim: lambda a: a.ndim, np.iscomplexobj: torch.is_complex,
    np.size: lambda a, axis=None: a.numel() if axis is None else a.shape[axis],
}  # fmt: skip
METHOD_NAMES = (
    "all any argmax argmin clip cumprod cumsum diagonal dot max mean min prod ravel repeat round squeeze std sum "
    "swapaxes take trace var"
)
METHODS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in METHOD_NAMES.split()},
    "conj": np.conjugate, "conjugate": np.conjugate,
}  # fmt: skip
