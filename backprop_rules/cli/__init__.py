"""The command line: `backprop-rules`, with a module for each group of commands."""

import errno
import gc
import sys
from importlib import import_module

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


def main() -> None:
    """Run the command line; an input that cannot be used ends with one line and exit code 2."""
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    found = [module for module, commands in MODULES.items() if asked in commands]
    try:
        for module in found or MODULES:
            import_module(f"backprop_rules.cli.{module}")
        app()
    except SystemExit as end:
        if isinstance(end.__context__, OSError) and end.__context__.errno == errno.EPIPE:
            sys.exit(CLOSED)  # who read it, such as head, has enough: no verdict
        raise
    except InputError as error:
        typer.echo(f"backprop-rules: {error}", err=True)
        sys.exit(USAGE)
