"""The part of a trial that is for rules: what each must hold is asked at its points, in their own dtypes."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from backprop_rules.evidence.oracles.oracle import at_kinks
from backprop_rules.evidence.precisions import precise
from backprop_rules.properties.finding import Finding, Rung
from backprop_rules.properties.of_rules import (
    PROOFS,
    PROPERTIES,
    asked,
    proved,
    torch_is_outside,
    used_of_the_allowance,
)
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.rule import Rule
from backprop_rules.strategies.grid import divides
from backprop_rules.strategies.of_rules import call_at
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject


class OfTheRule:
    """What is asked of a rule beside what any backward is asked; `left` proofs off the grid."""

    def __init__(self, subject: Subject, questions: Questions) -> None:
        assert subject.rule is not None
        self.subject, self.devices, self.left = subject, questions.devices, questions.proofs
        self.rule: Rule = subject.rule

    def off_its_kinks(self, point: Point) -> Point:
        """Return the point with no cotangent where the rule declares a choice: the grid holds it to that."""
        if not self.rule.conventions:
            return point
        there = at_kinks(call_at(self.rule, point, precise(self.subject, point)), self.rule.conventions)
        if point.dtypes:  # what a narrower dtype makes of a bound may be a kink as well
            there = there | at_kinks(call_at(self.rule, point, point.dtypes), self.rule.conventions)
        (g,) = point.grads
        return point if g is None or not bool(there.any()) else replace(point, grads=(torch.where(there, 0, g),))

    def ask(self, point: Point, outcome: Outcome) -> Iterator[Finding]:
        """Ask what every rule must hold, in the point's own dtypes, until something fails."""
        exact = bool(point.spacing)
        divided = exact and divides(point.spacing)
        devices = [d for d in self.devices if d == "cpu" or (d != "meta" and not divided)]
        for device in devices:
            call = call_at(self.rule, point, point.dtypes, device, point.spacing)
            costly = exact or self.left > 0
            for holds in PROPERTIES:
                if costly or holds not in PROOFS:
                    outcome.asked[holds.__name__] += 1
                    found = asked(holds, call)
                    yield from found
                    if found:
                        return
            if costly and not exact:
                self.left -= 1
                outcome.rungs[Rung.PROVED] += proved(call)
                outcome.astray += torch_is_outside(call)
                for dtype, used in used_of_the_allowance(call):
                    outcome.used.setdefault(dtype, []).append(used)
        outcome.exact += exact and bool(devices)
