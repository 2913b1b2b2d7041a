"""The reference oracle: hold anyone's backward against the definition of what it differentiates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from backprop_rules.checker.case import load
from backprop_rules.checker.examine import examine
from backprop_rules.checker.function import has_its_own_backward, of_the_function, own_backward
from backprop_rules.checker.question import Asked, Held, question
from backprop_rules.checker.report import Report
from backprop_rules.draw import quiet
from backprop_rules.errors import InputError, unknown
from backprop_rules.rule import Rule


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
    known = {field.name for field in fields(Asked)} - {"extra"}
    for stranger in set(options) - known:
        raise unknown("option", stranger, known)
    if not callable(function):
        raise InputError(f"a function is to be checked; got {type(function).__name__} {function!r}.")
    held = (rule, forward, definition, example, params or {}, framework)
    backward, held, asked = _own(function, held, Asked(**options))
    return _answered(asked, (), raise_on_failure, backward, held)


def _own(function: Any, held: Held, asked: Asked) -> tuple[Callable[..., Any], Held, Asked]:
    """Return the own backward of a function, and what else is asked of such a one."""
    framework = held[-1] or ("jax" if has_its_own_backward(function) and not isinstance(function, type) else "torch")
    extra = of_the_function(function) if framework == "torch" else ()
    return own_backward(function, framework), (*held[:-1], framework), replace(asked, extra=extra)


def _answered(
    asked: Asked, cases: Sequence[Path], raise_on_failure: bool, backward: Callable[..., Any], held: Held
) -> Report:
    __tracebackhide__ = True
    if has_its_own_backward(backward):
        backward, held, asked = _own(backward, held, asked)
    subject, first = question(backward, held, asked.saves)
    with quiet(), np.errstate(all="ignore"):
        report = examine(subject, asked, first, [load(case, subject) for case in cases])
    if raise_on_failure and not report.passed:
        raise report.error()
    return report
