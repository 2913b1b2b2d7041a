"""The commands that teach: `explain` and `trace`."""

from enum import StrEnum
from typing import Annotated

import typer

from backprop_rules.cli.app import Language, Module, app, import_module
from backprop_rules.errors import unknown
from backprop_rules.rule import find
from backprop_rules.teaching.explain import explained
from backprop_rules.teaching.told import language

Picture = StrEnum("Picture", ["table", "mermaid", "dot", "json", "svg"])


@app.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the catalogue.")],
    module: Module = None,
    lang: Language = None,
) -> None:
    """Explain a rule: its derivation with every shape, its code, numbers, kinks, and the usual mistakes."""
    import_module(module)
    for section in explained(find(name), language(lang)):
        typer.echo(section)


@app.command()
def trace(
    name: Annotated[str, typer.Argument(help="A program of the documents.")],
    step: Annotated[int, typer.Option(min=1, help="Which step of the training run.")] = 1,
    output_format: Annotated[
        Picture, typer.Option("--format", "--output-format", help="A table, or a picture's source.")
    ] = Picture.table,
    lang: Language = None,
) -> None:
    """Show the computation graph of a document's program: values, local derivatives, and gradients both ways."""
    # Needed by this command alone, and long to import.
    from backprop_rules.documents import PROGRAMS
    from backprop_rules.documents.graph import graph_of, shown
    from backprop_rules.teaching import pictures

    if name not in PROGRAMS:
        raise unknown("program", name, PROGRAMS)
    told_in, found = language(lang), graph_of(PROGRAMS[name], step)
    drawn = {"mermaid": pictures.mermaid, "dot": pictures.dot, "json": pictures.as_json, "svg": pictures.svg}
    typer.echo(shown(found, told_in) if output_format is Picture.table else drawn[output_format](found.trace, told_in))
