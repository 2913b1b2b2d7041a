"""NumPy's functions in torch: for each the one of torch of that meaning, in NumPy's dtypes."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def numpy_dtype(dtype: torch.dtype) -> Any:
    """Return NumPy's dtype; torch's where NumPy has none."""
    return dtype if dtype is torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's dtype for NumPy's."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, np.dtype(dtype).name, None)
    if not isinstance(found, torch.dtype):
        raise NotImplementedError(f"the dtype {dtype} is not supported on tensors")
    return found


def memory(x: Tensor) -> int:
    """Return the address of the memory that a tensor looks into."""
    return x.untyped_storage().data_ptr()


def _in_bfloat16(operands: Sequence[Any]) -> torch.dtype | None:
    """Return the common dtype of operands of which one is in bfloat16, of which NumPy knows nothing."""
    dtypes = [x.dtype for x in operands if isinstance(x, Tensor)]
    return functools.reduce(torch.promote_types, dtypes) if torch.bfloat16 in dtypes else None


def computed(ufunc: Any, operands: Sequence[Any], device: torch.device) -> Tensor:
    """Return what the ufunc's counterpart in torch makes of tensors and Python numbers, in the dtypes of NumPy's."""
    common, result_dtype = _in_bfloat16(operands), None
    dtypes: list[Any] = [common] * len(operands)
    if common is None:
        kinds = [numpy_dtype(x.dtype) if isinstance(x, Tensor) else type(x) for x in operands]
        *dtypes, result_dtype = map(torch_dtype, ufunc.resolve_dtypes((*kinds, None)))

    def cast(x: Any, dtype: torch.dtype) -> Any:
        if isinstance(x, Tensor):
            return x.to(dtype)
        # Only operators take Python numbers, which they do not round before they compute.
        return x if ufunc in OPERATORS else torch.tensor(x, dtype=dtype, device=device)

    result: Tensor = UFUNCS[ufunc](*(cast(x, dtype) for x, dtype in zip(operands, dtypes, strict=True)))
    if any(isinstance(x, Tensor) and memory(x) == memory(result) for x in operands):
        result = result.clone()  # NumPy's are always new
    return result if result_dtype is None else result.to(result_dtype)


def _promoted(*operands: Any) -> list[Tensor]:
    """Return tensors and Python numbers as tensors of the dtype in which NumPy puts them together."""
    common = _in_bfloat16(operands)
    if common is None:
        kinds = [numpy_dtype(x.dtype) if isinstance(x, Tensor) else x for x in operands]
        common = torch_dtype(np.result_type(*kinds))
    device = next((x.device for x in operands if isinstance(x, Tensor)), None)
    return [torch.as_tensor(x, device=device).to(common) for x in operands]


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
    np.sign: lambda x: torch.where(torch.isnan(x), x, torch.sgn(x)),  # torch's sign of NaN is 0
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
        a = a if dtype is None else a.to(torch_dtype(dtype))
        if axes == ():  # of which torch makes all
            return compute(a[None], (0,), False, **given)
        return compute(a, tuple(range(a.ndim)) if axes is None else axes, kept, **given)

    return reduction


def prod(a: Tensor, axes: Sequence[int], kept: bool = False) -> Tensor:
    """Return the product over several axes, of which torch takes one at a time."""
    a = a.clone() if a.is_floating_point() or a.is_complex() else a.to(torch.int64, copy=True)
    for i in sorted((i % a.ndim for i in axes), reverse=True):
        a = torch.prod(a, i, kept)
    return a


def _running(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def running(a: Tensor, axis: int | None = None, dtype: Any = None) -> Tensor:
        a = a if dtype is None else a.to(torch_dtype(dtype))
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
    wanted = a.dtype if dtype is None else torch_dtype(dtype)
    return torch.as_tensor(fill_value, device=a.device).to(wanted).expand(a.shape).clone()


def _transform(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda a, n=None, axis=-1, norm=None: compute(_inexact(a), n, axis, norm)


def _filled(value: int) -> Callable[..., Tensor]:
    return lambda a, dtype=None: _full_like(a, value, dtype)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _reduction(torch.sum), np.prod: _reduction(prod),
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
    np.diff: lambda a, n=1, axis=-1: torch.diff(a, n, axis),
    np.sort: lambda a, axis=-1: torch.sort(a.reshape(-1) if axis is None else a, -1 if axis is None else axis).values,
    np.linalg.solve: lambda a, b: torch.linalg.solve(*map(_inexact, _promoted(a, b))),
    np.linalg.inv: lambda a: torch.linalg.inv(_inexact(a)), np.linalg.det: lambda a: torch.linalg.det(_inexact(a)),
    **{getattr(np.fft, name): _transform(getattr(torch.fft, name)) for name in ("fft", "ifft", "rfft", "irfft")},
    np.linalg.norm: lambda x, *, axis=None, keepdims=False:
        torch.linalg.vector_norm(_inexact(x), 2, _axes(axis), keepdims),
    np.where: _where, np.clip: _clip, np.round: lambda a, decimals=0: torch.round(a, decimals=decimals),
    np.dot: _dot, np.tensordot: _tensordot,
    np.einsum: lambda subscripts, *operands, optimize=False: torch.einsum(subscripts, *_promoted(*operands)),
    np.inner: lambda a, b: torch.inner(*_promoted(a, b)),
    np.outer: lambda a, b: torch.outer(*(x.reshape(-1) for x in _promoted(a, b))),
    np.concatenate: lambda arrays, axis=0: torch.cat(_promoted(*arrays), axis),
    np.stack: lambda arrays, axis=0: torch.stack(_promoted(*arrays), axis),
    np.transpose: lambda a, axes=None: a.permute(tuple(reversed(range(a.ndim))) if axes is None else tuple(axes)),
    np.swapaxes: lambda a, axis1, axis2: a.swapaxes(axis1, axis2), np.moveaxis: torch.movedim,
    np.expand_dims: _expand_dims, np.squeeze: _squeeze,
    np.ravel: lambda a: a.reshape(-1), np.reshape: lambda a, shape: a.reshape(shape),
    np.broadcast_to: lambda array, shape: array.expand(shape),
    np.broadcast_arrays: lambda *arrays: tuple(torch.broadcast_tensors(*arrays)),
    np.flip: lambda m, axis=None: m.flip(tuple(range(m.ndim)) if axis is None else _axes(axis)),
    np.roll: lambda a, shift, axis=None: torch.roll(a, shift, axis),
    np.tile: lambda a, reps: torch.tile(a, _axes(reps)),
    np.repeat: lambda a, repeats, axis=None: torch.repeat_interleave(a, repeats, axis),
    np.take: _take, np.take_along_axis: _take_along_axis,
    np.diagonal: lambda a, offset=0, axis1=0, axis2=1: torch.diagonal(a, offset, axis1, axis2),
    np.trace: lambda a, offset=0, axis1=0, axis2=1: torch.diagonal(a, offset, axis1, axis2).sum(-1),
    np.diag: lambda v, k=0: torch.diag(v, k),
    np.tril: lambda m, k=0: torch.tril(m, k), np.triu: lambda m, k=0: torch.triu(m, k),
    np.zeros_like: _filled(0), np.ones_like: _filled(1), np.empty_like: _filled(0), np.full_like: _full_like,
    np.copy: lambda a: a.clone(), np.real: torch.real,
    np.imag: lambda val: torch.imag(val) if val.is_complex() else torch.zeros_like(val),
    np.shape: lambda a: tuple(a.shape), np.ndim: lambda a: a.ndim, np.iscomplexobj: torch.is_complex,
    np.size: lambda a, axis=None: a.numel() if axis is None else a.shape[axis],
}  # fmt: skip
# NumPy's are views, torch's copies.
COPIES = {np.flip}
METHOD_NAMES = (
    "all any argmax argmin clip cumprod cumsum diagonal dot max mean min prod ravel repeat round squeeze std sum "
    "swapaxes take trace var"
)
METHODS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in METHOD_NAMES.split()},
    "conj": np.conjugate, "conjugate": np.conjugate,
    "copy": np.copy, "flatten": lambda a: np.copy(np.ravel(a)),
    "reshape": lambda a, *shape: np.reshape(a, shape[0] if len(shape) == 1 else shape),
    "transpose": lambda a, *axes: np.transpose(a, axes[0] if len(axes) == 1 else axes or None),
}  # fmt: skip
