"""What is computed once, when it is first asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Keeps:
    """Something that is passed along, with what was found of it."""

    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def kept(self, name: Any, make: Callable[[], T]) -> T:
        """Return what has this name, made when it is first asked for."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    def take_over(self, other: "Keeps", *names: Any) -> None:
        """Have what another has of these names."""
        self._kept.update((name, other._kept[name]) for name in names if name in other._kept)
