"""What is asked of an autograd.Function as a whole, beside the gradients of its own backward."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backprop_rules.evidence.climb import as_rule_point
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.objection import WrongGradient
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject

Question = tuple[Kind, Callable[..., Any]]


def of_the_function(subject: Subject, point: Point, asked: Sequence[Question]) -> Iterator[Finding]:
    """Yield what is wrong with its output, its gradients through autograd, and what it saves."""
    if subject.rule is None:
        return
    try:
        there = as_rule_point(subject.rule, point, list(point.dtypes) or own_dtypes(subject))
    except Exception:  # a forward that does not take the example's own dtypes at these values
        return
    for kind, holds in asked:
        try:
            holds(there)
        except WrongGradient as objection:
            yield Finding(
                kind, point, objection.primal, None, objection.expected, objection.got, detail=objection.where
            )
            return
