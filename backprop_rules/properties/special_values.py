"""Special values: what a gradient is where an argument or the cotangent is a zero of either sign, infinite, or NaN.

One primal's first element, or the cotangent's, takes each special value in turn; everything else is an ordinary
number. Where the definition has a derivative there, the gradient must be that. Where it has none, it must be the
limit, if there is one: the derivative at numbers that run into the special value is the same in float64 however far
they have run. NaN must come out as NaN, unless the definition does not depend on it, or chooses between it and
something else. What is left is a choice, such as at a kink, and the catalogue's choice is the answer.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from flint import arb
from torch import Tensor

from backprop_rules.call import BackwardRaised, Call
from backprop_rules.domain import BATCH, Bound, Index, axes_of, kinds_of, moved_into
from backprop_rules.errors import InputError, OwnError, first_line
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.oracles import ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.properties.finding import Finding, Kind, found
from backprop_rules.rule import Rule
from backprop_rules.strategies.values import with_element
from backprop_rules.subject.places import raised_at

VALUES = (0.0, -0.0, math.inf, -math.inf, math.nan)
# Exponents of the numbers that run to infinity, or their negatives to zero: past float64's range; and within it, for
# functions whose exponential of a larger number FLINT does not form.
FAR, NEAR = (1 << 16, 1 << 18), (40, 50)
SIDE = 2
ROUNDING = 2.0**-100  # what ball arithmetic leaves of numbers near 1 that cancel, with room


# A number; all that lie between two; or, as None, whatever is chosen.
Limit = float | tuple[float, float] | None


@dataclass(frozen=True)
class Special:
    """One row of the table: where the value is put, the gradients' first elements, and what they must be.

    `limit` is None where the definition has neither a derivative nor a limit, and a pair of numbers
    where it has all those in between.
    """

    at: str
    value: float
    call: Call
    primal: int
    limit: Limit
    gradient: float

    @property
    def ends(self) -> tuple[str, str]:
        """The least and the most that it may be, as they are read: those of a ball, whose radius has 30 bits."""
        if not isinstance(self.limit, tuple):
            return f"{self.limit:.6g}", f"{self.limit:.6g}"
        low, high = self.limit
        least = max(torch.finfo(torch.float64).smallest_normal, (high - low) * 2.0**-26)
        low, high = (0.0 if abs(end) < least else end for end in (low, high))
        return f"{low:.6g}", f"{high:.6g}"

    @property
    def chosen(self) -> bool:
        """Whether the definition leaves a choice: anything, a set that holds zero, or how infinities add up."""
        if isinstance(self.limit, tuple):
            return self.limit[0] < self.limit[1] and self.limit[0] <= 0 <= self.limit[1]
        return self.limit is None or math.isinf(self.limit)

    @property
    def right(self) -> bool:
        """Whether the gradient is the limit, or one of those that it may be: NaN where infinities meet."""
        if isinstance(self.limit, tuple):
            return self.limit[0] <= self.gradient <= self.limit[1] or self.limit == (-math.inf, math.inf)
        return (
            self.limit is None
            or _same(self.gradient, self.limit)
            or (math.isinf(self.limit) and math.isnan(self.gradient))
        )

    @property
    def torchs(self) -> float:
        """What torch's reverse mode gives."""
        try:
            gradient = ReverseMode().gradients(self.call)[self.primal]
        except Silent:
            return 0.0  # no graph leads to the primal, as of a constant: autograd's None
        assert gradient is not None
        return float(_first(gradient))


@cache
def table(rule: Rule) -> tuple[Special, ...]:
    """Return every special value of the rule's primals and cotangent, for each kind of params that it takes."""
    return tuple(row for call in ordinary(rule) for row in (*_of_primals(call), *_of_cotangent(call)))


def wrong(rule: Rule) -> Iterator[Finding]:
    """Yield that at a special value the rule's gradient is not what it must be: the first.

    A choice must be the one that the catalogue's rule of that name makes.
    """
    for row, answer in zip(table(rule), table(rule.reference), strict=True):
        if not row.right or (row.chosen and not _same(row.gradient, answer.gradient)):
            expected = answer.gradient if row.chosen else row.limit
            words = f": where {row.at} is {row.value}"
            yield found(Kind.AT_SPECIAL, row.call, row.primal, expected=expected, got=row.gradient, detail=words)
            return


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def ordinary(rule: Rule) -> Iterator[Call]:
    """Yield a point of ordinary numbers for each kind of params."""
    named = axes_of(rule.domain.shapes)
    has_names = any(name != BATCH for names in named for name in names)

    def numbers(k: int, params: Mapping[str, Any]) -> Tensor:
        primal, shape = rule.primals[k], tuple(SIDE for name in named[k] if name != BATCH or not has_names)
        counted = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
        if primal in rule.domain.indices:
            return counted.long() % SIDE if isinstance(rule.domain.indices[primal], Index) else counted < 1
        return moved_into(rule.domain.interval(primal, params), 0.5 + 0.75 * counted + 0.25 * k)

    bounds_in_order = itertools.count()
    kinds = [
        [(name, value) for value in ((next(bounds_in_order),) if isinstance(param, Bound) else kinds_of(param))]
        for name, param in rule.domain.params.items()
    ]
    for params in map(dict, itertools.product(*kinds)):
        primals = tuple(numbers(k, params) for k in range(len(named)))
        if rule.domain.accepts(*primals, **params):
            yield _called(Call(rule, primals, params, torch.empty(0)))


def _called(blank: Call) -> Call:
    """Return the call with a cotangent; InputError where one of the rule's functions does not take it."""
    rule, wanted = blank.rule, [tuple(x.shape) for x in blank.tensors]
    try:
        y = blank.y.double()
        # Without symmetry, so that no gradient is zero because two cotangents are equal.
        call = replace(blank, grad_y=1 + torch.arange(y.numel(), dtype=torch.float64).reshape(y.shape) / 4)
        got = [None if (g := call.gradients[i]) is None else tuple(g.shape) for i in call.given]
        if got != wanted:
            raise InputError(f"{rule}: its gradients have the shapes {got}, and the primals {wanted}. Verify it first.")
        certified.gradients_at(call, _values(call), call.grad_y.flatten().tolist())
    except Silent:
        pass
    except (OwnError, InputError):
        raise
    except Exception as error:  # of forward, backward or the definition, which are anybody's
        own = error.__cause__ if isinstance(error, BackwardRaised) and error.__cause__ else error
        what = f"{type(own).__name__}: {first_line(own)}{raised_at(own)}"
        raise InputError(f"{rule}: one of its functions raises {what}. Verify it first.") from error
    return call


def _of_primals(call: Call) -> Iterator[Special]:
    for k, i in enumerate(call.given):
        low, high = call.rule.domain.interval(call.rule.primals[i], call.params)
        for value in (value for value in VALUES if math.isnan(value) or low <= value <= high):
            there = replace(
                call, primals=(*call.primals[:i], with_element(call.tensors[k], 0, value), *call.primals[i + 1 :])
            )
            yield from _rows(there, call.rule.primals[i], value, _limits(there, k, value))


def _of_cotangent(call: Call) -> Iterator[Special]:
    unit = [1.0, *[0.0] * (call.grad_y.numel() - 1)]
    try:
        slopes = [balls[0] for balls in certified.gradients_at(call, _values(call), unit)]
        masks = certified.reached(call, 0)
    except Silent:
        return  # the definition has no value even at ordinary numbers
    reached = [bool(_first(mask)) for mask in masks if mask is not None]
    without = _limits(replace(call, grad_y=with_element(call.grad_y, 0, 0.0)), 0, 0.0)
    for value in VALUES:
        limits = without if value == 0 else [
            value if slope > 0 else -value if slope < 0 else None if comes_in else rest
            for slope, comes_in, rest in zip(slopes, reached, without, strict=True)
        ]  # fmt: skip
        yield from _rows(replace(call, grad_y=with_element(call.grad_y, 0, value)), "grad_y", value, limits)


def _rows(call: Call, at: str, value: float, limits: Sequence[Limit]) -> Iterator[Special]:
    for i, limit in zip(call.given, limits, strict=True):
        gradient = call.gradients[i]
        assert gradient is not None
        yield Special(at, value, call, i, limit, float(_first(gradient)))


def _limits(call: Call, k: int, value: float) -> list[Limit]:
    """Return what the first element of each gradient must be where the k-th primal's first element has this value."""
    try:
        here = certified.gradients_at(call, _values(call), call.grad_y.flatten().tolist())
    except Silent:
        return [None] * len(call.given)
    runs = [_run_to(call, k, value, exponents) for exponents in (FAR, NEAR)]
    limits = [_limit(call, j, balls[0], value, [run[j] for run in runs]) for j, balls in enumerate(here)]
    if math.isnan(value) or not bool(call.y.isnan().any()):
        return limits
    # The forward gives NaN here, as inf times 0 does: a gradient need not be the limit.
    return [row.limit if row.gradient == row.limit else None for row in _rows(call, "", value, limits)]


def _limit(call: Call, j: int, ball: arb, value: float, runs: Sequence[float | None]) -> Limit:
    # FLINT's value at infinity itself may be a wide ball: a run towards it says more.
    if ball.is_finite() and not math.isinf(value):
        i = call.given[j]
        gradient, radius = call.tensors[j].view(-1)[:1], bounds(call).gradients[i]
        assert radius is not None
        around = certified.enclosure([ball], radius.view(-1)[:1], gradient)
        return float(around.lo), float(around.hi)
    if math.isnan(value):
        return math.nan
    return next((number for number in runs if number is not None), None)


def _run_to(call: Call, k: int, value: float, exponents: tuple[int, int]) -> list[float | None]:
    """Return the first element of each gradient far along the way to the special value, None where it still moves."""
    sign = math.copysign(1.0, value)
    there = []
    for exponent in exponents:
        values = _values(call)
        values[k][0] = arb(sign) * arb(2) ** (exponent if math.isinf(value) else -exponent)
        balls = certified.gradients_at(call, values, call.grad_y.flatten().tolist())
        there.append([_number(some[0]) for some in balls])
    return [a if a == b else None for a, b in zip(*there, strict=True)]


def _number(ball: arb) -> float:
    """Return the number that a narrow ball is in float64, 0 for one of nothing but rounding around it, or NaN."""
    if ball.is_finite() and certified.width(ball, torch.float64) <= 1:
        return float(ball)
    return 0.0 if ball.abs_upper() < ROUNDING else math.nan


def _values(call: Call) -> list[list[Any]]:
    return [[arb(v) for v in x.flatten().tolist()] for x in call.tensors]


def _first(x: Tensor) -> Tensor:
    return x.reshape(-1)[0]
