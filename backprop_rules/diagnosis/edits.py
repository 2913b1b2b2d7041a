"""What people do wrong to a step of a forward when they differentiate it: each as another share of its arguments."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.tape import Share, Shares, Step

SCANS = ("cumsum", "cumprod", "logcumsumexp")
KINKED = ("where", "relu", "clamp", "clamp_min", "clamp_max", "masked_fill", "maximum", "minimum", "abs", "max", "min")
MATRICES = ("matmul", "rmatmul", "mm", "bmm")
COPIES = ("clone", "contiguous", "reshape", "view", "unsqueeze", "squeeze", "expand", "expand_as", "flatten")
MOVES = ("roll", "permute", "movedim", "moveaxis", "rot90", "getitem", "index_select", "gather", "take_along_dim")
REPEATS = ("repeat_interleave", "repeat", "tile")
SCALES = ("mul", "rmul", "div", "truediv", "rdiv", "rtruediv")
SUMS = ("add", "radd", "sub", "rsub")

Turn = Callable[[Tensor], Tensor]
Key = tuple[Any, ...]  # where an edit is made, and what tells it from the others there: the same at every point
WAY, DROPPED, SIGN = "way", "dropped", "sign"
NAMES = {"sum for mean": "sum instead of mean", "mean for sum": "mean instead of sum"}  # as they are called in a report


@dataclass(frozen=True, eq=False)
class Edit:
    """Other shares than the right ones, what that is called, and words around the step.

    `beside` are further steps that it is told of; of a `chained` one a share meets cotangents that another has changed.
    `turn` is what is done to the cotangent first, if all else is right: all of a step's turns are pulled back at once.
    `number` is the number that a factor is, where it is known.
    """

    step: Step
    what: str
    words: str  # with {} in the place of the step
    shares: Shares
    key: Key
    beside: tuple[Step, ...] = ()
    chained: bool = False
    turn: Turn | None = None
    number: str = ""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return NAMES.get(self.what, f"factor {self.number}" if self.number and self.what == "factor" else self.what)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that it is told of."""
        return (self.step, *self.beside)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the steps whose shares are other ones."""
        return tuple(dict.fromkeys(n for n, _ in self.shares))

    @property
    def lines(self) -> set[int]:
        """The lines of forward that it is told of."""
        return {step.line for step in self.steps}

    @property
    def sentence(self) -> str:
        """The words, with the steps in their place; of a loop with their rounds, unless it is of all of them."""
        told = Counter(step.place for step in self.steps)
        every = [self.chained or told[step.place] >= step.rounds for step in self.steps]
        where = [s.place if all_of_it else s.place_in_its_round for s, all_of_it in zip(self.steps, every, strict=True)]
        return self.words.replace("{}", " and ".join(dict.fromkeys(where)))


@dataclass(frozen=True, eq=False)
class Way:
    """What comes back to one argument of a step, to all, or to a tensor by all that use it; how it is told."""

    uses: Sequence[tuple[Step, int]]  # the steps, and the positions of what comes back
    key: Key
    words: str  # of what is wrong if it is
    missing: str  # what is told if nothing comes back
    what: str = "constant"  # and what that is called

    def edit(self, how: str, what: str, words: str, share: Callable[[Step, int, Tensor], Tensor]) -> Edit:
        """Return the edit that changes every share of the way."""
        shares = {(step.number, p): partial(share, step, p) for step, p in self.uses}
        first, *beside = dict.fromkeys(step for step, _ in self.uses)
        return Edit(first, what, words, shares, (*self.key, how), tuple(beside))

    @property
    def edits(self) -> tuple[Edit, Edit, Edit]:
        """What changes nothing, of which there are factors; what drops it, and what gives it the other sign."""
        return (
            self.edit(WAY, "factor", self.words, pulled),
            self.edit(DROPPED, self.what, self.missing, nothing),
            self.edit(SIGN, "sign", f"the sign of {self.words} is wrong", _negative),
        )


def ways_of(step: Step) -> Iterator[Way]:
    """Yield the ways back through a step: by each argument, and by all."""
    several = len(step.live) > 1
    for p in step.live if several else ():
        missing = f"as if argument {p + 1} of {{}} were a constant: its share is missing"
        words = f"the derivative of {{}} by its argument {p + 1}"
        yield Way([(step, p)], (step.number, (p,)), words, missing, "branch")
    missing = "as if {} were a constant: its derivative is missing"
    yield Way([(step, p) for p in step.live], (step.number, step.live), "the derivative of {}", missing)


def pulled(step: Step, p: int, g: Tensor) -> Tensor:
    """Return the right share."""
    return step.pulled(g)[p]


def _negative(step: Step, p: int, g: Tensor) -> Tensor:
    return -step.pulled(g)[p]


def nothing(step: Step, p: int, g: Tensor) -> Tensor:
    """Return no share."""
    return g.new_zeros(len(g), *step.args[p].shape, dtype=step.args[p].dtype)


def is_trivial(step: Step) -> bool:
    """Say whether a step only moves numbers, or adds one that is no primal's: of a chain the others are told of."""
    moves = step.name in (*COPIES, "getitem", "unflatten", "unbind", "chunk", "split", "mT", "T")
    return moves or (step.name in SUMS and len(step.live) == 1)


def summed(x: Tensor, g: Tensor) -> Tensor:
    """Return rows of cotangents as the identity gives them to x, which may have been broadcast."""
    return g if g.shape[1:] == x.shape else torch.stack([one.sum_to_size(x.shape) for one in g])


# The key of one thing that is done to a share, what it is called, words around the step, and the share.
Made = tuple[Key, str, str, Share]


def told_of(
    step: Step,
    by: tuple[int, ...],
    key: Key,
    what: str,
    words: str,
    shares: Mapping[int, Share],
    turn: Turn | None = None,
) -> Edit:
    """Return an edit of some arguments of a step, which its words name unless it is of all."""
    words += f", for its argument {by[0] + 1}" if len(by) < len(step.live) else ""
    changed = {(step.number, p): share for p, share in shares.items()}
    return Edit(step, what, words, changed, (step.number, by, key), turn=turn)
