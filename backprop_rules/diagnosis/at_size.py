"""The mistake in gradients at one point of somebody's own, of any size, by surgery within what rounding allows.

There is no backward to ask at other points, but there are many elements: an edit of forward explains the gradients
where every one of them lies within its allowance of what the edit makes of it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.edited import Edited, Edits, factors
from backprop_rules.diagnosis.edits import DROPPED, WAY, Edit, Key
from backprop_rules.diagnosis.factor import of_a_size
from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.diagnosis.surgery import likely, mistake_of, plainest
from backprop_rules.diagnosis.tape import UNMADE, Step, taped
from backprop_rules.evidence.at_size import Held, Question
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.function import NoPoint

MOST = 1 << 20  # numbers of a tape
EFFORT = 1 << 27  # numbers that are computed: about a second
CALLS = 1 << 14  # steps that are taken back: of a loop each edit goes through all
SIMPLE = {2.0: "2", 0.5: "1/2", -1.0: "-1", -2.0: "-2"}


def likely_at_size(
    question: Question, names: Sequence[str], holds: Sequence[Held | None], got: Sequence[Tensor | None]
) -> Mistake | None:
    """Return what was differentiated otherwise, if that explains every gradient; None otherwise."""
    leaves = [x.to(F64) if inexact(x) else x for x in question.leaves]
    grads = tuple(None if g is None else g.to(F64) for g in question.grads)
    floats = [k for k, x in enumerate(leaves) if inexact(x) and holds[k] is not None]
    try:
        make = partial(taped, question.function, leaves, grads, floats, names, MOST)
        edits = question.kept(("edits", tuple(floats)), lambda: Edits(make()))
        found = list(_found(edits, [holds[k] for k in floats], [got[k] for k in floats]))
    except (NoPoint, *UNMADE):
        return None
    return mistake_of(plainest(found)) if found else None


def _found(edits: Edits, holds: Sequence[Held | None], got: Sequence[Tensor | None]) -> Iterator[tuple[Edit, ...]]:
    """Yield each edit of one step that explains all gradients that were given, the likelier factors first."""
    tape = edits.tape
    right = tape.gradients({})
    given = [r if g is None else g.to(F64) for g, r in zip(got, right, strict=True)]
    at = Edited(None, edits, given)
    reach = at.vector([allowed(h, r) for h, r in zip(holds, right, strict=True)])
    size, steps = sum(step.result.numel() for step in tape.steps), len(tape.steps)
    if steps**2 > CALLS or bool(((at.vector(right) - at.target).abs() <= reach).all()):
        return
    at.toward = torch.where(at.wrong.abs() > reach, at.wrong, 0.0)
    if sum(step.result.numel() for edit in at.edits.values() for step in edit.steps) > EFFORT:
        return
    keys = _seen_along_directions(at, reach)
    if len(keys) * size > EFFORT or len(keys) * steps > CALLS:
        return
    ways = []
    for key in keys:
        edit, changed = at.edit(key), at.gradients((key,))
        if changed is None:
            continue
        if key[-1] != WAY:
            if _is_near(changed, at, reach):
                yield (edit,)
            continue
        told = _by_a_factor(at, key, changed, reach)
        if told is not None:
            c, what, factor = told
            words = f"{edit.words} is off by the factor {factor}"
            ways.append((likely(edit, c), replace(edit, what=what, words=words, shares={})))
    yield from ((named,) for _, named in sorted(ways, key=lambda one: one[0]))
    if not ways:
        runs = min(EFFORT // max(1, size), CALLS // (2 * max(1, steps)))  # whose steps are taken forward and back
        yield from ((edit,) for edit in _of_other_forwards(at, reach, runs))


def _of_other_forwards(at: Edited, reach: Tensor, runs: int) -> Iterator[Edit]:
    """Yield what explains the gradients and is done to forward itself, by so many runs: a step that is left out."""
    near = partial(_is_near, at=at, reach=reach)
    for key in [*at.forwards][:runs]:
        changed = at.gradients((key,))
        if changed is not None and near(changed):
            yield at.edit(key)
            return
    yield from (at.edit(key) for key in at.other_numbers(near, runs * len(at.tape.steps)))


def _seen_along_directions(at: Edited, reach: Tensor) -> list[Key]:
    """Return the edits, and the ways that a factor may be on, with which what is seen along each direction agrees."""
    if not bool(reach.isfinite().all()):
        return [*at.edits]
    found, along = at.effects, at.reach_of(reach) + at.reach  # sums in float64 round as well
    larger = (found.edited.abs() / found.right.abs().clamp_min(torch.finfo(F64).tiny)).amax(-1, keepdim=True)
    near = ((found.change - at.seen).abs() <= along * larger.clamp_min(1.0)).all(-1).tolist()
    scales = factors(found.edited, at.seen + found.right, along).tolist()
    pairs = zip(found.edits, near, scales, strict=True)
    return [edit.key for edit, fits, c in pairs if (math.isfinite(c) if edit.key[-1] == WAY else fits)]


def allowed(held: Held | None, right: Tensor) -> Tensor:
    """Return how far each element may be off: as an edit rounds elsewhere, the most that the gradient may be anywhere.

    Of what nothing is said, and of a gradient that was not given, nothing is asked.
    """
    if held is None:
        return torch.full_like(right, math.inf)
    known = held.radius.isfinite()
    return torch.where(known, torch.where(known, held.radius, 0.0).amax(), math.inf) if right.numel() else right


def _is_near(changed: Tensor, at: Edited, reach: Tensor) -> bool:
    """Say whether gradients are what was given, within the allowance, in proportion to how much larger they are."""
    larger = float(changed.abs().max() / at.vector(at.right).abs().max().clamp_min(torch.finfo(F64).tiny))
    return bool(((changed - at.target).abs() <= reach * max(1.0, larger)).all())


def _by_a_factor(at: Edited, key: Key, right: Tensor, reach: Tensor) -> tuple[float, str, str] | None:
    """Return the factor on the way of a step that explains the gradients, what was done, and the factor in words."""
    none = at.gradients(((*key[:2], DROPPED),))
    if none is None:
        return None
    through = right - none
    known = reach.isfinite()
    squares = float((through * through)[known].sum())
    if not squares:
        return None
    c = float((through * (at.target - none))[known].sum()) / squares
    uncertain = float((through.abs() * reach)[known].sum()) / squares
    # One of 0 is another edit, and one of 1 none.
    if min(abs(c), abs(c - 1)) <= uncertain or not _is_near(none + c * through, at, reach):
        return None
    found = _factor_in_words(c, uncertain, at, at.tape.steps[key[0]], int(through.count_nonzero()))
    return None if found is None else (c, *found)


def _factor_in_words(c: float, uncertain: float, at: Edited, step: Step, numbers: int) -> tuple[str, str] | None:
    """Return what was done, and the factor in words: a simple number, what is made of a size, or its digits.

    None of a single number, which is always some factor times another.
    """
    for value, words in SIMPLE.items():
        if abs(c - value) <= uncertain:
            return "factor", words
    if found := of_a_size([c], [at], [step], uncertain / abs(c)):
        return found[0], found[2]
    digits = max(4, 2 + math.ceil(-math.log10(abs(c - 1))))  # so many that it is no 1
    return ("factor", f"{c:.{digits}g}") if numbers > 1 else None
