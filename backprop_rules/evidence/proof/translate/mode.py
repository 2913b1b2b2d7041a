"""The mode that keeps, beside every tensor that torch computes, the exact numbers that it stands for.

The numbers are kept by storage, one for each place in memory: so a view has those of its base, and what is written
through one of the two is read through the other. A tensor whose storage is not known holds constants.
"""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from flint import acb
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from backprop_rules.errors import InputError
from backprop_rules.evidence.proof.balls import Balls, Number, ball
from backprop_rules.evidence.proof.translate.arrays import ARRAYS, TRUTHS
from backprop_rules.evidence.proof.translate.elementwise import LOGIC, NUMBERS, TIE, Constant, choose, each, unequal
from backprop_rules.subject.ambient import inexact, tensors_in

aten = torch.ops.aten

# Operations in NumPy notation. What is not here torch expresses in operations that are, by its own decompositions.
NUMERIC, LOGICAL = {**NUMBERS, **ARRAYS}, {**LOGIC, **TRUTHS}
# Torch itself moves numbers that say which element is where.
MOVES = {
    aten.cat, aten.flip, aten.gather, aten.index, aten.masked_select, aten.constant_pad_nd, aten.scatter,
    aten.masked_scatter, aten.diagonal_scatter, aten.as_strided_scatter,
}  # fmt: skip
# The position, among the arguments, of a number that is written.
WRITTEN = {aten.constant_pad_nd: 2, aten.scatter: 3}
# They return what they are given, or constants.
PLAIN = {
    aten._unsafe_view, aten._reshape_alias, aten.lift_fresh, aten.lift, aten.alias, aten.zeros_like, aten.ones_like,
    aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.zero,
}  # fmt: skip
EMPTY = {
    aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.empty_permuted
}  # fmt: skip
# Of these torch's decompositions round a constant, or read what the values are.
REFUSED = {
    aten.sinc, aten.logaddexp2, aten.special_log_ndtr, aten.special_erfcx, aten.special_entr, aten.mvlgamma,
    aten.angle, aten.nan_to_num, aten.copysign, aten.heaviside, aten.nextafter, aten.frexp, aten.renorm,
    aten.gelu_backward, aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_trilinear3d,
    aten.upsample_bicubic2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.grid_sampler_2d,
    aten.affine_grid_generator,
}  # fmt: skip
# What numbers do not depend on.
PLACEMENT = ("memory_format", "layout", "device")


def refusal(what: str) -> InputError:
    """Return the refusal to make a definition of a forward that does this."""
    advice = "Give the definition itself, `definition=`: the same function in NumPy notation."
    return InputError(f"no definition can be made of this forward, as {what}. {advice}")


def wide(x: Tensor) -> Tensor:
    """Return the same values as a float64, or complex128, on the CPU."""
    if not inexact(x):
        return x.cpu()
    return x.to("cpu", torch.complex128 if x.is_complex() else torch.float64)


def _cut(values: Any) -> Any:
    """Return the same numbers, from which no derivative goes back; an autograd.Function says it by its own backward."""
    step: FrameType | None = sys._getframe()
    while step is not None:
        if step.f_code is _APPLY:
            raise refusal("an autograd.Function is in it, whose own backward says its derivative")
        step = step.f_back
    cut = each(lambda v: Number(v.value, v.tape) if isinstance(v, Number) else v)
    return np.asarray(cut(values), dtype=object)


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class Exactly(TorchDispatchMode):
    """While it is entered, keep exact numbers beside every tensor that comes of those it was given."""

    def __init__(self, tape: list[Number]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape = tape
        # By the storage's address: the storage, so that it stays, its dtype, and its numbers; None for what is not
        # written yet, Python's numbers and booleans if it holds those, TIE for what is not certain.
        self._storages: dict[int, tuple[Any, torch.dtype, np.ndarray[Any, Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without torch's compiler: keeping it out of every call takes seconds of imports, and time at each."""
        return False

    # ---- what is kept

    def keep(self, x: Tensor, found: Any) -> None:
        """Keep numbers beside a tensor that is new."""
        storage = x.untyped_storage()
        cells = np.empty(storage.nbytes() // x.element_size(), dtype=object)
        self._storages[storage._cdata] = storage, x.dtype, cells
        self._seen(x, cells)[...] = found

    def holds(self, x: Tensor) -> bool:
        """Say whether the numbers of a tensor are more than its values."""
        try:
            known = self._storages.get(x.untyped_storage()._cdata)
        except NotImplementedError:  # no strided tensor, or one of vmap's, whose operations come here without it
            return False
        if known is not None and known[1] != x.dtype:
            raise refusal("it takes the bits of a tensor, or its real and imaginary parts, as numbers")
        if known is not None and known[0].nbytes() != known[2].size * x.element_size():
            raise refusal("it changes the size of a tensor's memory")
        return known is not None

    def _seen(self, x: Tensor, cells: Any) -> Any:
        start = x.storage_offset()
        if x.is_contiguous():
            return cells[start : start + x.numel()].reshape(x.shape)
        strides = [step * cells.itemsize for step in x.stride()]
        return np.lib.stride_tricks.as_strided(cells[start:], x.shape, strides)

    def _cells(self, x: Tensor) -> Any:
        """Return what is kept beside a tensor, or its values, as an array of anything."""
        if not self.holds(x):
            values = wide(x.detach().resolve_conj().resolve_neg()).numpy()
            return self._exactly(values) if inexact(x) else values
        cells = self._seen(x, self._storages[x.untyped_storage()._cdata][2])
        if x.is_conj():
            cells = np.conjugate(cells)
        return -cells if x.is_neg() else cells

    def _exactly(self, values: Any) -> Any:
        """Return an array with a constant in the place of each value that is no exact number."""
        made = each(lambda v: v if isinstance(v, Number) or v is None else Constant(ball(v), self._tape))
        return np.asarray(made(values), dtype=object)

    def numbers(self, x: Tensor) -> Any:
        """Return the numbers of a tensor, or its integers."""
        cells = self._cells(x)
        if cells.dtype != object:
            return cells
        if any(c is None for c in cells.flat):
            raise refusal("it reads memory into which no operation of torch wrote")
        if not inexact(x):
            for c in cells.flat:
                bool(c)  # Undecided if it is a TIE
            return cells.astype(bool if x.dtype == torch.bool else int)
        return cells.view(Balls)

    def truths(self, x: Tensor) -> Any:
        """Return True, False and TIE for every element of a tensor."""
        return unequal(self.numbers(x), 0) if inexact(x) else self._cells(x)

    # ---- operations

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation, and the same in exact numbers."""
        named = kwargs or {}
        packet = func.overloadpacket
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise refusal(f"it calls {func}, which draws random numbers")
        held = any(self.holds(x) for x in tensors_in((args, named)))
        if held and func._can_decompose():  # torch makes it of others, which come here one by one
            with self:
                return func.decompose(*args, **named)
        if packet in EMPTY:
            self.keep(result := func(*args, **named), None)
            return result
        if held and packet == aten.detach:
            self.keep(result := args[0].clone(), _cut(self.numbers(args[0])))
            return result
        if not held or func.is_view or packet in PLAIN:
            return func(*args, **named)
        if packet == aten._local_scalar_dense:
            if inexact(args[0]):
                raise refusal("it takes a Python number out of a tensor, on which the result may depend")
            return self.numbers(args[0]).item()
        if func._schema.is_mutable:
            return self._write(func, args, named)
        return self._computed(func, args, named)

    def whole(self, func: Any, args: Any, named: Any) -> Any:
        """Compute an operation that torch would make of others."""
        with _disable_current_modes():
            return self._computed(func, args, named)

    def _computed(self, func: Any, args: Any, named: Any) -> Any:
        packet = func.overloadpacket
        if not any(packet in some for some in (NUMERIC, LOGICAL, MOVES, SPECIAL)):
            if func not in decomposition_table or packet in REFUSED:
                raise refusal(f"it calls {func}, which is not known in exact numbers")
            with self:
                return decomposition_table[func](*args, **named)
        widened, its = tree_map_only(Tensor, wide, (args, named))
        result = func(*widened, **its)
        try:
            made = self._made_of(func, args, named)
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise refusal(f"it calls {func}, not all of which is known in exact numbers ({error})") from error
        self._register(result, made)
        return result

    def _made_of(self, func: Any, args: Any, named: Any) -> Any:
        packet = func.overloadpacket
        if packet in SPECIAL:
            return SPECIAL[packet](self, *args, **named)
        if packet in MOVES:
            return self._moved(func, args, named)
        function, read = (LOGICAL[packet], self.truths) if packet in LOGICAL else (NUMERIC[packet], self.numbers)
        named = {name: x for name, x in named.items() if name not in PLACEMENT}
        taken, its = tree_map_only(Tensor, read, (args, named))
        with np.errstate(all="ignore"):
            return function(*taken, **its)

    def _register(self, result: Any, made: Any) -> None:
        if not isinstance(result, Tensor):
            for one, its in zip(result, made, strict=True):
                if its is not None:
                    self._register(one, its)
            return
        if self.holds(result):
            return  # the operation had nothing to do, and returned what it was given
        found = np.asarray(made, dtype=None if isinstance(made, np.ndarray) else object)
        assert found.shape == tuple(result.shape), (found.shape, result.shape)
        if inexact(result):
            made = self._exactly(found)
            if not torch.is_grad_enabled():
                made = _cut(made)
            if not result.is_complex() and any(isinstance(v, Number) and isinstance(v.value, acb) for v in made.flat):
                raise refusal("it makes real numbers of complex ones")
            self.keep(result, made)
        elif any(v is TIE for v in found.flat):
            self.keep(result, found)
        else:
            values = [int(ball(v).unique_fmpz()) if isinstance(v, Number) else v for v in found.flat]
            result.copy_(torch.tensor(values, dtype=result.dtype).reshape(result.shape))

    def _moved(self, func: Any, args: Any, named: Any) -> Any:
        """Let torch move numbers that say which element is where, and put the elements there."""
        packet, pool = func.overloadpacket, [Constant(ball(0), self._tape)]
        if "reduce" in named:
            raise NotImplementedError("with reduce")

        def labels(x: Tensor) -> Tensor:
            if not (inexact(x) or packet == aten.cat):  # which joins numbers of any dtype
                self.numbers(x)  # says where: certain
                return x.cpu()
            cells = self._cells(x)
            pool.extend(cells.flat)
            return torch.arange(len(pool) - x.numel(), len(pool), dtype=torch.float64).reshape(x.shape)

        if isinstance(args[0], Tensor) and not inexact(args[0]):
            for x in tensors_in(args):
                self.numbers(x)  # certain, all of them, and so are torch's
            return func(*args, **named).numpy()
        position = WRITTEN.get(packet)
        taken = list(args)
        if position is not None and len(taken) > position and not isinstance(taken[position], Tensor):
            pool.append(Constant(ball(taken[position]), self._tape))
            taken[position] = len(pool) - 1
        found = func(*tree_map_only(Tensor, labels, taken), **named)
        cells = np.empty(len(pool), dtype=object)
        cells[:] = pool
        return cells[found.long().numpy()]

    # ---- choices, and what is written or added at places

    def _where(self, condition: Tensor, *sides: Any) -> Any:
        def read(x: Tensor) -> Any:
            return self.numbers(x) if inexact(x) else self.truths(x)

        return choose(self.truths(condition), *tree_map_only(Tensor, read, sides))

    def _index_put(self, a: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Any:
        if accumulate:
            places = torch.arange(a.numel()).reshape(a.shape)
            chosen = places[tuple(slice(None) if i is None else self._settled(i) for i in indices)]
            return self._added(a, chosen, np.broadcast_to(self.numbers(values), tuple(chosen.shape)))
        mask = indices[0]
        if len(indices) == 1 and mask.dtype == torch.bool and self.holds(mask) and values.numel() == 1:
            full = self.truths(mask).reshape(*mask.shape, *[1] * (a.ndim - mask.ndim))
            return choose(full, self.numbers(values).reshape(()), self.numbers(a))
        return self._moved(aten.index_put.default, (a, indices, values), {})

    def _scatter_add(self, a: Tensor, dim: int, index: Tensor, source: Tensor) -> Any:
        places = torch.arange(a.numel()).reshape(a.shape)
        taken = self.numbers(source)[tuple(slice(0, n) for n in index.shape)]
        return self._added(a, places.gather(dim, self._settled(index)), taken)

    def _settled(self, index: Tensor) -> Tensor:
        self.numbers(index)  # Undecided if it is not certain
        return index

    def _added(self, a: Tensor, places: Tensor, source: Any) -> Any:
        """Return a with the source added at places, which count its elements."""
        made = self.numbers(a).view(np.ndarray).copy().reshape(-1)
        for place, value in zip(places.flatten().tolist(), source.view(np.ndarray).flat, strict=True):
            made[place] = made[place] + value
        return made.reshape(a.shape)

    def _embedding(
        self, weight: Tensor, index: Tensor, padding_idx: int = -1, by_freq: bool = False, sparse: bool = False
    ) -> Any:
        if padding_idx >= 0 and bool((index == padding_idx).any()):
            raise NotImplementedError("a padding_idx has a gradient of zero, and no derivative")
        return self._moved(aten.embedding.default, (weight, index), {})

    # ---- writing

    def _write(self, func: Any, args: Any, named: Any) -> Any:
        """Compute what an operation would write, and write it, into the numbers as well."""
        name, written = func._schema.name.removeprefix("aten::"), args[0] if args else None
        if not torch.is_grad_enabled() and isinstance(written, Tensor) and inexact(written) and self.holds(written):
            raise refusal(f"it calls {func} where autograd is switched off, on numbers with a derivative")
        if torch.Tag.inplace_view in func.tags:
            return func(*args, **named)
        if not name.endswith("_") or not isinstance(written, Tensor) or written.is_conj() or written.is_neg():
            if func in decomposition_table:
                with self:
                    return decomposition_table[func](*args, **named)
            raise refusal(f"it calls {func}, which writes into a tensor")
        if func.overloadpacket in (aten.fill_, aten.zero_, aten.copy_):
            made = args[1] if len(args) > 1 else 0
        else:
            packet = getattr(aten, name.removesuffix("_"), None)
            if packet is None or func._overloadname not in packet.overloads():
                raise refusal(f"it calls {func}, which writes into a tensor")
            with self:
                made = getattr(packet, func._overloadname)(*args, **named)
        if isinstance(made, Tensor):
            with self:
                made = made.to(written.dtype)
            cells = self._cells(made)
        else:
            cells = Constant(ball(made), self._tape) if inexact(written) else made
        if not self.holds(written):
            flat = torch.empty(0, dtype=written.dtype).set_(written.untyped_storage())
            self.keep(flat, self._cells(flat))
        everything = self._storages[written.untyped_storage()._cdata][2]
        self._seen(written, everything)[...] = cells
        written.copy_(made) if isinstance(made, Tensor) else written.fill_(made)
        if all(isinstance(c, Constant | bool | int | float | complex) for c in everything.flat):
            del self._storages[written.untyped_storage()._cdata]
        return written


# What needs more than numbers.
SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.where: Exactly._where, aten.index_put: Exactly._index_put, aten.scatter_add: Exactly._scatter_add,
    aten.embedding: Exactly._embedding,
}  # fmt: skip
