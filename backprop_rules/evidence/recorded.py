"""The operations of a run, forward and backward, as they go by: how far each is off, and where autograd meets it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._python_dispatch import _disable_current_modes

from backprop_rules.domain import precision
from backprop_rules.errors import OwnError, of_ours
from backprop_rules.evidence.allowance import moves
from backprop_rules.evidence.allowance.behind import NORMS, Behind, behind, behind_operands
from backprop_rules.evidence.allowance.by_storage import ByStorage
from backprop_rules.evidence.allowance.declared import Declared, parts_of
from backprop_rules.evidence.allowance.kept_narrow import ROUNDED_INSIDE, SUMS_NARROW, besides
from backprop_rules.evidence.allowance.mode import FORMULAS
from backprop_rules.evidence.allowance.operation import as_computed, plus
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.remade import make
from backprop_rules.evidence.allowance.schemas import out_of_place
from backprop_rules.evidence.allowance.units import NARROW, component, computed_in, unit
from backprop_rules.evidence.in_order import InOrder, Summing, nothing_of
from backprop_rules.evidence.rounded_up import above, added
from backprop_rules.subject.ambient import F64, at, inexact, tensors_in
from backprop_rules.subject.attention import Lost
from backprop_rules.subject.places import somebodys_frames

aten = torch.ops.aten

# Sums of products, whose operands may be rounded to the dtype in which products are taken, and other sums.
PRODUCTS = {aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
SUMS = {*PRODUCTS, aten.sum, aten.mean, aten.cumsum, aten._fft_r2c, aten._fft_c2c, aten._fft_c2r}

# A line of somebody's code: the file and its number.
Line = tuple[str, int]


class OutOfSight(NotImplementedError):
    """What is written where autograd does not look: nothing can be said of what it rounds."""


@dataclass(frozen=True, eq=False)
class Product:
    """A sum of products: its function and arguments, and of these the places of the operands that are rounded."""

    func: Any
    args: tuple[Any, ...]
    named: dict[str, Any]
    rounded: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """What rounds where a result is stored: its numbers, all or those at some places of it in order, and the dtype."""

    values: Tensor
    dtype: torch.dtype
    places: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """Return the same places of a tensor."""
        return x if self.places is None else x.reshape(-1)[self.places]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the run, of whose results a gradient may depend.

    By result: `edges` is where autograd meets it, None where it does not, and a leaf itself while the run goes on;
    `errors` how far it is off by what the operation itself rounds, in float32 and rounded up, None of what is exact;
    `stored` what the reference stores of the result, where that rounds. `refused` says why there is
    no formula. `adds` says that the sensitivity to the result is that to each operand, too; `behind` how far the
    backward error of what is solved takes a sum, by the sensitivities to the results.
    """

    edges: tuple[Any, ...]
    errors: tuple[Tensor | None, ...]
    stored: tuple[Stored | None, ...]
    product: Product | None = None
    line: Line | None = None
    refused: str = ""
    adds: bool = False
    behind: Behind | None = None

    @property
    def rounds(self) -> bool:
        """Whether there is anything to meet here."""
        off = (*self.errors, *self.stored, self.product, self.behind)
        return bool(self.refused) or any(x is not None for x in off)


@dataclass(frozen=True, eq=False)
class _Last:
    """The last operation, before autograd knows its results: what it made of what, and what choices change of it."""

    func: Any
    args: tuple[Any, ...]
    named: dict[str, Any]
    result: Any
    own: torch.dtype
    line: Line | None
    choices: tuple[Any, ...] | None
    engine: bool  # whether it is of a reverse pass


class Recorded(Declared):
    """While it is entered, keep every operation, so that autograd can be asked for the sensitivity to its result.

    `either` says whether choices count that may come out either way, `together` that sums of gradients are taken
    together, and `constants` that what is made of constants alone counts, too: autograd is made to meet it, and lets
    nobody write into it.
    """

    quick = False

    def __init__(self, declared: Precision, either: bool, together: bool = True, constants: bool = True) -> None:
        super().__init__(declared)
        self.steps, self.again = list[Step](), True
        self.taken: list[tuple[Any, tuple[Any, int]]] = []  # the sum, and the term
        self._together, self._constants = together, constants
        self._sums: dict[tuple[Any, int], int] = {}
        self._hidden = ByStorage()  # by storage: how what is made of nothing was made
        self._last: _Last | None = None
        self._either = either
        self._in_order: dict[torch.dtype, InOrder] = {}
        self._not_met = ByStorage()  # how far results are off that autograd hides
        self._casts: list[tuple[Tensor, torch.dtype]] = []  # of which autograd knows nothing yet
        self._lines: dict[int, Line | None] = {}  # by the number of a node of autograd's graph

    def _line(self) -> Line | None:
        """Return the line of somebody's code that this operation is of: in a reverse pass, of the forward's."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return self._lines.get(node._sequence_nr())
        frame = next(somebodys_frames(), None)
        line = None if frame is None else (frame.f_code.co_filename, frame.f_lineno)
        self._lines[torch.autograd._get_sequence_nr() - 1] = line
        return line

    def _radius_of(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        if self.in_kernel or self._in_a_block:
            return super()._radius_of(func, result, args, named)
        self.settle()
        self._operation(func, result, args)
        own = self.dtype_of(next(tensors_in(result)))
        radius, choices = self._with_choices(func, result, args, named) if self._either else (None, None)
        if func.overloadpacket not in moves.FORMULAS or any(c is not None and c.any() for c in choices or ()):
            self._meet_constants(result, args, named)
        engine = torch._C._current_graph_task_id() >= 0
        self._last = _Last(func, args, named, result, own, self._line(), choices, engine)
        return radius

    def _meet_constants(self, result: Any, args: Any, named: Any) -> None:
        """Let autograd meet what was made of nothing that it knows."""
        if self._constants and torch.is_grad_enabled() and not any(x.requires_grad for x in tensors_in((args, named))):
            for y in filter(inexact, parts_of(result)):
                if y.is_leaf and y.dtype == at(F64, y):  # a narrower one is what it is
                    y.requires_grad_()

    def _with_choices(self, *what: Any) -> tuple[Any, tuple[Any, ...] | None]:
        """Return the radius of a result, and by how much choices make it larger that may come out either way."""
        what, before, self.ambiguous = _detached(what), self.ambiguous, False
        with torch.no_grad():
            whole, chooses = super()._radius_of(*what), self.ambiguous
            self.ambiguous = chooses or before
            if not chooses and all(inexact(x) or self._radius(x) is None for x in tensors_in(what)):
                return whole, None
            self.decided = True
            decided = super()._radius_of(*what)
            self.decided = False
        pairs = zip(parts_of(whole), parts_of(decided), strict=True)
        return whole, tuple(a if a is None or b is None else (a - b).clamp_min(0) for a, b in pairs)

    def of_either(self, chosen: Tensor, other: Tensor, *operands: Any) -> Tensor:
        """Return the radius, more than the chosen operand's by all that the choice changes.

        An operand may change by a choice of its own where this one comes out otherwise: so does the share of a gradient
        that a clamped number has.
        """
        parts = [part.size.abs() for x in operands if (part := self.joint.of(x)) is not None]
        return sum(parts, start=chosen + other)

    def settle(self) -> None:
        """Find out how far the last operation is off, now that autograd knows its results, before one is written to."""
        last, self._last = self._last, None
        casts, self._casts = [cast for cast in self._casts if cast[0].requires_grad], []
        self.steps += [Step((get_gradient_edge(y),), (None,), (Stored(y.detach(), dtype),)) for y, dtype in casts]
        if last is None or (last.func.overloadpacket in moves.FORMULAS and last.choices is None):
            return
        live = (y if isinstance(y, Tensor) and y.requires_grad else None for y in parts_of(last.result))
        edges = tuple(y if y is None or y.is_leaf else get_gradient_edge(y) for y in live)
        if isinstance(last.result, Tensor) and not any(True for _ in tensors_in((last.args, last.named))):
            self._hidden[last.result] = last
        elif any(edge is not None for edge in edges):
            self._keep(last, edges)

    def _keep(self, last: _Last, edges: tuple[Any, ...]) -> None:
        try:
            with torch.no_grad(), _disable_current_modes():  # it may be settled between two operations, too
                step = self._step(last, edges)
                self.steps.append(step)
                if step.adds and last.engine and self._together:
                    self._take_over(step)
        except Exception as error:
            raise OwnError(of_ours(error)) from error

    def finished(self) -> list[Step]:
        """Return the steps of a run that has ended, and where autograd meets what was made of constants."""
        self.settle()
        ends = ((get_gradient_edge(e) if isinstance(e, Tensor) else e for e in step.edges) for step in self.steps)
        return [replace(step, edges=tuple(those)) for step, those in zip(self.steps, ends, strict=True)]

    def _take_over(self, step: Step) -> None:
        """Add to a sum of gradients what the sum of all terms but the last is off by: of a loop they are many.

        Whether nothing else uses one, as is most likely, is seen in the end: `taken`.
        """
        n, (edge,) = len(self.steps) - 1, step.edges
        if not isinstance(edge, GradientEdge):
            return
        for source in edge.node.next_functions:
            m = self._sums.pop(source, n)
            if m != n and self.steps[m].line == step.line:
                self.steps[n] = replace(step, errors=(added(*self.steps[n].errors, *self.steps[m].errors),))
                self.steps[m] = replace(self.steps[m], errors=(None,))
                self.taken.append((edge.node, source))
        self._sums[edge.node, edge.output_nr] = n

    def _step(self, last: _Last, edges: tuple[Any, ...]) -> Step:
        args, result = _detached((last.args, last.result))
        adds = last.func == aten.add.Tensor and not last.named and all(
            isinstance(x, Tensor) and (x.shape, x.dtype) == (result.shape, result.dtype) for x in args
        )  # fmt: skip
        unchanged = self.slices.adds_nothing(self._radius, *args) if adds else None
        if unchanged is not None and bool(unchanged.all()):  # a gradient is put beside others, as it is stored
            return Step(edges, (None,), (None,), line=last.line, adds=adds)
        packet, narrow = last.func.overloadpacket, self.eager and last.own in NARROW
        results, refused = parts_of(result), ""
        errors: tuple[Any, ...] = (None,) * len(results)
        try:
            found = parts_of(self._error_of(last, args, result))
            more = [*besides(last.func, args, result, last.own)] if narrow else [*errors]
            numbers = self.of_numbers(last.func, args, last.named, result, last.own, every=True) if narrow else None
            more[0] = plus(more[0], numbers)
            errors = tuple(plus(*those) for those in zip(found, last.choices or errors, more, strict=True))
        except NotImplementedError as error:
            refused = str(error)
        places = None
        if unchanged is not None:
            places = torch.nonzero(~unchanged.reshape(-1)).reshape(-1)
            errors = tuple(None if off is None else torch.where(unchanged, 0.0, off) for off in errors)
        stored = tuple(
            self._stored(y, last.own, places) if narrow and off is not None else None
            for y, off in zip(results, errors, strict=True)
        )
        product = self._product(last, args) if packet in PRODUCTS else None
        for y, edge, off in zip(results, edges, errors, strict=True):
            if edge is None and off is not None and inexact(y):  # a mean that is saved is an operand later on
                self._not_met[y] = off
        operands = ((k, self._not_met.get(x)) for k, x in enumerate(args) if isinstance(x, Tensor))
        hidden = {k: off for k, off in operands if off is not None and off.shape == args[k].shape}
        used = unit(component(self.declared.kept or computed_in(last.own))).u
        back = behind(last.func, args, last.named, result, used)
        back = behind_operands(last.func, args, last.named, hidden) if hidden and packet in NORMS else back
        return Step(edges, tuple(map(above, errors)), stored, product, last.line, refused, adds, back)

    @staticmethod
    def _stored(y: Tensor, dtype: torch.dtype, places: Tensor | None) -> Stored:
        return Stored(y if places is None else y.reshape(-1)[places], dtype, places)

    def _product(self, last: _Last, args: tuple[Any, ...]) -> Product | None:
        narrow = self.declared.operands
        if narrow is None:
            return None
        real = [(k, x) for k, x in enumerate(args) if inexact(x) and x.ndim and not x.is_complex()]
        rounded = tuple(
            k for k, x in real if not self.has_been_rounded(x, narrow) and not torch.equal(x.to(narrow).to(x), x)
        )
        return Product(last.func, args, last.named, rounded) if rounded else None

    def _error_of(self, last: _Last, args: tuple[Any, ...], result: Any) -> Any:
        """Return how far an operation's own rounding takes its result, in the dtype in which it is computed."""
        packet = last.func.overloadpacket
        kept = self.declared.kept or (last.own if packet in ROUNDED_INSIDE else computed_in(last.own))
        if packet in moves.FORMULAS:
            return (None,) * len(parts_of(result))
        if packet in SUMS:
            own, mode = replace(self.declared, kept=kept), self._alone(kept)
            op = Summing(last.func, result, nothing_of, 1, False, as_computed, self.choices, own, kept, mode)
            return mode.settled(result, FORMULAS[packet](op, *args, **last.named))
        if packet in SUMS_NARROW and self.eager and last.own in NARROW:
            raise NotImplementedError(f"{last.func} keeps its sums in {last.own}")
        return self._alone(kept)._radius_of(last.func, result, args, last.named)

    def _alone(self, kept: torch.dtype) -> InOrder:
        """Return the mode in which an operation is followed by itself, that keeps its intermediates so."""
        if kept not in self._in_order:
            self._in_order[kept] = InOrder(replace(self.declared, kept=kept, operands=None))
        return self._in_order[kept]

    def _radius(self, x: Any) -> Tensor | None:
        if self.decided and isinstance(x, Tensor) and not inexact(x):  # of masks and whole numbers choices make it
            return None
        return super()._radius(x)

    def _write(self, func: Any, args: Any, named: Any) -> Any:
        if self._constants and not torch.is_grad_enabled() and self._radius(args[0]) is not None:
            raise OutOfSight(f"no sensitivity to what {func} writes where autograd does not look")
        self.settle()
        self._leave_as_it_is(args[0].untyped_storage())
        before = (args[0].detach().clone(), *args[1:])
        self.keep(before[0], self._radius(args[0]))
        make(self.choices, aten.clone.default, args[:1], {}, before[0])
        func(*args, **named)
        compute = out_of_place(func)
        if compute is None:
            raise NotImplementedError(f"no sensitivity to the rounding of {func}, which writes into a tensor in use")
        constants, self._constants = self._constants, False  # what is written to must not be a leaf
        own = self.dtype_of(args[0])
        self.choices.forget(args[0])
        make(self.choices, compute, before, named, args[0])
        self.keep_written(args[0], self._radius_of(compute, args[0], before, named))
        # It is computed in the dtype of an operand, and stored in its own.
        if inexact(args[0]) and precision(own) < self.bits_of(args[0]):
            self._casts.append((args[0], own))
        self.tag(args[0], own)
        self._constants = constants
        return args[0]

    def _leave_as_it_is(self, storage: Any) -> None:
        """Keep a copy of what was stored in memory that is written to now."""
        for n, step in enumerate(self.steps):
            if any(kept is not None and kept.values.untyped_storage() is storage for kept in step.stored):
                copies = (None if kept is None else replace(kept, values=kept.values.clone()) for kept in step.stored)
                self.steps[n] = replace(step, stored=tuple(copies))

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x after a cast: of a constant, too, autograd is asked for the sensitivity to it."""
        constant = torch.is_grad_enabled() and not x.requires_grad
        return super().cast(x.detach().requires_grad_() if constant else x, dtype)

    def lost_of_product(
        self, y: Tensor, shares: Tensor | None, again: Callable[[Tensor], Tensor] | None, dtype: torch.dtype
    ) -> Lost | None:
        """Return what storing a product loses: autograd knows of its shares what else is off."""
        off = self.lost(y, dtype)
        return None if off is None else Lost(off)

    def cut_off(self, x: Tensor) -> Tensor:
        """Return a tensor that autograd does not look behind, and meets anew: off by all that it may be off."""
        radius = self._radius(x)
        if radius is not None and self._constants and x.is_leaf and not x.requires_grad:
            self._meet_anew(x, radius)
        return x

    def _meet_anew(self, x: Tensor, radius: Tensor) -> None:
        self.settle()
        with torch.no_grad(), _disable_current_modes():
            self.steps.append(Step((x.requires_grad_(),), (above(radius),), (None,)))

    def chosen(self, a: Tensor, b: Tensor, share: Tensor, like: Tensor) -> Tensor:
        """Return a share that may be another, where choices count, and which autograd meets."""
        share = super().chosen(a, b, share, like)
        radius = self._radius(share)
        if radius is not None and self._either and torch.is_grad_enabled():
            self._meet_anew(share, radius)
        return share

    def constant(self, x: Tensor, dtype: torch.dtype, drawn_up: bool) -> Tensor:
        """Return what the reference makes of no tensor, which torch's functions themselves hide from autograd."""
        self.settle()
        made = self._hidden.pop(x, None)
        if made is not None and self._constants and torch.is_grad_enabled():
            self._keep(made, (x.requires_grad_(),))
        return super().constant(x, dtype, drawn_up)

    def stored(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x, of which it is remembered that it is stored in this dtype; off by that, where choices count."""
        if self._either:
            y = super().stored(x, dtype)
        else:
            y = x.to(at(F64, x), copy=True)
            self.tag(y, dtype)
        if precision(dtype) < self.bits_of(x):
            self._casts.append((y, dtype))
            self._rounded[y] = dtype, y._version
        return y


def _detached(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach()
    return type(x)(map(_detached, x)) if isinstance(x, tuple | list) else x
