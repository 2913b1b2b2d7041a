"""The mistake in gradients at one point of somebody's own, of any size, by surgery within what rounding allows.

There is no backward to ask at other points, but there are many elements: an edit of forward explains the gradients
where every one of them lies within its allowance of what the edit makes of it.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.edited import Edited, Edits
from backprop_rules.diagnosis.edits import Edit
from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.diagnosis.surgery import explained, mistake_of, of_one_step
from backprop_rules.diagnosis.tape import UNMADE, taped
from backprop_rules.evidence.at_size import Held, Question
from backprop_rules.subject.ambient import F64, inexact
from backprop_rules.subject.function import NoPoint

MOST = 1 << 20  # numbers of a tape
EFFORT = 1 << 27  # numbers that are computed: about a second
CALLS = 1 << 14  # steps that are taken back: of a loop each edit goes through all


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
        return mistake_of(_found(edits, [holds[k] for k in floats], [got[k] for k in floats]))
    except (NoPoint, *UNMADE):
        return None


def _found(edits: Edits, holds: Sequence[Held | None], got: Sequence[Tensor | None]) -> list[tuple[Edit, ...]]:
    """Return the edits of one step that explain all gradients that were given."""
    steps, right = edits.tape.steps, edits.tape.gradients({})
    given = [r if g is None else g.to(F64) for g, r in zip(got, right, strict=True)]
    off = [allowed(h, r) for h, r in zip(holds, right, strict=True)]
    half_of_the_digits = max(torch.finfo(h.dtype).eps ** 0.5 for h in holds if h is not None)
    at = Edited(None, edits, given, off, half_of_the_digits)
    if len(steps) ** 2 > CALLS or not at.is_wrong:
        return []
    if sum(step.result.numel() for edit in at.edits.values() for step in edit.steps) > EFFORT:
        return []
    size = sum(step.result.numel() for step in steps)
    runs = min(EFFORT // max(1, size), CALLS // (2 * max(1, len(steps))))  # whose steps are taken forward and back
    return explained([at], of_one_step(at, runs * len(steps), runs), runs)


def allowed(held: Held | None, right: Tensor) -> Tensor:
    """Return how far each element may be off: as an edit rounds elsewhere, the most that the gradient may be anywhere.

    Of what nothing is said, and of a gradient that was not given, nothing is asked.
    """
    if held is None:
        return torch.full_like(right, math.inf)
    known = held.radius.isfinite()
    return torch.where(known, torch.where(known, held.radius, 0.0).amax(), math.inf) if right.numel() else right
