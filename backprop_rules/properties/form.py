"""Shape, dtype and device of each gradient; what a backward writes into, keeps between calls, and shares."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.evidence.evidence import Evidence, cast, farthest, largest
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import relaid
from backprop_rules.subject.ambient import F64, SEED, all_finite, inexact, real, running
from backprop_rules.subject.backward import Misfit, Raised, Refused
from backprop_rules.subject.frameworks.carried import BRIDGES
from backprop_rules.subject.function import NoAnswer, NoPoint


def is_answered(evidence: Evidence) -> Iterator[Finding]:
    """The backward returns, whatever the sizes."""
    point = evidence.point
    try:
        _ = evidence.user
    except Raised as error:
        there = Kind.RAISES if all_finite(*evidence.run.y) else Kind.RAISES_THERE
        kind = Kind.EMPTY if point.empty else there if point.own else Kind.SIZES
        kind = Kind.DOMAIN if isinstance(error, Refused) else kind
        name, text = error.args
        words = where_out_of_order(point) if kind in (Kind.RAISES, Kind.SIZES) else ""
        yield Finding(kind, point, detail=(f" {name}: {text}" if text else f" {name}") + words)
    except Misfit as error:
        yield Finding(Kind.COUNT, point, detail=f": {error}")


def where_out_of_order(point: Point) -> str:
    """Say what is particular of a point at which a backward raises, if its arrays do not lie in order."""
    odd = not all(x.is_contiguous() for x in (*point.tensors, *point.grads) if isinstance(x, Tensor))
    return ", where arrays do not lie in order: contiguous=True tries no such arrays" * odd


def has_the_form_of_its_primal(
    point: Point,
    gradients: Sequence[Any],
    truth: Sequence[Tensor | None],
    dtypes: Sequence[torch.dtype | None],
    strict: bool = False,
) -> Iterator[Finding]:
    """Each gradient has its primal's shape, dtype and device; None only where no derivative comes.

    If `strict`, None where the primal has no gradient, and nowhere else; a shape of no element is a shape as well.
    """
    for i, (got, right) in enumerate(zip(gradients, truth, strict=True)):
        if right is None:
            if got is not None and (strict or (inexact(got) and got.device.type != "meta" and bool(got.any()))):
                yield Finding(Kind.UNASKED, point, i, expected="None", got=_what(got))
            continue
        if got is None:
            if strict or (right.device.type != "meta" and bool((right != 0).any())):
                yield Finding(Kind.NONE, point, i, expected="a tensor", got="None")
        elif not isinstance(got, Tensor):
            whose = next((name for name, bridge in BRIDGES.items() if bridge.owns(got)), "")
            hint = f': it was given tensors, as framework="{whose}" (--framework {whose}) is not said' if whose else ""
            yield Finding(Kind.NO_TENSOR, point, i, expected="a tensor", got=_what(got), detail=hint)
        elif got.layout != torch.strided:
            yield Finding(Kind.NO_TENSOR, point, i, expected="a dense tensor", got=str(got.layout))
        elif got.shape != right.shape:
            expected, given = tuple(right.shape), tuple(got.shape)
            nothing = not strict and point.empty and not right.numel() and not got.numel()
            kind = Kind.EMPTY_SHAPE if nothing else Kind.SHAPE
            yield Finding(kind, point, i, expected=expected, got=given, detail=f"{given} for {expected}" * nothing)
        elif dtypes[i] is not None and got.dtype != dtypes[i]:
            yield Finding(Kind.DTYPE, point, i, expected=dtypes[i], got=got.dtype)
        elif got.device != right.device:
            yield Finding(Kind.DEVICE, point, i, expected=right.device, got=got.device)


def _what(got: Any) -> str:
    return "a tensor" if isinstance(got, Tensor) else type(got).__name__


def is_only_narrower(evidence: Evidence, dtypes: Sequence[torch.dtype | None]) -> bool:
    """Say whether the gradients have their primals' shapes, and some a narrower dtype than they should."""
    pairs = [
        (g, dtype)
        for g, t, dtype in zip(evidence.user, evidence.gradients_here, dtypes, strict=True)
        if isinstance(g, Tensor) and t is not None and dtype is not None and g.shape == t.shape
    ]
    known = [(precision(g.dtype), precision(dtype)) for g, dtype in pairs if inexact(g)]
    return any(own < wanted for own, wanted in known)


def writes_to_nothing(evidence: Evidence) -> Iterator[Finding]:
    """The backward leaves its arguments as they were: torch counts no write, and each holds the same numbers."""
    point, names = evidence.point, evidence.subject.names
    y = evidence.y or ()
    drawn, given = (*point.leaves, *point.grads, *y), (*evidence.given[0], *evidence.given[1], *y)
    before = remembered(given)
    with suppress(NoAnswer):
        _ = evidence.user
    written = first_written((*names, *(["grad_y"] * len(point.grads)), *(["y"] * len(point.grads))), given, before)
    if written is not None:  # in a lower precision into copies, mostly, and the point is as it was
        triples = zip(drawn, given, before, strict=True)
        kept = [relaid(was[1], x) if was is not None and x is own else x for x, own, was in triples]
        leaves, grads = kept[: len(names)], kept[len(names) : len(names) + len(point.grads)]
        yield Finding(Kind.WRITES, replace(point, leaves=tuple(leaves), grads=tuple(grads)), detail=f" {written}")


def remembered(given: Sequence[Any]) -> list[tuple[int, Tensor] | None]:
    """Return what tells later whether a tensor was written to: torch's count of writes, and the numbers."""
    return [(x._version, x.clone()) if isinstance(x, Tensor) else None for x in given]


def first_written(names: Sequence[str], given: Sequence[Any], before: Sequence[Any]) -> str | None:
    """Return the name of the first tensor that was written to."""
    for name, x, old in zip(names, given, before, strict=False):
        if old is not None and (x._version != old[0] or not same_numbers(x, old[1])):
            return name
    return None


def reads_only_what_it_saves(evidence: Evidence, saves: Sequence[str]) -> Iterator[Finding]:
    """The gradients are the same where what was not saved is NaN."""
    names, point = evidence.subject.names, evidence.point
    poisoned = [
        torch.full_like(x, torch.nan) if inexact(x) and name not in saves else x
        for name, x in zip(names, point.leaves, strict=True)
    ]
    y = None
    if evidence.subject.backward.signature.y_at is not None:
        y = tuple(
            torch.full_like(out, torch.nan) if "y" not in saves and inexact(out) else out for out in evidence.run.y
        )
    ambient = evidence.subject.precision_of_backward(F64)
    try:
        found = evidence.subject.backward(evidence.function, point.grads, y, poisoned, ambient)
    except NoAnswer:
        return
    other = first_other(evidence.user, found)
    if other is not None:
        yield Finding(Kind.NOT_SAVED, point, other)


def same_numbers(a: Any, b: Any) -> bool:
    """Say whether two tensors hold the same numbers, NaN included."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape or a.dtype != b.dtype:
        return a is b
    a, b = real(a), real(b)  # torch has no equal of all complex ones
    return torch.equal(a, b) or (
        inexact(a) and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a.isnan(), b.isnan())
    )


def first_other(before: Sequence[Any], after: Sequence[Any]) -> int | None:
    """Return the place of the first tensor that does not hold the same numbers after as before; None if all do."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((i for i, (a, b) in pairs if isinstance(a, Tensor) and not same_numbers(a, b)), None)


def differs(function: Any, point: Point, seed: int | None) -> bool:
    """Say whether forward gives something else from another seed, or when it is called again.

    But for the last bits, which a library may choose by where memory lies: what is drawn changes half of the digits.
    """
    found = []
    for k in range(2):
        with running(function.ambient(F64), SEED + (k * seed if seed else 0)) as inside, torch.no_grad():
            try:
                found.append(function.outputs(point.leaves, inside))
            except NoPoint:
                return False
    return not all(same_numbers(a, b) or but_for_last_bits(a, b) for a, b in zip(*found, strict=True))


def but_for_last_bits(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors of finite numbers have half of their digits in common, beside the largest."""
    if a.shape != b.shape or a.dtype != b.dtype or not inexact(a) or not all_finite(a, b):
        return False
    few: float = 2.0 ** (-precision(a.dtype) / 2)
    return farthest(a, b) <= few * largest(a)


def is_of_forward_by_itself(evidence: Evidence, i: int, gradient: Any) -> bool:
    """Say whether it is the very gradient that autograd has of forward by itself, where constants may be narrow.

    The witness takes these in float64: who checks a function against itself is not told of its constants' digits.
    """
    point = evidence.point
    if evidence.subject.right is not None:
        return False
    try:
        run, _ = evidence.function.run(cast(point.leaves, F64), tuple(cast(point.grads, F64)), None)
    except NoPoint:
        return False
    return run.gradients[i] is not None and same_numbers(gradient, run.gradients[i])
