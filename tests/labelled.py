"""Wrong backwards whose mistake is known: what was done to which line of forward, before anything names it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Function = Callable[..., Any]

# What can be done to one step of a forward before it is differentiated, or to a gradient: the vocabulary of labels.
EDITS = (
    "constant",  # the step's derivative is dropped, as if its result did not depend on anything
    "unchanged",  # the cotangent passes the step as if it were the identity
    "branch",  # of several operands of the step one gets nothing through it
    "factor",  # the step's derivative is off by a number, a size, or a root of one
    "sign",
    "conjugate",
    "transposed",
    "axis",  # a reduction, or what undoes it, is over another axis
    "sum for mean",
    "mean for sum",
    "eps",  # left out, or in another place
    "other value",  # another value is taken: output for input, before for after
    "mask",  # a mask, a clamp or a threshold is applied to the cotangent, or forgotten
    "side",  # the other side of a threshold
    "overwritten",  # of several uses of one value only the last counts
    "component",  # one component alone is off
    "cotangent ignored",
    "index",  # off by one
    "not summed",  # a broadcast is not summed, or not over all axes
    "order",  # the order of the factors
)


@dataclass(frozen=True)
class Edit:
    """One thing done wrong: which of `EDITS`, and a piece of the line of forward that it was done to."""

    what: str
    at: str


@dataclass(frozen=True, eq=False)
class Labelled:
    """A wrong backward: its edits, the primals whose gradients are wrong, and the tracker's number if it has one."""

    edits: tuple[Edit, ...]
    wrong: tuple[str, ...]
    backward: Function
    source: str = ""

    def __str__(self) -> str:
        return " and ".join(f"{edit.what} at {edit.at}" for edit in self.edits)


@dataclass(frozen=True, eq=False)
class Forward:
    """A forward of several lines, one call of it, its right backward and wrong ones."""

    name: str
    forward: Function
    example: tuple[Tensor, ...]
    right: Function
    wrong: tuple[Labelled, ...]

    def __str__(self) -> str:
        return self.name


def into(kept: list[Labelled]) -> Callable[..., Callable[[Function], Function]]:
    """Return a decorator that keeps a wrong backward in a list, with its edits and the primals it is wrong for."""

    def labelled(*edits: Edit, wrong: tuple[str, ...], source: str = "") -> Callable[[Function], Function]:
        def keep(backward: Function) -> Function:
            kept.append(Labelled(edits, wrong, backward, source))
            return backward

        return keep

    return labelled
