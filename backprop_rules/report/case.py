"""Failing cases on disk: a point as torch saves it, bits and strides, so that the next run tries it first."""

from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError, first_line
from backprop_rules.report.whole import write_whole
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject

FORMAT = 3


class CaseError(InputError):
    """A file that is no saved case, or one of another function."""


def save(subject: Subject, point: Point, path: Path) -> None:
    """Write a point to a file, whole or not at all."""
    written = BytesIO()
    torch.save((FORMAT, subject.name, point.leaves, point.grads, dict(point.params)), written)
    write_whole(path, written.getvalue())


def load(path: Path | str, subject: Subject) -> Point:
    """Read a point for that subject; CaseError if the file is no such case."""
    try:
        found, operation, leaves, grads, params = torch.load(path, weights_only=True)  # which runs no code
        if found != FORMAT:
            raise ValueError(f"it has format {found}, and this version reads {FORMAT}")
        if not all(x is None or _has_numbers(x) for x in (*leaves, *grads)):
            raise ValueError("a primal or a cotangent in it is no tensor of numbers")
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise CaseError(f"{path} is no saved case: {said}. Delete it, or name another.") from error
    except UnpicklingError as error:  # of which torch says how to read it nevertheless
        raise CaseError(f"{path} is no saved case: it holds something else. Delete it, or name another.") from error
    if operation != subject.name or len(leaves) != len(subject.names):
        raise CaseError(f"{path} is a case of {operation} with {len(leaves)} primals, not of {subject}.")
    return Point(leaves, grads, params, "a saved case")


def _has_numbers(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout is torch.strided and not x.is_meta
