"""Ask check of every right backward in every dtype that its forward takes: each objection is a false alarm."""

import argparse
import multiprocessing
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from right import RIGHT, Right
from torch import Tensor

from backprop_rules import check

REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex128, torch.complex64)
FINE = ("right", "convention")
UNDECIDED = "inconclusive"


@dataclass(frozen=True)
class Task:
    """One right backward in one dtype, or in those of its example where it mixes some, and its share of points."""

    name: str
    dtype: torch.dtype | None
    points: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """What check said: how many points it tried, the verdict, and the report's text."""

    name: str
    dtype: str
    points: int
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.name:24}{self.dtype:12}{self.points:8}  {self.verdict}"


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
    return y.dtype in REAL + COMPLEX


def dtypes_of(entry: Right) -> Iterator[torch.dtype | None]:
    own = {x.dtype for x in entry.example if x.is_floating_point() or x.is_complex()}
    family = COMPLEX if any(dtype.is_complex for dtype in own) else REAL
    yield from (dtype for dtype in family if takes(entry, dtype))
    if len(own) > 1:
        yield None


def tasks(names: Sequence[str], points: int, seed: int) -> list[Task]:
    asked = [(name, dtype) for name in names for dtype in dtypes_of(RIGHT[name])]
    share, left = divmod(points, len(asked))
    return [Task(name, dtype, max(share + (k < left), 1), seed) for k, (name, dtype) in enumerate(asked)]


def answered(task: Task) -> Answer:
    entry, dtype = RIGHT[task.name], str(task.dtype or "mixed").removeprefix("torch.")
    example = tuple(in_dtype(x, task.dtype) for x in entry.example)
    try:
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


def run(asked: Sequence[Task], jobs: int) -> Iterator[Answer]:
    fresh = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    with ProcessPoolExecutor(jobs, fresh, torch.set_num_threads, (1,)) as pool:
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
    parser.add_argument("names", nargs="*", metavar="name", help="the right backwards to ask of; all without any")
    parser.add_argument("--points", type=int, default=20000, help="shared among all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    strangers = set(given.names) - set(RIGHT)
    if strangers:
        parser.error(f"no right backward is named {', '.join(sorted(strangers))}")
    return given


def main() -> int:
    torch.set_num_threads(1)
    given, answers = arguments(), []
    print(f"{'name':24}{'dtype':12}{'points':>8}  verdict")
    for answer in run(tasks(given.names or list(RIGHT), given.points, given.seed), given.jobs):
        print(answer, flush=True)
        answers.append(answer)
    print(summary(answers))
    return int(any(a.verdict not in (*FINE, UNDECIDED) for a in answers))


if __name__ == "__main__":
    sys.exit(main())
