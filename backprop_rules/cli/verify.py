"""The commands of the catalogue: `verify`, `special` and `list`."""

import atexit
import gc
import os
from collections.abc import Iterable
from itertools import chain
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.cli import tables
from backprop_rules.cli.app import (
    WRONG,
    Baselines,
    Module,
    OutputFormat,
    app,
    console,
    import_module,
    named_or_imported,
)
from backprop_rules.documents import PROGRAMS, Program
from backprop_rules.documents.replay import ReplayResult, verify_program
from backprop_rules.errors import unknown
from backprop_rules.properties.effort import POINTS_OF_A_RULE
from backprop_rules.properties.special_values import table
from backprop_rules.rule import Rule, find
from backprop_rules.subject.devices import devices_here, find_device, find_dtype
from backprop_rules.verify import RuleResult, verify_rules, warm_up


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RULE]...", help="Rules or programs; all of them, or those of --import, if none is named."
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Points drawn for each rule.")] = POINTS_OF_A_RULE,
    proofs: Annotated[
        int | None, typer.Option(min=0, help="Points off the grid that are proved; a sixth of all if not said.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal points.")] = 0,
    dtype: Annotated[list[str] | None, typer.Option(help="Only this dtype; may be repeated.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this: cpu, cuda or meta; may be repeated.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Rules at a time; one for each core if not said.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads in which torch computes.")] = 1,
    tightness: Annotated[
        bool, typer.Option("--tightness", help="Show how much of the allowance for rounding the errors took up.")
    ] = False,
    baselines: Baselines = None,
    module: Module = None,
) -> None:
    """Verify rules at drawn points against every oracle, and replay the documents' programs.

    Exits 0 if all is right, 1 if anything is wrong, 2 for a usage error, 4 if nothing can be said of a rule, or it was
    not finished, 5 if nothing was asked of it.
    """
    names = named_or_imported(names, module)
    rules, programs = _named(names)
    dtypes = [find_dtype(name) for name in dtype] if dtype else None
    devices = [find_device(name) for name in device] if device else list(devices_here())
    if dtypes and not names:
        rules = [rule for rule in rules if set(dtypes) & set(rule.domain.dtypes)]
    warm_up(threads)
    if module:  # what it has loaded may count at the end what is left of its own, as nanobind does, and complain
        atexit.register(gc.unfreeze)
    verified = verify_rules(rules, examples, seed, dtypes, devices, proofs, jobs or os.cpu_count() or 1)
    replayed = (verify_program(program, baselines) for program in programs)
    _conclude(_followed(chain(verified, replayed), len(rules) + len(programs)), seed, tightness)


def _followed(results: Iterable[RuleResult | ReplayResult], total: int) -> list[RuleResult | ReplayResult]:
    """Return all results, with a bar that shows how many there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        return list(progress.track(results, total=total, description="verifying"))


def _conclude(results: list[RuleResult | ReplayResult], seed: int, tightness: bool) -> None:
    """Print the table, the summary and what is wrong, if anything, and end with the exit code."""
    out, problems = console(), tables.problems(results)
    out.print(tables.table(results))
    if tightness:
        out.print(tables.tightness(results))
    out.print(tables.summary(results, seed), highlight=False)
    for problem in problems:
        out.print(f"\n{problem}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(min(tables.CODES[tables.verdict_of(result)] for result in results if result.problem))


def _named(names: list[str]) -> tuple[list[Rule], list[Program]]:
    """Return the rules and programs of these names, all of them if there is none."""
    for name in names:
        if name not in CATALOGUE and name not in PROGRAMS:
            raise unknown("rule or program", name, (*CATALOGUE, *PROGRAMS))
    rules = [rule for rule in CATALOGUE.values() if not names or rule.name in names]
    return rules, [program for program in PROGRAMS.values() if not names or program.name in names]


@app.command()
def special(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Rules; all of them if none is named.")
    ] = None,
    module: Module = None,
) -> None:
    """Show the gradients at zeros of either sign, infinities and NaN, and hold them against the definition.

    Exits 1 where a gradient is not the derivative, or its limit.
    """
    names = named_or_imported(names, module)
    wrong = 0
    for rule in [find(name) for name in names] if names else CATALOGUE.values():
        console().print(tables.special_table(rule))
        wrong += sum(not row.right for row in table(rule))
    if wrong:
        raise typer.Exit(WRONG)


@app.command("list")
def list_rules(
    output_format: Annotated[OutputFormat, typer.Option(help="A table, or an array of objects.")] = OutputFormat.text,
    module: Module = None,
) -> None:
    """List the rules of the catalogue."""
    import_module(module)
    if output_format is OutputFormat.json:
        typer.echo(tables.rules_json(CATALOGUE.values()))
    else:
        console().print(tables.rules_table(CATALOGUE.values()))
