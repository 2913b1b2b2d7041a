"""The points that are tried first and last: the example, and what is made of it."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.checker.sizes import cotangent, quick, with_a_long_axis
from backprop_rules.checker.subject import Subject
from backprop_rules.domain import Choice
from backprop_rules.errors import InputError
from backprop_rules.point import BackwardRaised, Point


def try_once(subject: Subject, first: tuple[Tensor | None, ...] | None) -> Point | None:
    """Return the example as a point; InputError for a backward that cannot be called there at all."""
    if first is None:
        return None
    params = {name: kind.options[0] for name, kind in subject.domain.params.items() if isinstance(kind, Choice)}
    there = Point(subject, first, params, torch.empty(0))
    try:
        y = there.y
    except Exception as error:
        raise InputError(
            f"{subject}: the forward raises {type(error).__name__} for the example: {error}. It is called with torch "
            "tensors; a function of NumPy arrays is a definition, as in definition=np.exp."
        ) from error
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        got = f"a tensor of {y.dtype}, which has no gradient" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise InputError(
            f"{subject}: the forward returns {got}. It must return one floating-point or complex tensor: check one "
            "output at a time, and give a function of NumPy arrays as the definition."
        )
    point = replace(there, grad_y=cotangent(y))
    try:
        gradients = point.gradients
    except BackwardRaised as error:
        raise InputError(
            f"{subject}: the backward raises {': '.join(error.args)}, for the example itself. It is called as "
            f"f(grad_y, {', '.join(subject.primals)})."
        ) from error
    if len(gradients) != len(subject.primals):
        raise InputError(
            f"{subject}: the backward returns {len(gradients)} gradients for {len(subject.primals)} primals, "
            f"{', '.join(subject.primals)}: one for each is needed, None for one without."
        )
    return point


def around(example: Point | None, several: bool) -> tuple[list[Point], list[Point]]:
    """Return the points to try first, at the example or at a smaller one, and last: those with a long axis."""
    if example is None:
        return [], []
    if not several:
        return [example], []
    small = quick(example)
    return [small, *_special(small)], [*with_a_long_axis(small), *[example] * (small is not example)]


def _special(point: Point) -> Iterator[Point]:
    """Yield the example with ties and zeros in it: one primal zero, or one row of it, or all primals alike."""
    for i in point.given:
        x = point.primals[i]
        assert x is not None
        first_row = x.clone()
        first_row[:1] = 0
        for there in (torch.zeros_like(x), torch.ones_like(x), *([first_row] if x.ndim else [])):
            yield replace(point, primals=(*point.primals[:i], there, *point.primals[i + 1 :]))
    first = point.tensors[0]
    alike = [first.clone().to(x.dtype) if x.shape == first.shape else x for x in point.tensors]
    if len(alike) > 1:
        yield replace(point, primals=point.placed(alike))
