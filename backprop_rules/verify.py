"""Verification: a rule at drawn points against every oracle and property."""

import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch

from backprop_rules.domain import dtype_name
from backprop_rules.errors import InputError, Objection
from backprop_rules.evidence.verdict import Verdict, judge
from backprop_rules.point import Point
from backprop_rules.properties import special_values
from backprop_rules.properties.objection import WrongGradient
from backprop_rules.properties.of_rules import PLAINEST, check
from backprop_rules.properties.simplify import simplest
from backprop_rules.rule import Rule, misfit
from backprop_rules.strategies.drawing import search, tiers_of
from backprop_rules.subject.devices import devices_here, weighted
from backprop_rules.subject.silence import quiet

# Hypothesis keeps a tree of all that it drew in a run: long runs are cut, and each part has a seed of its own.
RUN, SEEDS = 1000, 1 << 32


@dataclass
class GradientTally:
    """How many points of a tier asked for the gradient of one primal, and how often each oracle agreed or was silent.

    `astray` counts the points at which a witness lies outside of the enclosure. In the bounded tier
    `elements` counts the elements asked for, `proved` those of which the enclosure says something,
    and `used` holds the largest part of the radius that one of these took up, a number a point, by dtype.
    """

    examples: int = 0
    agreed: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    astray: Counter[str] = field(default_factory=Counter)
    elements: int = 0
    proved: int = 0
    used: defaultdict[torch.dtype, list[float]] = field(default_factory=partial(defaultdict, list))

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        kind = self.agreed if verdict.agrees else self.astray if verdict.disagrees else self.silent
        kind[verdict.oracle] += 1
        if verdict.used is not None and verdict.gradient is not None and verdict.enclosure is not None:
            proves = verdict.enclosure.proves
            self.elements += proves.numel()
            self.proved += int(proves.sum())
            rounds = verdict.used[proves & (verdict.enclosure.lo < verdict.enclosure.hi)]
            if rounds.numel():
                self.used[verdict.gradient.dtype].append(float(rounds.max()))


@dataclass
class RuleResult:
    """What came of one rule: its tallies by primal and tier, the points, the seconds, and the objection if any."""

    rule: Rule
    tallies: dict[tuple[str, str], GradientTally]
    points: int = 0
    seconds: float = 0.0
    objection: Objection | None = None


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
) -> RuleResult:
    """Hold a rule against every oracle and every property at that many drawn points.

    Equal seeds give equal points; the result's objection, if any, is to the smallest counterexample found.
    """
    problem = misfit(rule)
    if problem:
        raise InputError(f"{rule}: {problem}.")
    if dtypes is not None and not set(dtypes) & set(rule.domain.dtypes):
        names = ", ".join(map(dtype_name, rule.domain.dtypes))
        raise InputError(f"{rule}: none of the dtypes asked for is in its domain: {names}.")
    result = RuleResult(
        rule, {(rule.primals[i], t): GradientTally() for t in tiers_of(rule) for i in rule.differentiable}
    )

    def held(point: Point) -> None:
        check(point)
        _count(point, result)

    started = time.perf_counter()
    places = weighted(devices or devices_here())
    for done in range(0, examples, RUN):
        objection = search(rule, held, min(RUN, examples - done), seed + done * SEEDS, dtypes, places)
        if objection:
            real = [device for device in places if device != "meta"] or places
            plain = search(rule, lambda point: check(point, PLAINEST), examples, seed, dtypes, real)
            with quiet():
                result.objection = simplest(plain or objection, check)
            break
    result.objection = result.objection or _at_special_values(rule)
    result.seconds = time.perf_counter() - started
    return result


def _at_special_values(rule: Rule) -> WrongGradient | None:
    try:
        special_values.check(rule)
    except WrongGradient as objection:
        return objection
    return None


def verify_rules(
    rules: Sequence[Rule],
    examples: int,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] | None = None,
    jobs: int = 1,
) -> Iterator[RuleResult]:
    """Yield what comes of each rule, in order; `jobs` rules are verified at a time, each in a process of its own."""
    one = partial(verify_rule, examples=examples, seed=seed, dtypes=dtypes, devices=devices)
    # Rules with lambdas need a fork, and what is forked cannot use a GPU that its parent has used, nor JAX's threads.
    alone = "cuda" in (devices or devices_here()) or "jax" in sys.modules
    if jobs == 1 or alone or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(one, rules)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(one, rules)


def _count(point: Point, result: RuleResult) -> None:
    result.points += 1
    names = point.rule.primals
    for i in point.given:
        result.tallies[names[i], point.tier].examples += 1
    for verdict in [] if point.on_meta else judge(point):
        result.tallies[names[verdict.primal], point.tier].add(verdict)
