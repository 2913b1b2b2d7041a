"""What is asked of a backward, and of what function: the options, the rule or function, and the example."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.checker.evidence import ACCURACIES, CONVENTIONS
from backprop_rules.checker.subject import Subject, against_a_function, against_a_rule, rule_named
from backprop_rules.domain import REAL
from backprop_rules.errors import InputError, unknown
from backprop_rules.frameworks import FRAMEWORKS, as_torch, framework_of
from backprop_rules.properties import Property
from backprop_rules.rule import Rule
from backprop_rules.verify import find_device, find_dtype

Held = tuple[Any, ...]  # what a backward is held against, and the framework: as `question` takes it


def several(one_or_more: Any) -> list[Any]:
    """Return a sequence: of one, if it is no sequence, or a name."""
    return list(one_or_more) if isinstance(one_or_more, list | tuple | set | frozenset) else [one_or_more]


@dataclass(frozen=True)
class Asked:
    """What is asked of a backward: where it is tried, how often, and which choice it is to make at kinks."""

    dtypes: Sequence[Any] | None = None
    devices: Sequence[str] = ("cpu",)
    max_examples: int = 400
    seed: int = 0
    convention: str = "torch"
    saves: Sequence[str] | None = None
    strict_memory: bool = False
    accumulate: Any = None
    accuracy: str = "torch"
    extra: tuple[Property, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "convention", self.convention.replace("-", " "))  # as the command line spells it
        if self.convention not in CONVENTIONS:
            raise unknown("convention", self.convention, CONVENTIONS)
        if self.accuracy not in ACCURACIES:
            raise unknown("accuracy", self.accuracy, ACCURACIES)
        if not isinstance(self.max_examples, int) or self.max_examples < 0:
            raise InputError(f"max_examples must be a number of points; got {self.max_examples!r}.")
        object.__setattr__(self, "devices", tuple(several(self.devices)))
        for device in self.devices:
            find_device(device)
        if self.sums not in (None, *REAL):
            raise InputError(f"accumulate is the dtype that sums are kept in, such as float32; got {self.accumulate}.")

    @property
    def sums(self) -> torch.dtype | None:
        """The dtype that sums are kept in; None if that was not asked for."""
        return None if self.accumulate is None else _dtype(self.accumulate)

    def tried(self, rule: Rule) -> list[torch.dtype]:
        """Return those of a rule's dtypes that are tried."""
        asked = rule.domain.dtypes if self.dtypes is None else [_dtype(d) for d in several(self.dtypes)]
        return [d for d in rule.domain.dtypes if d in asked]

    def dtypes_for(self, rule: Rule) -> list[torch.dtype] | None:
        """Return the dtypes to try; InputError if the rule has none of them."""
        if self.dtypes is None:
            return None
        found = [_dtype(d) for d in several(self.dtypes)]
        if not set(found) & set(rule.domain.dtypes):
            names = ", ".join(map(str, rule.domain.dtypes))
            raise InputError(f"{rule}: none of the dtypes asked for is among {names}.")
        return found


def _dtype(named: Any) -> torch.dtype:
    return named if isinstance(named, torch.dtype) else find_dtype(str(named))


def question(
    backward: Callable[..., Any], held: Held, saves: Sequence[str] | None
) -> tuple[Subject, tuple[Tensor | None, ...] | None]:
    """Return the subject, and the primals of the example if there is one."""
    rule, forward, definition, example, params, framework = held
    if not callable(backward):
        raise InputError(f"a backward is a function; got {type(backward).__name__} {backward!r}.")
    if isinstance(backward, torch.nn.Module):
        raise InputError("a module computes forward: give its backward, a function (grad_y, *primals).")
    example = _sequence(example)
    kind = framework or (framework_of(example[0]) if example is not None and len(example) else "torch")
    if kind not in FRAMEWORKS:
        raise unknown("framework", kind, FRAMEWORKS)
    if not isinstance(params, Mapping):
        raise InputError(f"params is a dict of names and values, as in params={{'dim': 1}}; got {params!r}.")
    primals = None if example is None else tuple(_tensor(k, x) for k, x in enumerate(example))
    if rule is not None:
        if forward is not None or definition is not None:
            raise InputError("a rule says what its function is: give rule, or forward and definition, not both.")
        right = rule_named(rule)
        if primals is not None:  # optional ones may be left out at the end
            primals += (None,) * (len(right.primals) - len(primals))
        subject = against_a_rule(backward, right, params, kind, primals)
    elif forward is None and definition is None:
        raise InputError(
            "nothing to hold the backward against: give the name of a rule, as in check(f, rule='linear'), or the "
            "function, as in check(f, forward=function, example=(x, w))."
        )
    elif not primals:
        raise InputError("an example is missing: one call of the function, as in example=(x, w), to draw others from.")
    else:
        subject = against_a_function(backward, forward, definition, primals, params, kind)
    return subject if saves is None else _saving(subject, several(saves)), primals


def _saving(subject: Subject, saves: Sequence[str]) -> Subject:
    strangers = sorted(set(saves) - {"y", *subject.primals})
    if strangers:
        raise InputError(f"{subject}: saves names {strangers[0]}, but there is only y, {', '.join(subject.primals)}.")
    return replace(subject, saves=tuple(saves))


def _sequence(example: Any) -> Sequence[Any] | None:
    """Return the arguments of the example call; a single array is the only one."""
    if example is None or isinstance(example, list | tuple):
        return example
    if not hasattr(example, "shape"):
        raise InputError(
            f"example is one call of the function, the tuple of its arrays, as in example=(x, w); got a "
            f"{type(example).__name__}."
        )
    return (example,)


def _tensor(k: int, x: Any) -> Any:
    return x if x is None or isinstance(x, int | float | complex | str) else as_torch(x, f"argument {k} of the example")
