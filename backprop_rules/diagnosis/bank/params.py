"""The mistakes of ignoring a param: which they are depends on the rule's params."""

from functools import partial
from typing import Any

from torch import Tensor

from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import Known
from backprop_rules.domain import kinds_of


def _ignoring(c: Case, name: str, other: Any) -> Tensor | None:
    value = c.point.params.get(name)
    if type(other) is not type(value) or other == value:
        return None
    found = c.gradient(params={**c.point.params, name: other})
    return found if found is not None and found.shape == c.x.shape else None


def params_ignored(case: Case) -> list[Known]:
    """Return the mistakes of computing as if a param were another of its values everywhere."""
    kinds = case.point.rule.reference.domain.params
    names = [name for name in case.point.params if name in kinds and name not in ("keepdim", "dtype")]
    return [
        Known(
            f"{name} ignored",
            f"as if {name} were {other!r} whatever it is",
            partial(_ignoring, name=name, other=other),
        )
        for name in names
        for other in (*kinds_of(kinds[name]), 0, 1, "mean", "sum")
    ]
