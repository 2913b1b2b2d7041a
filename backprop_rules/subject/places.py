"""Where a function of torch is called in somebody's code, and what it is called."""

import inspect
import linecache
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from backprop_rules.subject import addresses, ambient

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
# What lies between a call of somebody's code and what looks on.
MODES = str(addresses.__file__), str(ambient.__file__)
OWN = f"{PACKAGE}diagnosis{os.sep}", f"{PACKAGE}evidence{os.sep}", *MODES, __file__
TORCH = f"{Path(torch.__file__).parent}{os.sep}"
BETWEEN = TORCH, *OWN, "<frozen"


def name_of(func: Any) -> str:
    """Return what a function of torch is called."""
    name = getattr(func, "__name__", "")
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", name)) if name == "__get__" else name.strip("_")


def raised_at(error: BaseException) -> str:
    """Return the line of somebody's code that an error was raised at, for a message; "" where there is none."""
    found, step = "", error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith((PACKAGE, TORCH, "<")):
            found = f" ({Path(file).name}, line {step.tb_lineno})"
        step = step.tb_next
    return found


def somebodys_frames() -> Iterator[FrameType]:
    """Yield the frames of somebody's code from which a function of torch is called, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        if not frame.f_code.co_filename.startswith(TORCH):
            yield frame
        frame = frame.f_back


def place(name: str) -> tuple[int, str]:
    """Return the number of somebody's line and the expression that is evaluated there; the name if it is nobody's."""
    frame = next(somebodys_frames(), None)
    if frame is None:
        return 0, name
    line, last, start, end = _positions(frame.f_code)[frame.f_lasti // 2]
    number = line or frame.f_lineno
    whole = linecache.getline(frame.f_code.co_filename, number)
    text = whole.strip()
    if start is not None and end is not None and last == line:
        text = whole.encode()[start:end].decode(errors="ignore")
    return number, text or name


@lru_cache(256)
def _positions(code: CodeType) -> list[tuple[int | None, int | None, int | None, int | None]]:
    return list(code.co_positions())
