"""A process that waits for programs of Python, a line of JSON each, and runs each in a fork of its own.

python tests/forking.py "import torch"
"""

import atexit
import gc
import json
import os
import runpy
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

FOLDER = str(Path(__file__).parent)


def next_program(asks: TextIO, answers: TextIO) -> dict[str, Any] | None:
    """Fork for each program that is asked for: return it there, and None here when there are no more."""
    for line in asks:
        child = os.fork()
        if not child:
            return json.loads(line)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{code}\n")
        answers.flush()
    return None


def placed(asked: dict[str, Any]) -> list[str]:
    """Take the program's folder, environment and files, and return its words."""
    mine = {FOLDER, *os.environ["PYTHONPATH"].split(os.pathsep)}
    installed = [name for name in sys.path if name not in mine]
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.path[:] = [*asked["env"]["PYTHONPATH"].split(os.pathsep), *installed]
    for number, name in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return asked["words"]


def run(first: str, *words: str) -> None:
    """Run a program as Python's command line does: -c and a text, -m and a module, or a file."""
    if first == "-m":
        sys.argv[:] = words
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = ["-c", *words[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(words[0], vars(main))
    else:
        sys.argv[:] = [first, *words]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


def ended(program: Callable[[], None]) -> None:
    """Run a program to its end, and end the process there: what libraries say when they are unloaded is not its own.

    Triton and JAX share a library that tells, when Python takes itself down, what they have left in memory.
    """
    code: Any = 0
    try:
        program()
    except SystemExit as error:
        code = error.code
    except BaseException:
        code = 1
        traceback.print_exc()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    exec(sys.argv[1], {})
    gc.freeze()  # no fork looks through what they share: when it ended, that took it longer than a small check
    program = next_program(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
    if program is not None:
        ended(lambda: run(*placed(program)))
