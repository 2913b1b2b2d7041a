"""What a check shows while it runs: on stderr, where that is a terminal, and only after two seconds."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from backprop_rules.strategies.point import Point

SILENT = 2.0  # seconds that nobody needs to be told of


@contextmanager
def shown(points: Iterable[Point], name: str) -> Iterator[Iterator[Point]]:
    """Yield the points, and show how many there were: a line that is gone when the block ends."""
    if not sys.stderr.isatty():
        yield iter(points)
        return
    from rich.console import Console
    from rich.status import Status

    status = Status("", console=Console(stderr=True))
    started = time.perf_counter()

    def counted() -> Iterator[Point]:
        for k, point in enumerate(points, 1):
            if time.perf_counter() - started > SILENT:
                status.start()
                status.update(f"{name}: {k} points, {point.made}")
            yield point
        status.update(f"{name}: the smallest counterexample, and the higher rungs")

    try:
        yield counted()
    finally:
        status.stop()
