"""How much the wrong rules need: derived on one half of them, confirmed on the other, over many seeds.

python tests/effort.py [--seeds 20] [--write docs/effort.md]
"""

import argparse
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from modules import MODULES
from real_mistakes import MISTAKES

from backprop_rules import CATALOGUE
from backprop_rules.checking import examined
from backprop_rules.evidence.evidence import NARROW
from backprop_rules.properties import effort, smallest
from backprop_rules.properties.agreement import ComputesNarrower
from backprop_rules.properties.finding import Grade
from backprop_rules.properties.trial import Trial
from backprop_rules.question import Asked, question
from backprop_rules.strategies.points import Points

MANY = 100  # recipes that are drawn here, and more of everything else than any rule needs
AFTERS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40)
GENEROUS = {"AFTER": AFTERS[-1], "SHRINKS": 1000, "SHRINKING": 10**6, "WORK": 10**6, "CLIMBS": 10, "CLIMBED": 2000}
NAMED = 3  # seeds at which a name is asked for with each of these


@dataclass(frozen=True)
class Need:
    """What one wrong rule took with one seed: None where nothing objected to it.

    `point`, of the size class `where`, is the first that objected, after `work` calls; `drawn` is how many recipes it
    takes if it shows in no other kind of point than one; `shrinks` and `shrinking` how many evaluations and calls made
    the smallest counterexample; `after` the points that its name needs.
    """

    rule: str
    seed: int
    point: int | None = None
    where: str = ""
    work: int = 0
    hangs: bool = False
    drawn: int | None = None
    shrinks: int = 0
    shrinking: int = 0
    after: int = 0
    otherwise: str = ""


def wrong_rules() -> list[tuple[str, Any, Any, Any, Any]]:
    """Return the published wrong rules, and those of the modules: name, backward, forward, example, params."""
    published = [(str(m), m.backward, CATALOGUE[m.rule].forward, m.example, m.params) for m in MISTAKES]
    modules = [(f"{m.name}: {v}", b, m.forward, m.example, {}) for m in MODULES for v, b in m.wrong.items()]
    return published + modules


@contextmanager
def numbers_of(**values: int) -> Iterator[None]:
    """Until the end of the block, let the effort's numbers be these."""
    before = {name: getattr(effort, name) for name in values}
    try:
        for name, value in values.items():
            setattr(effort, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(effort, name, value)


def asked_of(rule: tuple[Any, ...], seed: int, drawn: int) -> tuple[Any, Points, Asked]:
    _, backward, forward, example, params = rule
    asked = Asked(seed=seed, max_examples=drawn)
    subject, points = question(backward, (None, forward, None, example, params, None), asked)
    return subject, points, asked


def reported(rule: tuple[Any, ...], seed: int, **values: int) -> Any:
    """Return the report of check, with these numbers."""
    with numbers_of(**values):
        subject, points, asked = asked_of(rule, seed, values.get("DRAWN", effort.DRAWN))
        return examined(subject, points, asked, 0.0)


def need_of(task: tuple[int, int, bool]) -> Need:
    """Return what a rule needs at a seed."""
    place, seed, named = task
    rule = wrong_rules()[place]
    subject, points, asked = asked_of(rule, seed, MANY)
    planned = sum(1 for _ in Points(subject, 0, seed))
    trial = Trial(subject, points, asked)
    start, first, where, work = subject.work, None, "", 0
    kinds: Counter[str] = Counter()
    drawn = None
    for k, point in enumerate(points, 1):
        before = len(trial.outcome.findings)
        try:
            trial._at(point)
        except ComputesNarrower:
            trial.outcome.pair = NARROW
            trial._at(point)
        if all(f.kind.grade not in (Grade.WRONG, Grade.INACCURATE) for f in trial.outcome.findings[before:]):
            continue
        if first is None:
            first, where, work = k, point.where, subject.work - start
        if k <= planned:
            kinds[point.made] += 1
        elif drawn is None:
            drawn = k - planned
    if first is None:
        verdict = reported(rule, seed).verdict
        return Need(rule[0], seed, otherwise=verdict)
    shrinks, shrinking = shrunk(rule, seed)
    return Need(
        rule[0], seed, first, where, work, len(kinds) <= 1, drawn, shrinks, shrinking,
        points_for_a_name(rule, seed) if named else 0,
    )  # fmt: skip


def shrunk(rule: tuple[Any, ...], seed: int) -> tuple[int, int]:
    """Return after how many evaluations, and calls, the counterexample was as small as it becomes."""
    counts = {"all": 0, "used": 0, "start": 0, "work": 0}
    made = smallest._again

    def counted(subject: Any, pair: Any, finding: Any) -> Callable[[Any], Any]:
        again = made(subject, pair, finding)
        counts["start"] = subject.work

        def counting(point: Any) -> Any:
            found = again(point)
            counts["all"] += 1
            if found is not None:
                counts["used"], counts["work"] = counts["all"], subject.work - counts["start"]
            return found

        return counting

    smallest._again = counted
    try:
        reported(rule, seed, **GENEROUS)
    finally:
        smallest._again = made
    return counts["used"], counts["work"]


def points_for_a_name(rule: tuple[Any, ...], seed: int) -> int:
    """Return the least number of further points from which on the name is the one that many more give."""
    names = [named(reported(rule, seed, AFTER=n)) for n in AFTERS]
    return next(n for k, n in enumerate(AFTERS) if all(name == names[-1] for name in names[k:]))


def named(report: Any) -> str:
    return "" if report.mistake is None else report.mistake.name


def same_as_generous(task: tuple[int, int]) -> tuple[str, int, list[str]]:
    """Return in what the report with the package's own numbers differs from one with more of everything."""
    place, seed = task
    rule = wrong_rules()[place]
    own, more = reported(rule, seed), reported(rule, seed, **GENEROUS, DRAWN=MANY)
    apart = []
    if own.verdict != more.verdict:
        apart.append(f"{own.verdict}, not {more.verdict}")
    elif named(own) != named(more):
        apart.append(f"named '{named(own)}', not '{named(more)}'")
    elif own.finding is not None and more.finding is not None and own.finding.point.size > more.finding.point.size:
        apart.append(f"{own.finding.point.size} elements, not {more.finding.point.size}")
    return rule[0], seed, apart


def in_processes(function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int) -> list[Any]:
    with ProcessPoolExecutor(jobs, get_context("spawn"), quiet) as pool:
        return list(pool.map(function, tasks, chunksize=4))


def quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def largest(needs: Sequence[Need], name: str, shown: int = 3) -> str:
    """Return the rules that need most of a number, and how much."""
    most: dict[str, int] = {}
    for need in needs:
        most[need.rule] = max(most.get(need.rule, 0), getattr(need, name))
    first = sorted(most.items(), key=lambda one: -one[1])[:shown]
    return ", ".join(f"{rule} {value}" for rule, value in first)


def derived(needs: Sequence[Need]) -> Iterator[str]:
    """Yield what the first half tells of each number."""
    caught = [n for n in needs if n.point is not None]
    if not caught:
        yield "not asked"
        return
    hanging = [n for n in caught if n.hangs]
    drawn = [n.drawn for n in hanging if n.drawn is not None]
    yield f"- {len({n.rule for n in needs})} wrong rules, {len(needs)} runs, objected to at a point in {len(caught)};"
    yield (
        f"- the first objection comes at point {statistics.median(n.point for n in caught):.0f} in the median, "
        f"at {max(n.point for n in caught)} at most; by size class: "
        + ", ".join(f"{name} {count}" for name, count in Counter(n.where for n in caught).most_common())
        + ";"
    )
    others = sorted({(n.rule, n.otherwise) for n in needs if n.point is None})
    yield f"- without an objection at a point: {', '.join(f'{name} ({said})' for name, said in others) or 'none'};"
    yield (
        f"- `DRAWN`: in {len(hanging)} runs one kind of planned point alone objects. Were it not planned, "
        f"{len(drawn)} of these would be found among {MANY} drawn ones, after "
        f"{statistics.median(drawn) if drawn else 0:.0f} in the median;"
    )
    for name, each in (("WORK", "work"), ("AFTER", "after"), ("SHRINKS", "shrinks"), ("SHRINKING", "shrinking")):
        counts = sorted(getattr(n, each) for n in caught)
        yield (
            f"- `{name}`: {statistics.median(counts):.0f} in the median, "
            f"{counts[int(0.95 * (len(counts) - 1))]} in 95 % of the runs; most for {largest(caught, each)};"
        )


def document(needs: Sequence[Need], apart: Sequence[tuple[str, int, list[str]]], seeds: int) -> str:
    """Return the page."""
    differing = [(rule, seed, words) for rule, seed, words in apart if words]
    verdicts = [d for d in differing if ", not " in d[2][0] and not d[2][0].startswith(("named", *"0123456789"))]
    lines = [
        "# How much is asked",
        "",
        "The numbers that steer effort stand in `backprop_rules/properties/effort.py`. None decides a verdict.",
        f"`python tests/effort.py --seeds {seeds} --write docs/effort.md` makes this page from the wrong rules,",
        "published ones and those of the modules in `tests/modules.py`. The first half, every other one, says what is",
        "needed, and each number says how it follows; the second half is asked with these numbers and with many more",
        "of everything.",
        "",
        "## The first half: what it needs",
        "",
        *derived(needs),
        "",
        "## The second half: what more would change",
        "",
        f"{len(apart)} runs of {len({rule for rule, _, _ in apart})} wrong rules; another verdict in {len(verdicts)},",
        f"another name or a smaller counterexample in {len(differing) - len(verdicts)}.",
        "",
        *told(differing),
        "",
        "## The numbers",
        "",
        "| number | value | what it steers |",
        "|---|---|---|",
        *(f"| `{name}` | {value} | {reason} |" for name, value, reason in numbers()),
    ]
    return "\n".join(lines) + "\n"


def told(differing: Sequence[tuple[str, int, list[str]]]) -> Iterator[str]:
    """Yield in what each rule differs, and at how many seeds."""
    counts = Counter((rule, words[0]) for rule, _, words in differing)
    yield from (f"- {rule}: {words}, at {count} seed{'s' * (count > 1)}" for (rule, words), count in counts.items())


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
    parser.add_argument("--every", type=int, default=1, help="take every so many of the rules: to try it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first", type=int, help="seeds of the first half, if not as many", metavar="SEEDS")
    parser.add_argument("--half", choices=("both", "first", "second"), default="both")
    parser.add_argument("--write", type=Path)
    words = parser.parse_args()
    places = range(0, len(wrong_rules()), words.every)
    first, second = places[::2], places[1::2]
    few = range(words.first or words.seeds) if words.half != "second" else ()
    needs = in_processes(need_of, [(k, seed, seed < NAMED) for k in first for seed in few], words.jobs)
    all_seeds = range(words.seeds) if words.half != "first" else ()
    apart = in_processes(same_as_generous, [(k, seed) for k in second for seed in all_seeds], words.jobs)
    text = document(needs, apart, words.seeds)
    print(text)
    if words.write:
        words.write.parent.mkdir(exist_ok=True)
        words.write.write_text(text)


if __name__ == "__main__":
    main()
