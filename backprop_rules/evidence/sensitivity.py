"""How far the roundings of a right implementation take a sum of a gradient's elements: by one more reverse pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from backprop_rules.domain import precision
from backprop_rules.evidence.allowance import moves
from backprop_rules.evidence.allowance.declared import Declared
from backprop_rules.evidence.allowance.kept_narrow import ROUNDED_INSIDE, SUMS_NARROW, besides
from backprop_rules.evidence.allowance.mode import FORMULAS
from backprop_rules.evidence.allowance.operation import Operand, as_computed, plus
from backprop_rules.evidence.allowance.precision import DeclaredOperation, Precision
from backprop_rules.evidence.allowance.units import NARROW, computed_in, half_an_ulp, stored_by, unit
from backprop_rules.evidence.at_size import Run
from backprop_rules.subject.ambient import F64, at, inexact
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.places import somebodys_frames

aten = torch.ops.aten

# Sums of products, whose operands may be rounded to the dtype in which products are taken, and other sums.
PRODUCTS = {aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward}
MATRICES = {aten.mm, aten.bmm, aten.addmm}
SUMS = {*PRODUCTS, aten.sum, aten.mean, aten.cumsum}

# A line of somebody's code: the file and its number.
Line = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the run: what it made of what, and the dtype in which the reference stores it."""

    func: Any
    args: tuple[Any, ...]
    named: dict[str, Any]
    result: Any
    own: torch.dtype
    line: Line | None
    shapes: tuple[Any, ...]  # of the parts of the result, which torch may give another one in place later


@dataclass(frozen=True)
class Reach:
    """How far roundings take a sum: at worst, those that have a direction; and the squares of those that have none."""

    worst: float = 0.0
    squares: float = 0.0

    def beside(self, other: "Reach") -> "Reach":
        """Return how far both take it."""
        return Reach(self.worst + other.worst, self.squares + other.squares)


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

    def weight(self, factor: float) -> float:
        return factor**2

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


class _Recorded(Declared):
    """While it is entered, keep every operation, so that autograd can be asked for the sensitivity to its result."""

    def __init__(self, declared: Precision, either: bool) -> None:
        super().__init__(declared)
        self.steps: list[Step] = []
        self.choices: dict[int, tuple[Any, ...]] = {}  # by step: what a choice changes that may come out either way
        self._either = either
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
        self._operation(func, result, args)
        own = self.dtype_of(next(y for y in tree_leaves(result) if isinstance(y, Tensor)))
        shapes = tuple(getattr(y, "shape", None) for y in _parts(result))
        step = Step(func, args, named, result, own, self._line(), shapes)
        self.steps.append(step)
        return self._with_choices(step) if self._either else None

    def _with_choices(self, step: Step) -> Any:
        """Return the radius of a step's result, and remember by how much choices make it larger."""
        what = step.func, _detached(step.result), _detached(step.args), step.named
        with torch.no_grad():
            whole = super()._radius_of(*what)
            if self.ambiguous:
                self.decided = True
                decided = super()._radius_of(*what)
                self.decided = False
                pairs = zip(_parts(whole), _parts(decided), strict=True)
                self.choices[id(step)] = tuple(a if a is None or b is None else (a - b).clamp_min(0) for a, b in pairs)
        return whole

    def _radius(self, x: Any) -> Tensor | None:
        if self.decided and isinstance(x, Tensor) and x.dtype == torch.bool:
            return None
        return super()._radius(x)

    def _write(self, func: Any, args: Any, named: Any) -> Any:
        before = (args[0].detach().clone(), *args[1:])
        func(*args, **named)
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        packet = getattr(aten, name, None)
        if packet is None or func._overloadname not in packet.overloads():
            raise NotImplementedError(f"no sensitivity to the rounding of {func}, which writes into a tensor in use")
        self._radius_of(getattr(packet, func._overloadname), args[0], before, named)
        return args[0]

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x after a cast: of a constant, too, autograd is asked for the sensitivity to it."""
        constant = torch.is_grad_enabled() and not x.requires_grad
        return super().cast(x.detach().requires_grad_() if constant else x, dtype)

    def stored(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x, of which it is remembered that it is stored in this dtype."""
        y = x.to(at(F64, x), copy=True)
        if precision(dtype) < self.bits_of(x):
            self.casts.append((y, dtype))
        self.tag(y, dtype)
        return y


class Alike:
    """The numbers of one tensor that round alike: those with equal digits, whatever their sign and exponent."""

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        mantissa, _ = torch.frexp(x)
        self._pushed = half_an_ulp(x, dtype) * mantissa.sign()
        found, self._which = torch.unique(mantissa.abs().reshape(-1), return_inverse=True)
        self._count = found.numel()
        self._known = stored_by(x, dtype)

    def bias(self, sensitivity: Tensor) -> float:
        """Return |sum(s (rounded x - x))|: numbers that lie close together, or below the smallest, round one way."""
        return abs(float((sensitivity * self._known).sum()))

    def squares(self, sensitivity: Tensor) -> float:
        """Return sum((s half an ulp)^2), the sensitivities of those that round alike added before."""
        pushed = (sensitivity * self._pushed).reshape(-1)
        sums = torch.zeros(self._count, dtype=pushed.dtype, device=pushed.device)
        return float(sums.index_add_(0, self._which, pushed).square().sum())


class Sensitivities:
    """The operations of a run, forward and backward, and how far their roundings take a sum of a gradient's elements.

    Raises NotImplementedError where torch has no second derivative, or an operation has no formula.
    """

    def __init__(self, run: Run, declared: Precision, either: bool = False) -> None:
        self._declared, mode = declared, _Recorded(declared, either)
        self._errors: dict[int, tuple[Tensor | None, ...]] = {}
        self._together_off: dict[tuple[int, ...], Tensor | None] = {}
        self._alike: dict[tuple[int, torch.dtype], Alike] = {}
        self._stored: dict[int, Tensor] = {}
        self._rounded: dict[tuple[int, int], bool] = {}
        try:
            _, self._gradients = run(mode, True)
        except NoPoint as error:
            raise NotImplementedError(str(error)) from error
        self._casts = [(y, dtype) for y, dtype in mode.casts if y.requires_grad]
        self._choices = mode.choices
        self._steps = [s for s in mode.steps if s.func.overloadpacket not in moves.FORMULAS or id(s) in mode.choices]
        made = ((step, k, y) for step in self._steps for k, y in enumerate(_parts(step.result)))
        self._made = [(step, k, y) for step, k, y in made if isinstance(y, Tensor) and y.requires_grad]

    def lines(self, leaf: int, index: tuple[int, ...]) -> dict[Line, float]:
        """Return by how much the roundings of each line of the reference may move one element of a gradient."""
        gradient = self._gradients[leaf]
        if gradient is None or not gradient.requires_grad:
            return {}
        asked = [y for _, _, y in self._made]
        found = torch.autograd.grad(gradient[index], asked, retain_graph=True, allow_unused=True)
        moved: dict[Line, float] = {}
        for (step, k, y), g in zip(self._made, found, strict=True):
            if g is None or step.line is None:
                continue
            error = self._error(step)[k]
            most = torch.zeros_like(g) if error is None else error
            if self._declared.kept is None and step.own in NARROW:
                most = most + half_an_ulp(y.detach(), step.own)
            moved[step.line] = moved.get(step.line, 0.0) + float((g.abs() * most).sum())
        for step, through, x in self._operands(_by_step(self._made, found)):
            if step.line is not None and self._declared.operands is not None:
                lost = half_an_ulp(x.detach(), self._declared.operands)
                moved[step.line] = moved.get(step.line, 0.0) + float((through.abs() * lost).sum())
        return moved

    def reach(self, leaf: int, coefficients: Tensor, truth: Tensor, got: Tensor) -> Reach:
        """Return how far roundings take <coefficients, gradient>, the last of them that of `got` if that is larger."""
        its, size, most = got.dtype, got.to(truth).abs(), truth.abs()
        size = (size - most).clamp_min(0) if its in NARROW else torch.maximum(size, most)  # u |got| <= u |truth| + this
        found = Reach(float((coefficients.abs() * size).nan_to_num(0.0, 0.0).sum()) * unit(its).u)
        if its in NARROW:
            found = found.beside(self._together(truth, got.dtype, coefficients))
        gradient = self._gradients[leaf]
        if gradient is None or not gradient.requires_grad:
            return found
        asked = [y for _, _, y in self._made] + [y for y, _ in self._casts]
        pushed = torch.autograd.grad(gradient, asked, coefficients, retain_graph=True, allow_unused=True)
        by_step = _by_step(self._made, pushed)
        found = found.beside(Reach(self._worst(pushed)))
        for (step, k, y), g in zip(self._made, pushed, strict=False):
            stored = self._declared.kept is None and step.own in NARROW
            if g is not None and stored and self._error(step)[k] is not None:
                found = found.beside(self._together(y, step.own, g))
        for (y, narrow), g in zip(self._casts, pushed[len(self._made) :], strict=True):
            found = found if g is None else found.beside(self._together(y, narrow, g))
        return found.beside(self._of_operands(by_step))

    def _together(self, x: Tensor, dtype: torch.dtype, sensitivity: Tensor) -> Reach:
        """Return what rounding numbers to a narrow dtype does."""
        key = id(x), dtype
        if key not in self._alike:
            self._alike[key] = Alike(x.detach(), dtype)
        return Reach(self._alike[key].bias(sensitivity), self._alike[key].squares(sensitivity))

    def _worst(self, pushed: Sequence[Tensor | None]) -> float:
        """Return sum(|g| error) over the results of all operations: of those with one g, the sums of a sum, at once."""
        alike: dict[Any, list[int]] = {}
        for k, g in enumerate(pushed[: len(self._made)]):
            if g is not None:
                alike.setdefault((g.data_ptr(), g.shape, g.stride()), []).append(k)
        sums = []
        for those in alike.values():
            g, error = pushed[those[0]], self._error_together(tuple(those))
            if g is not None and error is not None:
                sums.append(torch.linalg.vector_norm(g * error, 1).cpu())
        return float(torch.stack(sums).sum()) if sums else 0.0

    def _error_together(self, made: tuple[int, ...]) -> Tensor | None:
        """Return the sum of what the results of these operations are off by."""
        if made not in self._together_off:
            total: Tensor | None = None  # one after another: of a loop they are as many as its steps
            for step, k, _ in map(self._made.__getitem__, made):
                total = plus(total, self._error(step, keep=len(made) == 1)[k])
            self._together_off[made] = total
        return self._together_off[made]

    def _error(self, step: Step, keep: bool = True) -> tuple[Tensor | None, ...]:
        """Return how far a step is off, which is remembered but where it is one of many that are asked together."""
        if id(step) in self._errors:
            return self._errors[id(step)]
        args, result = _detached((step.args, step.result))
        pairs = zip(_parts(result), step.shapes, strict=True)
        parts = tuple(y if y is None else y.reshape(shape) for y, shape in pairs)
        result = parts if isinstance(result, tuple | list) else parts[0]
        errors = _parts(self._error_of(step, args, result))
        choices = self._choices.get(id(step), (None,) * len(errors))
        narrow = self._declared.kept is None and step.own in NARROW
        more = besides(step.func, args, result, step.own) if narrow else (None,) * len(parts)
        totals = [plus(*all_three) for all_three in zip(errors, choices, more, strict=True)]
        now = zip(totals, _parts(step.result), strict=True)
        found = tuple(t.reshape(y.shape) if isinstance(t, Tensor) and t.ndim else t for t, y in now)
        if keep or len(found) > 1 or self._declared.kept is None:
            self._errors[id(step)] = found
        return found

    def _error_of(self, step: Step, args: tuple[Any, ...], result: Any) -> Any:
        """Return how far an operation's own rounding takes its result, in the dtype in which it is computed."""
        packet = step.func.overloadpacket
        kept = self._declared.kept or (step.own if packet in ROUNDED_INSIDE else computed_in(step.own))
        if packet in moves.FORMULAS:
            return (None,) * len(_parts(result))
        if packet in SUMS:
            own = replace(self._declared, kept=kept)
            op = _Summing(step.func, result, _nothing, 1, False, as_computed, own, kept, Declared(own))
            return FORMULAS[packet](op, *args, **step.named)
        if packet in SUMS_NARROW and self._declared.kept is None and step.own in NARROW:
            raise NotImplementedError(f"{step.func} keeps its sums in {step.own}")
        mode = _InOrder(replace(self._declared, kept=kept, operands=None))
        return mode._radius_of(step.func, result, args, step.named)

    def _of_operands(self, by_step: dict[int, list[Tensor | None]]) -> Reach:
        """Return what the rounding of the operands of products does, each of which is rounded once."""
        narrow = self._declared.operands
        if narrow is None:
            return Reach()
        together: dict[int, tuple[Tensor, Tensor]] = {}
        for _, through, x in self._operands(by_step):
            whole = self._flat(x)
            _, sums = together.setdefault(id(whole), (whole, torch.zeros_like(whole)))
            sums.as_strided(x.shape, x.stride(), x.storage_offset()).add_(through)
        each = (self._together(values, narrow, sums) for values, sums in together.values())
        return reduce(Reach.beside, each, Reach())

    def _flat(self, x: Tensor) -> Tensor:
        """Return all that is stored where an operand lies."""
        storage = x.untyped_storage()
        if id(storage) not in self._stored:
            whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(storage)
            self._stored[id(storage)] = whole
        return self._stored[id(storage)]

    def _operands(self, by_step: dict[int, list[Tensor | None]]) -> Iterator[tuple[Step, Tensor, Tensor]]:
        """Yield the operands of products that are rounded, and the sensitivity to each through its product."""
        narrow = self._declared.operands
        for step in self._steps:
            gradients = by_step.get(id(step), [])
            if step.func.overloadpacket not in PRODUCTS or not any(g is not None for g in gradients):
                continue
            for k, x in enumerate(step.args):
                if narrow is not None and inexact(x) and x.ndim and self._is_rounded(step, k, x, narrow):
                    yield step, _through_an_operand(step, k, gradients), x

    def _is_rounded(self, step: Step, k: int, x: Tensor, narrow: torch.dtype) -> bool:
        key = id(step), k
        if key not in self._rounded:
            self._rounded[key] = not bool((x.to(narrow).to(x.dtype) == x).all())
        return self._rounded[key]


def _by_step(made: Sequence[tuple[Step, int, Tensor]], found: Sequence[Any]) -> dict[int, list[Tensor | None]]:
    by_step: dict[int, list[Tensor | None]] = {}
    for (step, k, _), g in zip(made, found, strict=False):
        by_step.setdefault(id(step), [None] * len(_parts(step.result)))[k] = g
    return by_step


def _through_an_operand(step: Step, k: int, gradients: list[Tensor | None]) -> Tensor:
    """Return the sensitivity to an operand, as far as it goes through this operation."""
    packet, g = step.func.overloadpacket, gradients[0]
    if packet in MATRICES and g is not None and not step.named and k >= len(step.args) - 2:
        *_, a, b = step.args
        through: Tensor = g @ b.detach().mT if k == len(step.args) - 2 else a.detach().mT @ g
        return through
    args = list(_detached(step.args))
    with torch.enable_grad():
        args[k].requires_grad_()
        made = [(y, g) for y, g in zip(_parts(step.func(*args, **step.named)), gradients, strict=True) if g is not None]
        outs, along = zip(*made, strict=True)
        found = torch.autograd.grad(outs, [args[k]], along, allow_unused=True)[0]
    return torch.zeros_like(args[k]) if found is None else found


def _parts(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _detached(x: Any) -> Any:
    return tree_map_only(Tensor, Tensor.detach, x)


def _nothing(_: Any) -> None:
    """Of numbers that are exact."""
