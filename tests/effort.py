"""How many points the wrong rules need: in two halves, over many seeds.

python tests/effort.py [--seeds 20] [--write docs/effort.md]
"""

import argparse
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from modules import MODULES
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE
from backprop_rules.checker.question import Asked, question
from backprop_rules.properties import effort
from backprop_rules.properties.trial import Trial
from backprop_rules.subject.ambient import uncompiled

MANY = 100  # recipes that are drawn at most: the study says how many of them are of use


def wrong_rules() -> list[tuple[str, Any, Any, Any, Any]]:
    """Return the published wrong rules, and those of the modules: name, backward, forward, example, params."""
    published = [(str(m), m.backward, CATALOGUE[m.rule].forward, m.example, m.params) for m in MISTAKES]
    modules = [(f"{m.name}: {v}", b, m.forward, m.example, {}) for m in MODULES for v, b in m.wrong.items()]
    return published + modules


def points_until_found(rule: tuple[Any, ...], seed: int) -> tuple[int, str] | None:
    """Return at which point it is objected to first, and of which size class that is; None if at none of them."""
    _, backward, forward, example, params = rule
    asked = Asked(seed=seed, max_examples=MANY)
    subject, points = question(backward, (None, forward, None, example, params, None), asked)
    trial = Trial(subject, points, asked.questions)
    for point in points:
        trial._at(point)
        if trial.outcome.objects:
            return trial.outcome.points, point.where
    return None


def rows(seeds: int) -> Iterator[tuple[str, list[tuple[int, str] | None]]]:
    """Yield each wrong rule, and what each seed gives."""
    for rule in wrong_rules():
        yield rule[0], [points_until_found(rule, seed) for seed in range(seeds)]


def figures(found: list[tuple[str, list[tuple[int, str] | None]]]) -> list[str]:
    """Return what a half of the rules tells."""
    seen = [at for _, each in found for at in each if at is not None]
    never = sorted(name for name, each in found if all(at is None for at in each))
    sometimes = sorted(name for name, each in found if any(at is None for at in each) and name not in never)
    counts = [at[0] for at in seen]
    classes = Counter(at[1] for at in seen)
    return [
        f"- {len(found)} wrong rules: the point at which one is objected to first is number "
        f"{statistics.median(counts):.0f} in the median, {max(counts)} at most;",
        f"- by the size class of that point: {', '.join(f'{name} {count}' for name, count in classes.most_common())};",
        f"- at some seeds only: {', '.join(sometimes) or 'none'};",
        f"- at no point of the plan, the sizes and {MANY} drawn recipes: {', '.join(never) or 'none'}.",
    ]


def document(found: list[tuple[str, list[tuple[int, str] | None]]], seeds: int) -> str:
    """Return the page."""
    lines = [
        "# How much is asked",
        "",
        "The numbers that steer effort stand in `backprop_rules/properties/effort.py`. None decides a verdict.",
        f"`python tests/effort.py --seeds {seeds} --write docs/effort.md` makes this page: each wrong rule, published",
        "ones and those of the modules in `tests/modules.py`, is asked at the plan's points, at other sizes, and at up",
        f"to {MANY} recipes that Hypothesis draws, with {seeds} seeds.",
        "",
        "The first half of the rules, every other one of the list (the numbers were chosen before, after a look at"
        " both halves):",
        "",
        *figures(found[::2]),
        "",
        "The second half:",
        "",
        *figures(found[1::2]),
        "",
        "What is found at no point is found by what is asked beside the points: NaN in a primal, the example's own "
        "dtypes, thresholds; or it is torch's own formula, which rounds as its own does and is right.",
        "",
        "| number | value | what it steers |",
        "|---|---|---|",
        *(f"| `{name}` | {value} | {reason} |" for name, value, reason in numbers()),
    ]
    return "\n".join(lines) + "\n"


def numbers() -> Iterator[tuple[str, int, str]]:
    """Yield each number of the module with its comment."""
    reason: list[str] = []
    for line in Path(effort.__file__).read_text().splitlines():
        if line.startswith("#"):
            reason.append(line.removeprefix("#").strip())
        elif " = " in line:
            name = line.partition(" = ")[0]
            yield name, getattr(effort, name), " ".join(reason)
            reason = []


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--write", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with uncompiled():
        found = list(rows(words.seeds))
    text = document(found, words.seeds)
    print(text)
    if words.write:
        words.write.parent.mkdir(exist_ok=True)
        words.write.write_text(text)


if __name__ == "__main__":
    main()
