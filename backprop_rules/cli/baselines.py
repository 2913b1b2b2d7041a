"""The commands of the recorded training runs: `baselines check` and `baselines update`."""

import os
from typing import Annotated

import typer

from backprop_rules.cli import tables
from backprop_rules.cli.app import WRONG, Baselines, app, console
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.baselines import changes, load, path_of, record, write
from backprop_rules.documents.replay import verify_program
from backprop_rules.errors import InputError

baselines_app = typer.Typer(help="The recorded training runs of the documents.", no_args_is_help=True)
app.add_typer(baselines_app, name="baselines")

SHOWN = 5  # changes of a baseline that are printed; of the others it is said how many there are


@baselines_app.command("check")
def check_baselines(baselines: Baselines = None) -> None:
    """Replay every program against its baseline; exit 1 at one that differs."""
    results = [verify_program(program, baselines) for program in PROGRAMS.values()]
    console().print(tables.table(results))
    for problem in tables.problems(results):
        typer.echo(f"\n{problem}", err=True)
    if tables.problems(results):
        raise typer.Exit(WRONG)


@baselines_app.command("update")
def update_baselines(
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False,
) -> None:
    """Record every program anew, from the inputs of its baseline; show what changes first, and ask."""
    if os.environ.get("CI"):
        raise InputError("baselines are not rewritten where CI is set: record them on your machine and commit them.")
    changed = []
    for program in PROGRAMS.values():
        try:
            inputs = load(program).inputs
        except InputError as error:
            typer.echo(f"{error} Its inputs will be made anew.")
            inputs = program.inputs()
        path, text = path_of(program), record(program, inputs)
        old = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if old != text:
            _show_changes(path.name, old, text)
            changed.append((path, text))
    if not changed:
        typer.echo("Every baseline is as recorded.")
    elif yes or typer.confirm(f"Write {tables.counted(len(changed), 'file')}?"):
        for path, text in changed:
            write(path, text)
        typer.echo(f"{tables.counted(len(changed), 'file')} written.")


def _show_changes(name: str, old: str, new: str) -> None:
    if not old:
        typer.echo(f"{name}: new.")
        return
    found = changes(old, new)
    rest = ":" if found else ", only how it is written."
    typer.echo(f"{name}: {tables.counted(len(found), 'value')} changed{rest}")
    for line in found[:SHOWN]:
        typer.echo(f"    {line}")
    if len(found) > SHOWN:
        typer.echo(f"    … and {len(found) - SHOWN} more")
