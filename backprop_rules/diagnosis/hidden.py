"""Where a function hides a dependence from autograd: the places that, opened, make its gradients the derivative."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from backprop_rules.diagnosis.diagnosis import TOLD
from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.evidence.differences import against_itself, along_of, directions
from backprop_rules.evidence.evidence import WIDE, Evidence
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.outcome import Outcome
from backprop_rules.subject.ambient import F64, tensors_in
from backprop_rules.subject.function import NoPoint, live_ones, somebodys_function, steps_to
from backprop_rules.subject.places import name_of, place, somebodys_frames
from backprop_rules.subject.subject import Subject

CUTS, NUMBERS = ("detach", "data"), ("item", "tolist", "float")
MOST = 64  # runs to close places again, in halves: one of 30 lines is found in 10
ON_PURPOSE = "What is hidden on purpose is a constant where forward=function is given as well"
Place = tuple[str, int, str]  # a file, a line of it, and the expression there


class _Opening(TorchFunctionMode):
    """While it is entered, what is cut off from autograd's graph is noted, and is not but at the places `closed`."""

    def __init__(self, closed: Collection[Place] = ()) -> None:
        super().__init__()
        self._closed = closed
        self.cuts: dict[Place, None] = {}
        self.numbers: dict[Place, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, name = kwargs or {}, name_of(func)
        cuts = name in CUTS or not torch.is_grad_enabled()
        frame = next(somebodys_frames(), None) if cuts or name in NUMBERS else None
        if frame is None or not any(x.requires_grad for x in tensors_in((args, named))):
            return func(*args, **named)
        here = Path(frame.f_code.co_filename).name, *place(name)
        (self.numbers if name in NUMBERS else self.cuts).setdefault(here)
        if name in NUMBERS or here in self._closed:
            return func(*args, **named)
        with torch.enable_grad():
            return args[0] if name in CUTS else func(*args, **named)


def hidden_dependence(subject: Subject, outcome: Outcome, finding: Finding) -> Mistake | None:
    """Return where the dependence is hidden that differences see, or whose backward is wrong; else that there is one.

    Without the places that are named, and with no fewer of them, the gradient is that of the differences.
    """
    # At the smallest counterexample less of it may show.
    finding = next((f for f in outcome.findings if (f.kind, f.leaf) == (finding.kind, finding.leaf)), finding)
    evidence, i = Evidence(subject, finding.point, outcome.pair), finding.leaf
    contradicted = None if i is None else against_itself(evidence, i)
    if i is None or contradicted is None:
        return TOLD[Kind.DERIVATIVE]
    measured, along = contradicted[0], directions(evidence, [i])

    def opened(closed: Collection[Place] = ()) -> tuple[_Opening, bool]:
        """Return what was cut, and whether the gradient is the derivative where it is not."""
        with _Opening(closed) as opening:
            try:
                run, _ = evidence.function.run(finding.point.leaves, finding.point.grads, F64)
            except NoPoint:
                return opening, False
        g = run.gradients[i]
        predicted, size = 0.0, abs(measured.value)
        if g is not None:
            predicted, size = along_of({i: g}, along), max(size, float((g.abs() * along[i].abs()).sum()))
        return opening, not measured.contradicts(predicted, size * WIDE.unit)

    opening, mends = opened()
    if not mends:
        number, own = _of_a_number(opening), _of_a_function(evidence)
        return (None if number and own else number or own) or TOLD[Kind.DERIVATIVE]  # which of both, nobody has asked
    needed = _needed(list(opening.cuts), lambda closed: opened(closed)[1])
    if needed is None:
        return TOLD[Kind.DERIVATIVE]
    where = _said(needed)
    words = f"hidden from autograd is {where}: where that is not cut off, the gradients are right. {ON_PURPOSE}"
    return Mistake("hidden dependence", words)


def _needed(cuts: list[Place], mends: Callable[[list[Place]], bool]) -> list[Place] | None:
    """Return the places of which none may be closed; None where that takes too many runs."""
    closed: list[Place] = []
    left = [cuts]
    for _ in range(MOST):
        if not left:
            return [one for one in cuts if one not in closed]
        some = left.pop()
        if mends([*closed, *some]):
            closed += some
        elif len(some) > 1:
            left += [some[len(some) // 2 :], some[: len(some) // 2]]
    return None


def _of_a_number(opening: _Opening) -> Mistake | None:
    where = _said(opening.numbers)
    words = f"{where} makes a number of what has a gradient, and so a constant. {ON_PURPOSE}"
    return Mistake("number of a tensor", words) if where else None


def _of_a_function(evidence: Evidence) -> Mistake | None:
    """Return that a Function is at fault where one is on the way, and nothing is hidden."""
    ys = evidence.function.outputs(live_ones(evidence.point.leaves), torch.enable_grad())
    own = somebodys_function(steps_to(y.grad_fn for y in ys))
    words = (
        f"the backward of {own}, an autograd.Function in it, is wrong, as nothing is hidden. What is wrong in it is "
        f"named where forward is given: check_function({own}, forward=...)"
    )
    return Mistake("wrong Function", words) if own else None


def _said(places: Iterable[Place]) -> str:
    return " and ".join(f"`{text}` ({file}, line {line})" for file, line, text in places)
