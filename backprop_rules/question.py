"""What is asked of a backward, and of what function: the options, the rule or function, and the example."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils import _pytree

from backprop_rules.domain import REAL
from backprop_rules.errors import InputError, unknown
from backprop_rules.properties import effort
from backprop_rules.properties.invariance import WAYS
from backprop_rules.properties.outcome import Questions
from backprop_rules.rule import Rule
from backprop_rules.strategies.of_rules import RulePoints
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import InOrder, Points
from backprop_rules.strategies.values import have_a_meaning
from backprop_rules.subject.as_rule import against_a_rule, rule_named
from backprop_rules.subject.backward import Backward, Signature
from backprop_rules.subject.build import subject_of
from backprop_rules.subject.devices import find_device, find_dtype
from backprop_rules.subject.frameworks.carried import as_torch, bridge_of, framework_of
from backprop_rules.subject.function import Function
from backprop_rules.subject.parameters import with_those_named_by
from backprop_rules.subject.returned import ONE
from backprop_rules.subject.subject import Subject

CONVENTIONS = ("torch", "catalogue", "any subgradient")
ACCURACIES = ("torch", "catalogue")
Held = tuple[Any, ...]  # what a backward is held against, and the framework: as `question` takes it


def several(one_or_more: Any) -> list[Any]:
    """Return a sequence: of one, if it is no sequence, or a name."""
    return list(one_or_more) if isinstance(one_or_more, list | tuple | set | frozenset) else [one_or_more]


@dataclass(frozen=True)
class Asked(Questions):
    """What is asked of a backward, as a user says it: where it is tried and how often as well."""

    dtypes: Sequence[Any] | None = None
    max_examples: int = effort.DRAWN
    seed: int = 0
    accumulate: Any = None
    sizes: Mapping[int, Sequence[int]] | None = None
    contiguous: bool = False
    of_a_rule: bool = False

    def __post_init__(self) -> None:
        self._has(convention=str(self.convention).replace("-", " "))  # as the command line spells it
        self._has(invariance=tuple(several(self.invariance)), devices=tuple(map(str, several(self.devices))))
        self._has(saves=None if self.saves is None else tuple(several(self.saves)))
        if self.convention not in CONVENTIONS:
            raise unknown("convention", self.convention, CONVENTIONS)
        if self.accuracy not in ACCURACIES:
            raise unknown("accuracy", self.accuracy, ACCURACIES)
        for way in self.invariance:
            if way not in WAYS:
                raise unknown("invariance", way, WAYS)
        if not isinstance(self.max_examples, int) or self.max_examples < 0:
            raise InputError(f"max_examples must be a number of points; got {self.max_examples!r}.")
        if not isinstance(self.seed, Integral) or abs(self.seed) >= 2**62:
            raise InputError(f"seed is a whole number of at most 62 bits; got {self.seed!r}.")
        self._has(seed=int(self.seed))
        if not self.devices:
            raise InputError("devices is empty: name one at least, as in devices=['cpu'].")
        for device in self.devices:
            find_device(device)
        self._has(sums=None if self.accumulate is None else _dtype(self.accumulate))
        if self.sums not in (None, *REAL):
            raise InputError(f"accumulate is the dtype that sums are kept in, such as float32; got {self.accumulate}.")
        times = max(1, -(-self.max_examples // effort.DRAWN))  # who asks for more points pays for them
        self._has(work=effort.WORK * times, after=effort.AFTER_OF_A_RULE if self.of_a_rule else effort.AFTER)

    def _has(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def among(self, name: object, dtypes: Sequence[torch.dtype]) -> tuple[torch.dtype, ...]:
        """Return those of some dtypes that were asked for; InputError if there are none."""
        if self.dtypes is None:
            return tuple(dtypes)
        asked = [_dtype(d) for d in several(self.dtypes)]
        found = tuple(d for d in dtypes if d in asked)
        if not found:
            raise InputError(f"{name}: none of the dtypes asked for is among {', '.join(map(str, dtypes))}.")
        return found


def _dtype(named_: Any) -> torch.dtype:
    return named_ if isinstance(named_, torch.dtype) else find_dtype(str(named_))


def question(backward: Callable[..., Any], held: Held, asked: Asked) -> tuple[Subject, Iterable[Point]]:
    """Return the subject, and its points."""
    rule, forward, definition, example, params, framework = held
    if not callable(backward):
        raise InputError(f"a backward is a function; got {type(backward).__name__} {backward!r}.")
    if isinstance(backward, torch.nn.Module):
        raise InputError("a module computes forward: give its backward, a function (grad_y, *primals).")
    if isinstance(forward, torch.nn.Module) and any(map(is_lazy, (*forward.parameters(), *forward.buffers()))):
        raise InputError(f"{type(forward).__name__} has parameters without a shape yet: call it once before.")
    example = sequence(example)
    kind = bridge_of(framework or _framework(example)).name
    if not isinstance(params, Mapping):
        raise InputError(f"params is a dict of names and values, as in params={{'dim': 1}}; got {params!r}.")
    primals = None if example is None else tuple(_tensor(k, x) for k, x in enumerate(example))
    if rule is not None:
        if forward is not None or definition is not None:
            raise InputError("a rule says what its function is: give rule, or forward and definition, not both.")
        return _of_a_rule(backward, rule_named(rule), primals, params, kind, asked)
    if forward is None and definition is None:
        raise InputError(
            "nothing to hold the backward against: give the name of a rule, as in check(f, rule='linear'), or the "
            "function, as in check(f, forward=function, example=(x, w))."
        )
    if not primals:
        raise InputError("an example is missing: one call of the function, as in example=(x, w), to draw others from.")
    if isinstance(forward, torch.nn.Module):
        forward, primals = with_those_named_by(backward, forward, primals, params)
    subject = subject_of(backward, forward, definition, primals, params, kind)
    if asked.dtypes is not None:
        subject = replace(subject, dtypes=asked.among(subject, subject.dtypes))
    sizes = _sizes(subject, asked.sizes)
    stay = {n for n, others in sizes.items() if set(others) <= {n}}
    kept = frozenset(k for k in subject.constants.cut_off if have_a_meaning(subject.example[k]))
    constants = replace(subject.constants, sizes=subject.constants.sizes | stay, kept=kept)
    subject = replace(subject, rule=_summing(subject.rule, asked), constants=constants)
    _known(subject, asked)
    tried = {n: others for n, others in sizes.items() if n not in stay}
    points = Points(subject, asked.max_examples, asked.seed, tried).with_a_small_example()
    return points.subject, InOrder(points) if asked.contiguous else points


def _of_a_rule(
    backward: Callable[..., Any], right: Rule, primals: Any, params: Mapping[str, Any], framework: str, asked: Asked
) -> tuple[Subject, Iterable[Point]]:
    if primals is not None:  # optional ones may be left out at the end
        primals += (None,) * (len(right.primals) - len(primals))
    signature = Signature(backward, right.primals, right.domain.params, len(right.primals) - len(right.optional))
    own = Backward(backward, signature, framework, ONE)
    rule = _summing(against_a_rule(own, right, params, primals), asked)
    dtypes = asked.among(right, rule.domain.dtypes)
    if asked.dtypes is None:
        dtypes = tuple(d for d in dtypes if not own.bridge.lacks(d))
    subject = replace(of_the_catalogue(right, dtypes), backward=own, rule=rule)
    _known(subject, asked)
    points = RulePoints(rule, 4 * max(1, asked.max_examples), asked.seed, dtypes)
    return subject, InOrder(points) if asked.contiguous else points


def of_the_catalogue(rule: Rule, dtypes: tuple[torch.dtype, ...]) -> Subject:
    """Return a rule of the catalogue, or one that is to join it, as the subject that it is itself."""
    kinds = (torch.int64 if name in rule.domain.indices else dtypes[0] for name in rule.primals)
    like = tuple(torch.zeros((), dtype=kind) for kind in kinds)
    _, structure = _pytree.tree_flatten(like)
    signature = Signature(rule.backward, rule.primals, rule.domain.params, len(rule.primals) - len(rule.optional))
    made = Function(rule.forward, structure, {})
    own = Backward(rule.backward, signature, "torch", ONE)
    return Subject(rule.name, made, own, like, rule.primals, rule, "", rule.formula, dtypes, right=rule)


def _sizes(subject: Subject, sizes: Any) -> dict[int, tuple[int, ...]]:
    """Return the sizes to try in the place of the example's, a size itself where it stays; InputError for none."""
    if sizes is None:
        return {}
    own = {n for x in subject.example for n in x.shape}
    if not isinstance(sizes, Mapping) or not set(sizes) <= own:
        raise InputError(
            f"{subject}: sizes says which sizes to try in the place of the example's, as in sizes={{4: (3, 5)}}, or "
            f"which stay, as in sizes={{4: 4}}; got {sizes!r}, and the example has the sizes "
            f"{', '.join(map(str, sorted(own)))}."
        )
    found = {size: tuple(several(others)) for size, others in sizes.items()}
    strange = [n for others in found.values() for n in others if not isinstance(n, Integral) or n < 0]
    if strange:
        raise InputError(f"{subject}: sizes are whole numbers from 0 on; got {strange[0]!r} in {sizes!r}.")
    return {size: tuple(map(int, others)) for size, others in found.items()}


def _summing(rule: Any, asked: Asked) -> Any:
    if rule is None or asked.sums is None:
        return rule
    return replace(rule, roundings=replace(rule.roundings, accumulate=asked.sums))


def _known(subject: Subject, asked: Asked) -> None:
    for name in asked.saves or ():
        if name not in {"y", *subject.names}:
            raise InputError(f"{subject}: saves names {name}, but there is only y, {', '.join(subject.names)}.")


def _framework(example: Any) -> str:
    leaves = _pytree.tree_leaves(example) if example else []
    return framework_of(leaves[0]) if leaves else "torch"


def sequence(example: Any) -> Sequence[Any] | None:
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
    if isinstance(x, Mapping):
        raise InputError(f"argument {k} of the example is a dict: give its tensors as arguments, or in a list.")
    if isinstance(x, list | tuple):
        made = [_tensor(k, one) for one in x]
        return type(x)(*made) if hasattr(x, "_fields") else type(x)(made)
    if isinstance(x, Tensor) and x.is_inference():
        return x.clone()  # which autograd takes
    if x is None or isinstance(x, Tensor) or (isinstance(x, int | float | complex | str) and not hasattr(x, "shape")):
        return x
    return as_torch(x, f"argument {k} of the example")
