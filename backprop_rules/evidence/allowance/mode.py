"""The mode that keeps a radius beside every tensor that torch computes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backprop_rules.domain import precision
from backprop_rules.errors import InputError, OwnError, of_ours
from backprop_rules.evidence.allowance import (
    alignments,
    elementwise,
    factored,
    fused,
    gammas,
    gathered,
    moves,
    resampled,
    sampled,
    spaced,
    sums,
    windows,
)
from backprop_rules.evidence.allowance.anything import CARRYING, INNER, Anything
from backprop_rules.evidence.allowance.by_storage import ByStorage, place_of
from backprop_rules.evidence.allowance.chosen import Choices
from backprop_rules.evidence.allowance.joint import Joint
from backprop_rules.evidence.allowance.operation import Operation, Sums, as_computed, plus
from backprop_rules.evidence.allowance.remade import make, spread
from backprop_rules.evidence.allowance.schemas import (
    DRAWN,
    MEMORY,
    OF_FORM,
    OF_NUMBERS,
    OF_THE_CHOSEN,
    RESHAPING,
    composite,
    out_of_place,
)
from backprop_rules.evidence.allowance.units import computed_in, item_by_item, items_of, wide
from backprop_rules.subject.ambient import inexact, tensors_in
from backprop_rules.subject.denormals import flushing

aten = torch.ops.aten
BATCH_NORM = aten._native_batch_norm_legit.default

FORMULAS: dict[Any, Callable[..., Any]] = {
    **moves.FORMULAS, **elementwise.FORMULAS, **sums.FORMULAS, **windows.FORMULAS, **sampled.FORMULAS,
    **factored.FORMULAS, **gammas.FORMULAS, **alignments.FORMULAS, **resampled.FORMULAS, **spaced.FORMULAS,
}  # fmt: skip
REFERENCES = {**fused.REFERENCES, **gathered.REFERENCES, **factored.REFERENCES}
# The floating-point dtypes, whose precision is asked for.
UNIT = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64)


class Narrower(Exception):
    """An operation computes in the named dtype, which has fewer bits than what it is asked for."""


class RunningError(TorchDispatchMode):
    """While it is entered, keep a radius beside every tensor that torch computes on the CPU or on CUDA.

    With `evaluations` = 1 the exact value of the same formula, for exact operands, lies within the radius of
    the computed one. With 2 so does what any other floating-point evaluation of the formula gives, in any
    order of its sums. The radius is infinite where anything can be: after an overflow, or where a divisor
    may be zero. Raises NotImplementedError at an operation whose rounding it does not know, and Narrower at
    one whose result has fewer bits than `least_bits`: what is lost there is no rounding to be allowed for.
    Subnormal numbers may be taken for zero where the processor says so, or with `flushes`; `sums` says in which
    dtype sums are kept, from the one in which torch keeps them. `decided` takes every comparison as it comes out,
    also where the exact operands may give the other answer.
    """

    def __init__(self, evaluations: int = 1, flushes: bool = False, decided: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._evaluations, self._flushes, self.decided = evaluations, flushes, decided
        self.least_bits = 0
        self.sums: Sums = as_computed
        self.choices, self.joint, self.anything = Choices(), Joint(), Anything()
        self.ambiguous = False  # whether a comparison might come out otherwise for the exact operands
        # The radii by storage and place: what autograd saves comes back as another tensor in the same place. They go
        # with the storage, so that a radius lives as long as its tensor.
        self._radii = ByStorage()
        # The storages that were made here, and those into which more than one tensor looks.
        self._own = ByStorage()
        self._viewed = ByStorage()
        # Whole numbers and masks whose radii are of what was chosen alone.
        self._chosen = ByStorage()
        # The radii of all that is stored, where a tensor was written to into which several look.
        self._shared = ByStorage()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without torch's compiler: keeping it out of every call takes seconds of imports, and time at each."""
        return False

    def __enter__(self) -> "RunningError":
        self._flushes = self._flushes or flushing()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def radius(self, x: object) -> Tensor:
        """Return the radius of a tensor, in float64; 0 for what did not come from an operation."""
        if not isinstance(x, Tensor):
            return torch.zeros((), dtype=torch.float64)
        radius = self._radius(x)
        return torch.zeros(x.shape, dtype=torch.float64, device=x.device) if radius is None else radius

    def made(self, x: Tensor) -> bool:
        """Say whether the tensor came from an operation that was seen here, or looks into one that did."""
        return not x.numel() or x in self._own or x in self._viewed

    def is_filled_unseen(self, x: Tensor) -> bool:
        """Say whether there are numbers in memory that was made here, and which no operation put there."""
        return self._own.get(x) is False and bool(x.any())

    def _radius(self, x: Any) -> Tensor | None:
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            return None
        shared = self._shared.get(x) if self._shared else None
        if shared is not None:
            return item_by_item(shared, items_of(x)).as_strided(x.shape, x.stride(), x.storage_offset())
        placed = self._radii.get(x)
        return None if placed is None else placed.get(place_of(x))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation and its radius."""
        named = kwargs or {}
        if composite(func):
            with self:
                return func.decompose(*args, **named)
        if func is BATCH_NORM:  # what it writes into its running statistics nobody reads
            with self:
                if not args[5]:
                    return aten._native_batch_norm_legit_no_training(*args[:5], *args[6:])
                return aten._native_batch_norm_legit.no_stats(*args[:3], *args[5:])
        if func._schema.is_mutable:
            return self._write(func, args, named)
        result = func(*args, **named)
        if not isinstance(result, Tensor | tuple | list):
            if func.overloadpacket not in OF_FORM:
                self._take_out(func, args)
            return result
        if isinstance(result, Tensor) and result.dtype in UNIT and precision(result.dtype) < self.least_bits:
            raise Narrower(str(result.dtype).removeprefix("torch."))
        if func.is_view and isinstance(args[0], Tensor):
            self._viewed[args[0]] = True
        if self._whole(func, result, args):
            radius = None
        else:
            try:
                radius = self._radius_of(func, result, args, named)
                radius = self.joint.passed_on(func.overloadpacket, args, named, result, radius, self._radius)
            except (NotImplementedError, Narrower, InputError):
                raise
            except Exception as error:
                raise OwnError(of_ours(error)) from error
        self.keep(result, radius, func.overloadpacket not in MEMORY)
        make(self.choices, func, args, named, result)
        return result

    def _take_out(self, func: Any, args: Sequence[Any]) -> None:
        """Take a number out of a tensor as it came out: it is exact, or of what was chosen."""
        if self.choices.are_behind(args):
            self.choices.tell(func)
        elif any(radius is not None and radius.any() for radius in map(self._radius, args)):
            raise NotImplementedError(
                f"no radius can be kept beside the Python number that {func} takes out of a tensor, "
                "as int(x) and x.item() do: give it as an argument"
            )

    def _operation(self, func: Any, result: Any, args: Any) -> Operation:
        """Return the operation, as the formulas see it."""
        return Operation(func, result, self._radius, self._evaluations, self._flushes, self.sums, self.choices)

    def _radius_of(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, infinite where nothing is known."""
        return self.settled(result, self._by_formula(func, result, args, named))

    def settled(self, result: Any, radius: Any) -> Any:
        """Return a radius, or those of several, as it is kept: a tensor without NaN, or None of what is exact."""
        if radius is None:
            return None
        if not isinstance(result, Tensor):
            return [None if y is None else self.settled(y, r) for y, r in zip(result, radius, strict=True)]
        radius = torch.as_tensor(radius, dtype=torch.float64, device=result.device)
        total = math.inf if radius in self.anything else float(radius.sum())
        return radius if 0 < total < self._far(result) else self._special(result, radius, total)

    def _far(self, result: Tensor) -> float:
        """Return the size from which on a radius says nothing: infinity, of a number that is what it is."""
        return math.inf

    def _special(self, result: Tensor, radius: Tensor, total: float) -> Tensor | None:
        """Return a radius whose elements add up to 0, or to nothing finite."""
        return torch.where(radius.isnan(), torch.inf, radius) if total else radius

    def _by_formula(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result: by its reference, its formula, or its parts."""
        op = self._operation(func, result, args)
        packet = func.overloadpacket
        if self.anything and packet in CARRYING and any(self._radius(x) in self.anything for x in args):
            if packet in INNER:
                op.counted(sums.roundings(op, args[0].shape[-1], op.loses)[0])
            nothing = self._nothing(args) if packet == aten.mul else None
            return self.anything.like(result) if nothing is None else torch.where(nothing, 0.0, math.inf)
        reference = self._reference(packet, args)
        if reference is not None:
            return self._decomposed(op, reference, args, named)
        if packet not in FORMULAS:
            return self._by_torchs_own_parts(op, args, named)
        if packet in OF_NUMBERS and isinstance(result, Tensor) and inexact(result) and self.choices.are_behind(args):
            op = replace(op, radius=lambda x: self._with_others(x, op.either(spread(self.choices, x))))
        radius = FORMULAS[packet](op, *args, **named)
        if radius is not None and isinstance(result, Tensor) and not inexact(result) and not func.is_view:
            self._of_indices(result, args)
        self.choices.pass_on(packet, result, args)
        if packet in moves.AMBIGUOUS and radius is not None and radius.any():
            self.ambiguous, radius = True, None if self.decided else radius
        return radius

    def _nothing(self, factors: Any) -> Tensor | None:
        """Return where a factor is exactly 0, and so its product with whatever is finite; None where none is."""
        known = [(x, self._radius(x)) for x in factors if isinstance(x, Tensor)]
        zeros = [(x == 0) if off is None else (x == 0) & (off == 0) for x, off in known if off not in self.anything]
        found = reduce(or_, zeros) if zeros else torch.zeros((), dtype=torch.bool)
        return found if bool(found.any()) else None

    def _of_indices(self, result: Tensor, args: Any) -> None:
        """Remember whether whole numbers, or a mask, may be others by what was chosen alone: all else is exact."""
        if any(self._radius(x) is not None for x in tensors_in(args)):
            self._chosen.pop(result, None)
        else:
            self._chosen[result] = True

    def _with_others(self, x: Any, others: Tensor | None) -> Tensor | None:
        """Return a radius beside what other choices make: the larger one where both are of the same doubt."""
        radius = self._radius(x)
        if radius is not None and others is not None and x in self._chosen:
            return torch.maximum(radius, others)
        found: Tensor | None = plus(radius, others)
        return found

    def _reference(self, packet: Any, args: Any) -> Callable[..., Any] | None:
        """Return the smaller operations that an operation is made of, None where it has a formula of its own."""
        reference = REFERENCES.get(packet)
        if reference is None and args and isinstance(args[0], Tensor) and args[0].is_complex():
            reference = fused.COMPLEX_REFERENCES.get(packet)
        return reference

    def _whole(self, func: Any, result: Any, args: Any) -> bool:
        """Say whether integers make integers, which is exact, but where they are put where others might be."""
        results = [result] if isinstance(result, Tensor) else result
        if any(map(inexact, results)):
            return False
        if func.overloadpacket in OF_THE_CHOSEN and self.choices.concern(list(tensors_in(args))):
            return False
        return not any(inexact(x) or self._radius(x) is not None for x in args)

    def keep(self, result: Any, radius: Any, filled: bool = True) -> None:
        """Keep the radius of a tensor, or those of several; None for what is exact. Memory alone is not `filled`."""
        if not isinstance(result, Tensor):
            for one, its in zip(result, radius if radius is not None else [None] * len(result), strict=True):
                if one is not None:
                    self.keep(one, its)
            return
        if result.layout != torch.strided:
            if radius is not None:
                raise NotImplementedError(f"no radius can be kept beside a tensor of the layout {result.layout}")
            return
        self._own[result] = filled
        if radius is not None and result not in self._shared:
            if radius.shape != result.shape:
                radius = radius.expand(result.shape)
            self._radii.setdefault(result, {})[place_of(result)] = radius

    def _write(self, func: Any, args: Any, named: Any) -> Any:
        """Write into a tensor that was made here, and into which no other tensor looks."""
        if func.overloadpacket == aten.detach_:
            return args[0]
        if self._whole(func, args[0], args):
            if self.choices.are_behind(args):
                self.choices.tell(func)
            self.choices.forget(args[0])
            return func(*args, **named)
        if func.overloadpacket in DRAWN and self._unshared(args[0]):
            self.joint.forget(args[0])
            self._radii.get(args[0], {}).pop(place_of(args[0]), None)
            return func(*args, **named)
        compute, written = out_of_place(func), args[0] if args else None
        if compute is not None and func.overloadpacket in RESHAPING:
            return self._reshape(func, compute, args, named)
        if compute is None or not isinstance(written, Tensor) or not self._is_own(written):
            raise NotImplementedError(f"no formula for the rounding of {func}, which writes into a tensor in use")
        with self:
            made = compute(*args, **named).to(written.dtype).expand(written.shape)
        made = self.written(made, written)
        self.choices.forget(written)
        self.joint.forget(written)
        written.copy_(made)
        self.choices.pass_on(aten.copy, written, (made,))
        make(self.choices, aten.clone.default, (made,), {}, written)
        self.keep_written(written, self._radius(made))
        self._own[written] = True
        self._chosen.pop(written, None)
        if made in self._chosen:
            self._chosen[written] = True
        return written

    def _reshape(self, func: Any, compute: Any, args: Any, named: Any) -> Tensor:
        """Look at a tensor's own numbers in another shape."""
        x: Tensor = args[0]
        radius = self._radius(x)
        if radius is not None and func.overloadpacket == aten.as_strided_:
            self._share(x, radius)  # what is looked at then is a matter of the storage
        func(*args, **named)
        if radius is not None and func.overloadpacket != aten.as_strided_:
            self.keep(x, compute(radius, *args[1:], **named))
        return x

    def keep_written(self, written: Tensor, radius: Tensor | None) -> None:
        """Keep the radius of what was written into a tensor, in the place of that which was there."""
        if not self._unshared(written):
            self._share(written, radius)
            return
        self._radii.get(written, {}).pop(place_of(written), None)
        self.keep(written, radius)

    def written(self, made: Tensor, into: Tensor) -> Tensor:
        """Return what is written into a tensor."""
        return made

    def _share(self, x: Tensor, radius: Tensor | None) -> None:
        """Keep a radius for what is stored where a tensor was written to, whichever tensors look there."""
        storage, every = x.untyped_storage(), self._shared.get(x)
        if every is None:
            every = torch.zeros(items_of(x), dtype=torch.float64, device=x.device)
            for (pointer, dtype, shape, stride), its in self._radii.pop(x, {}).items():
                if 0 not in stride:  # of what is expanded the rest has the radii, too
                    every = item_by_item(every, storage.nbytes() // dtype.itemsize)
                    every.as_strided(shape, stride, (pointer - storage.data_ptr()) // dtype.itemsize).copy_(its)
        self._shared[x] = every = item_by_item(every, items_of(x))
        every.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(torch.zeros(()) if radius is None else radius)

    def _is_own(self, x: Tensor) -> bool:
        return not x.numel() or x in self._own

    def _unshared(self, x: Tensor) -> bool:
        return not x.numel() or (x not in self._viewed and x in self._own)

    def _by_torchs_own_parts(self, op: Operation, args: Any, named: Any) -> Any:
        """Return the radius of an operation without a formula, by the smaller ones that torch makes it of."""
        from torch._decomp import decomposition_table

        parts = decomposition_table.get(op.func)
        if parts is None or not args or not isinstance(args[0], Tensor):
            raise op.refuse()
        try:
            radius = self._decomposed(op, parts, args, named)
        except NotImplementedError as error:
            raise op.refuse(f"nor of its parts: {error}") from error
        return plus(radius, fused.of_constants(op, args[0]))

    def _finer(self, x: Any) -> Any:
        """Return an operand as a kernel of several operations computes with it."""
        if not inexact(x):
            return x
        return x.to(computed_in(x.dtype)) if self._evaluations == 2 else wide(x)

    def _decomposed(self, op: Operation, reference: Callable[..., Any], args: Any, named: Any) -> Any:
        if any(isinstance(x, Tensor) and not x.numel() for x in (args[0], op.result)):
            return None
        found = self._in_one_kernel(reference, args, named)
        if found is NotImplemented:
            raise op.refuse("as torch's own terms have none of these arguments")
        if isinstance(found, Tensor):
            return self._distance(op, op.result, found)
        return [
            None if y is None or z is None else self._distance(replace(op, result=y), y, z)
            for y, z in zip(op.result, found, strict=True)
        ]

    def _distance(self, op: Operation, result: Tensor, found: Tensor) -> Any:
        """Return how far a result may be from what the parts give; anything, where these give something else."""
        if result.shape != found.shape:
            return torch.full_like(result, torch.inf, dtype=torch.float64)
        return fused.distance(op, result, found, self._radius(found))

    def _in_one_kernel(self, reference: Callable[..., Any], args: Any, named: Any) -> Any:
        """Return what the reference of an operation gives, with the radii of its own operations."""
        with self:
            return reference(*map(self._finer, args), **named)
