"""The collector of garbage, which goes through all that there is again and again: half of the time of a long proof."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


class _Before:
    """What was made before a block: whether it is set aside. To count it takes as long as a collection."""

    set_aside = False


def set_aside() -> None:
    """Let the collector leave alone, for good, all that there is: what a process has loaded before it computes."""
    gc.freeze()
    _Before.set_aside = True


@contextmanager
def of_what_is_new() -> Iterator[None]:
    """Until the end of the block, let the collector look at what is made there alone, not at all that was before."""
    if _Before.set_aside or not gc.isenabled():
        yield
        return
    gc.freeze()
    _Before.set_aside = True
    try:
        yield
    finally:
        gc.unfreeze()
        _Before.set_aside = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Until the end of the block, leave the collector off: of the numbers on a tape none is garbage before."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
