"""The times that were won, in Y: red where one of CONTRIBUTING.md's list is exceeded three times in a row.

python tests/ratios.py
python tests/ratios.py pytest -n auto --dist loadgroup    # the same of the suite, by the command that runs it
"""

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import torch
from modules import MODULES
from real_mistakes import MISTAKES
from real_sizes import KERNELS, stored
from torch import Tensor
from yardstick import yardstick

from backprop_rules import CATALOGUE, check
from backprop_rules.testing import WrongGradients, assert_gradients

LIST = Path(__file__).parents[1] / "CONTRIBUTING.md"
ROW = re.compile(r"^\| (?P<what>[^|]+?) +\| at most (?P<limit>[\d.]+) Y", re.MULTILINE)
COMMAND = "import sys; from backprop_rules.cli import main; sys.argv = ['backprop-rules', *{}]; main()"
LEAVING = "; import os; os._exit(0)"  # at its end Python goes through all that there is: as long as an import
SUITE = "the test suite"
TIMES = 3  # in a row, for a time to be exceeded
# Every few seconds, the yardstick.
AGAIN = "import time; from yardstick import yardstick\nwhile True: time.sleep(15); print(yardstick(), flush=True)"


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_a_process(code: str) -> float:
    """Return the CPU seconds of a Python process, its children included."""
    before = of_children()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return of_children() - before


def beside(alone: str, code: str) -> float:
    """Return what a process takes more than another: the least of each, in turns, to which other work but adds."""
    pairs = [(of_a_process(alone), of_a_process(code)) for _ in range(3)]
    return min(both for _, both in pairs) - min(one for one, _ in pairs)


def loading() -> list[float]:
    """Return what the import of `check` takes more than that of torch."""
    return [beside(f"import torch{LEAVING}", f"import torch; from backprop_rules import check; check{LEAVING}")]


def explaining() -> tuple[float, float]:
    """Return what the first line of `explain` takes more than the import of torch, and all of a long explanation."""
    command = COMMAND.format(["explain", "layer_norm"])
    first = f"import os, typer; typer.echo = lambda text: os._exit(0); {command}"
    return beside(f"import torch{LEAVING}", first), beside("import torch", command)


def settling() -> float:
    """Return what the evidence of all documents takes, with nothing remembered."""
    with tempfile.TemporaryDirectory() as nothing, patch.dict(os.environ, XDG_CACHE_HOME=nothing):
        return of_a_process(COMMAND.format(["documents", "--check"]))


def the_first() -> float:
    """Return what the first check of a process takes."""
    loaded = "import torch; from backprop_rules import check"
    return beside(loaded, f"{loaded}; check(lambda g, x: g * x.cos(), forward=torch.sin, example=(torch.ones(3),))")


def seconds_of(job: Callable[[], object]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def published() -> list[float]:
    """Return what a check of a published wrong rule takes: the median."""
    check(lambda g, x: g * x.cos(), forward=torch.sin, example=(torch.rand(3),))  # the first one loads
    asked = [(m.backward, CATALOGUE[m.rule].forward, m.example, m.params) for m in MISTAKES]
    return [
        statistics.median(
            seconds_of(lambda b=b, f=f, e=e, p=p: check(b, forward=f, example=e, params=p, raise_on_failure=False))
            for b, f, e, p in asked
        )
    ]


def of_modules() -> tuple[float, ...]:
    """Return what checks of right modules and of wrong ones take, the median of each, and what the longest takes."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for module in MODULES:
        asked = {"forward": module.forward, "example": module.example, "raise_on_failure": False}
        for backward in (module.right, *module.wrong.values()):
            found[backward is module.right].append(seconds_of(lambda b=backward, a=asked: check(b, **a)))
    return (*map(statistics.median, found.values()), max(map(max, found.values())))


def told(got: Sequence[Tensor], **held: object) -> None:
    with suppress(WrongGradients):
        assert_gradients(got, **held)
        raise SystemExit("a wrong gradient passes")


def of_real_kernels() -> tuple[float, ...]:
    """Return what gradients, held at a point, a wrong one, and checks of two kernels at their sizes take: medians."""
    names = ("attention", "rms_norm", "cross_entropy")
    attention, norm, loss = (next(k for k in KERNELS if k.name == name) for name in names)
    numbers = torch.Generator().manual_seed(0)
    primals = tuple(x.bfloat16() for x in attention.make(numbers, (1, 4, 128, 64)))
    grad_y = attention.cotangent(primals)
    got, example = stored(attention.fused(grad_y, *primals), primals), norm.make(numbers, (512, 512))
    large = loss.make(numbers, (512, 8000))
    held = {"forward": attention.forward, "primals": primals, "grad_y": grad_y}
    fused = held | {"forward": torch.nn.functional.scaled_dot_product_attention}
    x = (1 + torch.randn(64, 512, generator=numbers) / 100).requires_grad_()
    along = torch.randn(64, 512, generator=numbers)
    product = {"forward": lambda x: x.cumprod(-1), "primals": (x.detach(),), "grad_y": along}
    of_product = torch.autograd.grad(x.cumprod(-1), x, along)
    jobs = (
        lambda: assert_gradients(got, **held),
        lambda: assert_gradients(of_product, **product),
        lambda: told((2 * got[0], *got[1:]), **fused),
        lambda: check(norm.fused, forward=norm.forward, example=example),
        lambda: check(loss.fused, forward=loss.forward, example=large),
    )
    return tuple(statistics.median(seconds_of(job) for _ in range(5)) for job in jobs)


# What is measured together is named together: where one of them is exceeded, all of them are measured again.
JOBS: dict[tuple[str, ...], Callable[[], Sequence[float]]] = {
    ("loading `check`",): loading,
    ("backprop-rules documents, beside torch's import",): lambda: [
        beside("import torch", COMMAND.format(["documents"]))
    ],
    ("backprop-rules documents --check",): lambda: [settling()],
    ("the first line of backprop-rules explain", "backprop-rules explain layer_norm"): explaining,
    ("the first check of a process, when loaded",): lambda: [the_first()],
    ("a check of a published wrong rule, the median",): published,
    (
        "a check of a right module, the median",
        "a check of a wrong module, the median",
        "a check of a module, the longest",
    ): of_modules,
    (
        "gradients of an attention, held at a point",
        "a cumulative product's, held at a point",
        "a wrong one of torch's attention, named",
        "a check of a norm of 512 × 512",
        "a check of a cross-entropy of 512 × 8000",
    ): of_real_kernels,
    ("backprop-rules verify",): lambda: [of_a_process(COMMAND.format(["verify"]))],
}


@contextmanager
def pacing() -> Iterator[list[float]]:
    """Yield measurements of the yardstick: one now, and, when the block ends, those of a process beside it.

    What else the machine does slows both.
    """
    pace = [yardstick()]
    with tempfile.TemporaryFile("w+") as kept:
        beside = subprocess.Popen([sys.executable, "-c", AGAIN], stdout=kept, cwd=Path(__file__).parent)
        try:
            yield pace
        finally:
            beside.kill()
            beside.wait()
            kept.seek(0)
            pace += [float(line) for line in kept.read().splitlines()]


def measured(names: Iterable[tuple[str, ...]]) -> dict[str, float]:
    """Return the times of these jobs in Y."""
    found: dict[str, float] = {}
    with pacing() as pace:
        for those in names:
            found.update(zip(those, JOBS[those](), strict=True))
    return {what: seconds / statistics.median(pace) for what, seconds in found.items()}


def limits() -> dict[str, float]:
    """Return the list: what may take how long, in Y."""
    return {row["what"]: float(row["limit"]) for row in ROW.finditer(LIST.read_text())}


def of_the_suite(command: Sequence[str], most: float) -> int:
    """Run the suite, again where it took too long; return its exit status, or 1 where it did so every time."""
    for _ in range(TIMES):
        with pacing() as pace:
            before = of_children()
            status = subprocess.call(command)
            used = of_children() - before
        took = used / statistics.median(pace)
        print(f"{SUITE:48} {took:5.0f} Y, at most {most:.0f}{'  TOO LONG' if took > most else ''}")
        if status or took <= most:
            return status
    return 1


def main(command: Sequence[str]) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    allowed = limits()
    if missing := allowed.keys() ^ {SUITE, *(what for those in JOBS for what in those)}:
        raise SystemExit(f"{LIST.name} and this file list other times: {', '.join(sorted(missing))}")
    if command:
        return of_the_suite(command, allowed[SUITE])
    again = list(JOBS)  # of each something was exceeded in every round so far
    for _ in range(TIMES):
        found = measured(again)
        over = {what for what, took in found.items() if took > allowed[what]}
        for what, took in found.items():
            print(f"{what:48} {took:5.2f} Y, at most {allowed[what]:.2f}{'  TOO LONG' if what in over else ''}")
        again = [those for those in again if over.intersection(those)]
        if not again:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
