"""What is told of a function with a backward of its own, beside what was found."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call, probe
from backprop_rules.domain import precision
from backprop_rules.errors import OwnError
from backprop_rules.evidence.evidence import in_precision, largest
from backprop_rules.layout import stretches
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.own_backward import applied, is_autograd_function
from backprop_rules.properties.whole import Whole
from backprop_rules.rule import Gradients
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import F64, running
from backprop_rules.subject.function import steps_to
from backprop_rules.subject.returned import in_a_row
from backprop_rules.subject.subject import Subject

OF_VALUES = (Kind.VALUE, Kind.STRIDES, Kind.SUBGRADIENT, Kind.INACCURATE, Kind.FARTHER)


TWICE = (
    "its second derivative is not forward's, and nothing raises: what its backward detaches, or keeps on ctx by other "
    "means than save_for_backward, is missing there. torch.autograd.function.once_differentiable would refuse it"
)


def own_notes(whole: Whole, subject: Subject, finding: Finding | None, passed: Point | None) -> Iterator[str]:
    """Yield how it is applied, what autograd itself would mend, and whether its value is another one already.

    Of what is right, at a point that `passed`, whether it may be differentiated once more.
    """
    if whole.note:
        yield whole.note
    if finding is None and passed is not None and is_autograd_function(whole.function):
        yield from [TWICE] if _has_another_second_derivative(whole.function, subject, passed) else ()
    if finding is None or finding.leaf is None:
        return
    if finding.kind is Kind.SHAPE and _is_summed(finding.got, finding.expected):
        name = subject.names[finding.leaf]
        yield f"autograd would sum the gradient of {name} to its shape: it is wrong where backward is called directly"
    if finding.kind in OF_VALUES:
        found = whole.value(subject, finding.point)
        if found is not None:
            other = f"{found.where}: {found.got}, and not {found.expected}"
            yield f"its own forward gives another value there already{other}"


def _is_summed(got: object, right: object) -> bool:
    """Say whether autograd's engine sums a gradient of this shape to the right one, as one that was stretched to it."""
    return isinstance(got, tuple) and isinstance(right, tuple) and stretches(right, got)


def _has_another_second_derivative(function: Any, subject: Subject, point: Point) -> bool:
    """Say whether it gives another second derivative than forward, by half of float64's digits; no, where it raises."""
    from backprop_rules.evidence.allowance.bounds import second_gradients, torchs_gradients  # long to import

    def by_engine(call: Call, grad_y: Tensor, y: Tensor, primals: tuple[Tensor | None, ...]) -> Gradients:
        # It may work in place.
        own = applied(function, [x.clone() if isinstance(x, Tensor) else x for x in primals], call.params)
        out = in_a_row(own if isinstance(own, tuple) else (own,)).reshape(grad_y.shape)
        found = torchs_gradients(call, grad_y, out, primals)
        if any(type(node).__name__ == "Error" for node in steps_to(g.grad_fn for g in found if g is not None)):
            raise RuntimeError("it refuses to be differentiated twice")  # which goes unseen where no way leads back
        return found

    if subject.rule is None or any(x.is_complex() for x in point.tensors):
        return False
    try:
        with running(None), torch.enable_grad():
            there = call_at(subject.rule, point, in_precision(point, F64))
            asked = partial(second_gradients, there, [probe(x, k) for k, x in enumerate(there.tensors)])
            right, own = asked(torchs_gradients), asked(by_engine)
    except OwnError:
        raise
    except (Exception, SystemExit):  # of somebody's code, or of a forward that takes no float64
        return False
    few: float = 2.0 ** (-precision(F64) / 2)
    return any(largest(a - b) > few * max(map(largest, right)) > 0 for a, b in zip(own, right, strict=True))
