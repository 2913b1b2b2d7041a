"""The command for your own backward, named as module:function: `check`; the case on which it failed is kept."""

import os
import re
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from enum import StrEnum
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from backprop_rules.checking import check, check_function
from backprop_rules.cli.app import WRONG, app, imported
from backprop_rules.errors import InputError
from backprop_rules.properties.effort import DRAWN
from backprop_rules.report.case import CaseError, save
from backprop_rules.report.report import Report
from backprop_rules.subject.frameworks.carried import BRIDGES

CASES = Path(".backprop_rules")
DEFAULTS = {"convention": "torch", "accuracy": "torch"}
MOST_LETTERS = 200  # of a file's name, which file systems bound
CODES, NOTHING = {"right": 0, "inconclusive": 4}, 5

CheckFormat = StrEnum("CheckFormat", ["full", "json", "github"])
Framework = StrEnum("Framework", list(BRIDGES))  # type: ignore[misc]
Convention = StrEnum("Convention", {"torch": "torch", "catalogue": "catalogue", "any": "any-subgradient"})
Accuracy = StrEnum("Accuracy", ["torch", "catalogue"])
Target = Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Your backward, f(grad_y, *primals, **params).")]
Named = Annotated[str | None, typer.Option(help="The rule of the catalogue that it is to be.")]
Forward = Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="What it differentiates, in torch.")]
Defined = Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="The same in NumPy notation.")]
Example = Annotated[str | None, typer.Option(metavar="MODULE:TUPLE", help="One call of forward: a tuple of arrays.")]
Dtypes = Annotated[list[str] | None, typer.Option(help="Only this dtype; may be repeated.")]
Devices = Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")]
Frameworks = Annotated[Framework | None, typer.Option(help="What arrays the function takes.")]
Choices = Annotated[Convention, typer.Option(help="The choice to make at kinks.")]
Case = Annotated[Path | None, typer.Option(help="Try this saved case, and no other.")]
Accurate = Annotated[Accuracy, typer.Option(help="As accurate as torch's own, or as the catalogue's.")]
Sums = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="The dtype that sums are kept in, if it is not torch's.")
]


@app.command("check")
def check_backward(
    target: Target,
    rule: Named = None,
    forward: Forward = None,
    definition: Defined = None,
    example: Example = None,
    dtype: Dtypes = None,
    device: Devices = None,
    framework: Frameworks = None,
    convention: Choices = Convention.torch,
    accuracy: Accurate = Accuracy.torch,
    accumulate: Sums = None,
    max_examples: Annotated[int, typer.Option(min=1, help="Points drawn beside the plan.")] = DRAWN,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal points.")] = 0,
    case: Case = None,
    output_format: Annotated[CheckFormat, typer.Option(help="Text, JSON, or annotations.")] = CheckFormat.full,
) -> None:
    """Check your own backward, or a function or module alone; a failing case is saved, and tried first next time.

    Exits 0 if it is right, 1 if it is wrong, 2 for a usage error, 4 if nothing can be said, 5 if nothing was checked.
    """
    held = {"forward": forward, "definition": definition, "example": example}
    asked = {"framework": framework, "convention": convention, "accuracy": accuracy, "accumulate": accumulate}
    words = _words(rule=rule, **held, dtype=dtype, device=device, **asked)
    torch.set_num_threads(1)  # the tensors are too small for more
    report = _check_and_remember(
        target,
        case,
        words,
        rule=rule,
        dtypes=dtype,
        devices=device or ["cpu"],
        max_examples=max_examples,
        seed=seed,
        **{name: value and str(value) for name, value in asked.items()},
        **{name: _attribute(place) for name, place in held.items() if place is not None},
    )
    _show(report, target, output_format)
    raise typer.Exit(CODES.get(report.verdict, WRONG) if report.points else NOTHING)


def _words(**asked: Any) -> str:
    """Return the words of the command line that ask the same question again: all that decides the verdict."""
    given = {name: value for name, value in asked.items() if value not in (None, DEFAULTS.get(name))}
    several = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return "".join(f" --{name} {shlex.quote(str(one))}" for name, values in several.items() for one in values)


def _attribute(place: str) -> Any:
    """Return what a name like package.module:attribute stands for; InputError if there is no such thing."""
    module, _, attribute = place.partition(":")
    if not attribute:
        raise InputError(f"'{place}' names no function: write package.module:function.")
    found = imported(module)
    try:
        return reduce(getattr, attribute.split("."), found)
    except AttributeError:
        names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
        raise InputError(
            f"the module '{module}' has no '{attribute}'. It has: {', '.join(sorted(names)) or 'no function'}."
        ) from None


def _check_and_remember(target: str, case: Path | None, words: str, **options: Any) -> Report:
    """Return the report on a target, its failing case of last time tried first; a new one is saved.

    `words` are the rest of the command line that replays it: each question has a case of its own.
    """
    options |= {"only_cases": case is not None, "raise_on_failure": False}
    backward = _attribute(target)
    alone = "example" in options and not any(map(options.get, ("rule", "forward", "definition")))
    whole = alone or isinstance(backward, torch.nn.Module) or backward is options.get("forward")
    door = check_function if whole else check
    place = CASES / (re.sub(r"\W+", "-", target + words)[:MOST_LETTERS] + ".pt")
    if case is not None and not case.is_file():
        raise InputError(f"there is no file '{case}'. Cases are saved in {CASES} when a check fails.")
    tried = case or (place if place.is_file() else None)
    with redirect_stdout(sys.stderr):  # what the backward prints is no part of the report
        try:
            report = door(backward, **options, cases=[tried] if tried else [])
        except CaseError as error:
            if case is not None:
                raise
            typer.echo(f"the case that was saved is not tried: {error}", err=True)
            report = door(backward, **options)
    if case is None and report.finding is not None:
        try:
            save(report.subject, report.finding.point, place)
        except OSError as error:  # a folder that cannot be written is no reason to lose the report
            typer.echo(f"the case could not be saved: {error}", err=True)
            return report
        report = replace(report, replay=f"backprop-rules check {target}{words} --case {place}")
    elif case is None and report.passed:
        place.unlink(missing_ok=True)
    return report


def _show(report: Report, target: str, output_format: CheckFormat) -> None:
    if output_format is CheckFormat.json:
        typer.echo(report.to_json())
    elif output_format is CheckFormat.github:
        found = _attribute(target)
        code = getattr(getattr(found, "backward", found), "__code__", None)  # of an autograd.Function its own
        place = f"file={os.path.relpath(code.co_filename)},line={code.co_firstlineno}," if code else ""
        level = "notice" if report.passed else "error"
        text = str(report).replace("%", "%25").replace("\n", "%0A")
        typer.echo(f"::{level} {place}title={target}::{text}")
    else:
        typer.echo(str(report))
