"""What ties a rule's backward to its function: the definition, every oracle, the adjoint, the second derivative."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from backprop_rules.call import Call, probe
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import (
    bounds,
    gradients_of,
    second_bounds,
    second_gradients,
    torchs_gradients,
)
from backprop_rules.evidence.climb import PROOF
from backprop_rules.evidence.enclosure import Enclosure, as_real
from backprop_rules.evidence.oracles import ForwardMode, ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified, directional
from backprop_rules.evidence.verdict import Verdict, at_conventions, contradiction, judge
from backprop_rules.properties.finding import Finding, Kind, Rung, first, found, interval, outside
from backprop_rules.properties.same import differs, given
from backprop_rules.strategies.of_rules import widened

T = TypeVar("T")


class _Raises(Exception):
    """The definition, which is the user's, raises."""


def computes_its_definition(call: Call) -> Iterator[Finding]:
    """A right gradient of the wrong function is wrong: y must equal the definition, but for its rounding."""
    try:
        yield from _around_its_definition(call) if call.tier == "bounded" else _its_definition(call)
    except _Raises as error:
        yield found(Kind.NO_DEFINITION, call, detail=f" {error}")


def _evaluated(definition: Callable[[], T]) -> T:
    try:
        return definition()
    except (Silent, InputError, ZeroDivisionError):
        raise
    except Exception as error:  # whatever it may be
        raise _Raises(f"{type(error).__name__}: {error}") from error


def _its_definition(call: Call) -> Iterator[Finding]:
    primals = [
        x if x is None else _rational(x) if i in call.given else x.cpu().numpy() for i, x in enumerate(call.primals)
    ]
    try:
        defined = np.asarray(_evaluated(lambda: certified.defined(call.rule)(*primals, **call.params)), dtype=object)
        values = [complex(v) if call.y.is_complex() else float(v) for v in defined.flat]
    except ZeroDivisionError:
        defined, values = np.empty(call.y.shape), [math.nan] * call.y.numel()
    wanted = torch.tensor(values, dtype=torch.complex128 if call.y.is_complex() else torch.float64)
    got = call.y.cpu().to(wanted.dtype)
    yield from differs(call, Kind.DEFINITION, None, wanted.reshape(defined.shape), got)


def _around_its_definition(call: Call) -> Iterator[Finding]:
    try:
        balls = _evaluated(lambda: certified.certify(call).y)
    except Silent:
        return
    if len(balls) != call.y.numel() * (2 if call.y.is_complex() else 1):
        yield found(Kind.DEFINITION, call, expected=f"{len(balls)} numbers", got=f"{call.y.numel()} elements")
        return
    yield from _proved(Kind.DEFINITION, call, certified.enclosure(balls, bounds(call).y, call.y), call.y)


def _proved(kind: Kind, call: Call, held: Enclosure, got: Tensor, detail: str = "") -> Iterator[Finding]:
    """Yield that a tensor lies outside of its enclosure."""
    mask = held.outside(got)
    if mask is not None:
        more = {"against": (PROOF,), "rung": Rung.PROVED, "native": True, "detail": detail}
        yield outside(kind, widened(call), None, got, held, mask, **more)


def _rational(x: Tensor) -> Any:
    exact = [v if isinstance(v, complex) else Fraction(v) for v in x.cpu().flatten().tolist()]
    array = np.empty(len(exact), dtype=object)
    array[:] = exact
    return array.reshape(x.shape)


def agrees_with_every_oracle(call: Call) -> Iterator[Finding]:
    """Every gradient lies in the enclosure of every oracle, for the outputs that the oracle speaks for."""
    verdicts = judge(call)
    wrong = [verdict for verdict in verdicts if verdict.disagrees and not verdict.witness]
    apart = contradiction(verdicts) if wrong else None
    if apart:
        yield _contradiction(*apart)
        return
    for verdict in wrong[:1]:
        yield _outside(verdict, tuple(v.oracle for v in wrong if v.primal == verdict.primal))


def makes_the_declared_choice(call: Call) -> Iterator[Finding]:
    """On a kink, another rule of the same name makes the choice that the catalogue's declares."""
    for verdict in at_conventions(call) if call.tier == "bounded" else ():
        if verdict.disagrees:
            yield _outside(verdict, (verdict.oracle,))


def _outside(verdict: Verdict, against: tuple[str, ...]) -> Finding:
    held, gradient, mask = verdict.enclosure, verdict.gradient, verdict.outside
    assert held is not None and gradient is not None and mask is not None
    more = {"against": against, "rung": Rung.PROVED, "native": True}
    return outside(Kind.VALUE, widened(verdict.call), verdict.primal, gradient, held, mask, **more)


def _contradiction(one: Verdict, other: Verdict, apart: Tensor) -> Finding:
    """Return the finding that two enclosures are disjoint where the mask says so."""
    assert one.gradient is not None and one.enclosure is not None and other.enclosure is not None
    where = first(apart)
    expected, got = (
        f"{_told(interval(v.enclosure, where, one.gradient))} by {v.oracle}" for v in (one, other) if v.enclosure
    )
    got = f"{got}; the rule gives {one.gradient[where].item()}"
    against = (one.oracle, other.oracle)
    return found(Kind.ORACLES, one.call, one.primal, element=where, expected=expected, got=got, against=against)


def _told(ends: Any) -> str:
    lo, hi = ends if isinstance(ends, tuple) else (ends, ends)
    return f"{lo}" if lo == hi else f"from {lo} to {hi}"


def is_the_adjoint_of_forward_mode(call: Call) -> Iterator[Finding]:
    """<grad_y, J t> = sum over the primals of <gradient, t>, both sums formed exactly in float64."""
    if call.tier == "bounded":
        yield from _changes_as_the_forward_does(call)
        return
    if not any(x.numel() for x in call.tensors):
        return  # J has no columns, and torch's J t may be 0/0, as for the mean of nothing.
    spoken = call.only(ForwardMode().speaks_for(call))
    tangents = [probe(x, start) * call.spacing for start, x in enumerate(spoken.tensors)]
    with forward_ad.dual_level():
        # torch cannot write a tangent beside a primal whose elements share memory.
        pairs = zip(spoken.tensors, tangents, strict=True)
        duals = [forward_ad.make_dual(x.detach().contiguous(), tangent) for x, tangent in pairs]
        pushed = forward_ad.unpack_dual(spoken.forward(*spoken.placed(duals))).tangent
    if pushed is None:  # y does not depend on the primals
        pushed = torch.zeros_like(spoken.y)
    wanted = _inner(spoken.grad_y, pushed)
    got = math.fsum(
        _inner(gradient, t) for (_, gradient), t in zip(given(spoken, spoken.gradients), tangents, strict=True)
    )
    if got != wanted:
        yield found(Kind.ADJOINT, spoken, expected=wanted, got=got)


def _changes_as_the_forward_does(call: Call) -> Iterator[Finding]:
    """The certified derivative, in which the gradients lie, changes the forward along a direction as it does change.

    Where it does not, one of the two oracles is wrong.
    """
    along = directional.directions(call)
    try:
        differences = directional.derivative_along(call, along)
        truth = certified.inner([balls for balls in certified.certify(call).gradients if balls is not None], along)
    except Silent:
        return
    if not differences.is_finite() or not truth.is_finite():
        return
    if not differences.overlaps(truth):
        expected = f"{truth} along {[t.tolist() for t in along]} by the certified derivative"
        yield found(Kind.ORACLES, call, expected=expected, got=f"{differences} by differences of the forward")


def _inner(a: Tensor, b: Tensor) -> float:
    if a.is_complex() != b.is_complex():
        a, b = a.real, b.real
    return float((as_real(a) * as_real(b)).sum())


def has_the_right_second_derivative(call: Call) -> Iterator[Finding]:
    """Differentiated by torch, the backward gives what torch's own double backward gives, bit for bit on the grid.

    Off the grid it gives the second derivative of the definition, but for rounding.
    """
    if call.tier == "bounded":
        yield from _has_the_certified_second_derivative(call)
        return
    outputs = ReverseMode().speaks_for(call)
    spoken = call.only(outputs)
    tangents = [probe(x, k) * call.spacing for k, x in enumerate(call.tensors)]
    try:
        theirs = second_gradients(spoken, tangents, torchs_gradients)
    except RuntimeError:
        return  # torch's own backward raises, as for some shapes of clamp's bounds: no witness here
    ours = second_gradients(spoken, tangents, partial(gradients_of, call.rule))
    for name, got, wanted in zip(_by(call), ours, theirs, strict=True):
        where = outputs if got is ours[0] else True
        yield from differs(spoken, Kind.SECOND, None, wanted, got, where, detail=name)


def _by(call: Call) -> list[str]:
    names = ["the cotangent", *(call.rule.primals[i] for i in call.given)]
    return [f" with respect to {name}" for name in names]


def _has_the_certified_second_derivative(call: Call) -> Iterator[Finding]:
    if any(x.is_complex() for x in (call.grad_y, *call.tensors)):
        return
    tangents = [probe(x, k) for k, x in enumerate(call.tensors)]
    try:
        pushed, slopes = certified.second_order(call, tangents)
        radii = second_bounds(call, tangents)
    except (Silent, NotImplementedError):
        return  # a kink, or an operation of torch's double backward whose rounding is not known
    ours = second_gradients(call, tangents, partial(gradients_of, call.rule))
    for name, balls, radius, got in zip(_by(call), [pushed, *slopes], radii, ours, strict=True):
        yield from _proved(Kind.SECOND, call, certified.enclosure(balls, radius, got), got, name)
