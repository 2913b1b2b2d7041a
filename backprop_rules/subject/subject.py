"""What is checked: a backward, the function that it is to be the backward of, and one call of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.rule import Rule
from backprop_rules.subject.ambient import F64, Ambient, inexact
from backprop_rules.subject.backward import Backward
from backprop_rules.subject.constants import NONE, Constants
from backprop_rules.subject.function import Function

HEAVY = 1 << 22  # elements: some milliseconds of memory


@dataclass(frozen=True, eq=False)
class Subject:
    """A backward, and what it is held against.

    `example` are the leaves of one call: tensors, or None for an optional primal of a rule; `names` has a name for
    each. `rule` is the same question as a rule, for the proof, the allowance and the bank of mistakes; None, and
    `unruly` says why, where it is none, as of lists of primals. `formula` is shown in reports, and
    `constants` are what forward reads beside the primals.
    """

    name: str
    function: Function
    backward: Backward
    example: tuple[Any, ...]
    names: tuple[str, ...]
    rule: Rule | None
    unruly: str = ""
    formula: str = ""
    dtypes: tuple[torch.dtype, ...] = ()
    constants: Constants = NONE
    right: Rule | None = None  # the catalogue's, if it is held against one
    small: tuple[Any, ...] | None = None  # a large example made small, as forward and backward take it, ...
    any_sizes: bool = False  # ... and whether they take any sizes
    _ambients: dict[tuple[torch.dtype, bool], Ambient] = field(default_factory=dict, init=False)

    def __str__(self) -> str:
        return self.name

    @cached_property
    def floats(self) -> tuple[int, ...]:
        """The positions of the leaves that can have a gradient."""
        return tuple(k for k, x in enumerate(self.example) if inexact(x))

    @cached_property
    def mixed(self) -> bool:
        """Whether the dtypes asked for are those of the example's leaves, each its own, and not of all alike."""
        own = {self.example[k].dtype for k in self.floats}
        return len(own) > 1 and own == {*self.dtypes}

    def bits_of(self, leaf: int) -> int | None:
        """Return the precision of the widest dtype in which the gradient of a leaf is asked for, None of none."""
        return max(map(precision, [self.example[leaf].dtype] if self.mixed else self.dtypes), default=None)

    @property
    def heavy(self) -> bool:
        """Whether one run of forward reads so much that few runs can be had."""
        return self.constants.read > HEAVY

    @cached_property
    def in_float64(self) -> bool:
        """Whether it is to be right in float64, as the example or the dtypes asked for say."""
        return any(precision(d) == precision(F64) for d in self.dtypes)

    def precision_of_backward(self, dtype: torch.dtype) -> Ambient:
        """Return the precision in which the backward runs: casts to narrower dtypes are its own fault in float64.

        They are not where the forward has some as well, or where the backward is not meant for float64.
        """
        widening = not self.in_float64 or self.function.ambient(F64).narrows
        return self._ambients.setdefault((dtype, widening), Ambient(dtype, widening))

    @property
    def work(self) -> int:
        """How many calls of torch's functions were made so far, or what they read in calls that cost as much."""
        return self.function.work + sum(ambient.work for ambient in self._ambients.values())


def shapes_of(names: Sequence[str], leaves: Sequence[Any]) -> str:
    """Return the shapes of the primals in words: x of shape (3, 4) and w of shape (4, 5)."""
    return " and ".join(
        f"{name} of shape {tuple(x.shape)}" for name, x in zip(names, leaves, strict=True) if isinstance(x, Tensor)
    )
