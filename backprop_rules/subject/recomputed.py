"""What is checkpointed is computed again in the backward as in the forward: autograd's engine knows nothing of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils import checkpoint

Around = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Here(threading.local):
    arounds: tuple[Around, ...] = ()


_here, _installing, _entered = _Here(), threading.Lock(), list[dict[str, Any]]()


@contextmanager
def recomputed_by(*arounds: Around) -> Iterator[None]:
    """Let what is checkpointed meanwhile in this thread, and what is in it, be computed again as these say, too."""
    with _as_these_say((*_here.arounds, *arounds)):
        yield


@contextmanager
def _as_these_say(arounds: tuple[Around, ...]) -> Iterator[None]:
    before, _here.arounds = _here.arounds, arounds
    _install()
    try:
        yield
    finally:
        _here.arounds = before
        _restore()


def as_watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called in this precision, watched by the same."""
    function_modes: Any = torch.overrides._get_current_function_mode_stack
    modes = function_modes()

    def again(*arguments: Any, **named: Any) -> Any:
        with ExitStack() as stack:
            for mode in (one for one in modes if one not in function_modes()):
                stack.enter_context(mode)
            return function(*arguments, **named)

    return again


def _install() -> None:
    """Put ours in the place of torch's own, which is kept: once, however many threads are at it."""
    torchs: Any = checkpoint
    with _installing:
        kept = {name: getattr(torchs, name) for name in (GENERATOR, CHECKS)} if not _entered else _entered[0]
        _entered.append(kept)
        if len(_entered) == 1:
            setattr(torchs, GENERATOR, _generator(kept[GENERATOR]))
            setattr(torchs, CHECKS, {name: _as_it_is(of) for name, of in kept[CHECKS].items()})


def _restore() -> None:
    """Put torch's own back when the last one leaves."""
    with _installing:
        kept = _entered.pop()
        for name, own in kept.items() if not _entered else ():
            setattr(checkpoint, name, own)


GENERATOR, CHECKS = "_checkpoint_without_reentrant_generator", "_allowed_determinism_checks_to_fns"


def _generator(torchs: Callable[..., Any]) -> Callable[..., Any]:
    def around_it(function: Callable[..., Any], *options: Any, **named: Any) -> Any:
        arounds, again = _here.arounds, function
        for around in reversed(arounds):  # what was entered last goes around first
            again = around(again)

        def with_what_is_in_it(*arguments: Any, **named: Any) -> Any:
            with _as_these_say(arounds):
                return again(*arguments, **named)

        return torchs(with_what_is_in_it if arounds else function, *options, **named)

    return around_it


def _as_it_is(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what a checkpoint keeps of a tensor, to compare: its own dtype, and not that of another run."""

    def told(x: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return of(x)

    return told
