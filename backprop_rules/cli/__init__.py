"""The command line: `backprop-rules`, with a module for each group of commands."""

import errno
import gc
import sys
from contextlib import suppress
from importlib import import_module
from io import StringIO, TextIOWrapper
from typing import NoReturn

import typer

from backprop_rules.cli.app import USAGE, app
from backprop_rules.errors import InputError

# What torch has made stays: to go through it in search of garbage takes longer than most imports.
gc.freeze()

# What a command needs may take a second to import: only the module of the one that is asked for is, or all of them.
MODULES = {
    "verify": ("verify", "special", "list"),
    "check": ("check",),
    "documents": ("documents",),
    "baselines": ("baselines",),
    "teaching": ("explain", "trace"),
}


# As a shell tells it, of a program that writes where nobody reads any longer.
CLOSED = 141
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def main() -> None:
    """Run the command line; an input that cannot be used, or an output, ends with one line and exit code 2."""
    sys.stderr = sys.stderr or StringIO()  # a closed one is None
    if sys.stdout is None:
        _end("the output is closed, so nothing can be told. Leave it open, or write it to a file.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of what its encoding lacks
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    found = [module for module, commands in MODULES.items() if asked in commands]
    try:
        for module in found or MODULES:
            import_module(f"backprop_rules.cli.{module}")
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
            sys.exit(CLOSED)  # who read it, such as head, has enough: no verdict
        raise
    except InputError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in UNWRITTEN:
            raise
        with suppress(OSError):
            sys.stdout.close()  # or what is left in it would be written again at the end
        if error.errno == errno.EPIPE:
            sys.exit(CLOSED)
        _end(f"the output cannot be written: {error.strerror}. Free space, or write it elsewhere.")


def _end(text: str) -> NoReturn:
    typer.echo(f"backprop-rules: {text}", err=True)
    sys.exit(USAGE)
