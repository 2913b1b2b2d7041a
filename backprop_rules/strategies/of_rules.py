"""Points of a rule: its domain says which shapes, params and values there are, and points are drawn among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.domain import precision
from backprop_rules.rule import Rule
from backprop_rules.strategies.drawing.bulk import drawn
from backprop_rules.strategies.drawing.shapes import SIDES
from backprop_rules.strategies.point import EVERY_BIT, Point
from backprop_rules.strategies.values import in_dtypes, recast
from backprop_rules.subject.ambient import F32, F64, at, inexact
from backprop_rules.subject.returned import in_a_row


@dataclass(frozen=True, eq=False)
class RulePoints:
    """The points of a rule's domain, in some dtypes: values of any magnitude, and others on a grid, with ties.

    With `every_bit` they are those that were drawn, in their own dtypes; without it float32 holds their values.
    """

    rule: Rule
    count: int
    seed: int
    dtypes: tuple[torch.dtype, ...]
    every_bit: bool = False
    sides: tuple[int, ...] = ()  # of the axes, where they are not the usual ones

    def __iter__(self) -> Iterator[Point]:
        """Yield the points: their values in float64, and the dtypes that they were drawn in."""
        if self.every_bit:
            yield from map(widened, drawn(self.rule, self.count, self.seed, self.dtypes, self.sides or SIDES))
            return
        # Float32 for float64, so that it holds the values, and bounds among them.
        narrower, known = {F64: F32, torch.complex128: torch.complex64}, self.rule.domain.dtypes
        among = tuple(dict.fromkeys(n if (n := narrower.get(d, d)) in known else d for d in self.dtypes))
        for call in drawn(self.rule, self.count, self.seed, among, self.sides or SIDES):
            found = widened(_narrowed(call))
            asked = all(d is None or d in self.dtypes for d in found.dtypes)
            # What was drawn in a narrower dtype than any that was asked for is not asked in that.
            yield found if asked else replace(found, dtypes=())


SMALL = 100  # elements of a point: what a mistake would give there is often formed from a whole Jacobian
DRAWN = 60


def of_the_rule(rule: Rule | None, dtypes: tuple[torch.dtype, ...], count: int = DRAWN) -> Iterator[Point]:
    """Yield small points of a rule's whole domain, the same for every backward that is held against it."""
    points = () if rule is None else RulePoints(rule, count, 2, dtypes)
    return (point for point in points if point.size <= SMALL and not point.empty)


def widened(call: Call) -> Point:
    """Return the point of a call: its values in float64, which holds those of every dtype."""
    leaves = tuple(None if x is None else _in(F64, x) for x in call.primals)
    grad = _in(F64, call.grad_y)
    given = [x for x in (*leaves, grad) if x is not None and inexact(x)]
    kind = "integers" if call.spacing else "normal" if _ordinary(given) else "any magnitude"
    dtypes = tuple(x.dtype if x is not None and inexact(x) else None for x in call.primals)
    narrow = all(d is None or precision(d) <= precision(F32) for d in (*dtypes, call.grad_y.dtype))
    if not (narrow or all(torch.equal(_in(F64, _in(F32, x)).nan_to_num(), x.nan_to_num()) for x in given)):
        kind = EVERY_BIT
    return Point(leaves, (grad,), call.params, "drawn from its domain", kind, True, "own", dtypes, spacing=call.spacing)


def call_at(
    rule: Rule, point: Point, dtypes: Sequence[torch.dtype | None], device: str = "cpu", spacing: float = 0.0
) -> Call:
    """Return the call of the rule at a point, its leaves in these dtypes: what `widened` made a point of."""
    leaves = tuple(None if x is None else x.to(device) for x in in_dtypes(point.leaves, dtypes))
    there = Call(rule, leaves, point.params, torch.empty(0), spacing)
    g = next(g for g in point.grads if g is not None)
    g = g if g.shape == there.y.shape else in_a_row(point.grads)  # of several outputs
    return replace(there, grad_y=recast(g, there.y.dtype).to(device))


def call_that_fits(rule: Rule, point: Point) -> Call | None:
    """Return the call of the rule at a point in the point's own dtypes, None where its tensors do not fit together."""
    try:
        call = call_at(rule, point, point.dtypes, spacing=point.spacing)
    except (RuntimeError, ValueError, IndexError):
        return None  # forward does not take it
    return call if call.y.shape == call.grad_y.shape else None


def rounded(point: Point) -> Point | None:
    """Return the point with its values rounded to float32, off the grid; None where they are not ordinary."""
    found = replace(point.mapped(lambda x: _in(F64, _in(F32, x))), kind="normal", spacing=0.0)
    return found if _ordinary([x for x in found.tensors if inexact(x)]) else None


def _narrowed(call: Call) -> Call:
    """Return the call with its values rounded to float32."""
    primals = tuple(None if x is None else recast(_in(F32, x), x.dtype) for x in call.primals)
    return replace(call, primals=primals, grad_y=recast(_in(F32, call.grad_y), call.grad_y.dtype))


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    """Return the values in a precision, in the same memory layout; integers as they are."""
    return recast(x.cpu(), at(dtype, x)) if inexact(x) and x.device.type != "meta" else x


def _ordinary(given: Sequence[Tensor]) -> bool:
    """Say whether all values lie within the middle half of float32's exponents."""
    sizes = [np.abs(x.detach().resolve_conj().resolve_neg().numpy()) for x in given]
    return all(bool(((s == 0) | ((s > 2.0**-32) & (s < 2.0**32))).all()) for s in sizes)
