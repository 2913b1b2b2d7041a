"""What is asked of a backward, and what came of asking it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

from backprop_rules.errors import of_ours
from backprop_rules.evidence.evidence import WIDE, Pair
from backprop_rules.properties import effort
from backprop_rules.properties.agreement import Judged
from backprop_rules.properties.finding import GRADES, Finding, Grade, Kind, Rung
from backprop_rules.strategies.point import Point

if TYPE_CHECKING:
    from backprop_rules.properties.whole import Whole


T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Questions:
    """What is asked of a backward beside the derivative."""

    convention: str = "torch"
    accuracy: str = "torch"
    saves: tuple[str, ...] | None = None
    strict_memory: bool = False
    sums: torch.dtype | None = None
    devices: tuple[str, ...] = ("cpu",)
    work: int = effort.WORK  # calls that all points together may take
    after: int = effort.AFTER  # points that are still asked after a wrong one
    of_rules: bool = False  # what every rule of the catalogue must hold, in the dtypes that its points are drawn in
    proofs: int = effort.PROOFS_OF_A_RULE  # points off the grid at which that is asked in ball arithmetic too
    invariance: tuple[str, ...] = ()  # on which no bit may depend
    deterministic: bool = True  # whether the same call is to give the same bits
    explain: bool = True  # whether the mistake is looked for by surgery, once the verdict stands
    extra: "Whole | None" = None  # what is asked of an autograd.Function as a whole
    itself: bool = False  # whether a function is held to its own differences: nothing that it hides is a constant


@dataclass
class Outcome:
    """What came of a trial: findings, and how many points stand on which rung."""

    findings: list[Finding] = field(default_factory=list)
    passed: list[Point] = field(default_factory=list)
    inaccurate: list[Point] = field(default_factory=list)
    rungs: dict[Rung, int] = field(default_factory=lambda: dict.fromkeys(Rung, 0))
    classes: dict[str, int] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    why: str = ""
    points: int = 0
    exact: int = 0  # of them, those at which nothing rounds, and all was right bit for bit
    astray: int = 0  # points proved at which torch's own gradient lies outside
    used: dict[str, list[float]] = field(default_factory=dict)  # of the allowance, by dtype, at each point proved
    asked: Counter[str] = field(default_factory=Counter)  # how often each property of a rule was asked
    empty: bool = True  # whether there were no elements at any of the points
    second: int = 0
    contradicted: list[str] = field(default_factory=list)
    spoke: dict[int, Judged] = field(default_factory=dict)
    pair: Pair = WIDE
    random_forward: bool = False
    custom: bool = False
    interrupted: bool = False
    lower: dict[str, None] = field(default_factory=dict)  # why a rung was not reached

    def count_exact(self, point: Point, leaves: Iterable[int]) -> None:
        """Count a point at which nothing rounds and all was right, by every oracle that speaks there."""
        self.passed.append(point)
        self.empty = self.empty and point.empty
        if point.ordinary:
            self.classes[point.where] = self.classes.get(point.where, 0) + 1
        for i in [i for i in leaves if point.leaves[i] is not None and not point.empty]:
            said = self.spoke.setdefault(i, Judged())
            said.spoke, said.nonzero = True, said.nonzero or any(g is not None and bool(g.any()) for g in point.grads)

    def unless_ours(self, ask: Callable[[], T], otherwise: U) -> T | U:
        """Return an answer, another one where our own analysis ends in an error: it is noted, and hides nothing."""
        try:
            return ask()
        except Exception as error:
            self.notes[of_ours(error)] = None
            return otherwise

    def until_ours(self, asked: Iterator[T]) -> Iterator[T]:
        """Yield answers until our own analysis ends in an error: likewise."""
        try:
            yield from asked
        except Exception as error:
            self.notes[of_ours(error)] = None

    @property
    def worst(self) -> Grade | None:
        """The gravest grade among the findings."""
        return max((f.kind.grade for f in self.findings), key=GRADES.index, default=None)

    @property
    def is_wrong(self) -> bool:
        """Whether something wrong was found."""
        return self.worst is Grade.WRONG

    @property
    def objects(self) -> bool:
        """Whether something was found that is more than a note."""
        return self.worst not in (None, Grade.NOTE)

    @property
    def chief(self) -> Finding | None:
        """The finding to tell of: of the gravest, a plain one where the function is smooth, at the smallest point."""

        def rank(f: Finding) -> tuple[bool, bool, bool, int]:
            return not f.plain, f.kind is Kind.SUBGRADIENT, f.point.empty, f.point.size

        return min(self.of_the_worst(), key=rank, default=None)

    def of_the_worst(self) -> list[Finding]:
        """Return the findings of the gravest grade."""
        return [f for f in self.findings if f.kind.grade is self.worst]
