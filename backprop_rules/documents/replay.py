"""A replay: each step of a program, held against autograd, the true step, and the recorded baseline."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backprop_rules.documents.baselines import RERECORD, Baseline, load
from backprop_rules.documents.certified import held, true_run
from backprop_rules.documents.program import Program, Tensors
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance import RunningError


class StepDiffers(AssertionError):
    """A step of a replayed program is not what it should be: which step, which value, and both values."""


@dataclass(frozen=True)
class Replay:
    """How many steps were replayed, and the largest part of an enclosure's radius that a value used (0 for bits)."""

    steps: int
    used: float


def replay(program: Program, where: Path | None = None) -> Replay:
    """Replay a program from its baseline's inputs; StepDiffers at the first step that is not as recorded.

    A program of a fixed sequence of operations must give the recorded bits, and autograd's. Any other
    starts each step from the recorded parameters, and what was recorded, as what autograd gives,
    must lie in the enclosure that running error analysis computes for the step. What was recorded must
    also lie as close to the true step as its roundings allow, and the recorded enclosures of the true run
    must have numbers in common with those that are computed now.
    """
    baseline = load(program, where)
    samples = _samples(program, baseline)
    parameters: Tensors = {name: baseline.inputs[name] for name in program.parameters}
    used, strays = 0.0, set(program.wrong)
    wrong = {f"{what} {name}" for what in ("gradient of", "parameter") for name in program.wrong}
    for number, (sample, recorded) in enumerate(zip(samples, baseline.steps, strict=True), 1):
        errors = RunningError(evaluations=2)
        with nullcontext() if program.fixed else errors:
            step = program.step(parameters, sample)
        witness = program.by_autograd(parameters, sample)
        strays -= {n for n in strays if _part(program, errors, *(by[f"gradient of {n}"] for by in (step, witness))) > 1}
        right = {name: value for name, value in witness.items() if name not in wrong}
        for others, whence in ((recorded, "recorded in the baseline"), (right, "found by autograd")):
            used = max(used, _hold(program, number, errors, step, others, whence))
        stray = held(program, parameters, sample, recorded)
        if stray:
            raise StepDiffers(
                f"{program.name}, step {number}: the {stray} that was recorded in the baseline is farther from the "
                f"true one, computed in ball arithmetic, than the roundings of the step allow. {RERECORD}"
            )
        parameters = program.after(recorded)
    _hold_the_true_run(program, baseline)
    if strays:
        raise StepDiffers(
            f"{program.name}: the gradients {sorted(strays)} are declared wrong, "
            "but autograd gives the same in every step."
        )
    return Replay(len(samples), used)


def _samples(program: Program, baseline: Baseline) -> list[Tensors]:
    for name, example in program.inputs().items():
        found = baseline.inputs.get(name)
        if found is None or found.shape != example.shape:
            what = "no input" if found is None else f"shape {tuple(found.shape)}, not {tuple(example.shape)}, for input"
            raise InputError(f"{program.name}: the baseline is corrupt ({what} '{name}'). {RERECORD}")
    samples = list(program.samples(baseline.inputs))
    if len(samples) != len(baseline.steps):
        raise StepDiffers(
            f"{program.name}: the baseline has {len(baseline.steps)} steps, the program {len(samples)}. {RERECORD}"
        )
    return samples


def _hold_the_true_run(program: Program, baseline: Baseline) -> None:
    """Raise StepDiffers at a recorded enclosure that has no number in common with the one computed now."""
    for number, (now, then) in enumerate(zip(true_run(program, baseline.inputs), baseline.true, strict=True), 1):
        for name, new in now.items():
            old = then[name]
            if new.lo.shape != old.lo.shape or ((new.hi < old.lo) | (old.hi < new.lo)).any():
                raise StepDiffers(
                    f"{program.name}, step {number}: the recorded enclosure of the true {name} has no number in "
                    f"common with the one that is computed now, so one of the two does not hold it. {RERECORD}"
                )


def _part(program: Program, errors: RunningError, value: Tensor, other: Tensor) -> float:
    """Return |value - other| as a part of the radius allowed; infinite where it is not allowed at all."""
    if value.shape != other.shape or value.dtype != other.dtype:
        return float("inf")
    if program.fixed:
        return 0.0 if repr(value.tolist()) == repr(other.tolist()) else float("inf")
    distance = (value.double() - other.double()).abs()
    same = (value == other) | (value.isnan() & other.isnan())
    parts = torch.where(same, 0.0, distance / errors.radius(value))
    return float("inf") if parts.isnan().any() else float(parts.max())


def _hold(program: Program, number: int, errors: RunningError, values: Tensors, others: Tensors, whence: str) -> float:
    """Return the largest part of its radius that a value is away; StepDiffers at the first farther than is allowed."""
    parts = {name: _part(program, errors, values[name], theirs) for name, theirs in others.items()}
    for name in (name for name, part in parts.items() if part > 1):
        value, theirs = values[name], others[name]
        head = f"{program.name}, step {number}: the {name}"
        if value.shape != theirs.shape or value.dtype != theirs.dtype:
            ours, found = ((tuple(x.shape), x.dtype) for x in (value, theirs))
            raise StepDiffers(f"{head} has shape and dtype {ours}, but {found} was {whence}.")
        pairs = zip(value.flatten().tolist(), theirs.flatten().tolist(), strict=True)
        place, a, b = next((i, a, b) for i, (a, b) in enumerate(pairs) if a.hex() != b.hex())
        raise StepDiffers(
            f"{head}, element {place}, is {a!r} ({a.hex()}), but {b!r} ({b.hex()}) was {whence}. "
            f"Either a rule of the program or torch's arithmetic has changed. {RERECORD}"
        )
    return max(parts.values())


@dataclass(frozen=True)
class ReplayResult:
    """What came of one program: the steps replayed, the seconds, and what is wrong if anything."""

    program: Program
    steps: int
    seconds: float
    problem: str | None = None


def verify_program(program: Program, baselines: Path | None = None) -> ReplayResult:
    """Replay a program against autograd and its baseline."""
    started = time.perf_counter()
    try:
        steps, problem = replay(program, baselines).steps, None
    except (StepDiffers, InputError) as error:
        steps, problem = 0, str(error)
    return ReplayResult(program, steps, time.perf_counter() - started, problem)
