"""The reference oracle: hold anyone's backward against the definition of what it differentiates."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from backprop_rules.domain import dtype_name
from backprop_rules.errors import InputError, unknown
from backprop_rules.evidence.evidence import NARROW, WIDE, Evidence, Pair, cast
from backprop_rules.properties.effort import DRAWN
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.properties.own_backward import (
    applying,
    has_its_own_backward,
    is_autograd_function,
    own_backward,
    without_what_is_marked,
)
from backprop_rules.properties.own_notes import own_notes
from backprop_rules.properties.smallest import confirmed, smallest
from backprop_rules.properties.trial import Trial
from backprop_rules.properties.whole import Whole
from backprop_rules.question import Asked, Held, question, sequence, several
from backprop_rules.report.case import load
from backprop_rules.report.progress import shown
from backprop_rules.report.report import Report, WrongGradient, report_of, said
from backprop_rules.rule import Rule
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.values import relaid
from backprop_rules.subject import denormals, garbage
from backprop_rules.subject.ambient import F64, inexact, quiet, running, uncompiled
from backprop_rules.subject.backward import Miscounted, Misfit, Raised, Refused
from backprop_rules.subject.between import Between, backward_of_arrays, fixed_in, of_arrays
from backprop_rules.subject.build import leaf_names
from backprop_rules.subject.detached import detached_by, that_detaches
from backprop_rules.subject.frameworks.of_jax import JAX
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.parameters import left_as_it_is, with_its_parameters
from backprop_rules.subject.places import raised_at
from backprop_rules.subject.recomputed import as_watched, recomputed_by
from backprop_rules.subject.subject import Subject

if TYPE_CHECKING:  # which brings ball arithmetic along
    from backprop_rules.diagnosis.mistake import Mistake


# What follows from the options, and from what is checked.
NO_OPTIONS = {"after", "extra", "itself", "of_a_rule", "of_rules", "proofs", "sums", "work"}


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
    max_examples: int = DRAWN,
    seed: int = 0,
    convention: str = "torch",
    framework: str | None = None,
    cases: Sequence[Path] = (),
    only_cases: bool = False,
    raise_on_failure: bool = True,
    **options: Any,
) -> Report:
    r"""Hold a backward against the definition of what it differentiates, at drawn points, and name its mistake.

    $\bar x = J^T \bar y$: `backward(grad_y, *primals, **params)` returns a gradient of each primal's shape. It is
    held against a rule of the catalogue, or against any function: `forward` in torch, which may be a module, or
    `definition` in NumPy notation, with one call of it, `example`, whose ranks, equal sizes and dtypes the points
    share. An argument named y gets the output; of several outputs, `grad_y` and y have their structure.

    `max_examples` points are drawn beside a plan of some forty; `convention` is torch's choice at kinks, the
    catalogue's, or any subgradient; `cases` are files of saved points to try first. Other options: `saves`,
    `strict_memory`; `accumulate`, the dtype of sums, and `accuracy`; `invariance`, what no bit may depend on (runs,
    threads, batch, padding), and `deterministic`; `explain=False` looks for no mistake; `sizes` that alone are
    tried beside the example's, {4: (3, 5)}, or to keep, {3: 3}; `contiguous=True` tries none but arrays in order.
    Raises WrongGradient, whose text is the report, unless `raise_on_failure` is False; and InputError for what cannot
    be checked.
    Source of the bounds: Higham, Accuracy and Stability of Numerical Algorithms (2002), chapter 3.
    """
    __tracebackhide__ = True  # pytest shows the caller's line and the report
    known = {"dtypes": dtypes, "devices": devices, "max_examples": max_examples, "seed": seed, "convention": convention}
    asked = _asked(**known, **options)
    held = (rule, forward, definition, example, params or {}, framework)
    return _answered(asked, cases, only_cases, raise_on_failure, backward, held)


def check_function(
    function: Any,
    rule: str | Rule | None = None,
    *,
    framework: str | None = None,
    cases: Sequence[Path] = (),
    only_cases: bool = False,
    raise_on_failure: bool = True,
    forward: Callable[..., Any] | None = None,
    definition: Callable[..., Any] | None = None,
    example: Sequence[Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Hold a torch.autograd.Function, or a JAX function, against the definition of what it is to compute.

    Its own backward is called directly, as in `check`, whose options this has; torch functions are also held to
    their output, to the same gradients through autograd, for some primals alone too, and twice in a row. Given an
    example alone, a torch function is held to its own differences, as by gradcheck: what it detaches is no constant.
    A module's parameters are primals as well, but where forward is no module that has the same.
    """
    __tracebackhide__ = True
    if isinstance(function, type) and not has_its_own_backward(function):
        raise InputError(
            f"{function.__name__} is a class, and no autograd.Function: give a Function, or a function that torch runs."
        )
    if not callable(function):
        raise InputError(f"a function is to be checked; got {type(function).__name__} {function!r}.")
    asked, alone = _asked(**options), rule is None and forward is None and definition is None
    if alone and example is not None and (framework or _framework(function, example)) == "torch":
        asked, forward = replace(asked, itself=True), applying(function)
    function, held = _of_parameters(function, (rule, forward, definition, example, params or {}, framework))
    return _of_a_function(asked, cases, only_cases, raise_on_failure, function, held)


def _asked(**options: Any) -> Asked:
    known = {field.name for field in fields(Asked)} - NO_OPTIONS
    for stranger in set(options) - known:
        raise unknown("option", stranger, known)
    return Asked(**options)


def _of_parameters(function: Any, held: Held) -> tuple[Any, Held]:
    """Return a module, and what it is held to, as functions of its parameters too, where both have the same."""
    rule, forward, definition, example, *rest = held
    example = sequence(example)
    if not isinstance(function, torch.nn.Module) or example is None or (rule or definition):
        return function, held
    against = forward if isinstance(forward, torch.nn.Module) else None
    with quiet(), leaving_alone(function), running(None):
        found = with_its_parameters(function, example, rest[0])
    if found is None or against is None or (other := found[0].of(against)) is None:
        return function, held
    return found[0], (rule, other, definition, found[1], *rest)


def _own(function: Any, held: Held, asked: Asked) -> tuple[Callable[..., Any], Held, Asked]:
    """Return the own backward of a function, and what else is asked of such a one."""
    framework, note, (rule, forward, *rest) = held[-1] or _framework(function, held[3]), "", held
    if is_autograd_function(function):
        with quiet(), leaving_alone(forward), running(None):
            forward, note = without_what_is_marked(function, forward, sequence(rest[1]), rest[2])
    extra = Whole(function, note or _not_held(function), asked.deterministic) if framework == "torch" else None
    count = len(rest[1]) if isinstance(rest[1], list | tuple) else 0
    return own_backward(function, framework, count), (rule, forward, *rest[:-1], framework), replace(asked, extra=extra)


def _not_held(function: Any) -> str:
    """Return a note on a module's parameters, which are no primals where it is still a module."""
    if not isinstance(function, torch.nn.Module) or not any(p.requires_grad for p in function.parameters()):
        return ""
    name = type(function).__name__
    takes = "a module of Python whose backward reads none of them (a Function's own may)"
    return f"the parameters of {name} are not held: that takes {takes}, and as forward one with the same"


def _of_a_function(
    asked: Asked, cases: Sequence[Path], only_cases: bool, raise_on_failure: bool, function: Any, held: Held
) -> Report:
    """Return the report on a function's own backward; what forward detaches is detached where the function wants it."""
    __tracebackhide__ = True
    how = cases, only_cases, raise_on_failure
    backward, own, more = _own(function, held, asked)
    try:
        return _answered(more, *how, backward, own)
    except InputError as error:
        other = _detaching(function, held) if isinstance(error.__cause__, Refused) else None
        if other is None:
            raise
    changed, note = other
    backward, own, more = _own(changed, held, asked)
    return _answered(replace(more, extra=Whole(changed, note, more.deterministic)), *how, backward, own)


def _detaching(function: Any, held: Held) -> tuple[Any, str] | None:
    """Return a Function applied without what forward detaches, and a note; None where forward detaches nothing."""
    _, forward, _, example, params, _ = held
    if not is_autograd_function(function) or forward is None or example is None:
        return None
    with quiet(), leaving_alone(forward), running(None):
        places = detached_by(forward, example, params)
    if not places:
        return None
    names = leaf_names(forward, example)
    which = " and ".join(names[k] for k in sorted(places))
    note = f"{function.__name__} is applied with {which} detached, as in forward: it refuses what requires a gradient"
    return that_detaches(function, places), note


def _of_arrays(backward: Any, held: Held, asked: Asked) -> tuple[Any, Held, Asked]:
    """Return what is asked of functions of arrays alone, where the example has numbers or names beside them."""
    rule, forward, definition, example, *rest = held
    values = fixed_in(example) if isinstance(example, list | tuple) and callable(backward) else {}
    if not values or rule is not None or (forward or definition) is None:
        return backward, held, asked
    backward = backward_of_arrays(backward, forward or definition, values, len(example))
    if asked.extra is not None and isinstance(backward, Between):
        before = {k - 1: value for k, value in backward.values.items()}
        asked = replace(asked, extra=replace(asked.extra, function=Between(asked.extra.function, before)))
    arrays = tuple(x for k, x in enumerate(example) if k not in values)
    return backward, (rule, of_arrays(forward, values), of_arrays(definition, values), arrays, *rest), asked


def _framework(function: Any, example: Any) -> str:
    """Return what a function is written for: what it is an object of says it, or the arrays of its example."""
    if has_its_own_backward(function):
        return "torch" if isinstance(function, type) else "jax"
    return "jax" if isinstance(example, Sequence) and any(map(JAX.owns, example)) else "torch"


def _answered(
    asked: Asked, cases: Sequence[Path], only_cases: bool, raise_on_failure: bool, backward: Any, held: Held
) -> Report:
    __tracebackhide__ = True
    if has_its_own_backward(backward):
        return _of_a_function(asked, cases, only_cases, raise_on_failure, backward, held)
    backward, held, asked = _of_arrays(backward, held, asked)
    started = time.perf_counter()
    with quiet(), leaving_alone(held[1]), uncompiled(), np.errstate(all="ignore"), running(None):
        if held[1] is None and held[2] is not None and asked.convention == "torch":
            asked = replace(asked, convention="any subgradient")  # of a definition alone, torch makes no choice
        asked = replace(asked, of_a_rule=held[0] is not None)
        subject, drawn = question(backward, held, asked)
        if held[1] is not None and held[2] is not None:
            same_function(subject, drawn)
        saved = [load(case, subject) for case in several(cases)]
        points = saved if only_cases else chain(saved, drawn)
        report = examined(subject, points, asked, started)
    if raise_on_failure and not report.passed:
        if report.interrupted and report.finding is None:
            raise KeyboardInterrupt(str(report))  # or the test that calls would have passed, and the next one begin
        raise WrongGradient(report)
    return report


@contextmanager
def leaving_alone(forward: Any) -> Iterator[None]:
    """Leave a module, random state and the processor's mode as they were; tell no warnings at sizes that nobody gave.

    The collector of garbage does not go through what the user has made.
    """
    state, new = torch.default_generator.get_state(), garbage.of_what_is_new()
    again = recomputed_by(as_watched)
    with left_as_it_is(forward), warnings.catch_warnings(), torch.inference_mode(False), denormals.kept(), new, again:
        warnings.simplefilter("ignore")
        try:
            yield
        except SystemExit as error:
            told = f"SystemExit: {error}{raised_at(error)}"
            raise InputError(f"the code that was called ends the program, by {told}. Let it return.") from error
        finally:
            torch.default_generator.set_state(state)


def same_function(subject: Subject, points: Any) -> None:
    """Raise InputError where forward and definition, both given, are different functions."""
    from backprop_rules.evidence.evidence import in_precision
    from backprop_rules.evidence.oracles.oracle import Silent
    from backprop_rules.properties.derivative import computes_its_definition

    first = next(iter(points), None)
    if first is None or subject.rule is None:
        return
    call = call_at(subject.rule, first, in_precision(first, torch.float64))
    try:
        found = next(computes_its_definition(call), None)
    except (InputError, Silent, NotImplementedError):
        return  # the rounding of forward is not known, or the definition has no value there
    if found is not None:
        both = f"forward gives {found.got}, and the definition {said(found.expected)}{found.detail}"
        raises = f"the definition raises{found.detail}"
        counted = found.kind is Kind.NO_DEFINITION or isinstance(found.expected, str)
        raise InputError(
            f"{subject}: forward and definition are different functions, so nothing can be said{found.where}: "
            f"{raises if found.kind is Kind.NO_DEFINITION else both}, at\n{call}"
            + "\nLet the definition return what forward does: as many outputs, in the same order and shapes."
            * counted
        )


def examined(subject: Subject, points: Any, asked: Asked, started: float) -> Report:
    """Return the report on a subject, asked at points."""
    outcome, finding, mistake = tried(subject, points, asked)
    return report_of(subject, outcome, finding, mistake, asked.devices, asked.seed, time.perf_counter() - started)


def tried(subject: Subject, points: Any, questions: Questions) -> tuple[Outcome, Finding | None, "Mistake | None"]:
    """Return what came of a trial, the finding to tell of, and its name: the smallest, on the strongest rung."""
    from backprop_rules.diagnosis.naming import named_mistake

    points, pair = _first_called(subject, iter(points))
    with shown(points, str(subject)) as counted:
        outcome = Trial(subject, counted, questions).run(pair)
        finding, mistake = outcome.chief, None
        if outcome.interrupted:  # what is found is delivered
            return outcome, finding, named_mistake(subject, outcome, finding, explain=False)
        try:
            if finding is not None:
                finding = smallest(subject, outcome.pair, finding, outcome.findings)
            if finding is not None and not finding.native and outcome.pair.high.itemsize == WIDE_BYTES:
                finding = confirmed(subject, finding) or finding
            if questions.extra is not None:
                # Of what draws random numbers each run is another function.
                passed = next((p for p in outcome.passed if p.says and not outcome.random_forward), None)
                told = own_notes(questions.extra, subject, finding, passed)
                outcome.notes.update(dict.fromkeys(outcome.until_ours(told)))
            mistake = named_mistake(subject, outcome, finding, questions.explain)
        except KeyboardInterrupt:  # as above
            outcome.notes["interrupted: a smaller counterexample, or a name, was not looked for any longer"] = None
            outcome.interrupted = True
        return outcome, finding, mistake


def _why_no_witness(subject: Subject) -> str:
    """Say why forward does not take the example in float64, in which its gradient is the witness."""
    try:
        subject.function.y(cast(subject.example, F64), F64)
    except NoPoint as error:
        return (
            f"{error}, where it is called in float64: its gradient there is what the backward is held to. Give a "
            f"forward of the same function that takes float64, as one written with other operations."
        )
    return "the forward does not take the example in the layouts that it is called with."


WIDE_BYTES = 8


def _first_called(subject: Subject, points: Iterator[Point]) -> tuple[Iterator[Point], Pair]:
    """Return the points, and the precisions to compare: the first shows whether the backward can be called at all."""
    first = next(points, None)
    if first is None:
        raise InputError(f"{subject}: {_why_no_witness(subject)}")
    try:
        pair = _refuse_what_cannot_be_called(subject, first)
    except InputError:
        if subject.right is None:
            raise
        pair = WIDE  # for a rule that is a finding: its domain is declared
    return chain([first], points), pair


def _what_raises(error: Raised) -> str:
    return "its own forward" if isinstance(error, Refused) else "the backward"


def _refuse_what_cannot_be_called(subject: Subject, point: Point) -> Pair:
    """Return the precisions to compare; InputError for a backward that cannot be called for the example at all."""
    # A backward that writes into what it is given must not write into the example.
    point = point.mapped(lambda x: relaid(x.clone(), x))
    evidence = Evidence(subject, point)
    try:
        _ = evidence.user
        return WIDE
    except Misfit as error:
        names = f", {', '.join(subject.names)}: one for each is needed, None for one without"
        raise InputError(f"{subject}: {error}{names * isinstance(error, Miscounted)}.") from error
    except Raised as error:
        narrow = Evidence(subject, point, NARROW)
        try:
            _ = narrow.user
            return NARROW
        except (Raised, Misfit):
            from backprop_rules.properties.exact import in_the_own_dtypes  # of what is refused alone

            if in_the_own_dtypes(evidence) is not None:
                own = ", ".join(dict.fromkeys(dtype_name(x.dtype) for x in subject.example if inexact(x)))
                raise InputError(
                    f"{subject}: the backward takes the example ({own}), but raises where it is called in float64 and "
                    f"float32, which tell a rounding from a mistake: {error}. Let it take one of these as well, or "
                    f"hold its gradients by backprop_rules.testing.assert_gradients, at points of your own."
                ) from error
            called = subject.backward.signature.arguments("grad_y", "y", subject.names)
            no_graph = ", without a graph, as autograd calls it: inside, torch.enable_grad() makes one"
            raise InputError(
                f"{subject}: {_what_raises(error)} raises {error}, for the example itself. It is called as "
                f"f({', '.join(called)}){no_graph * ('does not require grad' in str(error))}."
            ) from error
