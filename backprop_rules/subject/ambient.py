"""Running somebody's code in a precision that it was not written for, without changing it."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from backprop_rules.subject.attention import MADE_BY, OPENED, Attentions, Lost, attention
from backprop_rules.subject.cumulative import cumprod
from backprop_rules.subject.determinants import LOGARITHMS, logarithm
from backprop_rules.subject.in_place import in_place, written
from backprop_rules.subject.unchecked import UNCHECKED

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
COMPLEX_OF = {F64: torch.complex128, F32: torch.complex64}
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
SEED = 20261126  # any: one, so that a forward that draws random numbers draws the same ones in each precision

_NARROWER = {
    **dict.fromkeys((F32, torch.float16, BF16, *FLOAT8), F64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}
_CASTS: dict[Any, torch.dtype] = {
    Tensor.float: F32,
    Tensor.half: torch.float16,
    Tensor.bfloat16: BF16,
    Tensor.cfloat: torch.complex64,  # type: ignore[attr-defined]
    Tensor.chalf: torch.complex32,
}
# While torch makes a tensor of the generator's state it holds the generator, and may collect garbage and let another
# thread run, which must not wait for the generator then: both would wait for good.
_GENERATOR = Lock()
_RMS_NORMS = (torch.rms_norm, torch.nn.functional.rms_norm)


def _named(*names: str) -> set[Any]:
    """Return torch's functions of these names."""
    places = (torch, Tensor, torch.nn.functional)
    return {getattr(place, name) for name in names for place in places if hasattr(place, name)}


# Their gradients refuse to mix dtypes, where they do not; what they write into running statistics nobody reads.
_BATCH_NORMS = _named("batch_norm", "instance_norm")
# All others, shapes and dtypes of tensors among them, are called as they are: millions in a run of the tests.
_APART = {*_CASTS, *_BATCH_NORMS, *UNCHECKED, torch.nn.functional.embedding}

# These compute in the dtype to which their arguments are promoted, and their gradients are cast back from it.
_PROMOTING = _named(
    "add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "pow", "where", "maximum",
    "minimum", "fmax", "fmin", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "addcmul", "addcdiv",
    "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div",
)  # fmt: skip
# These compute in a narrow dtype where autocast is on, which leaves float64 alone.
_LOWERED = {torch.linalg.vecdot, torch.linalg.multi_dot} | _named(
    "matmul", "mm", "bmm", "mv", "addmm", "addmv", "addr", "addbmm", "baddbmm", "linear", "bilinear", "chain_matmul",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "einsum", "prelu",
    "scaled_dot_product_attention",
)  # fmt: skip
_DTYPE_OF = Tensor.dtype.__get__  # type: ignore[attr-defined]
# Of two tensors, these give the smaller or the larger.
_EXTREMES = _named("minimum", "maximum", "min", "max")
# These cut a tensor off from autograd.
_CUTS = {Tensor.detach, torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]
A_CALL = 14  # two to this many elements are read in about the time of one call
_KEPT = 1 << 16  # elements from which a constant's cast is kept: a large weight is cast once, not in every run


def inexact(x: Any) -> bool:
    """Say whether it is a tensor of real or complex numbers, which can have a gradient."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def real(x: Any) -> Tensor:
    """Return a tensor of real numbers: complex ones get a last axis for their parts."""
    assert isinstance(x, Tensor)
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def all_finite(*tensors: Tensor) -> bool:
    """Say whether all numbers are finite: where their sum is, they are, and that is quicker than a mask."""
    quick = [x.dtype in (F32, F64) and math.isfinite(x.sum().item()) for x in tensors]
    return all(seen or bool(x.isfinite().all()) for seen, x in zip(quick, tensors, strict=True))


def at(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    """Return the dtype that x has in a run of this precision: complex for complex x, x's own for integers."""
    if not inexact(x):
        return x.dtype
    return COMPLEX_OF.get(dtype, torch.complex64) if x.is_complex() else dtype


class Shadow(Protocol):
    """What remembers, in a run in float64, the dtypes that the tensors have in their own run."""

    default: torch.dtype  # of what is made there without one
    eager: bool  # whether each result is stored there in its own dtype
    again: bool  # whether what is computed again on the way back has roundings of its own

    def dtype_of(self, x: Tensor) -> torch.dtype:
        """Return the dtype that a tensor has in its own run."""

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x as it is after a cast to a dtype."""

    def lost(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return by how much x as it is computed, and stored in a dtype, is off: 0 here; None where nothing is."""

    def lost_of_product(
        self, y: Tensor, shares: Tensor | None, again: Callable[[Tensor], Tensor] | None, dtype: torch.dtype
    ) -> Lost | None:
        """Return the same of a product with shares; beside it what rounding the shares loses, if that is apart."""

    def constant(self, x: Tensor, dtype: torch.dtype, drawn_up: bool) -> Tensor:
        """Return what was made of no tensor of real or complex numbers, `drawn_up` of none at all, in its dtype."""

    def promoted(self, args: Any) -> torch.dtype | None:
        """Return the dtype to which arguments are promoted, None where it does not count."""

    def cut_off(self, x: Tensor) -> Tensor:
        """Return a tensor that autograd does not look behind, of which the roundings count all the same."""

    def extreme(self, func: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return the smaller or the larger of two, whose gradients share one choice."""


def _one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Return a mask of the classes, without torch's look at each number: a scatter refuses what is out of range."""
    count = num_classes if num_classes >= 0 else int(input.max()) + 1
    return input.new_zeros((*input.shape, count)).scatter(-1, input.unsqueeze(-1), 1)


_OPENED: dict[Any, Callable[..., Any]] = {**OPENED, torch.nn.functional.one_hot: _one_hot}


class Ambient(TorchFunctionMode):
    """While it is entered, torch computes in one precision.

    In float64, with `widening`, casts to narrower dtypes are identities; `narrows` says whether there were any.
    Constants of another dtype, such as weights in a closure, are cast where an operation refuses to mix them with what
    it is given. `work` counts the calls of torch's functions, and what they read in calls that cost as much. With a
    `shadow` the casts are told to it, and a tensor's dtype is the one in its own run, so that what is made of it, such
    as a default eps, stays as it is.
    """

    def __init__(self, dtype: torch.dtype, widening: bool = True, shadow: Shadow | None = None) -> None:
        super().__init__()
        self.dtype, self.work, self.narrows = dtype, 0, False
        self._shadow = shadow
        self._widening = widening and dtype is F64
        self._cast: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor, tuple[int, ...]]] = {}
        self.attentions = Attentions()

    def apart(self) -> "Ambient":
        """Return the same for another thread, which keeps casts of its own."""
        other = Ambient(self.dtype, self._widening, self._shadow)
        other.attentions = self.attentions
        return other

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, as it would be called in this precision."""
        named = kwargs or {}
        if self._shadow is None or torch._C._functorch.peek_interpreter_stack() is not None:
            return self._called(func, args, named)  # within a transform tensors have no memory of their own
        if func in _OPENED:
            with self:
                return _OPENED[func](*args, **named)
        if func in (torch.cumprod, Tensor.cumprod) and not recomputed() and (made := cumprod(args, named)) is not None:
            return made
        if func in LOGARITHMS and (found := logarithm(args, named)) is not None:
            return found
        made = self._shadowed(self._shadow, func, args, named)
        if func in MADE_BY and not self._shadow.eager and not recomputed():
            self.attentions.multiplied(func, args, named, made, self._shadow)
        return made

    def _shadowed(self, shadow: Shadow, func: Any, args: Any, named: Any) -> Any:
        """Call the function, and tell the shadow what is cast: by itself, to be computed with, or when it is made."""
        if func == _DTYPE_OF:
            return shadow.dtype_of(args[0])
        if func in _CUTS and inexact(args[0]):
            return shadow.cut_off(args[0].detach()) if args[0].requires_grad else args[0].detach()
        if func in _RMS_NORMS and (args[3] if len(args) > 3 else named.get("eps")) is None:
            # Where none is given it is that of the dtype in which torch computes.
            own = shadow.dtype_of(args[0] if args else named["input"])
            args, named = args[:3], {**named, "eps": torch.finfo(F32 if own.itemsize < F32.itemsize else own).eps}
        if func in _PROMOTING and len({shadow.dtype_of(x) for x in tensors_in(args) if inexact(x)}) > 1:
            args = _cast_to(shadow.promoted(args), args, shadow)
        if func in _LOWERED:
            device = next((x.device.type for x in tensors_in((args, named))), "cpu")
            lowered = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            args, named = _cast_to(lowered, (args, named), shadow)
        if func is torch.nn.functional.scaled_dot_product_attention and not shadow.eager and not recomputed():
            own = shadow.dtype_of(args[0] if args else named["query"])
            told = partial(self.attentions.of, dtype=own, shadow=shadow)
            return attention(*self._each(args), **self._each(named), multiplied=told, again=shadow.again)
        if func in _EXTREMES and len(args) == 2 and not named and torch.is_grad_enabled() and _alike(*args):
            return shadow.extreme(func, *args)
        if shadow.eager and in_place(func) and args and inexact(args[0]):
            operands = [x for x in tensors_in((args, named)) if inexact(x)]
            return written(partial(self._called, func, args, named), args[0], operands, shadow)
        asked = _asked(func, args, named, shadow)
        if asked is not None and inexact(args[0] if args else None):
            self.attentions.cast(args[0], asked, shadow)
            cast = shadow.cast(args[0], asked)
            cast = cast if torch.is_grad_enabled() else shadow.cut_off(cast)
            return cast if _casts(func) else self._called(func, (cast, *args[1:]), named)
        made, given = self._called(func, args, named), list(tensors_in((args, named)))
        if type(made) is not Tensor or made.dtype != F64:
            return made
        if not torch.is_grad_enabled():
            made = shadow.cut_off(made)
        if func is Tensor.new_tensor:
            return shadow.constant(made, asked or shadow.dtype_of(args[0]), True)
        return made if any(map(inexact, given)) else shadow.constant(made, asked or shadow.default, not given)

    def _called(self, func: Any, args: Any, named: Any) -> Any:
        if self._widening and named:
            named = {k: self._wide(a) if isinstance(a, torch.dtype) else a for k, a in named.items()}
        if func in _APART:
            if self._widening and func in _CASTS:
                self.narrows = self.narrows or inexact(args[0])
                return args[0].to(_NARROWER[_CASTS[func]])
            if self._widening and func in _BATCH_NORMS:
                args, named = self._each(args), self._each(named)
            if func in UNCHECKED:
                UNCHECKED[func](*args, **named)
            if func is torch.nn.functional.embedding and self._shadow is None and named.get("padding_idx") is not None:
                return _of_padding_none(*args, **named)
        work = 1
        for k, a in enumerate(args):
            if isinstance(a, Tensor):
                work += a.numel() >> A_CALL
            elif self._widening and isinstance(a, torch.dtype):
                args = (*args[:k], self._wide(a), *args[k + 1 :])
        self.work += work
        if func is Tensor.to and len(args) == 2 and not named and args[0].numel() >= _KEPT:
            return self._to(*args)
        try:
            return func(*args, **named)
        except (RuntimeError, ValueError):
            mixed = {x.dtype for x in tensors_in((args, named)) if inexact(x)}
            if len(mixed) < 2:
                raise
        return func(*self._each(args), **self._each(named))

    def _to(self, x: Tensor, other: Any) -> Tensor:
        """Return x.to(other), of a large constant what was cast before."""
        dtype = getattr(other, "dtype", other)
        stays = isinstance(other, torch.dtype) or getattr(other, "device", None) == x.device
        if not stays or dtype == x.dtype or x.requires_grad:
            return x.to(other)
        return self._one(x, dtype)

    def _wide(self, dtype: torch.dtype) -> torch.dtype:
        self.narrows = self.narrows or dtype in _NARROWER
        return _NARROWER.get(dtype, dtype)

    def _each(self, x: Any) -> Any:
        if isinstance(x, tuple | list):
            return type(x)(self._each(one) for one in x) if type(x) in (tuple, list) else x
        if isinstance(x, dict):
            return {name: self._each(one) for name, one in x.items()}
        return self._one(x, at(self.dtype, x)) if inexact(x) and x.dtype != at(self.dtype, x) else x

    def _one(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x in a dtype: of a large constant, or of a view of one, what was cast before if nobody holds it."""
        base = x if x._base is None else x._base
        if base.numel() < _KEPT or base.requires_grad or not base.is_contiguous() or base.dtype != x.dtype:
            return x.to(dtype)
        key = id(base), dtype
        own, cast, state = self._cast.get(key, (None, base, ()))
        if own is not base or state != (base._version, cast._version, _held(cast)):
            cast = base.to(dtype)
            self._cast[key] = base, cast, (base._version, cast._version, _held(cast))
        return cast.as_strided(x.shape, x.stride(), x.storage_offset() - base.storage_offset())


def recomputed() -> bool:
    """Say whether what is saved for the reverse pass goes elsewhere: a checkpoint runs its steps again, without us."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _of_padding_none(index: Tensor, weight: Tensor, padding_idx: int, **named: Any) -> Tensor:
    """Return the rows of an embedding, those of the padding detached: torch masks them in its reverse mode alone."""
    rows = torch.nn.functional.embedding(index, weight, padding_idx, **named)  # which asks whether there is such a row
    return torch.where((index == padding_idx % len(weight)).unsqueeze(-1), rows.detach(), rows)


def _alike(a: Any, b: Any) -> bool:
    """Say whether both are tensors of one shape that have gradients."""
    both = isinstance(a, Tensor) and isinstance(b, Tensor) and a.requires_grad and b.requires_grad
    return both and a.shape == b.shape


def _asked(func: Any, args: Any, named: Any, shadow: Shadow) -> torch.dtype | None:
    """Return the dtype to which a tensor is cast, None where it is not."""
    if func in _CASTS:
        return _CASTS[func]
    if func is Tensor.double:
        return F64
    for x in (*args[1:], *named.values()):
        if isinstance(x, torch.dtype):
            return x if x.is_floating_point else None
        if isinstance(x, Tensor) and func in (Tensor.to, Tensor.type_as):
            found = shadow.dtype_of(x)
            return found if found.is_floating_point else None
    return None


def _cast_to(dtype: torch.dtype | None, args: Any, shadow: Shadow) -> Any:
    """Return arguments, of which those of other dtypes than float64 are cast to this one, if there is one."""

    def cast(x: Tensor) -> Tensor:
        return shadow.cast(x, dtype) if dtype and inexact(x) and shadow.dtype_of(x) not in (dtype, F64) else x

    return tree_map_only(Tensor, cast, args)


def _casts(func: Any) -> bool:
    """Say whether a function does nothing but cast."""
    return func in _CASTS or func in (Tensor.double, Tensor.to, Tensor.type, Tensor.type_as)


def _held(x: Tensor) -> int:
    """Return how many tensors look into the memory of x."""
    return int(x._use_count())  # type: ignore[attr-defined]


def tensors_in(x: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples, lists and dicts."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for one in x:
            yield from tensors_in(one)
    elif isinstance(x, dict):
        for one in x.values():
            yield from tensors_in(one)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Until the end of the block, run what is compiled as it was written: for each size and dtype it takes seconds."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class running:  # noqa: N801 - a context, as torch.no_grad is
    """Run in a precision, or as it is: with its default dtype, and one random seed.

    It is entered for the ambient, inside which the code in question alone is called: what is asked of tensors beside it
    need not pass there.
    """

    def __init__(self, ambient: Ambient | None, seed: int = SEED) -> None:
        self._ambient, self._seed = ambient, seed

    def __enter__(self) -> AbstractContextManager[Any]:
        generator, ambient = torch.default_generator, self._ambient
        with _GENERATOR:
            self._before = generator.get_state(), torch.get_default_dtype()
            generator.manual_seed(self._seed)  # torch.manual_seed takes milliseconds: it tells every device
        if ambient is None:
            return nullcontext()
        torch.set_default_dtype(ambient.dtype if ambient.dtype in (F64, F32) else F32)
        return ambient

    def __exit__(self, *error: object) -> None:
        state, dtype = self._before
        torch.set_default_dtype(dtype)
        with _GENERATOR:
            torch.default_generator.set_state(state)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch says of inputs that are drawn on purpose."""
    with warnings.catch_warnings():
        # Its own forward mode of mixed dtypes passes through complex32 under vmap.
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
        # A variance over an axis that is long enough, in a tensor that is empty along another.
        warnings.filterwarnings("ignore", r"var\(\): degrees of freedom")
        warnings.filterwarnings("ignore", r"(Mean of empty slice|Degrees of freedom <= 0)")  # NumPy's
        # What poisons the memory that is handed out asks for deterministic operations too, where there are any.
        warnings.filterwarnings("ignore", r".*does not have a deterministic implementation")
        warnings.filterwarnings("ignore", r"Deterministic behavior was enabled")
        yield
