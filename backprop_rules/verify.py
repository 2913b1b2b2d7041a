"""Verification: a rule of the catalogue is asked what `check` asks, and what every rule must hold beside."""

import gc
import inspect
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FunctionType

import numpy as np
import torch

from backprop_rules.checking import tried
from backprop_rules.domain import dtype_name
from backprop_rules.errors import InputError
from backprop_rules.properties import effort
from backprop_rules.properties.finding import Rung
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.question import of_the_catalogue
from backprop_rules.report.report import Report, report_of
from backprop_rules.rule import Rule, misfit
from backprop_rules.strategies.of_rules import RulePoints
from backprop_rules.subject import denormals
from backprop_rules.subject.ambient import quiet
from backprop_rules.subject.devices import devices_here

# Torch's kernels in Python, of which it has those for tensors without numbers.
REFERENCES = ("torch._refs", "torch._prims")


@dataclass(frozen=True)
class RuleResult:
    """What came of one rule: its points, how often each property was asked, and what is wrong.

    `exact` counts the points on the grid, `proved` those that a proof holds, `astray` those of them at which torch is
    outside of that. `used` is how much of the allowance for rounding the errors took up there, by dtype. The verdict is
    right, wrong, inconclusive, not finished or not asked.
    """

    rule: Rule
    points: int
    exact: int
    proved: int
    astray: int
    asked: Mapping[str, int]
    used: Mapping[str, Sequence[float]]
    seconds: float
    problem: str = ""
    verdict: str = "right"


def warm_up(threads: int = 1) -> None:
    """Let torch load what its function transforms need, seconds the first time, and compute in so many threads then.

    In one until then: a pool of threads that is started before a fork is not there after it. What was loaded stays for
    good: the collector of garbage need not go through it again and again, nor copy it in what is forked.
    """
    torch.set_num_threads(1)
    _without_the_compiler()
    x = torch.ones(1, 1)
    torch.func.vmap(lambda t: torch.func.jvp(lambda v: (v - x[0]).square() / 2, (x[0],), (t,))[1])(x)
    torch.set_num_threads(threads)
    gc.freeze()


def _without_the_compiler() -> None:
    """Let torch's reference kernels, which keep its compiler out, be called as they are.

    To keep it out they would load it: longer than all that a rule takes. No compiled code is made of these.
    """
    gc.unfreeze()  # what is frozen is not told
    kept_out = getattr(getattr(torch, "_disable_dynamo", lambda _: None)(warm_up), "__code__", None)
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__ is kept_out and str(one.__module__).startswith(REFERENCES):
            function = inspect.getclosurevars(one).nonlocals.get("fn")
            if type(function) is FunctionType:
                vars(function).setdefault("__dynamo_disable", function)


def verified(
    rule: Rule,
    examples: int = effort.POINTS_OF_A_RULE,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] | None = None,
    proofs: int | None = None,
    sides: tuple[int, ...] = (),
) -> tuple[Outcome, Report]:
    """Return what came of asking a rule at that many points, and the report: equal seeds give equal points.

    A sixth of the points off the grid are proved, unless `proofs` says how many; `sides` are those of the axes.
    """
    if problem := misfit(rule):
        raise InputError(f"{rule}: {problem}.")
    among = tuple(d for d in rule.domain.dtypes if dtypes is None or d in dtypes)
    if not among:
        names = ", ".join(map(dtype_name, rule.domain.dtypes))
        raise InputError(f"{rule}: none of the dtypes asked for is in its domain: {names}.")
    started, where = time.perf_counter(), tuple(devices or devices_here())
    if proofs is None:
        proofs = -(-examples * effort.PROOFS_OF_A_RULE // effort.POINTS_OF_A_RULE)
    subject = of_the_catalogue(rule, among)
    questions = Questions(
        "catalogue", devices=where, work=sys.maxsize, after=effort.AFTER_OF_A_RULE, of_rules=True, proofs=proofs
    )
    points = RulePoints(rule, examples, seed, among, True, sides)
    with quiet(), np.errstate(all="ignore"), denormals.kept():
        outcome, finding, mistake = tried(subject, points, questions)
        seconds = time.perf_counter() - started
        return outcome, report_of(subject, outcome, finding, mistake, where, seed, seconds)


def verify_rule(rule: Rule, examples: int = effort.POINTS_OF_A_RULE, **options: object) -> RuleResult:
    """Hold a rule against every oracle and every property at that many drawn points: as `verified`, in numbers."""
    outcome, report = verified(rule, examples, **options)  # type: ignore[arg-type]
    problem, verdict = _judged(outcome, report)
    return RuleResult(
        rule,
        outcome.points,
        outcome.exact,
        outcome.rungs[Rung.PROVED],
        outcome.astray,
        dict(outcome.asked),
        outcome.used,
        report.seconds,
        problem,
        verdict,
    )


def _judged(outcome: Outcome, report: Report) -> tuple[str, str]:
    """Return what is wrong, or missing, with a rule, in words, and the verdict."""
    if report.passed and not outcome.asked:
        where = ", ".join(report.devices)
        return f"{report.subject}: nothing was asked on {where}, without numbers there: add --device cpu.", "not asked"
    if report.passed:
        return "", "right"
    if report.finding is None:
        return str(report), "not finished" if report.interrupted else "inconclusive"
    return str(report), "wrong"


def verify_rules(
    rules: Sequence[Rule],
    examples: int = effort.POINTS_OF_A_RULE,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] | None = None,
    proofs: int | None = None,
    jobs: int = 1,
) -> Iterator[RuleResult]:
    """Yield what comes of each rule, in order; `jobs` rules are verified at a time, each in a process of its own."""
    one = partial(verify_rule, examples=examples, seed=seed, dtypes=dtypes, devices=devices, proofs=proofs)
    # Rules with lambdas need a fork, and what is forked cannot use a GPU that its parent has used, nor JAX's threads.
    alone = "cuda" in (devices or devices_here()) or "jax" in sys.modules
    if jobs == 1 or alone or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(one, rules)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(one, rules)
