"""The command of the answer key: `documents`."""

import json
from typing import Annotated

import typer

from backprop_rules.cli.app import WRONG, Language, OutputFormat, app, console
from backprop_rules.documents.answers import DOCUMENTS
from backprop_rules.documents.answers import report as answers
from backprop_rules.documents.answers.claim import find_document
from backprop_rules.documents.answers.remembered import Remembered
from backprop_rules.teaching.told import language


@app.command()
def documents(
    name: Annotated[str | None, typer.Argument(help="One document; all four if none is named.")] = None,
    lang: Language = None,
    output_format: Annotated[OutputFormat, typer.Option(help="Text, or an array of objects.")] = OutputFormat.text,
    check: Annotated[bool, typer.Option("--check", help="Run the evidence of every verdict.")] = False,
) -> None:
    """Tell what is true of every claim of the documents; with --check, run the evidence for it and tell what was seen.

    Then the training runs, too, are held against the true ones. Exits 1 if the evidence of a verdict no longer bears
    it out.
    """
    told_in, text, remembered = language(lang), output_format is OutputFormat.text, Remembered()
    every: list[answers.Settled] = []
    for document in [find_document(name)] if name else DOCUMENTS:
        found = []
        for one in answers.settled(document, remembered) if check else answers.unsettled(document):
            found.append(one)
            if text:
                console().print(answers.shown(one, told_in), highlight=False)
        if text:
            typer.echo(answers.summary(document, found, told_in))
            typer.echo(f"{answers.runs_told(document, told_in, remembered)}\n" if check else "")
        every += found
    if check:
        remembered.write()
    broken = sum(one.error is not None for one in every)
    if not text:
        typer.echo(json.dumps([answers.as_dict(one) for one in every], indent=1, ensure_ascii=False))
    elif check:
        typer.echo(answers.WORDS[told_in]["broken" if broken else "sound"].format(count=broken))
    else:
        typer.echo(answers.WORDS[told_in]["unchecked"])
    if broken:
        raise typer.Exit(WRONG)
