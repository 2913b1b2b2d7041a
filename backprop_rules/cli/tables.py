"""What was verified, as a table, and the rules as a list or as JSON."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from backprop_rules.documents.replay import ReplayResult
from backprop_rules.domain import dtype_name
from backprop_rules.properties.special_values import Special
from backprop_rules.properties.special_values import table as table_of_special_values
from backprop_rules.rule import Rule
from backprop_rules.verify import RuleResult

# The exit code of each verdict but right.
CODES = {"wrong": 1, "inconclusive": 4, "not finished": 4, "not asked": 5}


def _grid(*headings: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table, with these of its columns set to the right."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, justify="right" if heading in right else "left")
    return grid


def table(results: Sequence[RuleResult | ReplayResult]) -> Table:
    """Return the one table: a row for each rule, and for each replayed program."""
    numbers = ("points", "exact", "proved", "torch outside")
    grid = _grid("rule", *numbers, "properties", "time", right=(*numbers, "time"))
    for result in results:
        grid.add_row(*_row(result))
    return grid


def _row(result: RuleResult | ReplayResult) -> tuple[str | Text, ...]:
    seconds, wrong = f"{result.seconds:.2f} s", Text(verdict_of(result), style="bold red")
    if isinstance(result, ReplayResult):
        names = ", ".join(result.program.parameters)
        said = wrong if result.problem else f"{names}: autograd, certified, baseline"
        return result.program.name, counted(result.steps, "step"), "", "", "", said, seconds
    hold = wrong if result.problem else f"all {len(result.asked)} hold"
    exact = str(result.exact) if result.rule.domain.degree is not None else "-"
    return result.rule.name, str(result.points), exact, str(result.proved), str(result.astray), hold, seconds


def tightness(results: Sequence[RuleResult | ReplayResult]) -> Table:
    """Return how much of the radius the errors took up, by rule and dtype: the largest part seen, and the median."""
    numbers = ("points", "largest err / radius", "median")
    grid = _grid("rule", "dtype", *numbers, right=numbers)
    for result in (result for result in results if isinstance(result, RuleResult)):
        for name, used in result.used.items():
            row = (result.rule.name, name, str(len(used)), f"{max(used):.3f}", f"{statistics.median(used):.3f}")
            grid.add_row(*row)
    return grid


def verdict_of(result: RuleResult | ReplayResult) -> str:
    """Return the verdict on a rule, or on a replayed program."""
    if isinstance(result, RuleResult):
        return result.verdict
    return "wrong" if result.problem else "right"


def problems(results: Sequence[RuleResult | ReplayResult]) -> list[str]:
    """Return what is wrong, a text each."""
    return [result.problem for result in results if result.problem]


def counted(count: int, what: str) -> str:
    """Return a number with its noun, in the plural but for 1."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def summary(results: Sequence[RuleResult | ReplayResult], seed: int) -> str:
    """Return the last line: how much was verified, what it cost, and how to repeat it."""
    rules = [result for result in results if isinstance(result, RuleResult)]
    steps = sum(result.steps for result in results if isinstance(result, ReplayResult))
    points = sum(result.points for result in rules)
    pace = f" ({sum(result.seconds for result in rules) / points * 1000:.1f} ms a point)" if points else ""
    counts = Counter(map(verdict_of, results))
    verdict = ", ".join(f"{counts[name]} {name}" for name in CODES if counts[name]) or "all right"
    return (
        f"{counted(len(rules), 'rule')}, {counted(points, 'point')}{pace}, "
        f"{counted(steps, 'recorded step')}: {verdict}. Seed {seed}."
    )


def special_table(rule: Rule) -> Table:
    """Return the gradients at special values, a row each."""
    grid = _grid("rule", "params", "at", "gradient of", "definition", "gradient", "torch")
    for row in table_of_special_values(rule):
        params = ", ".join(f"{name}={value}" for name, value in row.call.params.items())
        got = f"{row.gradient:.6g}" if row.right else Text(f"{row.gradient:.6g}, wrong", style="bold red")
        where = f"{row.at} = {row.value}"
        grid.add_row(rule.name, params, where, rule.primals[row.primal], _limit(row), got, f"{row.torchs:.6g}")
    return grid


def _limit(row: Special) -> str:
    if row.limit is None:
        return "no limit"
    if row.limit == (-math.inf, math.inf):
        return "no bound"
    least, most = row.ends
    told = least if least == most else f"from {least} to {most}"
    return told if isinstance(row.limit, tuple) else f"limit {told}"


def rules_table(rules: Iterable[Rule]) -> Table:
    """Return the rules, a row each."""
    grid = _grid("rule", "chapter", "primals", "params", "what it is")
    for rule in rules:
        primals = ", ".join(f"{name}?" if name in rule.optional else name for name in rule.primals)
        grid.add_row(rule.name, rule.chapter, primals, ", ".join(rule.domain.params), rule.summary)
    return grid


def rules_json(rules: Iterable[Rule]) -> str:
    """Return the rules as a JSON array of objects."""
    told = [
        {
            "name": rule.name,
            "chapter": rule.chapter,
            "summary": rule.summary,
            "primals": rule.primals,
            "optional": sorted(rule.optional),
            "params": list(rule.domain.params),
            "shapes": rule.domain.shapes,
            "dtypes": [dtype_name(dtype) for dtype in rule.domain.dtypes],
            "saves": rule.saves,
            "formula": rule.formula,
            "source": rule.source,
            "conventions": [
                {"at": c.at, "value": c.value, "torch": c.torch, "torch_forward": c.torch_forward}
                for c in rule.conventions
            ],
        }
        for rule in rules
    ]
    return json.dumps(told, indent=2, ensure_ascii=False)
