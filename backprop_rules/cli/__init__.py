"""The command line: `backprop-rules`, with a module for each group of commands."""

import sys

import typer

from backprop_rules.cli import check, documents, verify  # noqa: F401 - each adds its commands to the application
from backprop_rules.cli.app import USAGE, app
from backprop_rules.errors import InputError


def main() -> None:
    """Run the command line; an input that cannot be used ends with one line and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"backprop-rules: {error}", err=True)
        sys.exit(USAGE)
