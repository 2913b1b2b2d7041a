"""What the package says to its caller when an input cannot be used."""

from collections.abc import Iterable
from difflib import get_close_matches

LONG = 260  # characters of somebody's message: two sentences of torch's, of which the second says what to do
CUT = " ..."


class InputError(ValueError):
    """An input that cannot be used: what happened, both values, the likely cause, what to do next."""


class RoundingUnknown(InputError):
    """An operation whose rounding cannot be bounded, so that nothing can be said of what it gives."""


class OwnError(Exception):
    """An error of this package itself, raised inside of somebody's code: it is not that code's."""


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not among the known ones, with the nearest of them."""
    names = sorted(known)
    lower = {one.lower(): one for one in names}
    near = get_close_matches(name.lower(), lower, n=1)
    hint = f" Did you mean '{lower[near[0]]}'?" if near else ""
    return InputError(f"there is no {what} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")


def of_ours(error: Exception) -> str:
    """Return what is told of an error of this package itself, which ends nothing and blames nobody's code."""
    if isinstance(error, OwnError):
        return str(error)
    return f"an error of backprop_rules itself, please report it: {type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut between words where it is long, without the stop at its end.

    One word may be longer than all that is told, as a path or the name of a symbol: it is cut itself.
    """
    said = (str(error).splitlines() or [""])[0].rstrip(".")
    if len(said) <= LONG:
        return said
    room = LONG - len(CUT)
    words, _, _ = said[: room + 1].rpartition(" ")
    return (words if 2 * len(words) > room else said[:room]) + CUT
