"""Ask of every right backward and every rule, in every setting of a process: each objection is a false alarm."""

import argparse
import multiprocessing
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import torch
from modules import MODULES
from right import RIGHT, Right
from torch import Tensor

from backprop_rules import CATALOGUE, check
from backprop_rules.verify import verify_rule, warm_up

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex128, torch.complex64)
FINE = ("right", "convention")
UNDECIDED = "inconclusive"
# Those of the modules are written for float64 and float32: no narrower dtype is asked of them.
WRITTEN = {m.name: Right(m.forward, m.example, m.right) for m in MODULES}
KINDS = {"right": RIGHT, "modules": WRITTEN, "catalogue": CATALOGUE}


@dataclass(frozen=True)
class Setting:
    """What a process may have set before it asks: threads, the default dtype, whether subnormal numbers are flushed."""

    threads: int = 1
    default: torch.dtype = torch.float32
    flushes: bool = False

    def enter(self) -> None:
        warm_up(self.threads)
        torch.set_default_dtype(self.default)
        torch.set_flush_denormal(self.flushes)

    def __str__(self) -> str:
        flushes = ", flushed" if self.flushes else ""
        return f"{self.threads} thread{'s' * (self.threads > 1)}, {str(self.default).removeprefix('torch.')}{flushes}"


USUAL = (Setting(),)
EVERY = tuple(Setting(*one) for one in product((1, 2), (torch.float32, torch.float64), (False, True)))


@dataclass(frozen=True)
class Task:
    """One right backward in one dtype, or in those of its example where it mixes some, and its share of points."""

    kind: str
    name: str
    dtype: torch.dtype | None
    points: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """What was said: how many points were tried, the verdict, and the report's text."""

    name: str
    dtype: str
    points: int
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.name:48}{self.dtype:12}{self.points:8}  {self.verdict}"


def in_dtype(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return x in that dtype, or the real one of its complex numbers; indices and masks as they are."""
    if dtype is None or not (x.is_floating_point() or x.is_complex()):
        return x
    return x.to(dtype if x.is_complex() or not dtype.is_complex else dtype.to_real())


def takes(entry: Right, dtype: torch.dtype) -> bool:
    try:
        y = entry.forward(*(in_dtype(x, dtype) for x in entry.example))
    except Exception:  # whatever it raises, it does not take this dtype
        return False
    return all(out.dtype in REAL + COMPLEX for out in (y if isinstance(y, tuple | list) else (y,)))


def dtypes_of(kind: str, name: str) -> Iterator[torch.dtype | None]:
    entry = KINDS[kind][name]
    if not isinstance(entry, Right):
        yield None  # all that the rule's domain has
        return
    tensors = [x for x in entry.example if isinstance(x, Tensor)]
    own = {x.dtype for x in tensors if x.is_floating_point() or x.is_complex()}
    if kind == "modules" and (len(own) > 1 or len(tensors) < len(entry.example)):
        yield None
        return
    family = COMPLEX if any(dtype.is_complex for dtype in own) else REAL
    yield from (dtype for dtype in family[: 2 if kind == "modules" else None] if takes(entry, dtype))
    if len(own) > 1:
        yield None


def tasks(kind: str, points: int, seed: int) -> list[Task]:
    asked = [(name, dtype) for name in KINDS[kind] for dtype in dtypes_of(kind, name)]
    share, left = divmod(points, len(asked))
    return [Task(kind, name, dtype, max(share + (k < left), 1), seed) for k, (name, dtype) in enumerate(asked)]


def answered(task: Task) -> Answer:
    dtype = str(task.dtype or ("all" if task.kind == "catalogue" else "own")).removeprefix("torch.")
    try:
        if task.kind == "catalogue":
            result = verify_rule(CATALOGUE[task.name], task.points, seed=task.seed)
            return Answer(task.name, dtype, result.points, "wrong" if result.problem else "right", result.problem)
        entry = KINDS[task.kind][task.name]
        example = tuple(in_dtype(x, task.dtype) if isinstance(x, Tensor) else x for x in entry.example)
        report = check(
            entry.backward,
            forward=entry.forward,
            example=example,
            max_examples=task.points,
            seed=task.seed,
            raise_on_failure=False,
        )
    except Exception:  # the campaign goes on, and tells of it at the end
        return Answer(task.name, dtype, 0, "raised", traceback.format_exc(limit=-2, chain=False))
    return Answer(task.name, dtype, report.points, report.verdict, str(report))


def run(asked: Sequence[Task], setting: Setting, jobs: int) -> Iterator[Answer]:
    fresh = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    with ProcessPoolExecutor(jobs, fresh, setting.enter) as pool:
        yield from pool.map(answered, asked)


def summary(answers: Sequence[Answer]) -> str:
    alarms = [a for a in answers if a.verdict not in (*FINE, UNDECIDED)]
    undecided = [a for a in answers if a.verdict == UNDECIDED]
    told = [f"\n{a.name} in {a.dtype}: {a.verdict}\n{a.text}" for a in (*undecided, *alarms)]
    points = sum(a.points for a in answers)
    counts = f"{len(answers)} checks, {points} points: {len(alarms)} false alarms, {len(undecided)} inconclusive."
    return "\n".join([*told, "", counts])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(KINDS)}; right without any")
    parser.add_argument("--points", type=int, default=20000, help="shared among all of a kind and all settings")
    parser.add_argument("--every-setting", action="store_true", help=f"not in one alone: {'; '.join(map(str, EVERY))}")
    parser.add_argument("--seed", type=int, default=0, help="of the first setting; the others take those that follow")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    for stranger in set(given.kinds) - set(KINDS):
        parser.error(f"no kind of right backwards is named {stranger}: {', '.join(KINDS)}")
    return given


def main() -> int:
    given, answers = arguments(), []
    settings = EVERY if given.every_setting else USUAL
    for k, (setting, kind) in enumerate(product(settings, given.kinds or ["right"])):
        print(f"{setting}: {kind}")
        for answer in run(tasks(kind, given.points // len(settings), given.seed + k), setting, given.jobs):
            print(answer, flush=True)
            answers.append(answer)
    print(summary(answers))
    return int(any(a.verdict not in (*FINE, UNDECIDED) for a in answers))


if __name__ == "__main__":
    sys.exit(main())
