"""The reference oracle: hold anyone's backward against the definition of what it differentiates."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.checker.case import load
from backprop_rules.checker.diagnosis import diagnosed
from backprop_rules.checker.evidence import (
    ACCURACIES,
    ANOTHER_CHOICE,
    ANSWERS_NAN,
    CONVENTIONS,
    INACCURATE,
    NO_SUBGRADIENT,
    Ask,
    grave,
    less_accurate_than_the_catalogue,
    shared_memory,
    slight,
)
from backprop_rules.checker.function import has_its_own_backward, of_the_function, own_backward
from backprop_rules.checker.hunt import kinks_near
from backprop_rules.checker.report import Report
from backprop_rules.checker.sizes import (
    broadcasts_as,
    cotangent,
    halved,
    is_quick,
    is_related_as,
    is_small,
    quick,
    shapes_of,
    with_a_long_axis,
)
from backprop_rules.checker.subject import Subject, against_a_function, against_a_rule, rule_named
from backprop_rules.domain import REAL, Choice
from backprop_rules.draw import quiet, search
from backprop_rules.errors import InputError, RoundingUnknown, unknown
from backprop_rules.frameworks import FRAMEWORKS, as_torch, framework_of
from backprop_rules.objection import OraclesDisagree, WrongGradient
from backprop_rules.point import BackwardRaised, Point
from backprop_rules.properties import Property
from backprop_rules.properties import check as hold
from backprop_rules.rule import Rule
from backprop_rules.simplify import simplest
from backprop_rules.verdict import judge
from backprop_rules.verify import find_device, find_dtype

# What is told only of a backward that is right but for that.
SLIGHT = (INACCURATE, ANOTHER_CHOICE, NO_SUBGRADIENT, ANSWERS_NAN)
# What a backward of another function than the one that it is held against fails: a mistake of the question.
NOT_ITS_FUNCTION = ("comes with a forward", "has a definition that raises")


def check(
    backward: Callable[..., Any],
    rule: str | Rule | None = None,
    *,
    forward: Callable[..., Any] | None = None,
    definition: Callable[..., Any] | None = None,
    example: Sequence[Any] | None = None,
    params: Mapping[str, Any] | None = None,
    dtypes: Sequence[Any] | None = None,
    devices: Sequence[str] = ("cpu",),
    max_examples: int = 400,
    seed: int = 0,
    convention: str = "torch",
    framework: str | None = None,
    saves: Sequence[str] | None = None,
    strict_memory: bool = False,
    accumulate: Any = None,
    accuracy: str = "torch",
    cases: Sequence[Path] = (),
    only_cases: bool = False,
    raise_on_failure: bool = True,
) -> Report:
    r"""Hold a backward against the definition of what it differentiates, at drawn points, and name its mistake.

    $\bar x = J^T \bar y$: `backward(grad_y, *primals, **params)` returns one gradient, or a tuple of
    them, each of its primal's shape. It is held against a rule of the catalogue, or against any
    function: `forward` in torch, or `definition` in NumPy notation, with one call of it, `example`, whose
    ranks, equal sizes and dtypes the drawn points share. An argument named y gets the output.

    `convention` is torch's choice at kinks, the catalogue's, or any subgradient; `accumulate` is the dtype
    that sums are kept in, where it is not torch's. `cases` are files of saved points to
    try first. Raises WrongGradient, whose text is the report, unless `raise_on_failure` is False; and
    InputError for what cannot be checked. Source of the bounds: Higham, Accuracy and Stability of
    Numerical Algorithms (2002), chapter 3.
    """
    __tracebackhide__ = True  # pytest shows the caller's line and the report
    examples = 0 if only_cases else max_examples
    asked = Asked(dtypes, devices, examples, seed, convention, saves, strict_memory, accumulate, accuracy)
    held = (rule, forward, definition, example, params or {}, framework)
    return _answered(asked, cases, raise_on_failure, backward, held)


def check_function(
    function: Any,
    rule: str | Rule | None = None,
    *,
    framework: str | None = None,
    raise_on_failure: bool = True,
    forward: Callable[..., Any] | None = None,
    definition: Callable[..., Any] | None = None,
    example: Sequence[Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Hold a torch.autograd.Function, or a JAX function, against the definition of what it is to compute.

    Its own backward is called directly, as in `check`, whose options this has; torch functions are also held to
    their output, to the same gradients through autograd, for some primals alone too, and twice in a row.
    """
    __tracebackhide__ = True
    strangers = sorted(set(options) - {field.name for field in fields(Asked)})
    if strangers:
        raise unknown("option", strangers[0], [field.name for field in fields(Asked)])
    if not callable(function):
        raise InputError(f"a function is to be checked; got {type(function).__name__} {function!r}.")
    held = (rule, forward, definition, example, params or {}, framework)
    backward, held, asked = _own(function, held, Asked(**options))
    return _answered(asked, (), raise_on_failure, backward, held)


Held = tuple[Any, ...]  # what a backward is held against, and the framework: as _question takes it


def _own(function: Any, held: Held, asked: "Asked") -> tuple[Callable[..., Any], Held, "Asked"]:
    """Return the own backward of a function, and what else is asked of such a one."""
    framework = held[-1] or ("jax" if has_its_own_backward(function) and not isinstance(function, type) else "torch")
    extra = of_the_function(function) if framework == "torch" else ()
    return own_backward(function, framework), (*held[:-1], framework), replace(asked, extra=extra)


def _answered(
    asked: "Asked", cases: Sequence[Path], raise_on_failure: bool, backward: Callable[..., Any], held: Held
) -> Report:
    __tracebackhide__ = True
    if has_its_own_backward(backward):
        backward, held, asked = _own(backward, held, asked)
    subject, first = _question(backward, held, asked.saves)
    with quiet(), np.errstate(all="ignore"):
        report = examine(subject, asked, first, [load(case, subject) for case in cases])
    if raise_on_failure and not report.passed:
        raise report.error()
    return report


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


def _question(
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


NO_DERIVATIVE = (
    "at no point does an enclosure say anything: the function has no finite derivative where it was tried, or its "
    "definition no value. Give an example inside its domain."
)


def _raises_when_plain(point: Point) -> bool:
    """Say whether it is not for the layout of the arrays that the backward raises."""
    plain = (None if x is None else x.clone(memory_format=torch.contiguous_format) for x in point.primals)
    try:
        point.backward(point.grad_y.clone(memory_format=torch.contiguous_format), point.y.clone(), *plain)
    except BackwardRaised:
        return True
    return False


def _ranks(point: Point) -> tuple[int | None, ...]:
    return tuple(None if x is None else x.ndim for x in point.primals)


@dataclass
class Tally:
    """What was seen: the points, and of how many elements the enclosures say something."""

    points: int = 0
    dtypes: dict[torch.dtype, int] = field(default_factory=dict)
    elements: int = 0
    proved: int = 0
    failures: list[WrongGradient] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    why: str = NO_DERIVATIVE
    example: Point | None = None
    ranks: dict[tuple[int | None, ...], int] = field(default_factory=dict)

    def tried(self, point: Point) -> None:
        """Count a point."""
        self.points += 1
        for dtype in {x.dtype for x in point.tensors}:
            self.dtypes[dtype] = self.dtypes.get(dtype, 0) + 1

    def excuses(self, objection: WrongGradient) -> bool:
        """Say whether a backward raises where nobody asked for it: at empty arrays, or at sizes that do not belong."""
        point, example = objection.point, self.example
        raises, empty = objection.kind.startswith("backward raises"), not all(x.numel() for x in point.tensors)
        if raises and empty:
            what = "empty arrays"
        elif example is not None and (
            (raises and not is_related_as(example, point) and _raises_when_plain(point))
            or (objection.kind == "has the wrong shape" and not broadcasts_as(example, point))
        ):
            what = "sizes that are not related as the example's are"
        else:
            return False
        if not any(what in note for note in self.notes):
            self.notes.add(f"{objection.kind}{objection.where} for {what}: {shapes_of(point)}")
        return True

    def hint(self, objection: WrongGradient) -> str:
        """Return a note on the numbers of axes, if it is right for some and wrong for others."""
        failing = {_ranks(failure.point) for failure in [*self.failures, objection]}
        right = {ranks: count for ranks, count in self.ranks.items() if ranks not in failing}
        if not right or self.example is not None:
            return ""
        most = max(right, key=lambda ranks: right[ranks])
        named = zip(objection.point.rule.primals, most, strict=True)
        meant = ", ".join(f"{name} has {n} {'axis' if n == 1 else 'axes'}" for name, n in named if n is not None)
        return f"nothing was wrong where {meant} ({right[most]} points): if that is all that is meant, give an example"

    def passed(self, point: Point) -> None:
        """Count what the enclosures say of a point that passed."""
        self.ranks[_ranks(point)] = self.ranks.get(_ranks(point), 0) + 1
        for verdict in [] if point.on_meta else judge(point):
            if verdict.enclosure is not None and not verdict.witness and verdict.oracle != "the convention":
                self.elements += verdict.enclosure.proves.numel()
                self.proved += int(verdict.enclosure.proves.sum())


def examine(
    subject: Subject,
    asked: Asked,
    first: tuple[Tensor | None, ...] | None = None,
    cases: Sequence[Point] = (),
) -> Report:
    """Return the report on a subject: hold it to what makes a backward wrong, then to what is less."""
    started, subject = time.perf_counter(), replace(subject, accumulate=asked.sums)
    tally, objection = Tally(), None
    example = _try_once(subject, first)
    before, after = _around(example, bool(asked.max_examples))
    before = [*cases, *before]
    tally.example = example
    objection = _searched(subject, partial(_hold, tally, asked, 0), asked, before, after)
    if objection is None and tally.failures:
        # Nothing is wrong, but something is not quite as asked: find the smallest point of that.
        tally.failures.clear()
        objection = _searched(subject, partial(_hold, tally, asked, 1), asked, before, after)
    if objection is not None and objection.kind.startswith(NOT_ITS_FUNCTION):
        raise InputError(f"{subject}: {_not_its_function(subject, objection)}\n{objection}")
    if objection is not None:
        _more_like(objection, subject, tally, asked)
        tally.notes |= {hint} if (hint := tally.hint(objection)) else set()
    mistake = diagnosed(tally.failures, objection) if objection else None
    return Report(
        subject=subject,
        verdict=_verdict(objection, tally),
        objection=mistake.objection if mistake else objection,
        mistake=mistake,
        points=tally.points,
        proved=tally.proved / tally.elements if tally.elements else 0.0,
        dtypes=tuple(tally.dtypes),
        devices=tuple(asked.devices),
        seed=asked.seed,
        seconds=time.perf_counter() - started,
        notes=tuple(sorted(tally.notes)),
        why=tally.why,
    )


def _hold(tally: Tally, asked: Asked, slightly: int, point: Point) -> None:
    """Ask what is to be asked at a point, as one where roundings are allowed for, and keep count.

    What is slight is only kept, not raised, unless it is asked for.
    """
    point = replace(point, spacing=0.0)
    try:
        _ = point.y
    except Exception:  # a forward that does not take these values, such as the inverse of a singular matrix
        return
    tally.tried(point)
    try:
        slighter = slight(asked.convention, asked.accuracy, asked.sums, asked.tried(point.rule))
        hold(point, (*grave(asked.saves is not None, asked.strict_memory), *asked.extra, *slighter))
    except WrongGradient as objection:
        if tally.excuses(objection):
            return
        tally.failures.append(objection)
        if slightly or not objection.kind.startswith(SLIGHT):
            raise
    except RoundingUnknown as error:
        tally.why = str(error)
        return
    tally.passed(point)
    tally.notes.update(shared_memory(point))
    if asked.accuracy == "torch" and not point.on_meta:
        tally.notes.update(less_accurate_than_the_catalogue(point))


def _searched(
    subject: Subject, held: Ask, asked: Asked, first: Sequence[Point], last: Sequence[Point]
) -> WrongGradient | None:
    """Return the objection at the smallest point found: at the first, drawn, near undeclared kinks, or at the last."""
    objection = _first_of(first, held)
    if objection is None and asked.max_examples:
        objection = search(subject, held, asked.max_examples, asked.seed, asked.dtypes_for(subject), asked.devices)
    if objection is None and asked.max_examples and subject.name not in CATALOGUE:
        objection = _first_of((near for point in first[:HUNTED] for near in kinks_near(point)), held)
    if objection is None:
        objection = _first_of(last, held)
    return _smallest(objection, held) if objection is not None and asked.max_examples else objection


def _smallest(objection: WrongGradient, held: Ask) -> WrongGradient:
    """Return the objection to the smallest point that fails in the same way: its axes halved first."""
    smaller: WrongGradient | None = objection
    while smaller is not None and not is_small(objection.point):
        objection, kind = smaller, smaller.kind
        smaller = _first_of(halved(objection.point), held, kind)
    return simplest(objection, held) if is_quick(objection.point) else objection


# Points near which undeclared kinks are hunted: a failing one of last time, and the example.
HUNTED = 2

# Points drawn on top, so that a mistake is not named after the one point at which it was first seen.
MORE = 48


def _more_like(objection: WrongGradient, subject: Subject, tally: Tally, asked: Asked) -> None:
    """Put failing points of the same kind, of other sizes, in front of those that were found on the way."""
    found: list[WrongGradient] = []

    def held(point: Point) -> None:
        try:
            _hold(Tally(), asked, int(objection.kind.startswith(SLIGHT)), point)
        except WrongGradient as other:
            if other.kind == objection.kind and other.primal == objection.primal:
                found.append(other)

    search(subject, held, MORE, asked.seed + 1, asked.dtypes_for(subject), asked.devices)
    tally.failures[:0] = found


def _first_of(points: Iterable[Point], held: Ask, kind: str | None = None) -> WrongGradient | None:
    """Return the first objection at these points, of that kind if one is named."""
    with quiet():
        for point in points:
            try:
                held(point)
            except WrongGradient as objection:
                if kind in (None, objection.kind):
                    return objection
    return None


def _try_once(subject: Subject, first: tuple[Tensor | None, ...] | None) -> Point | None:
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


def _around(example: Point | None, several: bool) -> tuple[list[Point], list[Point]]:
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


def _not_its_function(subject: Subject, objection: WrongGradient) -> str:
    if objection.kind.startswith(NOT_ITS_FUNCTION[1]):
        return (
            "the definition raises, so nothing can be said of the backward. It runs on arrays of exact numbers: write "
            "it with NumPy's elementary functions, sums, products, maxima and indices."
        )
    if subject.derived:
        return (
            "forward gives something else in this dtype than in exact numbers, so nothing can be said: does it depend "
            "on the dtype, as by torch.finfo? Give its numbers as params."
        )
    return "forward and definition are different functions, so nothing can be said."


def _verdict(objection: WrongGradient | None, tally: Tally) -> str:
    if objection is None:
        return "right" if tally.proved else "inconclusive"
    if isinstance(objection, OraclesDisagree):
        return "inconclusive"
    if objection.kind.startswith(INACCURATE):
        return "inaccurate"
    return "convention" if objection.kind.startswith((ANOTHER_CHOICE, ANSWERS_NAN)) else "wrong"
