"""Verification: a rule at drawn points against every oracle and property, and a program against its baseline."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from backprop_rules.documents import Program
from backprop_rules.documents.replay import StepDiffers, replay
from backprop_rules.domain import COMPLEX, REAL, dtype_name
from backprop_rules.draw import search
from backprop_rules.errors import InputError, unknown
from backprop_rules.objection import WrongGradient
from backprop_rules.point import Point
from backprop_rules.properties import PLAINEST, check
from backprop_rules.rule import Rule
from backprop_rules.simplify import simplest
from backprop_rules.verdict import judge

DTYPES = {dtype_name(dtype): dtype for dtype in REAL + COMPLEX}


@dataclass
class GradientTally:
    """How many points asked for the gradient of one primal, and how often each oracle agreed or was silent."""

    examples: int = 0
    agreed: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)


@dataclass
class RuleResult:
    """What came of one rule: its tallies by primal, the number of points, the seconds, and the objection if any."""

    rule: Rule
    tallies: dict[str, GradientTally]
    points: int = 0
    seconds: float = 0.0
    objection: WrongGradient | None = None


@dataclass(frozen=True)
class ReplayResult:
    """What came of one program: the steps replayed, the seconds, and what is wrong if anything."""

    program: Program
    steps: int
    seconds: float
    problem: str | None = None


def find_dtype(name: str) -> torch.dtype:
    """Return the dtype of that name; InputError, with the nearest name, if rules know none."""
    try:
        return DTYPES[name.removeprefix("torch.")]
    except KeyError:
        raise unknown("dtype", name, DTYPES) from None


def devices_here() -> tuple[str, ...]:
    """Return the devices on which rules can be verified: cpu, cuda if there is one, and meta."""
    return ("cpu", "cuda", "meta") if torch.cuda.is_available() else ("cpu", "meta")


def find_device(name: str) -> str:
    """Return the device's name; InputError if it is unknown, or not to be had here."""
    if name not in ("cpu", "cuda", "meta"):
        raise unknown("device", name, ("cpu", "cuda", "meta"))
    if name not in devices_here():
        raise InputError(
            f"the device '{name}' cannot be used: torch {torch.__version__} finds no CUDA GPU here. "
            f"Devices here: {', '.join(devices_here())}."
        )
    return name


def weighted(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the devices as often as they are to be drawn: meta, which shows shapes alone, for one point in seven."""
    return tuple(device for device in devices for _ in range(1 if device == "meta" else 6))


def warm_up() -> None:
    """Let torch load what its function transforms need, seconds the first time, so that no rule is charged for it."""
    x = torch.ones(1, 1)
    torch.func.vmap(lambda t: torch.func.jvp(lambda v: (v - x[0]).square() / 2, (x[0],), (t,))[1])(x)


def verify_rule(
    rule: Rule,
    examples: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] | None = None,
    each: Callable[[], None] = lambda: None,
) -> RuleResult:
    """Hold a rule against every oracle and every property at that many drawn points.

    `each` is called after every point. Equal seeds give equal points; the result's objection, if
    any, is to the smallest counterexample that Hypothesis found.
    """
    if dtypes is not None and not set(dtypes) & set(rule.domain.dtypes):
        names = ", ".join(map(dtype_name, rule.domain.dtypes))
        raise InputError(f"{rule}: none of the dtypes asked for is in its domain: {names}.")
    result = RuleResult(rule, {name: GradientTally() for name in rule.primals})

    def held(point: Point) -> None:
        check(point)
        _count(point, result)
        each()

    started = time.perf_counter()
    places = weighted(devices or devices_here())
    objection = search(rule, held, examples, seed, dtypes, places)
    if objection:
        real = [device for device in places if device != "meta"] or places
        plain = search(rule, lambda point: check(point, PLAINEST), examples, seed, dtypes, real)
        result.objection = simplest(plain or objection, check)
    result.seconds = time.perf_counter() - started
    return result


def _count(point: Point, result: RuleResult) -> None:
    result.points += 1
    for i in point.given:
        result.tallies[point.rule.primals[i]].examples += 1
    for verdict in [] if point.on_meta else judge(point):
        tally = result.tallies[point.rule.primals[verdict.primal]]
        (tally.agreed if verdict.agrees else tally.silent)[verdict.oracle] += 1


def verify_program(program: Program, baselines: Path | None = None) -> ReplayResult:
    """Replay a program against autograd and its baseline."""
    started = time.perf_counter()
    try:
        steps, problem = replay(program, baselines).steps, None
    except (StepDiffers, InputError) as error:
        steps, problem = 0, str(error)
    return ReplayResult(program, steps, time.perf_counter() - started, problem)
