"""What was seen while a backward was tried, and what of that it is excused."""

from dataclasses import dataclass, field

import torch

from backprop_rules.checker.sizes import broadcasts_as, is_related_as, shapes_of
from backprop_rules.checker.subject import Subject
from backprop_rules.objection import WrongGradient
from backprop_rules.point import BackwardRaised, Point
from backprop_rules.verdict import judge

NO_DERIVATIVE = (
    "at no point does an enclosure say anything: the function has no finite derivative where it was tried, or its "
    "definition no value. Give an example inside its domain."
)


def _raises_when_plain(point: Point) -> bool:
    """Say whether it is not for the layout of the arrays that the backward raises."""
    plain = (None if x is None else x.clone(memory_format=torch.contiguous_format) for x in point.primals)
    try:
        point.backward(point.grad_y.clone(memory_format=torch.contiguous_format), point.y.clone(), *plain)
    except BackwardRaised:
        return True
    return False


def _ranks(point: Point) -> tuple[int | None, ...]:
    return tuple(None if x is None else x.ndim for x in point.primals)


@dataclass
class Tally:
    """What was seen: the points, and of how many elements the enclosures say something."""

    points: int = 0
    dtypes: dict[torch.dtype, int] = field(default_factory=dict)
    elements: int = 0
    proved: int = 0
    failures: list[WrongGradient] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    why: str = NO_DERIVATIVE
    example: Point | None = None
    ranks: dict[tuple[int | None, ...], int] = field(default_factory=dict)

    def tried(self, point: Point) -> None:
        """Count a point."""
        self.points += 1
        for dtype in {x.dtype for x in point.tensors}:
            self.dtypes[dtype] = self.dtypes.get(dtype, 0) + 1

    def excuses(self, objection: WrongGradient) -> bool:
        """Say whether a backward raises where nobody asked for it: at empty arrays, or at sizes that do not belong."""
        point, example = objection.point, self.example
        raises, empty = objection.kind.startswith("backward raises"), not all(x.numel() for x in point.tensors)
        if raises and empty:
            what = "empty arrays"
        elif example is not None and (
            (raises and not is_related_as(example, point) and _raises_when_plain(point))
            or (objection.kind == "has the wrong shape" and not broadcasts_as(example, point))
        ):
            what = "sizes that are not related as the example's are"
        else:
            return False
        if not any(what in note for note in self.notes):
            self.notes.add(f"{objection.kind}{objection.where} for {what}: {shapes_of(point)}")
        return True

    def hint(self, objection: WrongGradient) -> str:
        """Return a note on what may be meant otherwise: a primal without a gradient, or fewer numbers of axes."""
        rule, primal = objection.point.rule, objection.primal
        if objection.got == "None" and primal is not None and isinstance(rule, Subject) and rule.derived:
            name = rule.primals[primal]
            return f"if {name} is meant to have no gradient, as a mask of 0 and 1, write {name}.detach() in forward"
        failing = {_ranks(failure.point) for failure in [*self.failures, objection]}
        right = {ranks: count for ranks, count in self.ranks.items() if ranks not in failing}
        if not right or self.example is not None:
            return ""
        most = max(right, key=lambda ranks: right[ranks])
        named = zip(objection.point.rule.primals, most, strict=True)
        meant = ", ".join(f"{name} has {n} {'axis' if n == 1 else 'axes'}" for name, n in named if n is not None)
        return f"nothing was wrong where {meant} ({right[most]} points): if that is all that is meant, give an example"

    def passed(self, point: Point) -> None:
        """Count what the enclosures say of a point that passed."""
        self.ranks[_ranks(point)] = self.ranks.get(_ranks(point), 0) + 1
        for verdict in [] if point.on_meta else judge(point):
            if verdict.enclosure is not None and not verdict.witness and verdict.oracle != "the convention":
                self.elements += verdict.enclosure.proves.numel()
                self.proved += int(verdict.enclosure.proves.sum())
