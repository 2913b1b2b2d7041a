"""The steps of a forward, each with the line of the source that it is of, and the way back through them by hand.

A step takes a cotangent of its result and gives each argument its share; the shares of all uses of a tensor add up to
its cotangent. What is done wrong to a share is passed on from there alone: forward need not be run again.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from backprop_rules.diagnosis.composites import TAKEN_APART
from backprop_rules.subject.ambient import F64, inexact, running
from backprop_rules.subject.function import Cotangents, Function, cloned, live_ones
from backprop_rules.subject.in_place import in_place
from backprop_rules.subject.places import name_of, place

JACOBIAN = 1 << 22  # numbers of a Jacobian, where there is no other way: about a second, and 32 MB
UNMADE = (RuntimeError, LookupError, ValueError, TypeError)  # what an edit raises where it cannot be made

# From cotangents of a step's result, one a row, to what one argument gets of each.
Share = Callable[[Tensor], Tensor]
# Other shares than the right ones: by the step's number and the argument's position.
Shares = Mapping[tuple[int, int], Share]
# By the number of the step that made it, or -1 - k for leaf k: something of each tensor on the tape, one a row.
Rows = dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a function of torch that made a tensor with a gradient.

    `args` are its arguments, those in lists and those with names among them; `live` the positions of those that have a
    gradient, and `sources` what made these.
    """

    number: int
    name: str
    function: Any  # of its arguments, to its result
    args: Sequence[Any]
    live: tuple[int, ...]
    sources: Mapping[int, int]
    axes: tuple[int, ...]
    result: Tensor
    text: str
    line: int
    part: str = ""  # what it is of a function that is taken apart
    whole: str = ""  # the name of that function, or its own
    round: int = 1  # of a loop, of so many `rounds`
    rounds: int = 1
    # Of a backward: the functions that led to it, the outermost first, and where each was; all of that if it is a call.
    calls: tuple[Any, ...] = ()
    site: Any = ()
    _first: list[tuple[Tensor, dict[int, Tensor]]] = field(default_factory=list, init=False)

    @property
    def told(self) -> str:
        """The step as it is told: the expression, or the part of it."""
        return f"the {self.part} in `{self.text}`" if self.part else f"`{self.text}`"

    @property
    def place(self) -> str:
        """The same, and the line that it stands in."""
        return f"{self.told} (forward{f', line {self.line}' if self.line else ''})"

    @property
    def place_in_its_round(self) -> str:
        """The same, and which of the calls of the same expression it is, as of the rounds of a loop."""
        return f"{self.place[:-1]}, call {self.round} of {self.rounds})" if self.rounds > 1 else self.place

    def at(self, position: int, value: Any) -> "Step":
        """Return the same step with another argument."""
        args = [value if p == position else x for p, x in enumerate(self.args)]
        return replace(self, args=args)

    @property
    def mutates(self) -> bool:
        """Whether it writes into its first argument."""
        return isinstance(self.function, Called) and self.function.mutates

    @cached_property
    def given(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments as somebody gives them, and those with names; none of what is no call."""
        return self.function.given(self.args) if isinstance(self.function, Called) else ((), {})

    def again(self, args: Sequence[Any]) -> Tensor:
        """Return the result of other arguments, beside those with names."""
        found: Tensor = self.function(_pytree.tree_flatten((tuple(args), self.given[1]))[0])
        return found

    @cached_property
    def _graph(self) -> tuple[list[Tensor], Tensor]:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others cannot be differentiated again
            args = [x.detach().requires_grad_() if p in self.live else x for p, x in enumerate(self.args)]
            return [args[p] for p in self.live], self.function(args)

    def pulled(self, g: Tensor) -> Mapping[int, Tensor]:
        """Return the share of each live argument, for each row of cotangents."""
        if self._first and self._first[0][0] is g:
            return self._first[0][1]
        shares = self._pulled(g)
        if not self._first:  # the right cotangent, most often, which is asked for again and again
            self._first.append((g, shares))
        return shares

    def _pulled(self, g: Tensor) -> dict[int, Tensor]:
        xs, y = self._graph
        several = len(g) != 1
        found = torch.autograd.grad(
            y, xs, g if several else g[0], retain_graph=True, allow_unused=True, is_grads_batched=several
        )
        return {
            p: g.new_zeros(len(g), *x.shape) if share is None else share if several else share[None]
            for p, x, share in zip(self.live, xs, found, strict=True)
        }

    def pushed(self, tangents: Mapping[int, Tensor]) -> Tensor:
        """Return the tangents of the result, from those of the live arguments: the way back, differentiated.

        Where torch cannot differentiate it, by the way back from each element; RuntimeError where there are too many.
        """
        try:
            return self._pushed(tangents)
        except RuntimeError:
            y = self.result
            if y.numel() * sum(t[0].numel() for t in tangents.values()) > JACOBIAN:
                raise
            units = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
            rows = self.pulled(units)
            some = [t.reshape(len(t), -1) @ rows[p].conj().reshape(len(units), -1).mT for p, t in tangents.items()]
            return torch.stack(some).sum(0).reshape(-1, *y.shape)

    def _pushed(self, tangents: Mapping[int, Tensor]) -> Tensor:
        xs, y = self._graph
        g = torch.zeros_like(y).requires_grad_()
        back = torch.autograd.grad(y, xs, g, create_graph=True, retain_graph=True, allow_unused=True)
        given = [(b, tangents[p]) for b, p in zip(back, self.live, strict=True) if b is not None and p in tangents]
        rows = len(next(iter(tangents.values())))
        if not any(b.requires_grad for b, _ in given):
            return y.new_zeros(rows, *y.shape)
        outs, along = zip(*((b, t) for b, t in given if b.requires_grad), strict=True)
        (found,) = torch.autograd.grad(outs, g, along, allow_unused=True, is_grads_batched=True)
        return y.new_zeros(rows, *y.shape) if found is None else found


@dataclass(frozen=True, eq=False)
class Tape:
    """A forward at a point: its steps, and a way back from cotangents of its outputs to gradients of its leaves."""

    steps: Sequence[Step]
    leaves: Mapping[int, Tensor]
    outputs: Rows
    names: Mapping[int, str]  # of the leaves
    conditions: Mapping[int, Step]  # the comparisons that the steps choose by

    def cotangents(self, given: Rows) -> Rows:
        """Return the cotangents of every tensor, from those that are given."""
        found = dict(given)
        for step in reversed(self.steps):
            self.back(step, {}, found)
        return found

    def back(self, step: Step, shares: Shares, found: Rows) -> None:
        """Add to the cotangents what comes back through a step, with some of the shares changed."""
        g = found.get(step.number)
        if g is None:
            return
        for p, right in step.pulled(g).items():
            another, source = shares.get((step.number, p)), step.sources.get(p)
            share = right if another is None else fitting(another(g), step.args[p])
            if source is not None:
                found[source] = found[source] + share if source in found else share

    @cached_property
    def _on_the_way(self) -> list[Rows]:
        """The right cotangents as they are before each step is differentiated."""
        found, kept = dict(self.outputs), list[Rows]()
        for step in reversed(self.steps):
            kept.append(dict(found))
            self.back(step, {}, found)
        kept.append(found)
        return kept[::-1]

    def changed(self, shares: Shares) -> Rows:
        """Return the cotangents of every tensor with some of the shares changed."""
        last = max((n for n, _ in shares), default=-1)
        found = dict(self._on_the_way[last + 1])
        for step in reversed(self.steps[: last + 1]):
            self.back(step, shares, found)
        return found

    def gradients(self, shares: Shares) -> list[Tensor]:
        """Return the gradients of the leaves, with some of the shares changed."""
        found = self.changed(shares)
        return [found[n][0] if n in found else torch.zeros_like(x) for n, x in self.leaves.items()]

    def tangents(self, directions: Rows) -> Rows:
        """Return the tangents of every tensor along directions of the leaves."""
        found = dict(directions)
        for step in self.steps:
            given = {p: found[n] for p, n in step.sources.items() if n in found}
            if given:
                found[step.number] = step.pushed(given).detach()
        return found

    def with_steps(self, functions: Mapping[int, Callable[[Sequence[Any]], Tensor]]) -> "Tape":
        """Return the tape of the same code with other functions for some steps; RuntimeError where none comes of it."""
        made: dict[int, Step] = {}
        for step in self.steps:
            others = {p: made[n].result for p, n in step.sources.items() if n in made}
            if others or step.number in functions:
                args = [others.get(p, x) for p, x in enumerate(step.args)]
                again = replace(step, args=args, function=functions.get(step.number, step.function))
                y = again.function(args).detach()
                if y.shape != step.result.shape:
                    raise RuntimeError("another shape")
                made[step.number] = replace(again, result=y)
        return replace(self, steps=[made.get(step.number, step) for step in self.steps])


def fitting(share: Tensor, x: Tensor) -> Tensor:
    """Return a share if it has the shape of its argument; RuntimeError otherwise."""
    if share.shape[1:] != x.shape:
        raise RuntimeError("another shape")
    return share


def taped(
    function: Function,
    given: Sequence[Any],
    grads: Cotangents,
    floats: Sequence[int],
    names: Sequence[str],
    most: float = math.inf,
) -> Tape:
    """Return the tape of a function at leaves and cotangents in float64, of which some have gradients.

    RuntimeError where it has more numbers than `most`.
    """
    with running(function.ambient(F64)) as inside, torch.enable_grad():
        leaves = live_ones(given)
        record = Record(leaves, most)
        with record:
            ys = function.outputs(leaves, inside)
    if record.full:
        raise RuntimeError("too large a tape")
    outputs: Rows = {}
    for y, g in zip(ys, grads, strict=True):
        if g is not None and y.requires_grad:
            n = record.made[id(y)]
            outputs[n] = outputs[n] + g[None] if n in outputs else g[None]
    told = {-1 - k: f"`{names[k]}`" for k in floats}
    steps = _in_rounds(record.steps)
    return Tape(steps, {-1 - k: leaves[k].detach() for k in floats}, outputs, told, record.conditions)


def _in_rounds(steps: Sequence[Step]) -> list[Step]:
    """Return the steps of which each knows how many have its expression, as in a loop, and which of these it is."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for step in steps:
        if not step.part:  # of the parts of one call some are told alike
            alike[step.line, step.told, step.live].append(step.number)
    rounds = {n: (k, len(those)) for those in alike.values() for k, n in enumerate(those, 1)}
    found = ((step, *rounds.get(step.number, (1, 1))) for step in steps)
    return [replace(step, round=k, rounds=n) for step, k, n in found]


class Record(TorchFunctionMode):
    """While it is entered, calls that make a tensor with a gradient are kept as steps, up to so many numbers."""

    apart: Mapping[str, Callable[..., Tensor]] = TAKEN_APART

    def __init__(self, leaves: Sequence[Any], most: float) -> None:
        super().__init__()
        self._left = most
        self.steps: list[Step] = []
        self.conditions: dict[int, Step] = {}
        self.made = {id(x): -1 - k for k, x in enumerate(leaves) if inexact(x)}
        self._compared: dict[int, Step] = {}
        self._held = list(leaves)  # an id is that of another tensor once a tensor is gone
        self._whole: tuple[int, str, str] | None = None  # the line, the text and the name of what is taken apart

    @property
    def full(self) -> bool:
        """Whether there were more numbers than are kept."""
        return self._left < 0

    def is_live(self, x: Any) -> bool:
        """Say whether what is made of an argument has a gradient by it."""
        return isinstance(x, Tensor) and x.requires_grad

    def is_kept(self, y: Any, live: Sequence[int]) -> bool:
        """Say whether a result is kept."""
        compared = isinstance(y, Tensor) and y.dtype is torch.bool and bool(live)
        return compared or (inexact(y) and self.is_live(y))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        flat, structure = _pytree.tree_flatten((args, named))
        mutates = in_place(func)
        apart = self.apart.get(name_of(func)) if self._whole is None else None
        if apart is not None and any(map(self.is_live, flat)):
            found = self._apart(apart, func, args, named)
            if found is not None:
                return found
        live = [p for p, x in enumerate(flat) if self.is_live(x)]
        before = cloned(flat) if mutates else None
        found = func(*args, **named)
        results = [flat[0]] if mutates else list(found) if isinstance(found, tuple | list) else [found]
        for k, y in enumerate(results):
            if not self.is_kept(y, live):
                continue
            before = cloned(flat) if before is None else before
            part = k if isinstance(found, tuple | list) and not mutates else None
            line, text, whole = (*place(name_of(func)), name_of(func)) if self._whole is None else self._whole
            step = Step(
                number=len(self.steps),
                name=name_of(func),
                function=Called(func, structure, part, mutates),
                args=before,
                live=tuple(live),
                sources={p: self.made[id(x)] for p, x in enumerate(flat) if id(x) in self.made},
                axes=_axes(args, named),
                result=y.detach().clone(),
                text=text if part is None else f"{text}[{part}]",
                line=line,
                part=name_of(func) if self._whole else "",
                whole=whole,
            )
            self.keep(step, y, flat)
        return found

    def keep(self, step: Step, y: Tensor, flat: Sequence[Any]) -> None:
        """Keep a step that made a tensor."""
        self._left -= y.numel()
        if self.full:
            return
        self._held.append(y)
        if y.dtype is torch.bool:
            self._compared[id(y)] = step
            return
        conditions = [self._compared[id(x)] for x in flat if id(x) in self._compared]
        if conditions:
            self.conditions[step.number] = conditions[0]
        self.made[id(y)] = step.number
        self.steps.append(step)

    def _apart(self, apart: Callable[..., Tensor], func: Any, args: Any, named: Any) -> Any:
        """Return what a function gives, by its steps; None where it is called in another way, and is one itself."""
        before = len(self.steps)
        self._whole = (*place(name_of(func)), name_of(func))
        try:
            with self:
                return apart(*args, **named)
        except (TypeError, RuntimeError):
            del self.steps[before:]
            return None
        finally:
            self._whole = None


@dataclass(frozen=True, eq=False)
class Called:
    """A call as a function of its arguments alone, which stay as they are: flat, or as they are given."""

    func: Any
    structure: Any
    part: int | None
    mutates: bool

    def __call__(self, flat: Sequence[Any]) -> Tensor:
        """Return the result of flat arguments."""
        args, named = self.given([flat[0].clone(), *flat[1:]] if self.mutates else flat)
        found = self.func(*args, **named)
        own: Tensor = args[0] if self.mutates else found if self.part is None else found[self.part]
        return own

    def given(self, flat: Sequence[Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments as they are given, and those with names."""
        args, named = _pytree.tree_unflatten(list(flat), self.structure)
        return args, named


def _axes(args: Any, named: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the axes that a call names, if it names any."""
    given = named.get("dim", named.get("axis", args[1] if len(args) > 1 else ()))
    if isinstance(given, int) and not isinstance(given, bool):
        return (given,)
    return tuple(given) if isinstance(given, list | tuple) and all(isinstance(d, int) for d in given) else ()
