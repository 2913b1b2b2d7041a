"""The command line: `backprop-rules verify`, `check`, `special`, `list` and `baselines`."""

import importlib
import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import backprop_rules
from backprop_rules import report
from backprop_rules.catalogue import CATALOGUE
from backprop_rules.checker import Report
from backprop_rules.checker.target import check_and_remember, exit_code, imported, place_of
from backprop_rules.documents import PROGRAMS, Program
from backprop_rules.documents.baselines import load, path_of, record, write
from backprop_rules.errors import InputError, unknown
from backprop_rules.rule import Rule, find
from backprop_rules.special import table
from backprop_rules.verify import (
    ReplayResult,
    RuleResult,
    devices_here,
    find_device,
    find_dtype,
    verify_program,
    verify_rules,
    warm_up,
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
)
baselines_app = typer.Typer(help="The recorded training runs of the documents.", no_args_is_help=True)
app.add_typer(baselines_app, name="baselines")

WRONG, USAGE = 1, 2
OutputFormat = StrEnum("OutputFormat", ["text", "json"])
CheckFormat = StrEnum("CheckFormat", ["full", "json", "github"])
Framework = StrEnum("Framework", ["torch", "numpy", "jax"])
Convention = StrEnum("Convention", {"torch": "torch", "catalogue": "catalogue", "any": "any-subgradient"})
Accuracy = StrEnum("Accuracy", ["torch", "catalogue"])
Baselines = Annotated[Path | None, typer.Option(help="The folder of the recorded training runs.")]
Module = Annotated[
    str | None, typer.Option("--import", metavar="MODULE", help="A module of yours that declares rules.")
]


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


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Rules or programs; all of them if none is named.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, help="Points drawn for each rule.")] = 400,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal points.")] = 0,
    dtype: Annotated[list[str] | None, typer.Option(help="Only this dtype; may be repeated.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Only this device: cpu, cuda or meta; may be repeated.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Rules verified at a time; one for each core if not said.")
    ] = None,
    tightness: Annotated[
        bool, typer.Option("--tightness", help="Show how much of the allowance for rounding the errors took up.")
    ] = False,
    baselines: Baselines = None,
    module: Module = None,
) -> None:
    """Verify rules at drawn points against every oracle, and replay the documents' programs.

    Exits 0 if all is right, 1 if anything is wrong, 2 for a usage error.
    """
    _import(module)
    rules, programs = _named(names or [])
    dtypes = [find_dtype(name) for name in dtype] if dtype else None
    devices = [find_device(name) for name in device] if device else list(devices_here())
    if dtypes and not names:
        rules = [rule for rule in rules if set(dtypes) & set(rule.domain.dtypes)]
    torch.set_num_threads(1)  # the tensors are too small for more
    warm_up()
    verified = verify_rules(rules, examples, seed, dtypes, devices, jobs or os.cpu_count() or 1)
    replayed = (verify_program(program, baselines) for program in programs)
    results = _followed((verified, replayed), len(rules) + len(programs))
    _conclude(results, seed, tightness)


def _followed(parts: Iterable[Iterable[RuleResult | ReplayResult]], total: int) -> list[RuleResult | ReplayResult]:
    """Return all results, with a bar that shows how many there are."""
    results: list[RuleResult | ReplayResult] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=total)
        for result in (result for part in parts for result in part):
            results.append(result)
            progress.advance(task)
    return results


def _conclude(results: list[RuleResult | ReplayResult], seed: int, tightness: bool) -> None:
    """Print the table, the summary and what is wrong, if anything, and end with the exit code."""
    console = _console()
    console.print(report.table(results))
    if tightness:
        console.print(report.tightness(results))
    console.print(report.summary(results, seed), highlight=False)
    for problem in report.problems(results):
        console.print(f"\n{problem}", markup=False, highlight=False, soft_wrap=True)
    if report.problems(results):
        raise typer.Exit(WRONG)


def _import(module: str | None) -> None:
    """Import a module of the user's, from the current folder as from anywhere, so that its rules are declared."""
    if module is None:
        return
    sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module.removesuffix(".py"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the module '{module}' cannot be imported: {type(error).__name__}: {error}. It is named without .py and "
            "without its folder, which must be the current one or on the path."
        ) from error


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
    _import(module)
    wrong = 0
    for rule in [find(name) for name in names] if names else CATALOGUE.values():
        _console().print(report.special_table(rule))
        wrong += sum(not row.right for row in table(rule))
    if wrong:
        raise typer.Exit(WRONG)


Target = Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Your backward, f(grad_y, *primals, **params).")]
Named = Annotated[str | None, typer.Option(help="The rule of the catalogue that it is to be.")]
Forward = Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="What it differentiates, in torch.")]
Defined = Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="The same in NumPy notation.")]
Example = Annotated[str | None, typer.Option(metavar="MODULE:TUPLE", help="One call of forward: a tuple of arrays.")]
Dtypes = Annotated[list[str] | None, typer.Option(help="Only this dtype; may be repeated.")]
Devices = Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")]
Frameworks = Annotated[Framework | None, typer.Option(help="What arrays the function takes.")]
Choices = Annotated[Convention, typer.Option(help="The choice to make at kinks.")]
Case = Annotated[Path | None, typer.Option(help="Try this saved case, and no other.")]


Accurate = Annotated[Accuracy, typer.Option(help="As accurate as torch's own, or as the catalogue's.")]
Sums = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="The dtype that sums are kept in, if it is not torch's.")
]


@app.command("check")
def check_backward(
    target: Target,
    rule: Named = None,
    forward: Forward = None,
    definition: Defined = None,
    example: Example = None,
    dtype: Dtypes = None,
    device: Devices = None,
    framework: Frameworks = None,
    convention: Choices = Convention.torch,
    accuracy: Accurate = Accuracy.torch,
    accumulate: Sums = None,
    max_examples: Annotated[int, typer.Option(min=1, help="Points drawn.")] = 400,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal points.")] = 0,
    case: Case = None,
    output_format: Annotated[CheckFormat, typer.Option(help="Text, JSON, or annotations.")] = CheckFormat.full,
) -> None:
    """Check your own backward; a failing case is saved, and tried first next time.

    Exits 0 if it is right, 1 if it is wrong, 2 for a usage error, 4 if nothing can be said, 5 if nothing was checked.
    """
    words, options = _held(rule=rule, forward=forward, definition=definition, example=example)
    torch.set_num_threads(1)  # the tensors are too small for more
    report = check_and_remember(
        target,
        case,
        words,
        dtypes=dtype,
        devices=device or ["cpu"],
        framework=framework.value if framework else None,
        convention=convention.value,
        accuracy=accuracy.value,
        accumulate=accumulate,
        max_examples=max_examples,
        seed=seed,
        **options,
    )
    _show(report, target, output_format)
    raise typer.Exit(exit_code(report))


def _held(*, rule: str | None, **places: str | None) -> tuple[str, dict[str, Any]]:
    """Return what a backward is held against: as words that name it again, and as arguments."""
    named = {"rule": rule, **places}
    words = "".join(f" --{name} {value}" for name, value in named.items() if value is not None)
    return words, {"rule": rule, **{name: imported(place) for name, place in places.items() if place is not None}}


def _show(report: Report, target: str, output_format: CheckFormat) -> None:
    if output_format is CheckFormat.json:
        typer.echo(report.to_json())
    elif output_format is CheckFormat.github:
        level = "notice" if report.passed else "error"
        text = str(report).replace("%", "%25").replace("\n", "%0A")
        typer.echo(f"::{level} {place_of(target)}title={target}::{text}")
    else:
        typer.echo(str(report))


@app.command("list")
def list_rules(
    output_format: Annotated[OutputFormat, typer.Option(help="A table, or an array of objects.")] = OutputFormat.text,
    module: Module = None,
) -> None:
    """List the rules of the catalogue."""
    _import(module)
    if output_format is OutputFormat.json:
        typer.echo(report.rules_json(CATALOGUE.values()))
    else:
        _console().print(report.rules_table(CATALOGUE.values()))


@baselines_app.command("check")
def check_baselines(baselines: Baselines = None) -> None:
    """Replay every program against its baseline; exit 1 at one that differs."""
    results = [verify_program(program, baselines) for program in PROGRAMS.values()]
    _console().print(report.table(results))
    for problem in report.problems(results):
        typer.echo(f"\n{problem}", err=True)
    if report.problems(results):
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
            different = _lines_that_differ(old, text)
            typer.echo(f"{path.name}: {report.counted(different, 'line')} changed." if old else f"{path.name}: new.")
            changed.append((path, text))
    if not changed:
        typer.echo("Every baseline is as recorded.")
    elif yes or typer.confirm(f"Write {report.counted(len(changed), 'file')}?"):
        for path, text in changed:
            write(path, text)
        typer.echo(f"{report.counted(len(changed), 'file')} written.")


def _console() -> Console:
    """Return the console, wide enough for the tables where the output goes to a file or another program."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _lines_that_differ(old: str, new: str) -> int:
    a, b = old.splitlines(), new.splitlines()
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


def main() -> None:
    """Run the command line; an input that cannot be used ends with one line and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"backprop-rules: {error}", err=True)
        sys.exit(USAGE)
