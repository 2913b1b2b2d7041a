"""A replay: each step of a program, autograd's and the recorded one, held against the true step."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backprop_rules.documents.baselines import RERECORD, Baseline, load
from backprop_rules.documents.certified import enclosed, true_run
from backprop_rules.documents.program import Program, Tensors
from backprop_rules.errors import InputError
from backprop_rules.evidence.enclosure import Enclosure


class StepDiffers(AssertionError):
    """A step of a replayed program is not what it should be: which step, which value, and both values."""


def replay(program: Program, where: Path | None = None) -> int:
    """Replay a program from its baseline's inputs; return how many steps it has, StepDiffers at the first that differs.

    Each step starts from the recorded parameters. What it gives, what was recorded and what autograd gives must lie
    as close to the true step as the roundings of its operations allow, by running error analysis; a program of a fixed
    sequence of operations must give the recorded bits, and autograd's. The recorded enclosures of the true run must
    have numbers in common with those that are computed now.
    """
    baseline = load(program, where)
    samples = program.samples(baseline.inputs)
    if len(samples) != len(baseline.steps):
        raise StepDiffers(
            f"{program.name}: the baseline has {len(baseline.steps)} steps, the program {len(samples)}. {RERECORD}"
        )
    parameters: Tensors = {name: baseline.inputs[name] for name in program.parameters}
    strays = {f"gradient of {name}" for name in program.wrong}
    wrong = strays | {f"parameter {name}" for name in program.wrong}
    for number, (sample, recorded) in enumerate(zip(samples, baseline.steps, strict=True), 1):
        step, true = enclosed(program, parameters, sample)
        witness = program.by_autograd(parameters, sample)
        strays = {name for name in strays if true[name].outside(witness[name]) is None}
        right = {name: value for name, value in witness.items() if name not in wrong}
        for found, whence in ((recorded, "recorded in the baseline"), (right, "found by autograd"), (step, "")):
            _hold(program, number, step, true, found, whence)
        parameters = program.after(recorded)
    _hold_the_true_run(program, baseline)
    if strays:
        names = sorted(name.removeprefix("gradient of ") for name in strays)
        raise StepDiffers(
            f"{program.name}: the gradients {names} are declared wrong, but autograd gives the same in every step."
        )
    return len(samples)


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


def _hold(
    program: Program, number: int, step: Tensors, true: Mapping[str, Enclosure], found: Tensors, whence: str
) -> None:
    """Raise StepDiffers at a value that lies outside of its enclosure, or has other bits where those are fixed.

    Of what is not finite nothing is enclosed: it must be the same.
    """
    for name, theirs in found.items():
        value, head = step[name], f"{program.name}, step {number}: the {name}"
        if value.shape != theirs.shape or value.dtype != theirs.dtype:
            is_here, there = ((tuple(x.shape), x.dtype) for x in (value, theirs))
            raise StepDiffers(f"{head} has shape and dtype {is_here}, but {there} was {whence}.")
        ours, other = (x.flatten().tolist() for x in (value, theirs))
        unlike = ~(value.isfinite() & theirs.isfinite()) & (value != theirs) & ~(value.isnan() & theirs.isnan())
        outside = true[name].outside(theirs)
        places = (unlike if outside is None else unlike | outside).flatten().nonzero().flatten().tolist()
        if program.fixed:
            places = [k for k, (a, b) in enumerate(zip(ours, other, strict=True)) if a.hex() != b.hex()] or places
        if places:
            k = places[0]
            lo, hi = (float(end.flatten()[k]) for end in (true[name].lo, true[name].hi))
            beside = f"but {other[k]!r} ({other[k].hex()}) was {whence}"
            raise StepDiffers(
                f"{head}, element {k}, is {ours[k]!r} ({ours[k].hex()}), "
                f"{beside if whence else f'but by ball arithmetic it lies from {lo!r} to {hi!r}'}. "
                f"Either a rule of the program or torch's arithmetic has changed. {RERECORD}"
            )


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
        steps, problem = replay(program, baselines), None
    except (StepDiffers, InputError) as error:
        steps, problem = 0, str(error)
    return ReplayResult(program, steps, time.perf_counter() - started, problem)
