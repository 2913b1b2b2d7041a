"""What was verified, as a table, and the rules as a list or as JSON."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from rich.table import Table
from rich.text import Text

from backprop_rules.documents.replay import ReplayResult
from backprop_rules.domain import dtype_name
from backprop_rules.properties.special_values import Limit
from backprop_rules.properties.special_values import table as table_of_special_values
from backprop_rules.rule import Rule
from backprop_rules.verify import GradientTally, RuleResult

HEADINGS = ("rule", "gradient", "tier", "examples", "oracles that agreed", "time")


def table(results: Sequence[RuleResult | ReplayResult]) -> Table:
    """Return the one table: a row for each gradient of each rule, and for each replayed program."""
    grid = Table(*HEADINGS, box=None, pad_edge=False, header_style="bold")
    grid.columns[3].justify = grid.columns[5].justify = "right"
    for result in results:
        for row in _rows(result):
            grid.add_row(*row)
    return grid


def _rows(result: RuleResult | ReplayResult) -> Iterable[tuple[str | Text, ...]]:
    seconds = f"{result.seconds:.2f} s"
    if isinstance(result, ReplayResult):
        evidence = Text("wrong", style="bold red") if result.problem else "autograd, certified, baseline"
        names = ", ".join(result.program.parameters)
        yield result.program.name, names, "replay", counted(result.steps, "step"), evidence, seconds
        return
    for k, ((primal, tier), tally) in enumerate(result.tallies.items()):
        evidence = Text("wrong", style="bold red") if result.objection else _evidence(tally)
        name, time = (result.rule.name, seconds) if k == 0 else ("", "")
        yield name, primal, tier, str(tally.examples), evidence, time


def _evidence(tally: GradientTally) -> str:
    """Name the oracles that agreed wherever they were asked, and say where one was silent, or torch lay outside."""
    notes = []
    for name in tally.agreed | tally.silent | tally.astray:
        said = [
            f"{word} at {some[name]}"
            for word, some in (("silent", tally.silent), ("outside", tally.astray))
            if some[name]
        ]
        notes.append(name.split()[0] + (f" ({', '.join(said)})" if said else ""))
    if tally.elements:
        notes.append(f"{tally.proved / tally.elements:.0%} proved")
    return ", ".join(notes) or "none: shapes alone"


def tightness(results: Sequence[RuleResult | ReplayResult]) -> Table:
    """Return how much of the radius the errors took up, by rule and dtype: the largest part seen, and the median."""
    grid = Table(
        "rule", "dtype", "points", "largest err / radius", "median", box=None, pad_edge=False, header_style="bold"
    )
    for column in grid.columns[2:]:
        column.justify = "right"
    for result in results:
        parts: defaultdict[str, list[float]] = defaultdict(list)
        for tally in result.tallies.values() if isinstance(result, RuleResult) else ():
            for dtype, used in tally.used.items():
                parts[dtype_name(dtype)] += used
        for name, used in parts.items():
            numbers = (f"{max(used):.3f}", f"{statistics.median(used):.3f}")
            grid.add_row(result.rule.name if isinstance(result, RuleResult) else "", name, str(len(used)), *numbers)
    return grid


def problems(results: Sequence[RuleResult | ReplayResult]) -> list[str]:
    """Return what is wrong, a text each."""
    found: list[str] = []
    for result in results:
        if isinstance(result, ReplayResult):
            found += [result.problem] if result.problem else []
        elif result.objection:
            found.append(str(result.objection))
    return found


def counted(count: int, what: str) -> str:
    """Return a number with its noun, in the plural but for 1."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def summary(results: Sequence[RuleResult | ReplayResult], seed: int) -> str:
    """Return the last line: how much was verified, what it cost, and how to repeat it."""
    rules = [result for result in results if isinstance(result, RuleResult)]
    steps = sum(result.steps for result in results if isinstance(result, ReplayResult))
    points = sum(result.points for result in rules)
    cost = sum(result.seconds for result in rules) / max(points, 1) * 1000
    wrong = len(problems(results))
    pace = f" ({cost:.1f} ms a point)" if points else ""
    verdict = "all right" if not wrong else f"{wrong} wrong"
    return (
        f"{counted(len(rules), 'rule')}, {counted(points, 'point')}{pace}, "
        f"{counted(steps, 'recorded step')}: {verdict}. Seed {seed}."
    )


def special_table(rule: Rule, remarkable: bool = False) -> Table:
    """Return the gradients at special values, a row each; of the remarkable ones only, where torch gives another."""
    grid = Table(
        "rule",
        "params",
        "at",
        "gradient of",
        "definition",
        "gradient",
        "torch",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for row in table_of_special_values(rule):
        if remarkable and row.right and f"{row.gradient:.6g}" == f"{row.torchs:.6g}":
            continue
        params = ", ".join(f"{name}={value}" for name, value in row.point.params.items())
        got = f"{row.gradient:.6g}" if row.right else Text(f"{row.gradient:.6g}, wrong", style="bold red")
        where = f"{row.at} = {row.value}"
        grid.add_row(rule.name, params, where, rule.primals[row.primal], _limit(row.limit), got, f"{row.torchs:.6g}")
    return grid


def _limit(limit: Limit) -> str:
    match limit:
        case None:
            return "no limit"
        case (low, high):
            if low == -math.inf and high == math.inf:
                return "no bound"
            if max(-low, high) < torch.finfo(torch.float64).smallest_normal:
                return "0"  # but for underflow
            return f"{low:.6g}" if f"{low:.6g}" == f"{high:.6g}" else f"from {low:.6g} to {high:.6g}"
        case _:
            return f"limit {limit:.6g}"


def rules_table(rules: Iterable[Rule]) -> Table:
    """Return the rules, a row each."""
    grid = Table("rule", "chapter", "primals", "params", "what it is", box=None, pad_edge=False, header_style="bold")
    for rule in rules:
        primals = ", ".join(f"{name}?" if name in rule.optional else name for name in rule.primals)
        grid.add_row(rule.name, rule.chapter, primals, ", ".join(rule.domain.params), rule.summary)
    return grid


def rules_json(rules: Iterable[Rule]) -> str:
    """Return the rules as a JSON array of objects."""
    return json.dumps([_as_dict(rule) for rule in rules], indent=2, ensure_ascii=False)


def _as_dict(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "chapter": rule.chapter,
        "summary": rule.summary,
        "primals": list(rule.primals),
        "optional": sorted(rule.optional),
        "params": list(rule.domain.params),
        "shapes": rule.domain.shapes,
        "dtypes": [dtype_name(dtype) for dtype in rule.domain.dtypes],
        "saves": list(rule.saves),
        "formula": rule.formula,
        "source": rule.source,
        "conventions": [
            {"at": c.at, "value": c.value, "torch": c.torch, "torch_forward": c.torch_forward} for c in rule.conventions
        ],
    }
