"""The commands that teach: `explain` and `trace`."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding

from backprop_rules.cli import tables
from backprop_rules.cli.app import Module, app, console, import_module
from backprop_rules.documents import PROGRAMS
from backprop_rules.documents.graph import Departure, graph_of
from backprop_rules.errors import unknown
from backprop_rules.rule import find
from backprop_rules.teaching import pictures
from backprop_rules.teaching.explain import explained, mistakes

Picture = StrEnum("Picture", ["table", "mermaid", "dot", "json"])
WIDEST = 1000  # columns of a table that goes into a file


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
