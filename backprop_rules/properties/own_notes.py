"""What is told of a function with a backward of its own, beside what was found."""

from collections.abc import Iterator

from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.whole import Whole, by_itself, call_of, computes_the_function
from backprop_rules.strategies.point import Point
from backprop_rules.subject.backward import Refused
from backprop_rules.subject.subject import Subject

OF_VALUES = (Kind.VALUE, Kind.STRIDES, Kind.SUBGRADIENT, Kind.INACCURATE, Kind.FARTHER)


def own_notes(whole: Whole, subject: Subject, finding: Finding | None) -> Iterator[str]:
    """Yield how it is applied, what autograd itself would mend, and whether its value is another one already."""
    if whole.note:
        yield whole.note
    if finding is None or finding.leaf is None:
        return
    if finding.kind is Kind.SHAPE and _is_summed(finding.got, finding.expected):
        name = subject.names[finding.leaf]
        yield f"autograd would sum the gradient of {name} to its shape: it is wrong where backward is called directly"
    if finding.kind in OF_VALUES:
        yield from _of_its_value(whole, subject, finding.point)


def _is_summed(got: object, right: object) -> bool:
    """Say whether autograd's engine sums a gradient of this shape to the right one, as one that was stretched to it."""
    if not isinstance(got, tuple) or not isinstance(right, tuple) or len(right) > len(got):
        return False
    return all(n in (1, m) for n, m in zip(reversed(right), reversed(got), strict=False))


def _of_its_value(whole: Whole, subject: Subject, point: Point) -> Iterator[str]:
    there = call_of(subject, point)
    try:
        found = (
            None
            if there is None
            else next(computes_the_function(whole.function, there, by_itself(subject, there)), None)
        )
    except Refused:
        return
    if found is not None:
        yield f"its own forward gives another value there already{found.where}: {found.got}, and not {found.expected}"
