"""Failing cases on disk: a point as JSON, exact to the bit, so that the next run tries it first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backprop_rules import layout
from backprop_rules.domain import dtype_name
from backprop_rules.errors import InputError, first_line
from backprop_rules.report.whole import write_whole
from backprop_rules.strategies.point import Point
from backprop_rules.subject.build import INTEGERS
from backprop_rules.subject.devices import DTYPES, find_device
from backprop_rules.subject.subject import Subject

FORMAT = 2
STORED = DTYPES | {dtype_name(dtype): dtype for dtype in INTEGERS}


class CaseError(InputError):
    """A file that is no saved case, or one of another function."""


def save(subject: Subject, point: Point, path: Path) -> None:
    """Write a point to a file, whole or not at all."""
    text = json.dumps(
        {
            "format": FORMAT,
            "operation": subject.name,
            "primals": [_written(x) for x in point.leaves],
            "params": {name: _param(value) for name, value in point.params.items()},
            "grad_y": [_written(g) for g in point.grads],
        },
        indent=1,
    )
    write_whole(path, text + "\n")


def load(path: Path | str, subject: Subject) -> Point:
    """Read a point for that subject; CaseError if the file is no such case."""
    try:
        case = json.loads(Path(path).read_text(encoding="utf-8"))
        if case["format"] != FORMAT:
            raise CaseError(f"{path}: the case has format {case['format']}, this version reads {FORMAT}.")
        leaves, grads = tuple(map(_read, case["primals"])), tuple(map(_read, case["grad_y"]))
        params = {name: _param_of(value) for name, value in case["params"].items()}
        operation = case["operation"]
    except CaseError:
        raise
    except (OSError, LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        said = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}."
        raise CaseError(f"{path} is no saved case: {said} Delete it, or name another.") from error
    if operation != subject.name or len(leaves) != len(subject.names):
        raise CaseError(f"{path} is a case of {operation} with {len(leaves)} primals, not of {subject}.")
    return Point(leaves, grads, params, "a saved case")


def _written(x: Tensor | None) -> dict[str, Any] | None:
    if x is None:
        return None
    arrangement, small = layout.arrangement(x)
    values = (torch.view_as_real(small.resolve_conj()) if x.is_complex() else small).cpu().flatten().tolist()
    return {
        "dtype": dtype_name(x.dtype),
        "device": x.device.type,
        "shape": list(x.shape),
        "stored": list(small.shape),
        "layout": arrangement,
        "values": [v.hex() if isinstance(v, float) else v for v in values],
    }


def _read(written: Mapping[str, Any] | None) -> Tensor | None:
    if written is None:
        return None
    dtype, shape, how = STORED[written["dtype"]], written["shape"], written["layout"]
    values = [float.fromhex(v) if isinstance(v, str) else v for v in written["values"]]
    if dtype.is_complex:
        small = torch.view_as_complex(torch.tensor(values, dtype=dtype.to_real()).reshape(*written["stored"], 2))
    else:
        small = torch.tensor(values, dtype=dtype).reshape(written["stored"])
    x = layout.arranged(small.to(find_device(written["device"])), how, shape)
    if x.is_meta or how not in layout.LAYOUTS or list(x.shape) != shape:
        raise InputError(
            f"a tensor of shape {shape} is told, {how} on {x.device.type}, and one of {list(x.shape)} is stored; what "
            f"can be tried has its numbers, and is {', '.join(layout.LAYOUTS)}."
        )
    return x


def _param(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    return {"tuple": list(value)} if isinstance(value, tuple) else value


def _param_of(written: Any) -> Any:
    if isinstance(written, dict):
        ((kind, value),) = written.items()
        return DTYPES[value] if kind == "dtype" else complex(*value) if kind == "complex" else tuple(value)
    return written
