"""What every rule of the catalogue must hold beside what any backward must: asked at calls in their own dtypes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from backprop_rules.call import BackwardRaised, Call
from backprop_rules.domain import dtype_name
from backprop_rules.evidence.allowance import Narrower
from backprop_rules.evidence.climb import PROOF
from backprop_rules.evidence.evidence import precise
from backprop_rules.evidence.oracles.oracle import at_kinks
from backprop_rules.evidence.verdict import judge
from backprop_rules.properties.behaviour import (
    gives_the_same_bits_twice,
    gives_the_same_whatever_the_strides,
    is_batched_by_vmap_as_by_a_loop,
    is_linear_in_the_cotangent,
    lets_nan_and_inf_reach_only_what_they_influence,
    reads_only_what_it_saves,
    returns_the_shape_dtype_and_device_of_each_primal,
    writes_to_none_of_its_arguments,
)
from backprop_rules.properties.derivative import (
    agrees_with_every_oracle,
    computes_its_definition,
    has_the_right_second_derivative,
    is_the_adjoint_of_forward_mode,
    makes_the_declared_choice,
)
from backprop_rules.properties.finding import Finding, Kind, Rung, found
from backprop_rules.properties.outcome import Outcome, Questions
from backprop_rules.rule import Rule
from backprop_rules.strategies.grid import divides
from backprop_rules.strategies.of_rules import call_at, widened
from backprop_rules.strategies.point import Point
from backprop_rules.subject.subject import Subject

Property = Callable[[Call], Iterator[Finding]]

# In the order in which they are asked: what makes the later questions meaningless first.
PROPERTIES: tuple[Property, ...] = (
    writes_to_none_of_its_arguments,
    returns_the_shape_dtype_and_device_of_each_primal,
    computes_its_definition,
    agrees_with_every_oracle,
    makes_the_declared_choice,
    is_linear_in_the_cotangent,
    is_the_adjoint_of_forward_mode,
    reads_only_what_it_saves,
    gives_the_same_bits_twice,
    gives_the_same_whatever_the_strides,
    is_batched_by_vmap_as_by_a_loop,
    has_the_right_second_derivative,
    lets_nan_and_inf_reach_only_what_they_influence,
)

# What needs ball arithmetic off the grid: asked at some points there.
PROOFS: tuple[Property, ...] = (
    computes_its_definition,
    agrees_with_every_oracle,
    is_the_adjoint_of_forward_mode,
    has_the_right_second_derivative,
    lets_nan_and_inf_reach_only_what_they_influence,
)


# What the questions of any backward find, and the property that finds it again at a smaller point of a rule.
AGAIN: dict[Kind, Property] = {
    Kind.FORGETFUL: gives_the_same_bits_twice,
    Kind.OVERWRITTEN: gives_the_same_bits_twice,
    Kind.WRITES: writes_to_none_of_its_arguments,
    Kind.NARROWER: agrees_with_every_oracle,
}


def proved(call: Call) -> bool:
    """Say whether every gradient lies in an enclosure that says something of most of its elements."""
    said = [v.enclosure for v in judge(call) if v.oracle == PROOF and not v.witness and v.enclosure is not None]
    return bool(said) and all(2 * int(held.proves.sum()) >= held.proves.numel() for held in said)


def torch_is_outside(call: Call) -> bool:
    """Say whether a gradient of torch's own lies outside of the enclosure that holds the rule's."""
    return any(verdict.witness and verdict.disagrees for verdict in judge(call))


def used_of_the_allowance(call: Call) -> Iterator[tuple[str, float]]:
    """Yield the largest part of its radius that an element of a gradient took up, and the gradient's dtype."""
    for verdict in judge(call):
        held, gradient, used = verdict.enclosure, verdict.gradient, verdict.used
        if held is not None and gradient is not None and used is not None:
            rounds = used[held.proves & (held.lo < held.hi)]
            if rounds.numel():
                yield dtype_name(gradient.dtype), float(rounds.max())


def asked(holds: Property, call: Call) -> list[Finding]:
    """Return what a property finds at a call, each with the question to ask again at a smaller one."""
    try:
        findings = list(holds(call))
    except Narrower as error:
        findings = [found(Kind.NARROWER, call, detail=f": {error}")]
    except BackwardRaised as error:
        findings = [found(Kind.RAISES, call, detail=f" {': '.join(filter(None, error.args))}")]
    return [replace(finding, again=holds, base=widened(call)) for finding in findings]


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
