"""What is asked of an autograd.Function as a whole, beside the gradients of its own backward."""

from collections.abc import Iterator
from dataclasses import replace

from backprop_rules.errors import InputError
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties.finding import Finding
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.own_backward import Whole
from backprop_rules.rule import Rule
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject


def of_the_function(subject: Subject, point: Point, whole: Whole) -> Iterator[Finding]:
    """Yield what is wrong with its output, its gradients through autograd, and what it saves."""
    for found in _at_a_call(subject, subject.rule, point, whole) if subject.rule is not None else ():
        yield replace(found, point=point, native=False)
        return
    yield from whole.at_a_point(Evidence(subject, point)) if whole.has_its_own else ()


def _at_a_call(subject: Subject, rule: Rule, point: Point, whole: Whole) -> Iterator[Finding]:
    try:
        there = call_at(rule, point, list(point.dtypes) or own_dtypes(subject, point))
    except (InputError, RuntimeError, ValueError, TypeError, IndexError):
        return  # a forward that does not take the example's own dtypes at these values
    for holds in whole.at_a_call():
        yield from holds(there)
