"""What else explains gradients that are off: a kink's other side, a cotangent not read, numbers kept narrow."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.domain import dtype_name, precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.precision import Precision, precision_named
from backprop_rules.evidence.allowance.units import NARROW, lost_in
from backprop_rules.evidence.at_size import Held, Question, at_size
from backprop_rules.evidence.flushed import all_inside, pairs_of
from backprop_rules.evidence.unseen import BLIND
from backprop_rules.subject.ambient import F32, F64, inexact
from backprop_rules.subject.function import Cotangents, NoPoint

Holds = Sequence[Held | None]
Got = Sequence[Tensor | None]
# Of a primal's largest number: in bits midway between what float32 and float64 keep of it.
NEAR = 2.0 ** (-(precision(F32) + precision(F64)) / 2)


def other_side(question: Question, names: Sequence[str], holds: Holds, got: Got, k: int) -> str:
    """Return which primal makes gradient k right where it is off, a little larger or smaller; "" if none does."""
    own, given = holds[k], got[k]
    assert own is not None and given is not None
    outside = ~own.contains(given)
    there, truth = given[outside].to(own.truth), own.truth[outside]
    for j, x in enumerate(question.leaves):
        if not inexact(x) or holds[j] is None or not x.numel():
            continue
        for words, sign in ("larger", 1), ("smaller", -1):
            step = sign * NEAR * float(x.abs().max())
            moved = _gradients(question, {j: x.to(F64) + step}, question.grads)[k]
            if moved is None:
                continue
            beside = moved[outside]
            half = beside.abs() * math.sqrt(torch.finfo(given.dtype).eps)
            if bool((((there - beside).abs() <= half) & ((truth - beside).abs() > half)).all()):
                kink = "there is a kink, of which the reference's choice is expected, as by torch.where, or left out"
                return f"as if `{names[j]}` were a little {words} where it is off: {kink}"
    return ""


def other_cotangents(grads: Cotangents) -> Iterator[tuple[Mistake, Cotangents]]:
    """Yield what may be done otherwise with the cotangents of several outputs, and those that it comes to."""
    given = [(j, g) for j, g in enumerate(grads) if g is not None]
    for j, g in given if len(grads) > 1 else ():
        words = f"the cotangent of output {j} is not read"
        yield Mistake("cotangent not read", words), (*grads[:j], torch.zeros_like(g), *grads[j + 1 :])
    for (i, a), (j, b) in combinations(given, 2):
        if a.shape == b.shape and a.dtype == b.dtype:
            exchanged = tuple(b if k == i else a if k == j else g for k, g in enumerate(grads))
            yield Mistake(EXCHANGED, f"the cotangents of outputs {i} and {j} are exchanged"), exchanged


def of_other_cotangents(question: Question, declared: Precision, holds: Holds, got: Got) -> Mistake | None:
    """Return with which other cotangents all gradients are right, as where one is not read; None if with none.

    Of one number that is taken for 1, as a loss by itself has it.
    """
    (first, *others), larger = question.grads, 1.0
    every = other_cotangents(question.grads)
    if not others and first is not None and first.numel() == 1 and bool(first):
        every = iter([(AS_ONE, (torch.ones_like(first),))])
        larger = max(1.0, 1 / abs(float(first)))  # as a gradient is, so is what it rounds
    for mistake, grads in every:
        made: Holds = [
            None if h is None or m is None else Held(m, h.radius * larger, h.dtype)
            for h, m in zip(holds, _gradients(question, {}, grads), strict=True)
        ]
        if mistake.name == EXCHANGED:  # with others, more may be rounded
            made = at_size(replace(question, grads=grads), declared).gradients
        pairs = [(h, m, x) for h, m, x in zip(holds, made, got, strict=True) if h is not None and x is not None]
        if all(m is not None and bool(m.contains(x).all()) for _, m, x in pairs):
            return mistake
    return None


def hinted(question: Question, declared: Precision, holds: Holds, got: Got, outputs: Sequence[Tensor]) -> str:
    """Return what gradients and outputs would all be within, if more is rounded than is declared; "" if in neither."""
    narrow = "" if declared.name == "eager" else _kept_narrow(question, got, outputs)
    return AS_EAGER.format(narrow) if narrow else TWICE if _is_rounded_twice(question, holds, [*got, *outputs]) else ""


EXCHANGED = "cotangents exchanged"
AS_ONE = Mistake("cotangent not read", "the cotangent is not read, as if it were 1")
AS_EAGER = 'All of it is within what precision="eager" allows: as if numbers were kept in {} on the way.'
TWICE = (
    "All of it is within one more rounding of each result: as if each were stored in its dtype, and then multiplied by "
    "grad_y. A kernel that does so on purpose is declared by also=, a form with the same casts."
)


def _is_rounded_twice(question: Question, holds: Holds, got: Got) -> bool:
    """Say whether all is inside if each result was rounded once before it was multiplied by the cotangent's number."""
    numbers = [g for g in question.grads if g is not None]
    factor = abs(float(numbers[0])) if len(numbers) == 1 and numbers[0].numel() == 1 else 1.0
    if not factor or not math.isfinite(factor):
        return False

    def wider(h: Held, dtype: torch.dtype) -> Held:
        lost = lost_in(dtype, (h.truth.abs() + h.radius) / factor) * factor
        return Held(h.truth, h.radius + lost, h.dtype)

    pairs = zip(holds, got, strict=True)
    return all(bool(wider(h, x.dtype).contains(x).all()) for h, x in pairs if h is not None and x is not None)


def _kept_narrow(question: Question, got: Got, outputs: Sequence[Tensor]) -> str:
    """Return where each number may be kept on the way if all is to be right, in words; "" if that does not help."""
    narrowest = min((x.dtype for x in question.leaves if inexact(x)), key=precision)
    if precision(narrowest) == precision(F64):
        return ""
    try:
        held = question.kept("eager", lambda: at_size(question, precision_named("eager", narrowest)))
    except (NoPoint, NotImplementedError, InputError):
        return ""
    open_ones = any(h is not None and x is not None and h.blind > BLIND for h, x in pairs_of(held, got, outputs))
    if open_ones or not all_inside(held, got, outputs):
        return ""
    return dtype_name(narrowest) if narrowest in NARROW else "what forward, or autocast, casts them to"


def _gradients(question: Question, moved: dict[int, Tensor], grads: Cotangents) -> Sequence[Tensor | None]:
    """Return the gradients in float64 where some leaves are others; None for each where there are none."""
    leaves = [moved.get(k, x) for k, x in enumerate(question.leaves)]
    leaves = [x.to(F64) if inexact(x) else x for x in leaves]
    try:
        run, _ = question.function.run(leaves, tuple(None if g is None else g.to(F64) for g in grads), F64)
    except NoPoint:
        return [None] * len(leaves)
    return run.gradients
