"""A counterexample as Python code: the tensors of its point, and the call of the backward."""

from collections.abc import Sequence
from typing import Any

import torch

from backprop_rules import layout
from backprop_rules.domain import dtype_name, precision
from backprop_rules.evidence.evidence import cast
from backprop_rules.properties.finding import Finding
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.between import written_among
from backprop_rules.subject.returned import code
from backprop_rules.subject.subject import Subject, shapes_of

SHOWN = 400  # elements of a counterexample that are written out


def code_of(subject: Subject, finding: Finding) -> list[str]:
    """Return Python code that makes the point of a finding, and calls the backward there."""
    point, shown = finding.point, finding.dtype or max(subject.dtypes, key=precision)
    if point.size > SHOWN:
        return [
            f"{shapes_of(subject.names, point.leaves)}: {point.made}, in {dtype_name(shown)} ({point.size} elements)"
        ]
    leaves, grads = _tensors(subject, finding, shown)
    made = [(name, layout.code(x)) for name, x in zip(subject.names, leaves, strict=True)]
    made += [(name, repr(value)) for name, value in point.params.items()]
    grad_y = code(subject.backward.returned.of(list(map(layout.code, grads))))
    lines = [f"{_identifier(name)} = {value}" for name, value in [*made, ("grad_y", grad_y)]]
    imports = subject.backward.bridge.imports
    needed = [*[imports] * bool(imports), *["import collections"] * ("collections." in grad_y)]
    return [*needed, *layout.with_imports(lines), _call(subject, point)]


def _tensors(subject: Subject, finding: Finding, shown: torch.dtype) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the primals and cotangents in the dtype that is shown, or in their own, where it shows in these."""
    point, real = finding.point, shown.to_real() if shown.is_complex else shown
    if finding.native and subject.rule is not None:
        call = call_at(subject.rule, point, point.dtypes)
        return call.primals, (call.grad_y,)
    return cast(point.leaves, real), cast(point.grads, real)


def _identifier(name: str) -> str:
    return name.replace("[", "_").replace("]", "")


def _call(subject: Subject, point: Point) -> str:
    """Return the call as code: with what the backward takes, as its framework's arrays."""
    signature, form = subject.backward.signature, subject.backward.bridge.code
    leaves = dict(zip(subject.names, point.leaves, strict=True))
    lists: dict[str, list[str]] = {}
    for name in subject.names:
        lists.setdefault(name.partition("[")[0], []).append(name)

    def argument(name: str) -> str:
        own = lists.get(name, [name])
        if own != [name]:
            return f"[{', '.join(map(_identifier, own))}]"
        return form.format(name) if leaves.get(name, 0) is not None else name

    names = [argument(name) for name in signature.arguments("grad_y", "y", signature.primals)]
    names = written_among(subject.backward.function, names)
    params = [f"{name}={name}" for name in point.params if signature.takes(name)]
    return f"backward({', '.join([*names, *params])})"
