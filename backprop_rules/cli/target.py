"""Targets on the command line: functions named as module:function, and the cases on which they failed last time."""

import importlib
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from backprop_rules.checking import check
from backprop_rules.errors import InputError
from backprop_rules.report.case import save
from backprop_rules.report.report import Report

CASES = Path(".backprop_rules")
CODES = {"right": 0, "inconclusive": 4}
WRONG, NOTHING = 1, 5


def imported(place: str) -> Any:
    """Return what a name like package.module:attribute stands for; InputError if there is no such thing."""
    module, colon, attribute = place.partition(":")
    if not colon or not attribute:
        raise InputError(f"'{place}' names no function: write package.module:function.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module.removesuffix(".py"))
    except Exception as error:
        raise InputError(
            f"the module '{module}' cannot be imported: {type(error).__name__}: {error}. It is named without .py and "
            "without its folder, which must be the current one or on the path."
        ) from error
    try:
        return reduce(getattr, attribute.split("."), found)
    except AttributeError:
        names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
        raise InputError(
            f"the module '{module}' has no '{attribute}'. It has: {', '.join(sorted(names)) or 'no function'}."
        ) from None


def check_and_remember(target: str, case: Path | None, words: str, **options: Any) -> Report:
    """Return the report on a target, its failing case of last time tried first; a new one is saved.

    `words` are the rest of the command line that replays it.
    """
    backward = imported(target)
    place = CASES / (re.sub(r"\W+", "-", target) + ".json")
    if case is not None and not case.is_file():
        raise InputError(f"there is no file {case}. Cases are saved in {CASES} when a check fails.")
    tried = case or (place if place.is_file() else None)
    with redirect_stdout(sys.stderr):  # what the backward prints is no part of the report
        report = check(
            backward, **options, cases=[tried] if tried else [], only_cases=case is not None, raise_on_failure=False
        )
    if case is None and report.finding is not None:
        save(report.subject, report.finding.point, place)
        report = replace(report, replay=f"backprop-rules check {target}{words} --case {place}")
    elif case is None and report.passed:
        place.unlink(missing_ok=True)
    return report


def place_of(target: str) -> str:
    """Return where a target is, for an annotation: its file and line, nothing if it has none."""
    code = getattr(imported(target), "__code__", None)
    return "" if code is None else f"file={os.path.relpath(code.co_filename)},line={code.co_firstlineno},"


def exit_code(report: Report) -> int:
    """Return 0 for right, 1 for wrong, 4 for inconclusive, 5 if nothing was checked."""
    return NOTHING if not report.points else CODES.get(report.verdict, WRONG)
