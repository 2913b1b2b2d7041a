"""How a wrong rule is planted: one change from the right one, and the size of its smallest counterexample."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from backprop_rules import CATALOGUE, Rule

Backward = Callable[..., Any]


@dataclass(frozen=True)
class Planted:
    """A wrong backward for a rule of the catalogue, and how many elements its smallest counterexample has."""

    rule: str
    mistake: str
    backward: Backward
    elements: int

    def __str__(self) -> str:
        return f"{self.rule}: {self.mistake}"

    def as_rule(self) -> Rule:
        """Return the catalogue's rule with this backward in the place of the right one."""
        return replace(CATALOGUE[self.rule], backward=self.backward)


class Plantings(list[Planted]):
    """The wrong rules of one file."""

    def plant(self, rule: str, mistake: str, elements: int) -> Callable[[Backward], Backward]:
        def keep(backward: Backward) -> Backward:
            self.append(Planted(rule, mistake, backward, elements))
            return backward

        return keep


right = {name: rule.backward for name, rule in CATALOGUE.items()}
