"""What is to be said of a reference when what is held to it does not fit."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Reservations:
    """What of a reference may be to blame in the place of what is held to it: the first of each, or nothing.

    `overflow` is what it stores beyond the end of its dtype, and `vanished` a number that is 0 there; `custom`
    somebody's autograd.Function, whose backward is a part of the truth as it is; `taken` the operation that took an
    index or a mask of what was chosen as it came out, though it may be another; `drawn` one that draws random numbers.
    `unknown` says of which operation nobody knows how far it rounds, and so nothing is said of what is made of it;
    `ties` whether equal numbers count in another order than torch has them.
    """

    overflow: str = ""
    vanished: str = ""
    custom: str = ""
    taken: str = ""
    drawn: str = ""
    unknown: str = ""
    ties: bool = False

    def beside(self, other: "Reservations") -> "Reservations":
        """Return what is to be said of this one and of another."""
        return Reservations(*(a or b for a, b in zip(astuple(self), astuple(other), strict=True)))


NONE = Reservations()
