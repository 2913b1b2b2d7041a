"""Programs of Python, each in a process of its own, forked from one that has loaded what takes seconds to load."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import forking
import pytest

ROOT = Path(__file__).parents[1]
Done = subprocess.CompletedProcess[str]


class Forked:
    """A process that has loaded modules, and runs programs in forks of itself."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, *words: str, cwd: Path = ROOT, path: Sequence[Path] = (ROOT,), **environment: str) -> Done:
        """Do what `python *words` does in a folder, with these folders as PYTHONPATH."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment}
        with tempfile.TemporaryDirectory() as kept:
            out, err = (Path(kept) / name for name in ("out", "err"))
            asked = {"words": words, "cwd": str(cwd), "env": environment, "out": str(out), "err": str(err)}
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return Done(words, code, out.read_text(), err.read_text())


@contextmanager
def forked(first: str) -> Iterator[Forked]:
    """Start a process that runs a text of Python first, and forks then."""
    command = [sys.executable, forking.__file__, first]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as server:
        yield Forked(server)


def result_of(done: Done) -> pytest.RunResult:
    """Return what came of a run of pytest, as pytester tells it."""
    return pytest.RunResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), 0.0)
