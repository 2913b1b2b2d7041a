"""The steps of somebody's backward at a point: what is at hand, and what the gradients depend on each result.

It is called once, and every step is kept, as those of a forward are. The way back through them gives the sensitivities
of sums over the gradients; and where the results of some steps are others, what depends on them is taken again.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from operator import itemgetter
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.edited import DIRECTIONS, Edited
from backprop_rules.diagnosis.tape import UNMADE, Record, Rows, Step, Tape
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.places import somebodys_frames

MOST = 1 << 20, 5000  # numbers, and steps, that are kept
# A place in somebody's code: the functions on the way to it, and how far each had come; or a gradient's name.
Site = Any
# What a step is to have as its result, of the step and of how many there were before at its site.
Instead = Callable[[Step, int], Tensor]


class _Steps(Record):
    """While it is entered, every call that makes numbers, a mask or an index is kept; a site is one of somebody's."""

    apart: Mapping[str, Any] = {}  # these are somebody's lines: nothing is taken apart

    def __init__(self) -> None:
        super().__init__((), MOST[0])
        self._calls: tuple[tuple[CodeType, int, int], ...] = ()

    def is_live(self, x: Any) -> bool:
        return inexact(x) and id(x) in self.made

    def is_kept(self, y: Any, live: Sequence[int]) -> bool:
        return is_a_step(y) and not self.full and len(self.steps) < MOST[1]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frames = ((frame.f_code, frame.f_lineno, frame.f_lasti) for frame in somebodys_frames())
        self._calls = tuple(frames)[::-1]
        return super().__torch_function__(func, types, args, kwargs)

    def keep(self, step: Step, y: Tensor, flat: Sequence[Any]) -> None:
        is_own = step.live or not shares_memory(y, flat)  # not what only looks at what is given
        if not (is_own or self._calls):
            return
        site = self._calls if is_own and step.function.part is None else ""
        self._add(replace(step, calls=self._calls, site=site), y)
        whole = y._base
        if whole is not None and step.function.mutates and whole.is_contiguous() and not whole.storage_offset():
            self._add(self._written_into(step, whole, y), whole)

    def _add(self, step: Step, y: Tensor) -> None:
        self._left -= y.numel()
        self._held.append(y)
        self.made[id(y)] = len(self.steps)
        self.steps.append(step)

    def _written_into(self, step: Step, whole: Tensor, y: Tensor) -> Step:
        """Return the step that makes what a slice is of from that which was written into the slice."""
        places = y.size(), y.stride(), y.storage_offset()
        sources = {0: self.made[id(whole)]} if id(whole) in self.made else {}
        return replace(
            step,
            number=len(self.steps),
            function=lambda args: torch.as_strided_scatter(args[0], args[1], *places),
            args=[whole.detach().clone(), step.result],
            live=(0, 1) if sources else (1,),
            sources={**sources, 1: step.number},
            result=whole.detach().clone(),
            calls=self._calls,
        )


def shares_memory(y: Tensor, given: Sequence[Any]) -> bool:
    """Say whether a tensor lies in the memory of one that was given."""
    own = y.untyped_storage().data_ptr()
    return any(is_a_step(x) and x.untyped_storage().data_ptr() == own for x in given)


def is_readable(y: Any) -> bool:
    """Say whether it is a tensor of numbers that lie in memory."""
    return inexact(y) and is_a_step(y)


def is_a_step(y: Any) -> bool:
    """Say whether a result is a tensor of numbers, a mask, or an index, which lie in memory."""
    return (
        isinstance(y, Tensor)
        and y.layout is torch.strided
        and not y.is_nested
        and not y.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(y)
    )


def in_words(step: Step) -> str:
    """Return a step's expression, and its line; or the gradient that is returned."""
    return f"`{step.text}` (backward, line {step.line})" if step.line else step.text


class Followed:
    """A call of somebody's backward at a point: its steps, and as the last of them the gradients that it returns.

    Raises what a backward raises, or a RuntimeError where it has more numbers than are kept.
    """

    def __init__(self, at: Edited) -> None:
        assert at.evidence is not None
        self.at, self.evidence = at, at.evidence
        record = _Steps()
        with record:
            self.got = asked(self.evidence)
        if record.full:
            raise RuntimeError("too many numbers")
        subject, user = self.evidence.subject, self.evidence.user
        names = [subject.names[k] for k in subject.floats if isinstance(user[k], Tensor)]
        for name, g in zip(names, self.got, strict=True):
            record.steps.append(_returned(record, f"the gradient of {name}", g))
        self.steps = record.steps
        self._tape = Tape(self.steps, {}, {}, {}, {})
        self.by_site: dict[Site, list[Step]] = defaultdict(list)
        for step in self.steps:
            if step.site:
                self.by_site[step.site].append(step)

    @cached_property
    def named(self) -> dict[str, Tensor]:
        """What every backward has at hand, by name: primals, cotangents and outputs."""
        point, y = self.evidence.point, self.evidence.run.y
        several = len(y) > 1
        found = {f"`{n}`": x for n, x in zip(self.evidence.subject.names, point.leaves, strict=False)}
        found |= {f"the cotangent{f' of output {k}' * several}": g for k, g in enumerate(point.grads)}
        found |= {f"y{f'[{k}]' * several}": out for k, out in enumerate(y)}
        return {name: x.detach() for name, x in found.items() if is_a_step(x)}

    @cached_property
    def missing(self) -> Tensor:
        """What is to be added to the gradients, as a vector."""
        return self.at.vector(self.at.right) - self.at.vector(self.got)

    @cached_property
    def at_once(self) -> tuple[Tensor, Rows]:
        """What is missing along some directions, and by step the sensitivities of the sums along these, one a row."""
        return self.sensitivities()

    def sensitivities(self, mask: Tensor | None = None) -> tuple[Tensor, Rows]:
        """Return the same for some of the gradients' elements."""
        own = numbers_from(0)
        along = torch.stack([torch.randn(self.missing.shape, dtype=F64, generator=own) for _ in range(DIRECTIONS)])
        along = along if mask is None else along * mask
        parts = zip(*map(self.at.parts, along), strict=True)
        found: Rows = {step.number: torch.stack(rows) for step, rows in zip(self._ends, parts, strict=True)}
        for step in reversed(self.steps):
            with suppress(*UNMADE):  # what torch does not differentiate
                self._tape.back(step, {}, found)
        return along @ self.missing, found

    @property
    def _ends(self) -> Sequence[Step]:
        return self.steps[len(self.steps) - len(self.got) :]

    def retaken(self, functions: Mapping[int, Callable[[Sequence[Any]], Tensor]]) -> list[Tensor]:
        """Return the gradients with other functions for some steps."""
        steps = self._tape.with_steps(functions).steps
        return [steps[step.number].result for step in self._ends]

    def with_another(self, site: Site, instead: Instead) -> Tensor:
        """Return the gradients, as a vector, with other results at a site."""

        def other(step: Step, k: int, args: Sequence[Any]) -> Tensor:
            return instead(replace(step, args=args, result=step.function(args)), k)

        several = enumerate(self.by_site[site])
        return self.at.vector(self.retaken({step.number: partial(other, step, k) for k, step in several}))

    def of_rounds(self, site: Site) -> Tensor:
        """Return on how many of the results that are made at a site each element of the gradients depends."""
        count = torch.zeros(self.missing.shape)
        for n in range(len(self.by_site[site])):

            def unknown(step: Step, k: int, n: int = n) -> Tensor:
                return torch.full_like(step.result, math.nan) if k == n else step.result

            count += self.with_another(site, unknown).isnan()
        return count


def _returned(record: Record, name: str, g: Tensor) -> Step:
    """Return a gradient as a step: that which it is itself, or else the last one that gave these numbers."""
    alike = (s.number for s in reversed(record.steps) if s.result.dtype == g.dtype and torch.equal(s.result, g))
    made = record.made[id(g)] if id(g) in record.made else next(alike, None)
    sources = {} if made is None else {0: made}
    result = g.detach().clone()
    return Step(len(record.steps), name, itemgetter(0), [result], (0,), sources, (), result, name, 0, site=name)


def asked(evidence: Evidence) -> list[Tensor]:
    """Return the gradients that the backward gives when it is called once more at the point."""
    found = evidence.asked(evidence.point.leaves, evidence.point.grads, y=evidence.y)
    return [found[k] for k in evidence.subject.floats if isinstance(evidence.user[k], Tensor)]
