"""The higher rungs: a computed allowance for rounding around torch's gradient, and a proof in ball arithmetic.

Where an operation has no formula, or no exact meaning, the rung is lower, and the operation is named: nothing is
refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import BackwardRaised
from backprop_rules.domain import COMPLEX, REAL
from backprop_rules.errors import InputError, first_line, of_ours
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.allowance.bounds import attainable, bounds, in_float64
from backprop_rules.evidence.allowance.mode import Narrower
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.evidence.evidence import ELEMENTS, Evidence, filled
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.evidence.verdict import Verdict, judge
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import F64
from backprop_rules.subject.function import Function, NoAnswer
from backprop_rules.subject.subject import Subject

NUMBERS = 1 << 12  # that a definition may make to be proved: some tens of milliseconds of balls
# What ends a running error analysis: an operation without a formula, which somebody's code may wrap.
UNFOLLOWED = (NotImplementedError, Narrower, InputError, NoAnswer)
PROOF, ALLOWANCE = "certified", "the computed allowance"


@dataclass(frozen=True, eq=False)
class Climbed:
    """What the higher rungs say of a point: a verdict for each gradient that they speak of, and why not of others.

    `blind` is the largest share of elements, of one gradient, whose enclosure holds 0 beside other numbers.
    """

    verdicts: tuple[Verdict, ...] = ()
    proved: bool = False
    why: str = ""

    @cached_property
    def blind(self) -> float:
        """The largest share of one gradient's elements at which 0, or the other sign, would have passed as well."""
        shares = [0.0]
        for verdict in self.verdicts:
            held = verdict.enclosure
            if held is None or not held.lo.numel():
                continue
            known = ~((held.lo == 0) & (held.hi == 0))
            if bool(known.any()):
                shares.append(float((~held.proves & known).sum() / known.sum()))
        return max(shares)

    @property
    def spoke(self) -> bool:
        """Whether something was said, and most of it would not have passed for any gradient."""
        return bool(self.verdicts) and self.blind <= 0.5

    def of(self, leaf: int) -> Verdict | None:
        """Return the verdict on the gradient of a leaf."""
        return next((v for v in self.verdicts if v.primal == leaf), None)


def climb(rule: Any, point: Point, dtypes: Sequence[torch.dtype | None], accused: bool = False) -> Climbed:
    """Return what the proof says of the gradients in these dtypes, or else the allowance, or why neither does.

    Where somebody is `accused` at values that are not ordinary, of which an allowance often has no bound, the proof may
    take as long as any.
    """
    most = certified.MANY if accused and not point.ordinary else NUMBERS
    if point.size > ELEMENTS or any(d is not None and d not in REAL + COMPLEX for d in dtypes):
        return Climbed(why="it is too large")
    try:
        there = call_at(rule, point, dtypes)
        with certified.at_most(most):
            found = [v for v in judge(there) if not v.witness and v.oracle == PROOF and v.enclosure is not None]
    except (InputError, Silent, NotImplementedError, Narrower) as error:
        return _allowed(rule, point, dtypes, first_line(error) or type(error).__name__)
    except BackwardRaised as error:
        return Climbed(why=f"the backward raises {': '.join(error.args)}")
    except Exception as error:  # of our own analysis: it lowers the rung, and is told as ours
        return replace(_allowed(rule, point, dtypes, ""), why=of_ours(error))
    if found:
        return Climbed(tuple(found), True)
    return _allowed(rule, point, dtypes, "too long, or without a value in exact numbers")


def _allowed(rule: Any, point: Point, dtypes: Sequence[torch.dtype | None], why: str) -> Climbed:
    """Return the verdicts of torch's gradient in float64 with its own roundings and those that are allowed for."""
    try:
        there = call_at(rule, point, dtypes)
        wide = in_float64(there)
        truth, exact, radii = wide.gradients, attainable(wide).gradients, bounds(there).gradients
        found = []
        for i in there.given:
            g, t, own, radius = there.gradients[i], truth[i], exact[i], radii[i]
            if g is None or t is None or own is None or radius is None:
                return Climbed(why=why)
            held = Enclosure.around(t, (own + radius).cpu(), g.dtype)
            found.append(Verdict.by(ALLOWANCE, i, there, g, held))
    except (InputError, Silent, NotImplementedError, Narrower, BackwardRaised) as error:
        return Climbed(why=why or first_line(error) or type(error).__name__)
    except Exception as error:  # as above
        return Climbed(why=of_ours(error))
    return Climbed(tuple(found), False, why)


def radii_in_float64(evidence: Evidence) -> tuple[Tensor | None, ...] | None:
    """Return how far torch's gradients and the backward's may be apart in float64 by their own roundings.

    By running error analysis of the operations of both; where those of the backward have no formula, by torch's alone.
    """
    function, point = evidence.function, evidence.point
    if point.size > ELEMENTS:
        return None
    try:
        theirs = evidence.known.kept(("radii",), lambda: _radii_of_torch(function, point))
    except UNFOLLOWED:
        return None
    return tuple(
        a if a is None or b is None or a.shape != b.shape else a + b
        for a, b in zip(theirs, _radii_of_the_backward(evidence.subject, function, point), strict=True)
    )


def own_rounding(made: Callable[[], Tensor]) -> Tensor | None:
    """Return how far the operations round that make a tensor, in their own dtypes; None where one is not known.

    Nor is it where none rounds, as of numbers that come from outside of torch.
    """
    try:
        with RunningError(decided=True) as errors:
            radius = errors.radius(made())
            return radius if bool(radius.any()) else None
    except UNFOLLOWED:
        return None


def _radii_of_the_backward(subject: Subject, function: Function, point: Point) -> list[Tensor | None]:
    precision = subject.precision_of_backward(F64)
    try:
        with RunningError(decided=True) as errors:
            got = subject.backward(function, point.grads, None, point.leaves, precision)
            return [errors.radius(g) if isinstance(g, Tensor) and errors.made(g) else None for g in got]
    except UNFOLLOWED:
        return [None] * len(point.leaves)


def _radii_of_torch(function: Function, point: Point) -> list[Tensor | None]:
    with RunningError(decided=True) as errors:
        found = function.run(point.leaves, point.grads, F64)[0].gradients
        return [None if g is None else errors.radius(g) for g in filled(found, point.leaves)]
