"""What is asked of an autograd.Function as a whole, beside the gradients of its own backward."""

from collections.abc import Iterator
from dataclasses import replace

from backprop_rules.errors import InputError
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties.finding import Finding
from backprop_rules.properties.native import own_dtypes
from backprop_rules.properties.own_backward import Whole
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject


def of_the_function(subject: Subject, point: Point, whole: Whole) -> Iterator[Finding]:
    """Yield what is wrong with its output, its gradients through autograd, and what it saves."""
    if subject.rule is None:
        yield from whole.at_a_point(Evidence(subject, point)) if whole.has_its_own else ()
        return
    try:
        there = call_at(subject.rule, point, list(point.dtypes) or own_dtypes(subject, point))
    except (InputError, RuntimeError, ValueError, TypeError, IndexError):
        return  # a forward that does not take the example's own dtypes at these values
    for holds in whole.at_a_call():
        found = next(holds(there), None)
        if found is not None:
            yield replace(found, point=point, native=False)
            return
