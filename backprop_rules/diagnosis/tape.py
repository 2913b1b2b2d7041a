"""The steps of a forward, each with the line of the source that it is of; and forward again, one step changed."""

import inspect
import linecache
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.evidence.evidence import Evidence
from backprop_rules.subject import ambient
from backprop_rules.subject.ambient import F64, inexact, running
from backprop_rules.subject.function import NoPoint

PACKAGE = str(Path(__file__).parents[1])
# What lies between a call of somebody's code and its step.
BETWEEN = str(Path(torch.__file__).parent), __file__, str(ambient.__file__), "<frozen"

# What stands in the place of a step: from its function, its arguments and its result another result.
Change = Callable[["Step", Any, tuple[Any, ...], dict[str, Any], Any], Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a function of torch that made a tensor with a gradient: its number, its name, and where it stands.

    `live` are the positions of its arguments that have a gradient.
    """

    number: int
    name: str
    live: tuple[int, ...]
    args: tuple[Any, ...]
    named: dict[str, Any]
    result: Tensor
    text: str
    line: int

    @property
    def place(self) -> str:
        """The step as it is told: the expression, and the line that it stands in."""
        return f"`{self.text}` (forward{f', line {self.line}' if self.line else ''})"


class _Steps(TorchFunctionMode):
    """While it is entered, calls that make a tensor with a gradient are counted, kept, and one or two are changed."""

    def __init__(self, changes: dict[int, Change] | None, steps: Sequence[Step] = ()) -> None:
        super().__init__()
        self.changes, self.known, self.made, self.count = changes, steps, list[Step](), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        found = func(*args, **named)
        if not isinstance(found, Tensor) or not found.requires_grad or _in_place(func):
            return found
        k, self.count = self.count, self.count + 1
        if self.changes is None:
            self.made.append(_step(k, func, args, named, found))
        elif k in self.changes and k < len(self.known):
            return self.changes[k](self.known[k], func, args, named, found)
        return found


def _in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__iadd__", "__imul__")


def _step(k: int, func: Any, args: tuple[Any, ...], named: dict[str, Any], found: Tensor) -> Step:
    live = tuple(j for j, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad)
    line, text = _place(_name(func))
    kept = tuple(x.detach() if isinstance(x, Tensor) else x for x in args)
    return Step(k, _name(func), live, kept, named, found.detach(), text, line)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    owner = getattr(func, "__self__", None)
    return str(getattr(owner, "__name__", name)) if name == "__get__" else name.strip("_")


def _place(name: str) -> tuple[int, str]:
    """Return the number of somebody's line and the expression that is evaluated there; the name if it is nobody's."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(BETWEEN):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(PACKAGE):
        return 0, name
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    line, last, start, end = positions
    number = line or frame.f_lineno
    whole = linecache.getline(frame.f_code.co_filename, number)
    text = whole.strip()
    if start is not None and end is not None and last == line:
        text = whole.encode()[start:end].decode(errors="ignore")
    return number, text


class Spent(Exception):
    """As many steps were run as an explanation may cost."""


class Effort:
    """How many steps all tapes of one question may still run."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Count a run of so many steps; Spent where none is left."""
        self.left -= steps
        if self.left < 0:
            raise Spent


class Tape:
    """A forward at a point: its steps, the right gradients, the backward's own, and those of a changed forward."""

    def __init__(self, evidence: Evidence, effort: Effort) -> None:
        self._function, self._point, self._effort = evidence.function, evidence.point, effort
        self.names = [evidence.subject.names[k] for k in evidence.subject.floats]
        self.floats = [k for k in evidence.subject.floats if isinstance(evidence.user[k], Tensor)]
        self.got = [
            evidence.user[k].to(F64) if not evidence.user[k].is_complex() else evidence.user[k] for k in self.floats
        ]
        mode = _Steps(None)
        self.right = self._gradients(mode)
        self.steps = mode.made

    def changed(self, changes: dict[int, Change]) -> list[Tensor] | None:
        """Return the gradients of forward with some steps changed; None where it cannot be changed so."""
        self._effort.spend(len(self.steps))
        try:
            return self._gradients(_Steps(changes, self.steps))
        except (NoPoint, RuntimeError, IndexError, ValueError, TypeError):
            return None

    def _gradients(self, mode: _Steps) -> list[Tensor]:
        with running(self._function.ambient(F64)) as inside, torch.enable_grad():
            live = [x.detach().requires_grad_() if inexact(x) else x for x in self._point.leaves]
            ys = self._function.outputs(live, _both(inside, mode))
            pairs = [(y, g) for y, g in zip(ys, self._point.grads, strict=True) if g is not None and y.requires_grad]
            asked = [live[k] for k in self.floats]
            if not pairs:
                return [torch.zeros_like(x) for x in asked]
            outs, grads = zip(*pairs, strict=True)
            found = torch.autograd.grad(outs, asked, grads, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g.detach() for g, x in zip(found, asked, strict=True)]


@contextmanager
def _both(inside: Any, mode: TorchFunctionMode) -> Iterator[None]:
    with inside, mode:
        yield
