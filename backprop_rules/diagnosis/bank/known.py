"""What a mistake of the bank is, and how one is declared: by its name, its words and what it would return."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank.case import Case

Predict = Callable[[Case], Tensor | None]
Where = Callable[[Case], bool]


class Family(Enum):
    """What a mistake is about, where that matters to who asks."""

    FACTOR = auto()
    TIES = auto()
    OTHER = auto()


@dataclass(frozen=True)
class Known:
    """A mistake of the bank: its name, what it is in words, and what a backward returns that makes it."""

    name: str
    words: str
    predict: Predict
    family: Family = Family.OTHER


class Declarations(list[Known]):
    """The mistakes of one file, in order."""

    def mistake(
        self, name: str, words: str, *, where: Where = lambda c: True, family: Family = Family.OTHER
    ) -> Callable[[Predict], Predict]:
        """Declare a mistake by the function that predicts what it returns, of the cases where it can be made."""

        def declare(predict: Predict) -> Predict:
            self.append(Known(name, words, lambda c: predict(c) if where(c) else None, family))
            return predict

        return declare


def elementwise(c: Case) -> bool:
    """Say whether y has the shape of the primal."""
    return c.y.shape == c.x.shape


def real_elementwise(c: Case) -> bool:
    """Say whether y has the shape of the primal, which is real."""
    return elementwise(c) and not c.x.is_complex()


def equal(y: Tensor, other: Tensor) -> bool:
    """Say whether these are the same numbers, NaN at the same places."""
    return (
        y.shape == other.shape
        and torch.equal(y.isnan(), other.isnan())
        and torch.equal(y.nan_to_num(), other.nan_to_num())
    )


def all_axes_reversed(x: Tensor) -> Tensor:
    """Return what .T makes of an array of more than two axes, in NumPy and of old in torch."""
    return x.permute(tuple(reversed(range(x.ndim))))


def applies(known: Known, case: Case) -> Tensor | None:
    """Return the mistake's prediction where it can be told from the right gradient, None elsewhere."""
    try:
        found = known.predict(case)
    except (RuntimeError, IndexError):  # shapes that the mistake cannot be made with
        return None
    if found is None or found.is_complex() != case.right.is_complex():
        return None
    if found.shape == case.right.shape and torch.equal(found, case.right):
        return None
    return found
