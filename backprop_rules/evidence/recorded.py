"""The operations of a run as they are recorded: how far each is off by itself, and where to ask for its sensitivity."""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_leaves, tree_map_only

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance import moves
from backprop_rules.evidence.allowance.declared import KEPT_NARROW, SUMS_NARROW, Declared
from backprop_rules.evidence.allowance.mode import FORMULAS
from backprop_rules.evidence.allowance.operation import Operand, as_computed, plus
from backprop_rules.evidence.allowance.precision import DeclaredOperation, Precision
from backprop_rules.evidence.allowance.units import NARROW, computed_in
from backprop_rules.subject.ambient import tensors_in
from backprop_rules.subject.places import somebodys_frames

aten = torch.ops.aten

# Sums of products, whose operands may be rounded to the dtype in which products are taken, and other sums.
PRODUCTS = {aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
MATRICES = {aten.mm, aten.bmm, aten.addmm}
SUMS = {*PRODUCTS, aten.sum, aten.mean, aten.cumsum}

# A node of autograd's graph, and which of its results.
Place = tuple[int, int]
# A line of somebody's code: the file and its number.
Line = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the run: what it made of what, and the dtype in which the reference stores it.

    `choices` is by how much choices that may come out either way make the radii of its results larger.
    """

    func: Any
    args: tuple[Any, ...]
    named: dict[str, Any]
    result: Any
    own: torch.dtype
    line: Line | None
    choices: tuple[Any, ...] = ()


@dataclass(eq=False)
class Made:
    """One result of a step, as it is remembered: its place in autograd's graph, and how far the step itself is off.

    The value is kept where storing it rounds in no direction; `why` says why it is not known how far it is off.
    `uses` counts the operations that took it for an operand, and `joined` says that its error is a sum's.
    """

    step: Step
    part: int
    edge: GradientEdge
    error: Tensor | None
    value: Tensor | None
    why: NotImplementedError | None
    uses: int = 0
    joined: bool = False


class _Summing(DeclaredOperation):
    """A sum in an order that does not depend on its terms: their partial sums are no larger than that makes them.

    Of n terms a_k with the sum S, in random order, the mean of the squared partial sums is S^2 / 3 + sum(a_k^2) / 6 in
    the limit, by the variance of sampling without replacement. Here an operand's size is its square.
    """

    def operand(self, x: Any, dtype: torch.dtype | None = None, flushed: bool = False) -> Operand:
        found = super().operand(x, dtype, flushed)
        return Operand(found.size**2, None)

    def factor(self, x: Tensor) -> Operand:
        return self.operand(x)

    def summed(
        self, varies: Any, size: Tensor, length: int, underflows: float = 0, narrow: bool = False, divisor: float = 1
    ) -> Tensor:
        """Return how far the sum is off where every addition rounds, or cuts off, in the same direction."""
        terms = size / divisor * (length + 1) / max(1, length)
        partial = (self.size.square() / 3 + terms / 6).sqrt()
        return length * self.unit.u * partial + length * self.unit.tiny


class _InOrder(Declared):
    """While it is entered, sums on the way are taken in an order that does not depend on their terms."""

    def _by_formula(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        if func.overloadpacket != aten.sum:
            return super()._by_formula(func, result, args, named)
        kept = self.declared.kept or self.dtype_of(result)
        op = _Summing(func, result, _nothing, 1, False, as_computed, self.declared, kept, self)
        terms = self._radius(args[0])
        varies = None if terms is None else func(terms, *args[1:], **named)
        return plus(FORMULAS[aten.sum](op, *args, **named), varies)

    def _special(self, result: Tensor, radius: Tensor, total: float) -> Tensor | None:
        """Return a radius: what is exact in the dtype in which it is computed may still round when it is stored."""
        return super()._special(result, radius, total) if total else radius


class Recorded(Declared):
    """While it is entered, keep every operation, so that autograd can be asked for the sensitivity to its result."""

    def __init__(self, declared: Precision, either: bool, by_line: bool = False) -> None:
        super().__init__(declared)
        self._made: dict[Place, Made] = {}
        self._last: Step | None = None  # of whose results autograd does not know yet
        self._added: list[tuple[weakref.ref[Tensor], Made, Made]] = []  # terms, and the sums that they went into
        self._either, self._by_line = either, by_line
        self.casts: list[tuple[Tensor, torch.dtype]] = []
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
        if self._in_kernel or self._in_a_block:
            return super()._radius_of(func, result, args, named)
        self.settle_last()
        for one in filter(None, map(self._made_of, tensors_in((args, named)))):
            one.uses += 1
        self._operation(func, result, args)
        own = self.dtype_of(next(y for y in tree_leaves(result) if isinstance(y, Tensor)))
        self._last = Step(func, args, named, result, own, self._line())
        return self._with_choices(self._last) if self._either else None

    def _with_choices(self, step: Step) -> Any:
        """Return the radius of a step's result, and remember by how much choices make it larger."""
        what = step.func, detached(step.result), detached(step.args), step.named
        with torch.no_grad():
            whole = super()._radius_of(*what)
            if self.ambiguous:
                self.decided = True
                decided = super()._radius_of(*what)
                self.decided = False
                pairs = zip(parts_of(whole), parts_of(decided), strict=True)
                choices = tuple(a if a is None or b is None else (a - b).clamp_min(0) for a, b in pairs)
                self._last = replace(step, choices=choices)
        return whole

    def results(self) -> list[Made]:
        """Return the results that are asked for: a term whose error is a sum's only where its operands are rounded."""
        self.settle_last()
        return [one for one in self._made.values() if not one.joined or one.step.args]

    def _made_of(self, x: Tensor) -> Made | None:
        return self._made.get((id(x.grad_fn), x.output_nr)) if x.requires_grad else None

    def settle_last(self) -> None:
        """Remember of the last step how far it is off, and no more of its numbers than will be asked for."""
        step, self._last = self._last, None
        if step is None or (step.func.overloadpacket in moves.FORMULAS and not step.choices):
            return
        parts = parts_of(step.result)
        asked = [k for k, y in enumerate(parts) if isinstance(y, Tensor) and y.requires_grad]
        errors, why = self._errors_of(step) if asked else ((), None)
        rounded = self.declared.operands is not None and step.func.overloadpacket in PRODUCTS
        slim = replace(step, args=step.args if rounded else (), result=len(parts), choices=())
        stores = self.declared.kept is None and step.own in NARROW
        for k in asked:
            value, edge = parts[k].detach() if stores else None, get_gradient_edge(parts[k])
            self._made[id(edge.node), edge.output_nr] = Made(slim, k, edge, errors[k], value, why)
        if step.func == aten.add.Tensor and not step.named and asked and not (stores or self._by_line):
            whole = self._made_of(step.result)
            terms = ((x, self._made_of(x)) for x in tensors_in(step.args) if x.shape == step.result.shape)
            self._added += [(weakref.ref(x), one, whole) for x, one in terms if one and whole]
        self._join_terms()

    def _join_terms(self) -> None:
        """Add the errors of terms that are gone, and were used once, to those of their sums: these are as sensitive."""
        waiting, self._added = self._added, []
        for x, term, whole in waiting:
            if x() is not None:
                self._added.append((x, term, whole))
            elif term.uses == 1 and not (term.joined or whole.joined or term.why or whole.why):
                whole.error, term.error, term.joined = plus(whole.error, term.error), None, True

    def _errors_of(self, step: Step) -> tuple[tuple[Tensor | None, ...], NotImplementedError | None]:
        """Return how far the results of a step are off, or why that is not known."""
        count = len(parts_of(step.result))
        try:
            with torch.no_grad():
                errors = parts_of(_error_of(step, self.declared))
        except NotImplementedError as error:
            return (None,) * count, error
        return tuple(map(plus, errors, step.choices or (None,) * count)), None

    def _radius(self, x: Any) -> Tensor | None:
        if self.decided and isinstance(x, Tensor) and x.dtype == torch.bool:
            return None
        return super()._radius(x)

    def _write(self, func: Any, args: Any, named: Any) -> Any:
        self.settle_last()
        before = (args[0].detach().clone(), *args[1:])
        func(*args, **named)
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        packet = getattr(aten, name, None)
        if packet is None or func._overloadname not in packet.overloads():
            raise NotImplementedError(f"no sensitivity to the rounding of {func}, which writes into a tensor in use")
        self._radius_of(getattr(packet, func._overloadname), args[0], before, named)
        return args[0]

    def stored(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x, of which it is remembered that it is stored in this dtype."""
        y = x.clone()
        if precision(dtype) < precision(self.declared.kept or self.dtype_of(x)):
            self.casts.append((y, dtype))
        self.tag(y, dtype)
        return y


def _error_of(step: Step, declared: Precision) -> Any:
    """Return how far an operation's own rounding takes its result, in the dtype in which it is computed."""
    kept = declared.kept or computed_in(step.own)
    packet, args, result = step.func.overloadpacket, detached(step.args), detached(step.result)
    if packet in moves.FORMULAS:
        return (None,) * len(parts_of(result))
    if packet in SUMS:
        own = replace(declared, kept=kept)
        op = _Summing(step.func, result, _nothing, 1, False, as_computed, own, kept, Declared(own))
        return FORMULAS[packet](op, *args, **step.named)
    is_narrow = declared.kept is None and step.own in NARROW
    if packet in SUMS_NARROW and is_narrow:
        raise NotImplementedError(f"{step.func} keeps its sums in {step.own}")
    error = _InOrder(replace(declared, kept=kept, operands=None))._radius_of(step.func, result, args, step.named)
    return plus(error, KEPT_NARROW[packet](args, result, step.own)) if packet in KEPT_NARROW and is_narrow else error


def parts_of(result: Any) -> tuple[Any, ...]:
    """Return the results of an operation that has several, or the one."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def detached(x: Any) -> Any:
    """Return arguments without autograd's graph."""
    return tree_map_only(Tensor, Tensor.detach, x)


def _nothing(_: Any) -> None:
    """Of numbers that are exact."""
