"""Points of a rule: its domain says which shapes, params and values there are, and Hypothesis draws among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.point import Point as RulePoint
from backprop_rules.rule import Rule
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import recast
from backprop_rules.subject.ambient import F32, F64, at, inexact


@dataclass(frozen=True, eq=False)
class RulePoints:
    """The points of a rule's domain, in some dtypes: values of any magnitude, and others on a grid, with ties."""

    rule: Rule
    count: int
    seed: int
    dtypes: tuple[torch.dtype, ...]

    def __iter__(self) -> Iterator[Point]:
        """Yield the points: their values in float64, and the dtypes that they were drawn in."""
        for p in _drawn(self.rule, self.count, self.seed, dtypes_to_draw(self.dtypes, self.rule.domain.dtypes)):
            found = _widened(p, self.dtypes)
            if found is not None:
                yield found


@lru_cache(maxsize=4)
def _drawn(rule: Rule, count: int, seed: int, dtypes: tuple[torch.dtype, ...]) -> tuple[RulePoint, ...]:
    from backprop_rules.strategies.drawing import search

    found: list[RulePoint] = []
    search(rule, found.append, count, seed, dtypes)
    return tuple(found)


def _widened(p: RulePoint, asked: Sequence[torch.dtype]) -> Point | None:
    """Return the point in float64, None if float32 does not hold its values."""
    leaves = tuple(None if x is None else _wide(x) for x in p.primals)
    grad = _wide(p.grad_y)
    if any(x is _LOST for x in (*leaves, grad)):
        return None
    dtypes = tuple(x.dtype if x is not None and inexact(x) else None for x in p.primals)
    if any(d is not None and d not in asked for d in dtypes):
        dtypes = ()  # drawn in a narrower dtype than any that was asked for
    kind = "integers" if p.spacing else "normal" if _ordinary((*leaves, grad)) else "any magnitude"
    return Point(leaves, (grad,), p.params, "drawn from its domain", kind, True, "own", dtypes)


_LOST = torch.zeros(0)


def _wide(x: Tensor) -> Tensor:
    if not inexact(x):
        return x
    narrow = recast(x, at(F32, x)) if precision(x.dtype) > precision(F32) else x
    wide = recast(narrow, at(F64, x))
    gone = (wide.abs().isinf() & ~x.abs().isinf()) | ((wide == 0) & (x != 0))
    return _LOST if bool(gone.any()) else wide


def _ordinary(given: Sequence[Any]) -> bool:
    """Say whether all values lie within the middle half of float32's exponents."""
    sizes = [x[x != 0].abs() for x in given if x is not None and inexact(x)]
    return all(not s.numel() or (float(s.max()) < 2.0**32 and float(s.min()) > 2.0**-32) for s in sizes)


def dtypes_to_draw(asked: Sequence[torch.dtype], known: Sequence[torch.dtype]) -> tuple[torch.dtype, ...]:
    """Return the dtypes in which to draw: float32 for float64, so that it holds the values, and bounds among them."""
    narrower = {F64: F32, torch.complex128: torch.complex64}
    return tuple(dict.fromkeys(n if (n := narrower.get(d, d)) in known else d for d in asked))
