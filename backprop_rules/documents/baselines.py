"""Recorded training runs: every step's loss, gradients and parameters, and beside each the enclosure of the true one.

Numbers are the shortest decimals that have every bit: reading gives what was written.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backprop_rules.documents.certified import true_run
from backprop_rules.documents.program import Program, Step
from backprop_rules.domain import dtype_name
from backprop_rules.errors import InputError
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.report.whole import write_whole

# Beside the sources in a checkout, inside the package in an installed wheel.
FOLDERS = (
    Path(__file__).parents[2] / "tests" / "baselines",
    Path(__file__).parents[1] / "baselines",
)
RERECORD = "Record it anew with 'backprop-rules baselines update' if the change is meant."


@dataclass(frozen=True, eq=False)
class Baseline:
    """A recorded run: its inputs, its steps, and the enclosures of the true steps' values by name."""

    inputs: dict[str, Tensor]
    steps: list[Step]
    true: list[dict[str, Enclosure]]


def folder() -> Path:
    """Return the folder that holds the baselines."""
    return next((path for path in FOLDERS if path.is_dir()), FOLDERS[0])


def path_of(program: Program, where: Path | None = None) -> Path:
    """Return the file of a program's baseline."""
    return (where or folder()) / f"{program.name}.json"


def load(program: Program, where: Path | None = None) -> Baseline:
    """Return a program's baseline; InputError if it is missing, corrupt, or of another program or dtype."""
    path = path_of(program, where)
    head = f"{program.name}: the baseline {path.name}"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for what, wanted in (("program", program.name), ("dtype", dtype_name(program.dtype))):
            if record[what] != wanted:
                raise InputError(f"{head} is of {what} {record[what]}, not {wanted}.")
        inputs = {name: torch.tensor(found, dtype=program.dtype) for name, found in record["inputs"].items()}
        for name, example in program.inputs().items():
            if name not in inputs or inputs[name].shape != example.shape:
                here = f"shape {tuple(inputs[name].shape)}, not {tuple(example.shape)}, for" if name in inputs else "no"
                raise InputError(f"{program.name}: the baseline is corrupt ({here} input '{name}'). {RERECORD}")
        steps = [_step(program, k, step) for k, step in enumerate(record["steps"], 1)]
        return Baseline(inputs, steps, [{name: _true(one) for name, one in step.items()} for step in record["steps"]])
    except OSError as error:
        raise InputError(f"{head} cannot be read: {error.strerror}. {RERECORD}") from None
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{head} is corrupt ({type(error).__name__}: {error}). {RERECORD}") from None


def record(program: Program, inputs: Mapping[str, Tensor]) -> str:
    """Return the text of the baseline that the program gives from these inputs."""
    pairs = zip(program.run(inputs), true_run(program, inputs), strict=True)
    document = {
        "program": program.name,
        "document": program.document,
        "torch": str(torch.__version__),
        "dtype": dtype_name(program.dtype),
        "learning_rate": program.learning_rate,
        "compared": "bit for bit" if program.fixed else "by membership in the computed enclosure",
        "inputs": {name: x.tolist() for name, x in inputs.items()},
        "steps": [
            {name: {"found": x.tolist(), **_ends(true[name])} for name, x in step.items()} for step, true in pairs
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def changes(old: str, new: str) -> list[str]:
    """Return what differs between the texts of two baselines, a line each, in the order of the steps."""
    try:
        before = dict(_flat(json.loads(old)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return ["what is there cannot be read, and is replaced as a whole"]
    after = dict(_flat(json.loads(new)))
    names = [*after, *(name for name in before if name not in after)]
    pairs = [(name, before.get(name, "nothing"), after.get(name, "nothing")) for name in names]
    return [f"{name}: {a} → {b}" for name, a, b in pairs if a != b]


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a baseline with a name for each."""
    for name, value in record.items():
        if name not in ("inputs", "steps"):
            yield name, value
    for name, found in record["inputs"].items():
        yield f"input, {name}", found
    for k, step in enumerate(record["steps"], 1):
        for name, entry in step.items():
            yield f"step {k}, {name}", entry["found"]
            yield from ((f"step {k}, {name}, {end} of the true one", entry[end]) for end in ("lo", "hi"))


def write(path: Path, text: str) -> None:
    """Write a baseline so that no file is lost or cut off half-way."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"the baseline {path.name} cannot be written: {error.strerror}.") from error


def _step(program: Program, number: int, values: Mapping[str, Any]) -> Step:
    found = {name: torch.tensor(entry["found"], dtype=program.dtype) for name, entry in values.items()}
    try:
        return {name: found[name] for name in program.named}
    except KeyError as error:
        raise InputError(
            f"{program.name}: the baseline is corrupt (step {number} has no {error}). {RERECORD}"
        ) from None


def _ends(true: Enclosure) -> dict[str, Any]:
    return {"lo": true.lo.tolist(), "hi": true.hi.tolist()}


def _true(entry: Mapping[str, Any]) -> Enclosure:
    return Enclosure(*(torch.tensor(entry[end], dtype=torch.float64) for end in ("lo", "hi")))
