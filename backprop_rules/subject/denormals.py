"""Subnormal numbers, which a process may flush to zero: our arithmetic keeps them, the code in question need not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Outside:
    """What was found before our own arithmetic began; threads that are started on the way are told."""

    flushed = False


_outside = _Outside()


def _flushes() -> bool:
    """Say whether this thread's arithmetic flushes subnormal numbers to zero, by making one.

    torch.set_flush_denormal has no getter; Python's own arithmetic runs in the same thread and mode.
    """
    return sys.float_info.min * 0.5 == 0.0


def flushing() -> bool:
    """Say whether subnormal numbers are flushed to zero, or were before `kept`."""
    return _outside.flushed or _flushes()


@contextmanager
def kept() -> Iterator[None]:
    """Until the end of the block, compute with subnormal numbers: an enclosure near zero would be flushed with them."""
    before, found = _outside.flushed, _flushes()
    _outside.flushed = before or found
    if found:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        _outside.flushed = before
        if found:
            torch.set_flush_denormal(True)


@contextmanager
def as_found() -> Iterator[None]:
    """Until the end of the block, which is somebody's code, flush them if the process does."""
    if not _outside.flushed:
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
