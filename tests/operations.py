"""Check torch's own derivatives of all operations that its tests list, and say how many `check` answers."""

import argparse
import collections
import contextlib
import itertools
import multiprocessing
import platform
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.autograd.forward_ad as fw
from samples import samples_of
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from yardstick import yardstick

from backprop_rules import InputError, __version__, check

Function = Callable[..., Any]
ANSWERED = ("right", "convention", "inaccurate", "wrong")
SECONDS = 120  # for an operation; then its worker is ended
MOST_ELEMENTS = 64  # forward mode takes a pass for each
BETWEEN = 40  # operations between two measurements of the yardstick
LEGEND = {
    "refused": "an InputError",
    "crash": "any other exception, the death of the worker, or no end within the limit",
    "not run": "no sample, or for forward mode no such derivative or too many elements",
}


@dataclass(frozen=True)
class Row:
    """What came of one operation in one mode; `cost` is in Y."""

    name: str
    mode: str
    outcome: str
    text: str = ""
    points: int = 0
    rungs: str = ""
    proved: int = 0
    cost: float = 0.0


def operations() -> dict[str, Any]:
    """Return the operations that torch differentiates in float64, by name."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {op.full_name: op for op in op_db if op.supports_autograd and torch.float64 in op.dtypes}


def is_real_or_complex(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def sample_of(op: Any) -> Any:
    """Return the first sample with two elements among its floating-point inputs, else with one; None without."""
    smallest = None
    for sample in samples_of(op, torch.float64):
        leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
        count = sum(leaf.numel() for leaf in leaves if is_real_or_complex(leaf))
        if count >= 2:
            return sample
        if count and smallest is None:
            smallest = sample
    return smallest


def function_of(op: Any, sample: Any) -> tuple[Function, tuple[Tensor, ...]]:
    """Return the operation as a function of the sample's tensors, and those: of all that torch differentiates by."""
    leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
    every = [k for k, leaf in enumerate(leaves) if is_real_or_complex(leaf)]
    forward, primals = as_function(op, sample, every)
    try:
        grads = [torch.ones_like(y) if is_real_or_complex(y) else None for y in as_tuple(forward(*primals))]
        in_reverse_mode(forward)(grads, *primals)
    except RuntimeError:  # it has no derivative by running statistics, say
        return as_function(op, sample, [k for k in every if leaves[k].requires_grad])
    return forward, primals


def as_function(op: Any, sample: Any, places: Sequence[int]) -> tuple[Function, tuple[Tensor, ...]]:
    """Return the operation as a function of the leaves of its sample at these places, and the leaves.

    It is called as torch's own tests of gradients call it: a factorisation gets what it takes as its
    domain, a random operation its seed.
    """
    leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
    leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def forward(*primals: Tensor) -> Any:
        filled = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]  # some are written to
        for place, primal in zip(places, primals, strict=True):
            filled[place] = primal
        input, args, kwargs = tree_unflatten(filled, spec)
        y = sample.output_process_fn_grad(op.gradcheck_wrapper(op.op, input, *args, **kwargs))
        outputs = tuple(leaf for leaf in tree_flatten(y)[0] if isinstance(leaf, Tensor))
        return outputs[0] if len(outputs) == 1 else outputs

    return forward, tuple(leaves[place] for place in places)


def as_tuple(held: Any) -> tuple[Any, ...]:
    return tuple(held) if isinstance(held, tuple | list) else (held,)


def in_reverse_mode(forward: Function) -> Function:
    """Return torch's own backward of a function."""

    def backward(grad_y: Any, *primals: Tensor) -> tuple[Tensor | None, ...]:
        held = [primal.detach().requires_grad_() for primal in primals]
        with torch.enable_grad():
            outputs = as_tuple(forward(*held))
        pairs = zip(outputs, as_tuple(grad_y), strict=True)
        pairs = [(output, grad) for output, grad in pairs if grad is not None and output.requires_grad]
        if not pairs:
            return (None,) * len(held)
        if not any(y.numel() for y, _ in pairs) or not any(x.numel() for x in held):
            return tuple(map(torch.zeros_like, primals))  # where torch's own dies for some: see docs/findings.md
        ys, grads = zip(*pairs, strict=True)
        return torch.autograd.grad(ys, held, grads, allow_unused=True)

    return backward


def in_forward_mode(forward: Function) -> Function:
    """Return the backward that torch's forward-mode derivatives make: one along each element of each primal."""
    push = [all_at_once, one_by_one]  # the first is given up where it fails: not every operation has a batched form

    def backward(grad_y: Any, *primals: Tensor) -> tuple[Tensor | None, ...]:
        grads = as_tuple(grad_y)
        # Forward mode refuses expanded ones; any other keeps its memory, which as_strided looks into.
        primals = tuple(p.detach().contiguous() if 0 in p.stride() else p.detach() for p in primals)
        given = [grad for grad in grads if grad is not None]

        def kept(*held: Tensor) -> tuple[Tensor, ...]:
            return tuple(y for y, grad in zip(as_tuple(forward(*held)), grads, strict=True) if grad is not None)

        return tuple(gradient(push, kept, primals, k, given) if given else None for k in range(len(primals)))

    return backward


def gradient(push: list[Function], kept: Function, primals: Sequence[Tensor], k: int, grads: list[Tensor]) -> Tensor:
    """Return the gradient of the k-th primal: the slope along each element, and along i times it where complex."""
    x = primals[k]
    if not x.numel():
        return torch.zeros_like(x)
    units = torch.eye(x.numel(), dtype=x.dtype)
    directions = torch.cat([units, 1j * units]) if x.is_complex() else units
    directions = directions.reshape(-1, *x.shape)
    try:
        tangents = push[0](kept, primals, k, directions)
    except Exception:
        if len(push) == 1:
            raise
        del push[0]
        tangents = push[0](kept, primals, k, directions)
    products = [grad.conj() * tangent for grad, tangent in zip(grads, tangents, strict=True)]
    slopes = sum((p.real if p.is_complex() else p).unsqueeze(-1).flatten(1).sum(1) for p in products)
    if x.is_complex():
        slopes = torch.complex(*slopes.chunk(2))
    return slopes.reshape(x.shape)


def all_at_once(kept: Function, primals: Sequence[Tensor], k: int, directions: Tensor) -> Sequence[Tensor]:
    """Return the derivatives of the outputs along directions of the k-th primal, each stacked, through vmap."""

    def along(direction: Tensor) -> Any:
        tangents = [direction if j == k else torch.zeros_like(primal) for j, primal in enumerate(primals)]
        return torch.func.jvp(kept, tuple(primals), tuple(tangents))[1]

    return torch.func.vmap(along)(directions)


def one_by_one(kept: Function, primals: Sequence[Tensor], k: int, directions: Tensor) -> Sequence[Tensor]:
    """Return the same from a loop over the directions."""
    found = []
    for direction in directions:
        with fw.dual_level():
            outputs = kept(*primals[:k], fw.make_dual(primals[k], direction), *primals[k + 1 :])
            unpacked = [fw.unpack_dual(y) for y in outputs]
            found.append([torch.zeros_like(y) if t is None else t.clone() for y, t in unpacked])
    return [torch.stack(tangents) for tangents in zip(*found, strict=True)]


MODES = {"reverse": in_reverse_mode, "forward": in_forward_mode}


def serve(pipe: Any) -> None:
    """Answer one (name, mode) after the other with its row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known, pace = operations(), [yardstick()]
    with contextlib.suppress(Exception):  # the first check loads what the others use
        check(lambda g, x: g * x.cos(), forward=torch.sin, example=(torch.rand(3, dtype=torch.float64),))
    pipe.send("ready")
    for count in itertools.count(1):
        name, mode = pipe.recv()
        pipe.send(row_of(known[name], name, mode, statistics.median(pace)))
        if count % BETWEEN == 0:
            pace.append(yardstick())


def row_of(op: Any, name: str, mode: str, pace: float) -> Row:
    """Check an operation in one mode; `pace` is Y in seconds."""
    try:
        sample = sample_of(op)
        if sample is None:
            return Row(name, mode, "not run", "no sample with a floating-point element")
        forward, primals = function_of(op, sample)
    except Exception as error:
        return Row(name, mode, "not run", f"no sample: {told(error)}")
    if mode == "forward" and not op.supports_forward_ad:
        return Row(name, mode, "not run", "no forward-mode derivative")
    if mode == "forward" and sum(primal.numel() for primal in primals) > MOST_ELEMENTS:
        return Row(name, mode, "not run", f"more than {MOST_ELEMENTS} elements")
    start = time.process_time()
    try:
        report = check(MODES[mode](forward), forward=forward, example=primals, raise_on_failure=False)
    except Exception as error:
        outcome = "refused" if isinstance(error, InputError) else "crash"
        return Row(name, mode, outcome, told(error), cost=(time.process_time() - start) / pace)
    cost = (time.process_time() - start) / pace
    rungs = getattr(report, "rungs", {})
    text = report.why if report.verdict == "inconclusive" else "" if report.verdict == "right" else str(report)
    shown = "/".join(str(rungs.get(rung, 0)) for rung in ("witnessed", "allowed", "proved"))
    return Row(name, mode, report.verdict, clean(text), report.points, shown, rungs.get("proved", 0), cost)


def told(error: Exception) -> str:
    """Return an exception in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return clean(f"{type(error).__name__}: {lines[0] if lines else ''}")


def clean(text: str, most: int = 240) -> str:
    """Return a text in one line, without what differs from machine to machine: paths, addresses, times."""
    text = re.sub(r"(?<![\w.])(?:/[\w.+-]+)+/(?=[\w.+-])", "", " ".join(text.split()))
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    text = re.sub(r",? \d+\.\d+ s\b", "", text)
    return text if len(text) <= most else text[: most - 3] + "..."


class Worker:
    """A process that checks one operation at a time, another one after its death."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that its death ends our waiting
        if not self.pipe.poll(5 * SECONDS) or self.pipe.recv() != "ready":
            raise RuntimeError("a worker did not start")

    def ask(self, name: str, mode: str) -> Row:
        """Return the row of an operation."""
        text = "no end within the limit"
        try:
            self.pipe.send((name, mode))
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)
            text = f"the worker died (exit code {self.process.exitcode})"
        self.stop()
        self.start()
        return Row(name, mode, "crash", text)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def all_rows(tasks: Sequence[tuple[str, str]], jobs: int) -> list[Row]:
    """Return the rows of all tasks, in their order."""
    left, found = collections.deque(enumerate(tasks)), {}

    def work() -> None:
        worker = Worker()
        with contextlib.suppress(IndexError):  # nothing is left
            while True:
                k, task = left.popleft()
                found[k] = worker.ask(*task)
                if len(found) % BETWEEN == 0:
                    print(f"{len(found)} of {len(tasks)}", file=sys.stderr, flush=True)
        worker.stop()

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(work) for _ in range(jobs)]:
            done.result()
    return [found[k] for k in sorted(found)]


def figures(rows: Sequence[Row], mode: str) -> Iterator[str]:
    """Return the figures of one mode, a line each."""
    counts = collections.Counter(row.outcome for row in rows)
    ran = [row for row in rows if row.outcome != "not run"]
    answered = [row for row in rows if row.outcome in ANSWERED]
    share = 100 * len(answered) / max(len(ran), 1)
    costs = [row.cost for row in rows if row.outcome in (*ANSWERED, "inconclusive")]  # a refusal takes no time
    yield f"{mode} mode: {len(ran)} operations checked, {len(answered)} answered ({share:.1f} %)"
    yield "answered: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in ANSWERED)
    yield "not answered: " + ", ".join(f"{counts[name]} {name}" for name in ("inconclusive", "refused", "crash"))
    yield f"not run: {counts['not run']}"
    yield f"with a proved point: {sum(row.proved > 0 for row in answered)}"
    if costs:
        yield f"CPU time in Y of those with a report: median {statistics.median(costs):.2f}, largest {max(costs):.2f}"


def said_of(rows: Sequence[Row]) -> Iterator[str]:
    """Return what is printed on one mode."""
    yield from figures(rows, rows[0].mode)
    for outcome in sorted({row.outcome for row in rows} - {"right"}):
        yield f"\n{outcome}:"
        yield from (f"  {row.name}: {row.text}" for row in rows if row.outcome == outcome)
    yield "\nthe slowest, in Y:"
    yield from (f"  {row.name}: {row.cost:.2f}" for row in sorted(rows, key=lambda row: -row.cost)[:10])


def grid(headings: Sequence[str], lines: Sequence[Sequence[Any]]) -> list[str]:
    """Return a table in Markdown."""
    if not lines:
        return ["None."]
    cells = [headings, ["---"] * len(headings), *lines]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells]


def document(by_mode: dict[str, list[Row]], command: str) -> str:
    """Return the document: the figures, what is not answered, what is not right, and all."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, backprop-rules {__version__}"
    lines = [
        "# torch's own derivatives, checked\n",
        "Every operation of torch's own list that it differentiates in float64, its first sample: `check` is given",
        "torch's reverse mode, or its forward mode, as a backward. Y is the CPU time of `tests/yardstick.py`.\n",
        f"Made by `{command}`; {versions}.\n",
        *(f"- {name}: {words}" for name, words in LEGEND.items()),
    ]
    for mode, rows in by_mode.items():
        first, *more = figures(rows, mode)
        lines += [f"\n## {mode.capitalize()} mode\n", f"{first.split(': ', 1)[1]}.\n", *(f"- {line}" for line in more)]
        out = [(row.name, row.outcome, row.text) for row in rows if row.outcome not in (*ANSWERED, "not run")]
        lines += ["\n### Not answered\n", *grid(("operation", "outcome", "reason"), out)]
        other = [(row.name, row.outcome, row.text) for row in rows if row.outcome in ANSWERED[1:]]
        lines += ["\n### Answered, not right\n", *grid(("operation", "verdict", "report"), other)]
    together = zip(*by_mode.values(), strict=True)
    every = [(rows[0].name, *(r.outcome for r in rows), rows[0].points or "", rows[0].rungs) for rows in together]
    headings = ("operation", *by_mode, "points", "witnessed/allowed/proved")
    lines += [f"\n## All (points and rungs in {next(iter(by_mode))} mode)\n", *grid(headings, every)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th operation")
    parser.add_argument("--only", action="append", metavar="NAME", help="take this operation, in all its variants")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the document too")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both")
    asked = parser.parse_args()
    known = operations()
    names = [n for n in known if not asked.only or n in asked.only or known[n].name in asked.only][:: asked.every]
    if not names:
        parser.error(f"no operation is called {', '.join(asked.only)}")
    modes = list(MODES) if asked.mode == "both" else [asked.mode]
    tasks = [(name, mode) for name in names for mode in modes]
    rows = all_rows(tasks, min(asked.jobs, len(tasks)))
    by_mode = {mode: [row for row in rows if row.mode == mode] for mode in modes}
    print("\n\n".join("\n".join(said_of(some)) for some in by_mode.values()))
    if asked.write:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text(document(by_mode, clean(" ".join(["python tests/operations.py", *sys.argv[1:]]))))


if __name__ == "__main__":
    main()
