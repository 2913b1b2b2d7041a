"""The steps of somebody's backward: what each computes of what, and how the gradients depend on each result.

One run keeps every step, and lets autograd look on: reverse passes through it give the sensitivities of sums over the
gradients. In another run the results at one place of the code may be others.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from backprop_rules.diagnosis.edited import DIRECTIONS, Edited
from backprop_rules.diagnosis.in_backward import asked, is_readable
from backprop_rules.evidence.allowance.by_storage import ByStorage
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import inexact, tensors_in
from backprop_rules.subject.in_place import in_place
from backprop_rules.subject.places import place, somebodys_frames

MOST = 400  # steps of one call of a backward
CALLS = 20 * MOST  # of torch's functions, as of a shape, in one call
# A place in somebody's code: the functions on the way to it, and how far each had come; or a gradient's name.
Site = Any
# What a step is to have as its result, of the step and of how many there were before at its site.
Instead = Callable[["Taken", int], Tensor]


@dataclass(frozen=True, eq=False)
class Taken:
    """A step that was taken: its expression, function, arguments and result, and where autograd meets that."""

    site: Site
    text: str
    line: int
    func: Any
    args: tuple[Any, ...]
    named: dict[str, Any]
    result: Tensor
    edge: Any = None

    @property
    def told(self) -> str:
        """The expression, and its line; or the gradient that is returned."""
        return f"`{self.text}` (backward, line {self.line})" if self.line else self.text


class TooLong(Exception):
    """A backward takes more steps than are followed."""


class _Steps(TorchFunctionMode):
    """While it is entered, every step of somebody's code is kept, with its arguments as they were.

    What was there before, as a buffer, is written to without autograd; what is left of the rest is let go of by `end`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Taken] = []
        self._live: list[ref[Tensor]] = []
        self._own = ByStorage()  # the storages that were made here

    def end(self) -> None:
        """Take autograd from the tensors that somebody keeps."""
        for one in self._live:
            y = one()
            if y is not None:
                with suppress(RuntimeError):  # a view stays what it is a view of
                    y.detach_()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, site, written = kwargs or {}, _site(), in_place(func)
        if not site:
            return func(*args, **named)
        before = tree_map_only(Tensor, _copied, (args, named))
        looks_on = not written or args[0] in self._own
        # What is written to later is kept as it was.
        with torch.set_grad_enabled(looks_on), saved_tensors_hooks(_copied, _as_it_is):
            made = func(*args, **named)
            y = args[0] if written else made
            if is_readable(y) and not (y.requires_grad or written or _shares_memory(y, (args, named))):
                y = made = y.detach().requires_grad_().clone()
        if is_readable(y) and y.requires_grad and not written:
            self._live.append(ref(y))
            self._own[y] = True
        if is_a_step(y):
            if len(self.taken) == MOST:
                raise TooLong
            edge, (text, line) = get_gradient_edge(y) if y.requires_grad else None, _told()
            self.taken.append(Taken(site, text, line, func, before[0], before[1], y.detach().clone(), edge))
        return made


class _Another(TorchFunctionMode):
    """While it is entered, the results at one site are others."""

    def __init__(self, site: Site, instead: Instead) -> None:
        super().__init__()
        self._site, self._instead, self._rounds, self._calls = site, instead, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, self._calls = kwargs or {}, self._calls + 1
        if self._calls > CALLS:  # as one that waits until something converges, which another result never does
            raise TooLong
        if _site() != self._site:
            return func(*args, **named)
        written, before = in_place(func), tree_map_only(Tensor, _copied, (args, named))
        made = func(*args, **named)
        y = args[0] if written else made
        if not is_a_step(y):
            return made
        text, line = _told()
        other = self._instead(Taken(self._site, text, line, func, before[0], before[1], y.clone()), self._rounds)
        self._rounds += 1
        if not written:
            return other
        y.copy_(other)
        return made


def is_a_step(y: Any) -> bool:
    """Say whether a result is a tensor of numbers, a mask, or an index."""
    return is_readable(y) or (isinstance(y, Tensor) and y.layout is torch.strided and not (inexact(y) or y.is_meta))


def _site() -> tuple[Any, ...]:
    return tuple((frame.f_code, frame.f_lasti) for frame in somebodys_frames())


def _told() -> tuple[str, int]:
    line, text = place("")
    return text, line


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone() if is_a_step(x) else x


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _shares_memory(y: Tensor, args: Any) -> bool:
    own = y.untyped_storage().data_ptr()
    return any(x.layout is torch.strided and x.untyped_storage().data_ptr() == own for x in tensors_in(args))


class Followed:
    """A call of somebody's backward at a point: its steps, and as the last of them the gradients that it returns.

    Raises what a backward raises, as which it counts that it takes too many steps, or a RuntimeError where autograd
    cannot look on.
    """

    def __init__(self, at: Edited) -> None:
        assert at.evidence is not None
        self.at, self._evidence = at, at.evidence
        self._steps = steps = _Steps()
        with steps:
            self._got = asked(self._evidence)
        subject, user = at.evidence.subject, at.evidence.user
        names = [subject.names[k] for k in subject.floats if isinstance(user[k], Tensor)]
        self._returned = {f"the gradient of {name}": k for k, name in enumerate(names)}
        ends = [Taken(name, name, 0, None, (), {}, g) for name, g in zip(self._returned, self._got, strict=True)]
        self.steps = [*steps.taken, *ends]
        self.by_site: dict[Site, list[Taken]] = defaultdict(list)
        for step in self.steps:
            self.by_site[step.site].append(step)

    def end(self) -> None:
        """Leave nothing of autograd in what somebody's code keeps."""
        self._steps.end()

    @cached_property
    def named(self) -> dict[str, Tensor]:
        """What every backward has at hand, by name: primals, cotangents and outputs."""
        point, y = self._evidence.point, self._evidence.run.y
        several = len(y) > 1
        found = {f"`{n}`": x for n, x in zip(self._evidence.subject.names, point.leaves, strict=False)}
        found |= {f"the cotangent{f' of output {k}' * several}": g for k, g in enumerate(point.grads)}
        found |= {f"y{f'[{k}]' * several}": out for k, out in enumerate(y)}
        return {name: x.detach() for name, x in found.items() if is_a_step(x)}

    @cached_property
    def missing(self) -> Tensor:
        """What is to be added to the gradients, as a vector."""
        return self.at.vector(self.at.right) - self.at.vector(self._got)

    @cached_property
    def at_once(self) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """What is missing along some directions, and by step the sensitivities of the sums along these."""
        return self.sensitivities()

    def sensitivities(self, mask: Tensor | None = None) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Return the same for some of the gradients' elements."""
        own, wanted = numbers_from(0), []
        ends = [self._end(g) for g in self._got]
        edges = {n: step.edge for n, step in enumerate(self.steps) if step.edge is not None}
        found: dict[int, list[Tensor]] = defaultdict(list)
        for _ in range(DIRECTIONS):
            along = torch.randn(self.missing.shape, dtype=torch.float64, generator=own)
            along = along if mask is None else along * mask
            wanted.append(float(along @ self.missing))
            parts = self.at.parts(along)
            for n, u in enumerate(parts, len(self.steps) - len(parts)):
                found[n].append(u)
            some = [(end, u) for end, u in zip(ends, parts, strict=True) if end is not None]
            if not (some and edges):
                continue
            outs, grads = zip(*some, strict=True)
            met = torch.autograd.grad(outs, list(edges.values()), grads, retain_graph=True, allow_unused=True)
            for n, s in zip(edges, met, strict=True):
                if s is not None:
                    found[n].append(s)
        return torch.tensor(wanted, dtype=torch.float64), found

    def _end(self, gradient: Tensor) -> Any:
        """Return where autograd meets a gradient that was returned: the last step that gave these numbers."""
        alike = (s for s in reversed(self.steps) if s.edge is not None and torch.equal(s.result, gradient))
        return next((s.edge for s in alike), None)

    def with_another(self, site: Site, instead: Instead) -> Tensor:
        """Return the gradients, as a vector, with other results at a site."""
        if site in self._returned:
            k = self._returned[site]
            return self.at.vector([*self._got[:k], instead(self.by_site[site][0], 0), *self._got[k + 1 :]])
        with _Another(site, instead):
            return self.at.vector(asked(self._evidence))

    def of_rounds(self, site: Site) -> Tensor:
        """Return on how many of the results that are made at a site each element of the gradients depends."""
        count = torch.zeros(self.missing.shape)
        for n in range(len(self.by_site[site])):

            def unknown(step: Taken, k: int, n: int = n) -> Tensor:
                return torch.full_like(step.result, math.nan) if k == n else step.result

            count += self.with_another(site, unknown).isnan()
        return count
