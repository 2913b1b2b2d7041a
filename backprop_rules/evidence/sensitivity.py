"""How far the roundings of a right implementation take a sum of a gradient's elements: by one more reverse pass."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointError

from backprop_rules.evidence.allowance.declared import parts_of
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.units import NARROW, component, half_an_ulp, stored_by, unit
from backprop_rules.evidence.at_size import Question, Run
from backprop_rules.evidence.recorded import Line, OutOfSight, Product, Recorded, Step
from backprop_rules.evidence.rounded_up import added
from backprop_rules.subject.ambient import F32, F64, real
from backprop_rules.subject.function import NoPoint, steps_to

# The nodes that stand for what may not, or cannot, be differentiated again.
ONCE = {"torch::autograd::Error", "torch::autograd::NotImplemented"}
# The sensitivities to the results of an operation, and through it to its operands, as far as autograd made these.
Met = Callable[[Step, Sequence[Any], Sequence[Any]], None]


@dataclass(frozen=True)
class Reach:
    """How far roundings take a sum: at worst, those that have a direction; and the squares of those that have none."""

    worst: float = 0.0
    squares: float = 0.0

    def beside(self, other: "Reach") -> "Reach":
        """Return how far both take it."""
        return Reach(self.worst + other.worst, self.squares + other.squares)

    def within(self, deviations: float) -> float:
        """Return how far they take it, those without a direction by at most so many standard deviations."""
        return self.worst + (deviations * math.sqrt(self.squares) if self.squares else 0.0)


@dataclass(frozen=True)
class Enough:
    """How far a reverse pass is to show that roundings reach: there it ends, as all that is left adds to it.

    With infinitely many deviations all count at their worst, as of coefficients that were chosen by what is off.
    """

    deviations: float
    far: float


@dataclass(frozen=True, eq=False)
class Weighed:
    """Elements of one gradient with their `coefficients` in a sum, 0 of others; what is `got` may be larger."""

    leaf: int
    coefficients: Tensor
    truth: Tensor
    got: Tensor


def known(moved: Tensor | float) -> float:
    """Return by how much something is moved; anywhere by NaN, as that is above and below nothing."""
    by = float(moved)
    return math.inf if math.isnan(by) else by


class _FarEnough(Exception):
    """A reverse pass has shown what was asked for."""


class Alike:
    """The numbers of one tensor that round alike: those with equal digits, whatever their sign and exponent."""

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        x, dtype = real(x), component(dtype)
        mantissa, _ = torch.frexp(x)
        half = torch.where(x.abs() > torch.finfo(dtype).max, 0.0, half_an_ulp(x, dtype))  # as of what it is stored by
        self._pushed = (half * mantissa.sign()).float()  # powers of two, which float32 has
        digits = mantissa.abs().reshape(-1).view(torch.int64)  # of which numbers are sorted in half of the time
        found, which = torch.unique(digits, return_inverse=True)
        self._count = found.numel()
        self._which = which.to(torch.int32) if self._count < which.numel() else None
        self._known = stored_by(x, dtype)

    def bias(self, sensitivity: Tensor) -> float:
        """Return |sum(s (rounded x - x))|: numbers that lie close together, or below the smallest, round one way."""
        return abs(known(_inner(real(sensitivity), self._known)))

    def worst(self, sensitivity: Tensor) -> float:
        """Return sum(|s| half an ulp): all round in the direction of their sensitivities."""
        return known((real(sensitivity) * self._pushed).abs_().sum())

    def squares(self, sensitivity: Tensor) -> float:
        """Return sum((s half an ulp)^2), the sensitivities of those that round alike added before."""
        pushed = (real(sensitivity) * self._pushed).reshape(-1)
        if self._which is not None:
            sums = torch.zeros(self._count, dtype=pushed.dtype, device=pushed.device)
            pushed = sums.index_add_(0, self._which, pushed)
        return known(pushed.square_().sum())


class _Found:
    """What one reverse pass has found so far."""

    def __init__(self, enough: Enough | None) -> None:
        self.reach, self._enough = Reach(), enough
        self.at_worst = enough is not None and math.isinf(enough.deviations)
        # By storage: its numbers, the dtype to which they are rounded, and the sensitivities to these.
        self.operands: dict[int, tuple[Tensor, torch.dtype, Tensor]] = {}

    def add(self, more: Reach) -> None:
        """Add what some roundings do."""
        self.reach = self.reach.beside(more)
        if self._enough is not None and self.reach.within(self._enough.deviations) > self._enough.far:
            raise _FarEnough


class Sensitivities:
    """The operations of a run, forward and backward, and how far their roundings take a sum of a gradient's elements.

    Raises NotImplementedError where torch has no second derivative, or an operation has no formula.
    """

    def __init__(self, run: Run, declared: Precision, either: bool = False) -> None:
        self._declared = declared
        self._steps = self._added_up(self._recorded(run, partial(Recorded, declared, either)))
        self._alike: dict[tuple[int, torch.dtype], Alike] = {}
        self._stored: dict[int, Tensor] = {}

    def lines(self, leaf: int, index: tuple[int, ...]) -> dict[Line, float]:
        """Return by how much the roundings of each line of the reference may move one element of a gradient."""
        gradient, moved = self._gradients[leaf], dict[Line, float]()
        if gradient is None or not gradient.requires_grad:
            return {}

        def met(step: Step, outer: Sequence[Any], inner: Sequence[Any]) -> None:
            if step.line is None:
                return
            most = [(g, error) for g, error in zip(outer, step.errors, strict=True) if error is not None]
            kept = [(g, some) for g, some in zip(outer, step.stored, strict=True) if g is not None and some is not None]
            most += [(some.of(g), half_an_ulp(some.values, some.dtype)) for g, some in kept]
            for x, narrow, through in self._through(step.product, outer, inner):
                most.append((through, half_an_ulp(x, narrow)))
            by_this = sum(float((g.abs() * lost).sum()) for g, lost in most if g is not None)
            by_this += float(step.behind(outer)) if step.behind is not None else 0.0
            moved[step.line] = moved.get(step.line, 0.0) + by_this

        one = torch.zeros_like(gradient)
        one[index] = 1.0
        self._go_through([(gradient, one)], met)
        return moved

    def reach(self, terms: Sequence[Weighed], enough: Enough | None = None) -> Reach:
        """Return how far roundings take the sum of <coefficients, gradient>, the last that of `got` if it is larger.

        Where it is enough that they reach so far, no farther than it takes to see that they do.
        """
        found = _Found(enough)
        with suppress(_FarEnough):
            for one in terms:
                self._store(found, one)
            live = [(g, one.coefficients) for one in terms if (g := self._gradients[one.leaf]) is not None]
            live = [(g, coefficients) for g, coefficients in live if g.requires_grad]
            if live:
                self._go_through(live, partial(self._met, found))
            for values, narrow, sums in found.operands.values():
                self._together(found, values, narrow, sums)
        return found.reach

    def _store(self, found: _Found, one: Weighed) -> None:
        """Add what storing a gradient does."""
        its, size, most = one.got.dtype, one.got.to(one.truth).abs(), one.truth.abs()
        size = (size - most).clamp_min(0) if its in NARROW else torch.maximum(size, most)  # u |got| <= u |truth| + this
        found.add(Reach(float((one.coefficients.abs() * size).nan_to_num(0.0, 0.0).sum()) * unit(its).u))
        if self._declared.fast:  # a number below the smallest normal one may be stored as 0
            found.add(Reach(float(one.coefficients.abs().sum()) * torch.finfo(F32).smallest_normal))
        if its in NARROW:
            self._together(found, one.truth, its, one.coefficients)

    def _met(self, found: _Found, step: Step, outer: Sequence[Any], inner: Sequence[Any]) -> None:
        """Add what the roundings of one operation do."""
        if step.refused and any(g is not None for g in outer):
            raise NotImplementedError(step.refused)
        for g, error, kept in zip(outer, step.errors, step.stored, strict=True):
            if g is not None and error is not None:
                size = g.abs()
                endless = error.dtype == F64  # too large for float32, or anything: of what does not count, 0
                worst = _inner(size, torch.where(size > 0, error, 0.0) if endless else error)
                found.add(Reach(known(worst)))
            if g is not None and kept is not None:
                self._together(found, kept.values, kept.dtype, kept.of(g))
        if step.behind is not None:
            found.add(Reach(known(step.behind(outer))))
        for x, narrow, through in self._through(step.product, outer, inner):
            whole = self._flat(x)
            *_, sums = found.operands.setdefault(id(whole), (whole, narrow, torch.zeros_like(whole)))
            _add_where_it_lies(sums, x, through)

    def _together(self, found: _Found, x: Tensor, dtype: torch.dtype, sensitivity: Tensor) -> None:
        """Add what rounding numbers to a narrow dtype does."""
        key = id(x), dtype
        if key not in self._alike:
            self._alike[key] = Alike(x, dtype)
        alike = self._alike[key]
        found.add(
            Reach(alike.worst(sensitivity))
            if found.at_worst
            else Reach(alike.bias(sensitivity), alike.squares(sensitivity))
        )

    def _flat(self, x: Tensor) -> Tensor:
        """Return all that is stored where an operand lies: it is rounded once, for all products."""
        storage = x.untyped_storage()
        if id(storage) not in self._stored:
            whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(storage)
            self._stored[id(storage)] = whole
        return self._stored[id(storage)]

    def _through(
        self, product: Product | None, outer: Sequence[Any], inner: Sequence[Any]
    ) -> Iterator[tuple[Tensor, torch.dtype, Tensor]]:
        """Yield the operands of a product that are rounded, to what, and the sensitivity to each through it."""
        narrow = self._declared.operands
        if product is not None and narrow is not None and any(g is not None for g in outer):
            for k in product.rounded:
                made = inner[k] if k < len(inner) else None
                yield product.args[k], narrow, _through_an_operand(product, k, outer) if made is None else made

    def _go_through(self, weighed: Sequence[tuple[Tensor, Tensor]], met: Met) -> None:
        """Go once through the graph, from gradients and their coefficients, and meet each step as autograd does."""
        at: dict[Any, list[Step]] = {}
        for step in self._steps:
            at.setdefault(next(edge.node for edge in step.edges if edge is not None), []).append(step)

        def hook(those: list[Step], inner: Sequence[Any], outer: Sequence[Any]) -> None:
            for step in those:
                met(step, [None if edge is None else outer[edge.output_nr] for edge in step.edges], inner)

        ends = [
            (step, edge) for step in self._steps for edge in step.edges if edge is not None and edge.node in self._ends
        ]
        if not ends:
            return
        hooks = [node.register_hook(partial(hook, those)) for node, those in at.items()]
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # as it was recorded: a checkpoint runs its steps again
                asked, (gradients, coefficients) = [edge for _, edge in ends], zip(*weighed, strict=True)
                found = torch.autograd.grad(gradients, asked, coefficients, retain_graph=True, allow_unused=True)
        except CheckpointError as error:
            raise NotImplementedError("a checkpoint runs its steps again, with casts that round") from error
        finally:
            for one in hooks:
                one.remove()
        for (step, edge), g in zip(ends, found, strict=True):
            met(step, [g if one is edge else None for one in step.edges], ())

    @cached_property
    def _ends(self) -> set[Any]:
        """The nodes of operations that have no other operation behind them: autograd stops there."""
        nodes = {edge.node for step in self._steps for edge in step.edges if edge is not None}
        leads: dict[Any, bool] = {}  # whether a node is one of these, or leads to one
        behind: dict[Any, bool] = {}
        left = [(node, False) for node in nodes]
        while left:
            node, seen = left.pop()
            if node in leads:
                continue
            others = [other for other, _ in node.next_functions if other is not None]
            if seen:
                behind[node] = any(leads[other] for other in others)
                leads[node] = behind[node] or node in nodes
            else:
                left += [(node, True), *((other, False) for other in others if other not in leads)]
        return {node for node in nodes if not behind[node]}

    def _recorded(self, run: Run, recorder: Callable[..., Recorded]) -> list[Step]:
        """Return the steps of a run; of one that writes into constants, or uses sums of gradients, not with these."""
        try:
            steps, once = self._record(run, recorder())
        except OutOfSight:
            raise
        except NotImplementedError:
            recorder = partial(recorder, constants=False)
            steps, once = self._record(run, recorder())
        steps = steps if once else self._record(run, recorder(together=False))[0]
        if any(node.name() in ONCE for node, _ in self._uses):
            raise NotImplementedError("a backward of the reference is differentiable once")
        return steps

    def _record(self, run: Run, mode: Recorded) -> tuple[list[Step], bool]:
        """Return the steps, and whether those that were taken together are used once."""
        self._mode = mode  # which the graph needs, and does not own
        try:
            _, self._gradients = run(mode, True)
        except NoPoint as error:
            raise NotImplementedError(str(error)) from error
        steps = mode.finished()
        gradients = [get_gradient_edge(g) for g in self._gradients if g is not None and g.requires_grad]
        self._nodes = set(steps_to(g.node for g in gradients))
        self._uses = Counter(edge for node in self._nodes for edge in node.next_functions if edge[0] is not None)
        self._uses.update((g.node, g.output_nr) for g in gradients)
        return steps, all(self._uses[edge] <= (node in self._nodes) for node, edge in mode.taken)

    def _added_up(self, steps: Sequence[Step]) -> list[Step]:
        """Return steps with what terms of sums are off by in the sums' own: one sensitivity is that to all of these.

        It is, of a term that is used once, by that: a gradient may use what forward adds up, but not the sum.
        """
        made: dict[tuple[Any, int], tuple[int, int]] = {}
        errors = [list(step.errors) for step in steps]
        for n, step in enumerate(steps):
            made.update(((edge.node, edge.output_nr), (n, k)) for k, edge in enumerate(step.edges) if edge is not None)
            sums = step.adds and step.edges[0] is not None and step.edges[0].node in self._nodes
            for source in step.edges[0].node.next_functions if sums else ():
                m, k = made.get(source, (n, 0))
                if self._uses[source] == 1 and m != n and steps[m].line == step.line:
                    errors[n][0], errors[m][k] = added(errors[n][0], errors[m][k]), None
        found = (replace(step, errors=tuple(its)) for step, its in zip(steps, errors, strict=True))
        return [step for step in found if step.rounds]


def sensitivities(question: Question, declared: Precision, either: bool = False) -> Iterator[Sensitivities]:
    """Yield the operations of each run of a question, recorded once for all that is asked of it."""
    for k, run in enumerate(question.runs):
        yield question.kept(("sensitivities", k, declared, either), partial(Sensitivities, run, declared, either))


def most_of(
    question: Question, declared: Precision, leaf: int, index: tuple[int, ...]
) -> tuple[tuple[Line, float], ...]:
    """Return the lines of the reference that give most of the allowance of one element, with their shares."""
    try:
        moved = next(sensitivities(question, declared)).lines(leaf, index)
    except NotImplementedError:
        return ()
    total = sum(moved.values())
    if not 0 < total < math.inf:
        return ()
    return tuple(sorted(((line, m / total) for line, m in moved.items()), key=lambda x: -x[1]))


def _add_where_it_lies(whole: Tensor, x: Tensor, more: Tensor) -> None:
    """Add numbers to all that is stored, each where its element of x lies: of what is expanded several in one place."""
    if not _overlaps(x):
        whole.as_strided(x.shape, x.stride(), x.storage_offset()).add_(more)
        return
    places = torch.arange(whole.numel(), device=x.device).as_strided(x.shape, x.stride(), x.storage_offset())
    whole.index_add_(0, places.reshape(-1), more.reshape(-1))


def _overlaps(x: Tensor) -> bool:
    """Say whether two elements may lie in one place: no stride reaches past all that lies within it otherwise."""
    span = 0
    for stride, n in sorted((stride, n) for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1):
        if stride <= span:
            return True
        span += stride * (n - 1)
    return False


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of the products of two tensors, in the first one's dtype, quicker than by their product."""
    return torch.dot(a.reshape(-1), b.to(a.dtype).expand_as(a).reshape(-1))


def _through_an_operand(product: Product, k: int, gradients: Sequence[Any]) -> Tensor:
    """Return the sensitivity to an operand, as far as it goes through this product."""
    args = [x.detach() if isinstance(x, Tensor) else x for x in product.args]
    with torch.enable_grad():
        args[k].requires_grad_()
        made = parts_of(product.func(*args, **product.named))
        outs, along = zip(*((y, g) for y, g in zip(made, gradients, strict=True) if g is not None), strict=True)
        found = torch.autograd.grad(outs, [args[k]], along, allow_unused=True)[0]
    return torch.zeros_like(args[k]) if found is None else found
