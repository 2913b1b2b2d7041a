"""What the commands share: the application, the exit codes, the console, and modules of the user's."""

import importlib
import os
import sys
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import torch
import typer

import backprop_rules
from backprop_rules.catalogue import CATALOGUE
from backprop_rules.errors import InputError
from backprop_rules.subject.places import raised_at

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

WRONG, USAGE = 1, 2
OutputFormat = StrEnum("OutputFormat", ["text", "json"])
Baselines = Annotated[Path | None, typer.Option(help="The folder of the recorded training runs.")]
Module = Annotated[
    str | None, typer.Option("--import", metavar="MODULE", help="A module of yours that declares rules.")
]
Language = Annotated[str | None, typer.Option("--lang", help="en or zh; the locale's if it is not said.")]


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Backward rules, held against independent oracles without a chosen tolerance."""
    if version:
        typer.echo(f"backprop-rules {backprop_rules.__version__}, torch {torch.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def imported(module: str, passed: type[Exception] | tuple[()] = ()) -> ModuleType:
    """Return a module of the user's, from the current folder as from anywhere; InputError if it cannot be imported."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module.removesuffix(".py"))
    except passed:
        raise
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0])
        hint = " It is named without .py and without its folder, which must be the current one or on the path."
        said = f"{type(error).__name__}: {error}{raised_at(error)}.{hint * missing}"
        raise InputError(f"the module '{module}' cannot be imported: {said}") from error


def import_module(module: str | None) -> list[str]:
    """Import a module of the user's, and return the rules that it declares."""
    if module is None:
        return []
    before = set(CATALOGUE)
    name = imported(module, passed=InputError).__name__
    return [str(rule) for rule in CATALOGUE.values() if str(rule) not in before or rule.backward.__module__ == name]


def named_or_imported(names: list[str] | None, module: str | None) -> list[str]:
    """Return the names given, or else those of the rules that the module declares; none for all of the catalogue."""
    declared = import_module(module)
    if module is not None and not names and not declared:
        hint = "Name the rules to verify, or decorate a backward of it with @rule."
        raise InputError(f"the module '{module}' declares no rule. {hint}")
    return names or declared


def console() -> "Console":
    """Return the console, wide enough for the tables where the output goes to a file or another program."""
    from rich.console import Console  # not all that prints needs it

    return Console() if sys.stdout.isatty() else Console(width=120)
