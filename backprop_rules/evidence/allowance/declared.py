"""How far any implementation may be from the truth that rounds what is declared of it: a radius beside float64.

`RunningError` says how far a computation that was made is from the exact one. Here the computation is made in float64,
and the radius says how far another one may be that keeps its intermediates, its products' operands and its sums in the
declared precision, in any order of its sums: one that cannot be followed, such as a kernel's.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance.a_cast import Cast
from backprop_rules.evidence.allowance.blockwise import Blockwise
from backprop_rules.evidence.allowance.by_storage import ByStorage
from backprop_rules.evidence.allowance.gathered import euclidean
from backprop_rules.evidence.allowance.joint import Extreme
from backprop_rules.evidence.allowance.kept_narrow import OF_THE_FIRST, ROUNDED_INSIDE, SUMS_NARROW, besides, of_numbers
from backprop_rules.evidence.allowance.mode import REFERENCES
from backprop_rules.evidence.allowance.moves import close
from backprop_rules.evidence.allowance.operation import Operation, as_computed, no_narrower_than, plus
from backprop_rules.evidence.allowance.precision import DeclaredOperation, Precision
from backprop_rules.evidence.allowance.schemas import LOOKS, SHAPED, tagged
from backprop_rules.evidence.allowance.slices import Slices
from backprop_rules.evidence.allowance.units import NARROW, component, computed_in, lost_by_storing, lost_in, widens
from backprop_rules.subject.ambient import F32, F64, at, inexact, tensors_in
from backprop_rules.subject.attention import Lost

aten = torch.ops.aten

# From here on a number of float64 stands for infinity, as in a mask: no other dtype has it.
ENDLESS = torch.finfo(torch.float64).max / 2
# Of what these are given some numbers are not taken, as the mask says.
BY_MASKS = {aten.where, aten.masked_fill}


def parts_of(result: Any) -> tuple[Any, ...]:
    """Return the parts of a result, of which most have one."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


@cache
def _twice_the_most(dtype: torch.dtype) -> float:
    return 2 * torch.finfo(component(dtype)).max


class Rounds(NotImplementedError):
    """The named operation may round, where only what is exact was asked for."""


class Declared(Blockwise):
    """While it is entered, keep beside every float64 tensor how far a declared implementation may be from it."""

    quick = True  # where numbers are but looked at

    def __init__(
        self, declared: Precision, only_exact: bool = False, flushes: bool = False, partly: bool = False
    ) -> None:
        super().__init__(flushes=flushes)
        self.declared, self._only_exact, self._partly = declared, only_exact, partly
        self.default, self.eager, self.again = torch.get_default_dtype(), declared.kept is None, False
        self._tags = ByStorage()  # the dtypes that tensors have in their own run, by storage
        self._rounded = ByStorage()  # what casts have rounded, by storage: to which dtype, in which version
        self.slices = Slices()
        self.in_kernel = 0
        self._rounds_inside = False  # whether the kernel of torch's that is followed stores its parts in its own dtype
        self.roundings, self.overflow, self.vanished, self.custom, self.drawn = 0, "", "", "", ""
        self.narrowed = declared.kept is None  # whether something is rounded to a narrower dtype on the way
        self.unknown = ""  # why there is no formula for an operation, where what is made of one may be anything
        self._longest = 0
        self._sums_in: torch.dtype | None = None  # where the kernel of torch's that is followed keeps its sums

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation and its radius, and take note of one that draws random numbers."""
        if func in LOOKS and self.quick and inexact(args[0]) and not (kwargs or self.choices or self._flushes):
            return self._look(func, args)
        if tagged(func, torch.Tag.nondeterministic_seeded):
            self.drawn = self.drawn or str(func).removesuffix(".default")
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.slices.keep(func, args, result)
        return result

    def _look(self, func: Any, args: tuple[Any, ...]) -> Any:
        """Look at numbers in another form, as many operations do between others: the radius goes the same way."""
        x, result = args[0], func(*args)
        if func.is_view:
            self._viewed[x] = True
        self._count()
        radius = self._radius(x)
        if radius is not None:
            moved = radius.reshape(result.shape) if func in SHAPED else func(radius, *args[1:])
            radius = self.settled(result, moved)
        if self.eager and not self.in_kernel:
            self._note_overflow(func, result)
        self.keep(result, radius)
        return result

    def _count(self) -> None:
        """Count the roundings of an operation, of which each has one at least."""
        if not self.in_kernel:
            self.roundings, self._longest = self.roundings + self._longest, 1

    def keep_written(self, written: Tensor, radius: Tensor | None) -> None:
        """Keep the radius of what was written into a tensor, in the place of all that was known of it."""
        self.slices.forget(written)
        super().keep_written(written, radius)

    def tag(self, x: Tensor, dtype: torch.dtype) -> None:
        """Say in which dtype the reference stores this tensor, in its own run."""
        self._tags[x] = dtype

    def given(self, x: Tensor, dtype: torch.dtype) -> None:
        """Say in which dtype a tensor was given: it has none but numbers of that."""
        self.tag(x, dtype)
        self._take_as_rounded(x, dtype)

    def dtype_of(self, x: Tensor) -> torch.dtype:
        """Return the dtype in which the reference stores a tensor, complex of a complex one."""
        return at(component(self._tags.get(x, x.dtype)), x)

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x after a cast of the reference, which rounds as the other implementation may."""
        self.narrowed = True
        cast: Tensor = Cast.apply(x, self, self.dtype_of(x), dtype)  # type: ignore[no-untyped-call]
        return cast

    def lost(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return by how much x, as it is computed and stored in a dtype, is off: 0, and as far as that may be from x.

        None where nothing is stored anew.
        """
        if precision(dtype) >= self.bits_of(x):
            return None
        stored = self.cast(x, dtype)
        off = stored - x.detach()
        if self._radius(off) is not None:  # of a difference of two that have nothing in common
            self.keep(off, self._radius(stored))
        return off

    def lost_of_product(
        self, y: Tensor, shares: Tensor | None, again: Callable[[Tensor], Tensor] | None, dtype: torch.dtype
    ) -> Lost | None:
        """Return 0, off as far as storing a product goes; and, apart, its own sums with that, and what shares lose."""
        if precision(dtype) >= self.bits_of(y):
            return None
        if shares is None or again is None:
            off = self.lost(y, dtype)
            return None if off is None else Lost(off)
        narrow = self.declared.operands
        with torch._C._DisableTorchDispatch():
            exact = shares.detach().clone()
        self.tag(exact, self.dtype_of(shares))
        if narrow is not None:
            self._take_as_rounded(exact, narrow)
        with torch.no_grad():
            made = again(exact)
        with torch._C._DisableTorchDispatch():
            whole, of_shares, size = self._radius(y), self._radius(shares), made.abs()
            stored = lost_in(dtype, size if whole is None else size.add_(whole))
            if narrow is not None and not self.has_been_rounded(shares, narrow):
                size = exact.abs()
                of_shares = plus(of_shares, lost_in(narrow, size if of_shares is None else size.add_(of_shares)))
            return Lost(
                self._none(made, plus(whole, stored)),
                self._none(made, plus(self._radius(made), stored)),
                self._none(exact, of_shares),
            )

    def _none(self, like: Tensor, radius: Tensor | None) -> Tensor:
        """Return zeros that are off by so much."""
        none = torch.zeros_like(like)
        self.keep(none, None if radius is None else self.settled(none, radius))
        return none

    def cut_off(self, x: Tensor) -> Tensor:
        """Return a tensor that autograd does not look behind; where it is not exact, radii count in every question."""
        radius = self._radius(x)
        self.ambiguous = self.ambiguous or (radius is not None and bool(radius.any()))
        return x

    def extreme(self, func: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return the smaller or the larger of two, whose gradients share one choice."""
        found: Tensor = Extreme.apply(func, a, b, self)  # type: ignore[no-untyped-call]
        return found

    def chosen(self, a: Tensor, b: Tensor, share: Tensor, like: Tensor) -> Tensor:
        """Return the share of a gradient that a gets, where b gets what is left: another, where both may be it."""
        with torch._C._DisableTorchDispatch():
            off = plus(self._radius(a), self._radius(b))
            either = torch.zeros_like(share) if off is None else close(a, b, off).double()
            radius = either * torch.maximum(share, 1 - share)
        self.tag(share, self.dtype_of(like))
        if bool(radius.any()):
            self.ambiguous = True
            if not self.decided:
                self.keep(share, radius)
                self.joint.keep(share, share.untyped_storage(), radius)
        return share

    def of_either(self, chosen: Tensor, other: Tensor, *operands: Any) -> Tensor:
        """Return the radius of what may be either operand: at worst it is the other, or off by its own radius."""
        return torch.maximum(chosen, other)

    def promoted(self, args: Any) -> torch.dtype | None:
        """Return the dtype to which the reference promotes arguments; None where no intermediate has its own dtype."""
        return self._promoted(args) if self.eager else None

    def _operation(self, func: Any, result: Any, args: Any) -> Operation:
        own = self.declared.kept
        if own is None or not self.in_kernel:  # within a kernel nobody asks what is kept alike
            promoted = self._promoted(args[:1] if func.overloadpacket in OF_THE_FIRST else args)
            promoted = promoted and (computed_in(promoted) if self.in_kernel and not self._rounds_inside else promoted)
            if promoted and not func.is_view:
                for y in tensors_in((result,)):
                    self.tag(y, promoted)
            own = own or promoted or self.default
            if own == F64 and promoted == F32:  # a constant's, or by a cast: the reference computes so
                own = F32
        narrow = self._sums_in if func.overloadpacket == aten.sum else None
        sums = as_computed if narrow is None else partial(no_narrower_than, narrow)
        named = (func, result, self._radius, self._evaluations, self._flushes, sums, self.choices)
        return DeclaredOperation(*named, self.declared, own, self, args)

    def counted(self, length: int) -> None:
        """Take note of a sum of that many roundings in a row."""
        self._longest = max(self._longest, length)

    def _promoted(self, args: Any) -> torch.dtype | None:
        """Return the dtype of the result of operands as an eager implementation stores them, None if nobody knows."""
        tags: dict[bool, torch.dtype] = {}
        for x in filter(inexact, tensors_in(args)):
            tag = self._tags.get(x) or (None if component(x.dtype) == F64 else x.dtype)
            if tag is not None:  # a number counts where there are no others
                tag, known = component(tag), tags.get(x.ndim > 0)
                tags[x.ndim > 0] = tag if known in (None, tag) else torch.promote_types(known, tag)
        return tags.get(True, tags.get(False))

    def _radius_of(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, block by block where it is made so: in the processor's cache."""
        self._count()
        try:
            radius = self._blockwise(func, result, args, named)
        except NotImplementedError as error:
            parts = parts_of(result)
            if not self._partly or self.in_kernel or not all(map(inexact, parts)):
                raise
            self.unknown = self.unknown or str(error)
            found = [self.anything.like(y) for y in parts]
            radius = found if isinstance(result, tuple | list) else found[0]
        if self.unknown:
            radius = self._open(func, args, radius)
        if self.eager and not self.in_kernel:
            self._note_overflow(func, result)
        if self._only_exact and not (self.in_kernel or self._in_a_block) and any(True for _ in tensors_in(radius)):
            raise Rounds(str(func).removesuffix(".default"))
        return radius

    def _open(self, func: Any, args: Any, radius: Any) -> Any:
        """Return the radius of a result, number by number: infinite where nothing is known of what it is made of.

        What is bounded whatever it is made of, or one of two, is not held so by what is known.
        """
        if not tagged(func, torch.Tag.pointwise) or not isinstance(radius, Tensor):
            return radius
        for x in tensors_in(args):
            own = self._radius(x) if x.dtype == torch.bool or func.overloadpacket not in BY_MASKS else None
            radius = radius if own is None else radius.masked_fill(own.isinf() & (radius > 0), math.inf)
        return radius

    def _is_one(self, func: Any, args: Any) -> bool:
        return super()._is_one(func, args) or self.slices.are_whole(func, args)

    def _note_overflow(self, func: Any, result: Any) -> None:
        """Take note of the first operation whose result is beyond the dtype in which the reference stores it."""
        for y in filter(inexact, tensors_in((result,))):
            if self.dtype_of(y) == torch.float16 and not self.overflow and y.numel() and not y.is_complex():
                most = float(max(map(abs, y.aminmax())))
                if not math.isfinite(most):  # an infinity may be meant, as in a mask
                    most = float(y.nan_to_num(0.0, 0.0, 0.0).abs().amax())
                if most > torch.finfo(torch.float16).max:
                    name = str(func).removesuffix(".default")
                    self.overflow = f"{name} gives {most:.3g} on the way, and float16 ends at 65504"

    def _of_torchs_kernel(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, as torch computes it where the implementation is eager."""
        own = self._promoted(args) if self.eager and not self.in_kernel else F64
        if own not in NARROW:
            return super()._radius_of(func, result, args, named)
        self._sums_in = own if func.overloadpacket in SUMS_NARROW else None
        try:
            radius = super()._radius_of(func, result, args, named)
        finally:
            self._sums_in = None
        more = [*besides(func, args, result, own)]
        more[0] = plus(more[0], self.of_numbers(func, args, named, result, own))
        if not isinstance(result, tuple):
            return radius if more[0] is None else self.settled(result, plus(radius, more[0]))
        known = radius or [None] * len(result)
        return [a if b is None else self.settled(y, plus(a, b)) for y, a, b in zip(result, known, more, strict=True)]

    def of_numbers(
        self, func: Any, args: Any, named: Any, result: Any, own: torch.dtype, every: bool = False
    ) -> Tensor | None:
        """Return what an operation loses by storing lone numbers in a narrow dtype, None where that is nothing."""

        def lone(x: Tensor) -> bool:
            return inexact(x) and precision(self.dtype_of(x)) > precision(own)

        found: Tensor | None = of_numbers(func, args, named, result, own, lone, every)
        return found

    def _special(self, result: Tensor, radius: Tensor, total: float) -> Tensor | None:
        """Return a radius: an infinity in float64, or what stands for one, is the reference's own, and is exact."""
        if not total:
            return None
        real = inexact(result) and not result.is_complex()
        most, far = max(map(abs, map(float, result.aminmax()))) if real else 0.0, self._far(result)
        # Of a number that is itself beyond its dtype it is known how large that is, as in a softplus at 200.
        anything = radius in self.anything or (2 * most <= far and float(radius.amin()) >= far)
        if not anything and total < math.inf:
            return radius
        unknown = self.anything.like(result) if anything else radius.nan_to_num(torch.inf, torch.inf)
        return unknown if most < ENDLESS else torch.where(result.abs() >= ENDLESS, 0.0, unknown)

    def _far(self, result: Tensor) -> float:
        """Return twice the largest number of the dtype in which another implementation keeps it: all lie within."""
        kept = self.declared.kept or self.dtype_of(result)
        return _twice_the_most(kept) if inexact(result) else math.inf

    def holds_exactly(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether nothing is lost of a result, nor when it is stored in a dtype."""
        radius = self._radius(x)
        return (radius is None or not bool(radius.any())) and torch.equal(x.to(dtype).to(x), x)

    def _reference(self, packet: Any, args: Any) -> Callable[..., Any] | None:
        """Return what an operation is made of: squares that stand beside a product's operands are none of these."""
        narrow = self.declared.operands
        if packet == aten._euclidean_dist and narrow is not None:
            return partial(euclidean, lambda x: self.stored(x, narrow), lambda x: self._take_as_rounded(x, narrow))
        return super()._reference(packet, args)

    def _take_as_rounded(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        self._rounded[x] = dtype, x._version
        return x

    def _finer(self, x: Any) -> Any:
        return x

    def _decomposed(self, op: Operation, reference: Callable[..., Any], args: Any, named: Any) -> Any:
        before = self._rounds_inside
        packet = op.func.overloadpacket
        inside = packet in ROUNDED_INSIDE or (before and packet not in REFERENCES)
        self.in_kernel, self._rounds_inside = self.in_kernel + 1, inside
        try:
            return super()._decomposed(op, reference, args, named)
        finally:
            self.in_kernel, self._rounds_inside = self.in_kernel - 1, before

    def constant(self, x: Tensor, dtype: torch.dtype, drawn_up: bool) -> Tensor:
        """Return what the reference makes of no tensor, in a dtype; if `drawn_up` of numbers, rounded to that."""
        if not drawn_up or self._radius(x) is not None or x.requires_grad:
            return self.cast(x, dtype)
        with torch._C._DisableTorchDispatch():
            y = x.to(dtype).to(F64)
        self.keep(y, None)
        self.tag(y, dtype)
        return y

    def written(self, made: Tensor, into: Tensor) -> Tensor:
        """Return what is written into a tensor, in its dtype."""
        own = self.dtype_of(into)
        return made if own == self.dtype_of(made) or not inexact(into) else self.stored(made, own)

    def bits_of(self, x: Tensor) -> int:
        """Return the precision that a tensor has before it is stored: of what nobody tagged, that of float64."""
        known = x in self._tags or x.dtype != F64
        return precision((self.declared.kept or self.dtype_of(x)) if known else F64)

    def has_been_rounded(self, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether a cast has left none but numbers of a dtype."""
        to, version = self._rounded.get(x, (None, 0))
        return to is not None and widens(to, dtype) and version == x._version

    def stored(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of x as it is stored in a dtype, rounded if that is narrower than what it is kept in."""
        with torch._C._DisableTorchDispatch():
            y, radius = x.to(at(F64, x), copy=True), self._radius(x)
            if precision(dtype) < self.bits_of(x):
                self._take_as_rounded(y, dtype)
                radius = lost_by_storing(y, radius, dtype)
            self.keep(y, self.settled(y, radius))
        self.tag(y, dtype)
        return y
