"""How a choice is made while a point is drawn: from a seed, in bulk."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Refused(Exception):
    """What was drawn so far cannot become a point."""


class Draw:
    """What a point is drawn with; the least number, and the first option, are the simplest."""

    def __init__(self, seed: int) -> None:
        self._numbers = Random(seed)

    def whole(self, first: int, last: int) -> int:
        """Draw an integer from the first to the last."""
        return self._numbers.randint(first, last)

    def bytes(self, length: int) -> bytes:
        """Draw a string of bytes."""
        return self._numbers.randbytes(length)

    def assume(self, condition: object) -> None:
        """Refuse what was drawn so far, unless the condition holds."""
        if not condition:
            raise Refused

    def pick(self, options: Sequence[T]) -> T:
        """Draw one of the options."""
        return options[self.whole(0, len(options) - 1)]

    def flag(self) -> bool:
        """Draw True or False."""
        return bool(self.whole(0, 1))
