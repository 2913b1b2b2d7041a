"""What each oracle says of each gradient at a point."""

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from backprop_rules.enclosure import Enclosure
from backprop_rules.oracles import ORACLES
from backprop_rules.oracles.oracle import Silent
from backprop_rules.point import Point


@dataclass(frozen=True, eq=False)
class Verdict:
    """One oracle's answer for the gradient of one primal.

    `point` is the point that it was asked at, with the cotangent zero where the oracle cannot speak;
    `outside` marks the elements of `gradient` that do not lie in the enclosure, None where all do.
    Gradient and enclosure are None where the oracle is silent.
    """

    oracle: str
    primal: int
    point: Point
    gradient: Tensor | None = None
    enclosure: Enclosure | None = None
    outside: Tensor | None = None

    @property
    def agrees(self) -> bool:
        """Whether the oracle spoke and every element lies inside."""
        return self.enclosure is not None and self.outside is None

    @property
    def disagrees(self) -> bool:
        """Whether the oracle spoke and an element lies outside."""
        return self.outside is not None


@lru_cache(maxsize=1)
def judge(point: Point) -> list[Verdict]:
    """Return every oracle's verdict on every gradient, the oracles in their order; the last answer is kept."""
    verdicts: list[Verdict] = []
    for oracle in ORACLES:
        outputs = oracle.speaks_for(point)
        if outputs is False:
            continue
        spoken = point.only(outputs)
        try:
            enclosures = oracle.enclosures(spoken)
        except Silent:
            verdicts += [Verdict(oracle.name, i, spoken) for i in point.given]
            continue
        for i in point.given:
            gradient, enclosure = spoken.gradients[i], enclosures[i]
            assert gradient is not None and enclosure is not None
            verdicts.append(Verdict(oracle.name, i, spoken, gradient, enclosure, enclosure.outside(gradient)))
    return verdicts
