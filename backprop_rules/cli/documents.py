"""The commands of the answer key: `documents`, `explain`, `trace` and `baselines`."""

import json
import os
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding

from backprop_rules.cli import tables
from backprop_rules.cli.app import WRONG, Baselines, Module, OutputFormat, app, console, import_module
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.answers import DOCUMENTS
from backprop_rules.documents.answers import report as answers
from backprop_rules.documents.answers.claim import find_document
from backprop_rules.documents.baselines import changes, load, path_of, record, write
from backprop_rules.documents.graph import Departure, graph_of
from backprop_rules.documents.replay import verify_program
from backprop_rules.errors import InputError, unknown
from backprop_rules.rule import find
from backprop_rules.teaching import pictures
from backprop_rules.teaching.explain import explained, mistakes

baselines_app = typer.Typer(help="The recorded training runs of the documents.", no_args_is_help=True)
app.add_typer(baselines_app, name="baselines")

Picture = StrEnum("Picture", ["table", "mermaid", "dot", "json"])
WIDEST = 1000  # columns of a table that goes into a file
SHOWN = 5  # changes of a baseline that are printed; of the others it is said how many there are
Language = Annotated[str | None, typer.Option("--lang", help="en or zh; the locale's if it is not said.")]


@app.command()
def documents(
    name: Annotated[str | None, typer.Argument(help="One document; all four if none is named.")] = None,
    lang: Language = None,
    output_format: Annotated[OutputFormat, typer.Option(help="Text, or an array of objects.")] = OutputFormat.text,
) -> None:
    """Settle every claim of the documents by running its evidence, and hold their training runs against the true ones.

    Exits 1 if the evidence of a verdict no longer bears it out.
    """
    told_in = answers.language(lang)
    every: list[answers.Settled] = []
    for document in [find_document(name)] if name else DOCUMENTS:
        found = []
        for one in answers.settled(document):
            found.append(one)
            if output_format is OutputFormat.text:
                console().print(answers.shown(one, told_in), highlight=False)
        if output_format is OutputFormat.text:
            typer.echo(answers.summary(document, found, told_in))
            typer.echo(f"{answers.runs_told(document, told_in)}\n")
        every += found
    broken = sum(one.seen is None for one in every)
    if output_format is OutputFormat.json:
        typer.echo(json.dumps([answers.as_dict(one) for one in every], indent=1, ensure_ascii=False))
    else:
        typer.echo(answers.WORDS[told_in]["broken" if broken else "sound"].format(count=broken))
    if broken:
        raise typer.Exit(WRONG)


@app.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the catalogue.")],
    module: Module = None,
) -> None:
    """Explain a rule: its derivation with every shape, its code, numbers, kinks, and the usual mistakes."""
    import_module(module)
    rule = find(name)
    for section in explained(rule):
        typer.echo(section)
    typer.echo(
        f"\nSpecial values: zeros of either sign, infinities and NaN ('backprop-rules special {rule}' shows all)"
    )
    remarkable = tables.special_table(rule, remarkable=True)
    if remarkable.row_count:
        console().print(Padding(remarkable, (0, 0, 0, 4)))
    else:
        typer.echo("    The gradient is the definition's limit, and torch's, at every one of them.")
    typer.echo("\nThe usual mistakes, each with the smallest example found that exposes it")
    for mistake in mistakes(rule):
        typer.echo(mistake)


@app.command()
def trace(
    name: Annotated[str, typer.Argument(help="A program of the documents.")],
    step: Annotated[int, typer.Option(min=1, help="Which step of the training run.")] = 1,
    output_format: Annotated[Picture, typer.Option(help="A table, or a picture's source.")] = Picture.table,
) -> None:
    """Show the computation graph of a document's program: values, local derivatives, and gradients both ways."""
    if name not in PROGRAMS:
        raise unknown("program", name, PROGRAMS)
    found = graph_of(PROGRAMS[name], step)
    if output_format is Picture.table:
        out, grid = console(), pictures.table(found.trace)
        if not out.is_terminal:  # a file is as wide as it must be
            out.width = max(out.width, Console(width=WIDEST).measure(grid).maximum)
        out.print(grid, highlight=False)
        for one in found.departures:
            typer.echo(_departed(one))
        return
    drawn = {"mermaid": pictures.mermaid, "dot": pictures.dot, "json": pictures.as_json}
    typer.echo(drawn[output_format](found.trace))


def _departed(one: Departure) -> str:
    count, numbers = int((one.printed != one.right).sum()), one.right.numel()
    return (
        f"\nThe lines of {one.document} give for {one.name}\n{pictures.text(one.printed)}\n"
        f"but the gradient is\n{pictures.text(one.right)}\n"
        f"{count} of {numbers} elements differ; the others may agree by chance. Compare each line of the document\n"
        f"that goes back with the table, from the loss to {one.name}: the first that differs is wrong."
    )


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
