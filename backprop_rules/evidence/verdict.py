"""What each oracle says of each gradient at a point."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from flint import arb
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.allowance.bounds import attainable, bounds
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.evidence.oracles import ORACLES, ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent, at_kinks
from backprop_rules.evidence.proof import certified


@dataclass(frozen=True, eq=False)
class Verdict:
    """One oracle's answer for the gradient of one primal.

    `call` is what it was asked at, with the cotangent zero where the oracle cannot speak;
    `outside` marks the elements of `gradient` that do not lie in the enclosure, None where all do.
    Gradient and enclosure are None where the oracle is silent. The verdict on a `witness` is on
    torch's gradient, not on the rule's. `used` is how much of the radius each element took up, where
    rounding is allowed for. Where elements lie only inside what their own roundings excuse, `attainable`
    is the enclosure that the accuracy asked for gives.
    """

    oracle: str
    primal: int
    call: Call
    gradient: Tensor | None = None
    enclosure: Enclosure | None = None
    outside: Tensor | None = None
    witness: bool = False
    used: Tensor | None = None
    attainable: Enclosure | None = None

    @classmethod
    def by(cls, oracle: str, primal: int, call: Call, gradient: Tensor, held: Enclosure, **more: Any) -> "Verdict":
        """Return the verdict on a gradient of the enclosure that is to hold it."""
        return cls(oracle, primal, call, gradient, held, held.outside(gradient), **more)

    @property
    def agrees(self) -> bool:
        """Whether the oracle spoke and every element lies inside."""
        return self.enclosure is not None and self.outside is None

    @property
    def disagrees(self) -> bool:
        """Whether the oracle spoke and an element lies outside."""
        return self.outside is not None


@lru_cache(maxsize=1)
def judge(call: Call) -> list[Verdict]:
    """Return every oracle's verdict on every gradient, the oracles in their order; the last answer is kept."""
    return _by_enclosures(call) if call.tier == "exact" else _by_proof(call)


def _by_enclosures(call: Call) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for oracle in ORACLES:
        outputs = oracle.speaks_for(call)
        if outputs is False:
            continue
        spoken = call.only(outputs)
        try:
            enclosures = oracle.enclosures(spoken)
        except Silent:
            verdicts += [Verdict(oracle.name, i, spoken) for i in call.given]
            continue
        for i in call.given:
            gradient, enclosure = spoken.gradients[i], enclosures[i]
            assert gradient is not None and enclosure is not None
            verdicts.append(Verdict.by(oracle.name, i, spoken, gradient, enclosure))
    return verdicts


def _by_proof(call: Call) -> list[Verdict]:
    """Return the verdicts of the certified derivative, allowing for rounding, on the rule and on torch's gradient."""
    try:
        balls = certified.certify(call).gradients
    except Silent:
        return [Verdict("certified", i, call) for i in call.given]
    radii = attainable(call).gradients
    try:
        theirs = ReverseMode().gradients(call)
    except Silent:
        theirs = (None,) * len(balls)
    verdicts: list[Verdict] = []
    for i in call.given:
        gradient, witness, truth, radius = call.gradients[i], theirs[i], balls[i], radii[i]
        assert gradient is not None and truth is not None and radius is not None
        enclosure = certified.enclosure(truth, radius, gradient)
        used = (
            certified.distance(truth, gradient)
            / (torch.stack([radius] * 2, -1) if gradient.is_complex() else radius).cpu()
        )
        verdict = Verdict.by("certified", i, call, gradient, enclosure, used=used.nan_to_num(0.0))
        verdicts.append(_excused(verdict, truth) if verdict.disagrees else verdict)
        if witness is None:
            verdicts.append(Verdict("reverse mode", i, call, witness=True))
        else:
            verdicts.append(Verdict.by("reverse mode", i, call, witness, enclosure, witness=True))
    return verdicts + at_conventions(call)


def _excused(verdict: Verdict, truth: Sequence[arb]) -> Verdict:
    """Return the verdict on a gradient that is less accurate than asked for: it may be so by its own roundings."""
    call, gradient, strict = verdict.call, verdict.gradient, verdict.enclosure
    if len(call.rule.references) == 1 and call.rule.roundings.accumulate is None:
        return verdict
    radius = bounds(call).gradients[verdict.primal]
    assert gradient is not None and radius is not None
    wide = certified.enclosure(truth, radius, gradient)
    return replace(verdict, enclosure=wide, outside=wide.outside(gradient), attainable=strict)


def at_conventions(call: Call) -> list[Verdict]:
    """Return the verdicts of the catalogue's choice on the outputs that stand on a kink, for another rule."""
    reference = call.rule.reference
    if call.rule.backward is reference.backward or not reference.conventions:
        return []
    spoken = call.only(at_kinks(call, reference.conventions))
    chosen, radii = replace(spoken, rule=reference).gradients, bounds(spoken, evaluations=2).gradients
    verdicts = []
    for i in call.given:
        gradient, answer, radius = spoken.gradients[i], chosen[i], radii[i]
        assert gradient is not None and answer is not None and radius is not None
        # A choice of 0 is exact, whatever it divides by.
        radius = torch.where(radius.isinf() & (answer == 0), 0, radius)
        enclosure = Enclosure.around(answer, radius.cpu(), gradient.dtype)
        verdicts.append(Verdict.by("the convention", i, spoken, gradient, enclosure))
    return verdicts


def contradiction(verdicts: Sequence[Verdict]) -> tuple[Verdict, Verdict, Tensor] | None:
    """Return two verdicts on the same gradient whose enclosures are disjoint, and where; None if there are none."""
    spoken = [v for v in verdicts if v.enclosure is not None and not v.witness]
    for one, other in itertools.combinations(spoken, 2):
        same = one.primal == other.primal and torch.equal(one.call.grad_y, other.call.grad_y)
        if same and one.enclosure and other.enclosure:
            apart = (one.enclosure.lo > other.enclosure.hi) | (other.enclosure.lo > one.enclosure.hi)
            if apart.any():
                complex_ = one.gradient is not None and one.gradient.is_complex()
                return one, other, apart.any(-1) if complex_ else apart
    return None
