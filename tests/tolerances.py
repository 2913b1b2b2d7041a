"""Measure real kernels at real sizes: what is right passes, what is wrong fails, how long it takes; public tolerances.

python tests/tolerances.py --write docs/tolerances.md       # all kernels, about an hour on two cores
python tests/tolerances.py --only rms_norm conv             # some of them, to the terminal
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from real_sizes import KERNELS, WRONG, Kernel, stored
from torch import Tensor

from backprop_rules.evidence.allowance.precision import DeclaredOperation
from backprop_rules.evidence.allowance.units import lost_in
from backprop_rules.testing import WrongGradients, assert_gradients, enclose

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NARROW = ("bfloat16", "float16")


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_run(kernel: Kernel, primals, grad_y) -> tuple[Tensor, ...]:
    """Run the function's own forward and backward in float64."""
    live = [x.double().requires_grad_() if x.is_floating_point() else x for x in primals]
    asked = [x for x in live if x.is_floating_point()]
    return torch.autograd.grad(kernel.forward(*live), asked, grad_y.double(), allow_unused=True)


def eager(kernel: Kernel, primals, grad_y) -> tuple[Tensor | None, ...]:
    """Return torch's own gradients, op by op in the primals' dtype."""
    live = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in primals]
    asked = [x for x in live if x.is_floating_point()]
    found = iter(torch.autograd.grad(kernel.forward(*live), asked, grad_y, allow_unused=True))
    return tuple(next(found) if x.is_floating_point() else None for x in live)


def timed(job: Callable[[], object], times: int) -> tuple[float, object]:
    taken, found = [], None
    for _ in range(times):
        start = time.perf_counter()
        found = job()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), found


def answer(kernel: Kernel, primals, grad_y, got, **options):
    """Return whether the gradients pass, and what came of it."""
    try:
        return True, assert_gradients(got, forward=kernel.forward, primals=primals, grad_y=grad_y, **options)
    except WrongGradients as error:
        return False, error.agreement


def wrong_ones(kernel: Kernel, made, primals, grad_y) -> Iterator[tuple[str, tuple]]:
    """Yield backwards that are wrong in one gradient, before they round it to its dtype, and that show it behind."""
    names = kernel.forward.__code__.co_varnames
    for k, g in enumerate(made):
        right = None if g is None else g.to(primals[k].dtype)
        for name, corrupt in WRONG.items() if g is not None else ():
            wrong = stored([corrupt(g) if j == k else x for j, x in enumerate(made)], primals)
            if not torch.equal(wrong[k], right):  # nobody can tell it from the right one where they are stored alike
                yield f"{names[k]}: {name}", wrong
    if kernel.eps is not None:
        yield "eps", stored(kernel.eps(grad_y, *primals), primals)


def times(kernel: Kernel, primals, grad_y) -> dict:
    """Measure time and memory of the right one beside the function's own forward and backward."""
    base = peak()
    taken, _ = timed(lambda: own_run(kernel, primals, grad_y), 3)
    memory = max(1.0, peak() - base)
    got = stored(kernel.fused(grad_y, *primals), primals)
    ours, _ = timed(lambda: answer(kernel, primals, grad_y, got), 3)
    return {"time": ours / taken, "own": taken, "memory": max(1.0, peak() - base) / memory}


def answers(kernel: Kernel, primals, grad_y) -> dict:
    """Ask the right one, torch's own op by op, and the wrong ones."""
    made = kernel.fused(grad_y, *primals)
    passed, found = answer(kernel, primals, grad_y, stored(made, primals), blind="allow")
    result = {
        "passed": passed,
        "used": max(c.used for c in found.gradients),
        "blind": {c.name: c.blind for c in found.gradients},
        "text": "" if passed else str(found),
    }
    if primals[0].dtype != torch.float32:
        passed, found = answer(
            kernel, primals, grad_y, eager(kernel, primals, grad_y), precision="eager", blind="allow"
        )
        result["eager"] = {"passed": passed, "blind": {c.name: c.blind for c in found.gradients}, "text": str(found)}
    enclosed = enclose(kernel.forward, primals, grad_y=grad_y)
    wrongs = wrong_ones(kernel, made, primals, grad_y)
    tried = [(label, enclosed.agreement(wrong, blind="allow").right) for label, wrong in wrongs]
    return result | {"wrong": len(tried), "missed": [label for label, let_through in tried if let_through]}


@contextmanager
def sums_that_round_nothing() -> Iterator[None]:
    """Until the end of the block, declared sums carry on what their terms are off by, and add nothing."""
    kept = DeclaredOperation.summed
    DeclaredOperation.summed = lambda self, varies, *_, **__: None if varies is None else self.up(varies)
    try:
        yield
    finally:
        DeclaredOperation.summed = kept


def shares(kernel: Kernel, primals, grad_y) -> dict:
    """Measure which shares of the radii are the result's storing, sums, and what is rounded before, in the mean."""
    whole = enclose(kernel.forward, primals, grad_y=grad_y)
    with sums_that_round_nothing():
        without = enclose(kernel.forward, primals, grad_y=grad_y)
    found = torch.zeros(3, dtype=torch.float64)
    for one, other in zip(whole.every, without.every, strict=True):
        said = (one.radius > 0) & one.radius.isfinite() & other.radius.isfinite()
        storage = torch.minimum(lost_in(one.dtype, one.truth.abs()), other.radius)[said] / one.radius[said]
        sums = 1 - (other.radius[said] / one.radius[said]).clamp(0, 1)
        of_one = torch.stack([storage.mean(), sums.mean(), (1 - storage - sums).clamp(0, 1).mean()])
        found += of_one.nan_to_num(0.0) / len(whole)
    return {"shares": found.tolist()}


PARTS = {"times": times, "answers": answers, "shares": shares}


def one(name: str, dtype: str, part: str) -> dict:
    """Measure one part of one kernel in one dtype, in this process."""
    kernel = next(k for k in KERNELS if k.name == name)
    primals = kernel.primals(DTYPES[dtype], large=True)
    return PARTS[part](kernel, primals, kernel.cotangent(primals))


# ------------------------------------------------------------------ tolerances of public projects
def largest_error(times: float) -> Callable[[Tensor, Tensor, Tensor], bool]:
    return lambda got, truth, own: bool((got - truth).abs().max() <= times * (own - truth).abs().max())


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


RULES: dict[str, Callable[[Tensor, Tensor, Tensor], bool]] = {
    "3 × eager's largest error (flash-attention's tests)": largest_error(3),
    "2 × eager's largest error (torchtitan)": largest_error(2),
    "RMS error ≤ 3 × eager's (Dynamo's `same`)": lambda got, truth, own: rms(got - truth) <= 3 * rms(own - truth),
    "RMS ratio 0.005 (flash-linear-attention)": lambda got, truth, own: rms(got - truth) <= 0.005 * rms(truth),
    "1e-2 + 1e-2 of the truth (KernelBench)": lambda got, truth, own: bool(
        ((got - truth).abs() <= 1e-2 + 1e-2 * truth.abs()).all()
    ),
    "`assert_close` by itself (1e-5 + 1.6e-2 of the truth)": lambda got, truth, own: bool(
        ((got - truth).abs() <= 1e-5 + 1.6e-2 * truth.abs()).all()
    ),
}


def of_public_rules() -> list[str]:
    """Return the table of what public tolerances accuse and let through, on a causal attention in bfloat16."""
    kernel = next(k for k in KERNELS if k.name == "causal attention")
    primals = kernel.primals(torch.bfloat16, large=True)
    grad_y = kernel.cotangent(primals)
    truth = own_run(kernel, primals, grad_y)
    own, made = eager(kernel, primals, grad_y), kernel.fused(grad_y, *primals)
    fused = stored(made, primals)
    rows = ["| rule | accuses eager bfloat16 | accuses the fused one | lets through, of "
            f"{3 * len(WRONG)} wrong ones |", "|---|---|---|---|"]  # fmt: skip
    wrongs = list(wrong_ones(kernel, made, primals, grad_y))

    def passes(rule: Callable, got) -> bool:
        return all(rule(g.double(), t, e.double()) for g, t, e in zip(got, truth, own, strict=True))

    for name, rule in RULES.items():
        through = [label for label, got in wrongs if passes(rule, got)]
        listed = f"{len(through)}: {', '.join(through)}" if through else "none"
        accused = ["no" if passes(rule, got) else "yes" for got in (own, fused)]
        rows.append(f"| {name} | {accused[0]} | {accused[1]} | {listed} |")
    enclosed = enclose(kernel.forward, primals, grad_y=grad_y)
    through = [label for label, got in wrongs if enclosed.agreement(got).right]
    ours = [answer(kernel, primals, grad_y, own, precision="eager")[0],
            answer(kernel, primals, grad_y, fused)[0]]  # fmt: skip
    accused = ["no" if passed else "yes" for passed in ours]
    listed = f"{len(through)}: {', '.join(through)}" if through else "none"
    rows.append(f"| **`assert_gradients`** | {accused[0]} | {accused[1]} | {listed} |")
    return rows


# ------------------------------------------------------------------ the page
def table(found: dict[tuple[str, str], dict]) -> Iterator[str]:
    yield (
        "| kernel | size | dtype | right one | eager | wrong ones caught | time | memory | used "
        "| storing, sums, before | blind |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for (name, dtype), r in found.items():
        size = " × ".join(map(str, next(k.size for k in KERNELS if k.name == name)))
        blind = ", ".join(f"{n} {100 * b:.0f} %" for n, b in r["blind"].items() if b > 0.5) or "none"
        by_eager = "" if "eager" not in r else "passes" if r["eager"]["passed"] else "FAILS"
        dim = [n for n, b in r.get("eager", {"blind": {}})["blind"].items() if b > 0.5]
        by_eager += f"; blind: {', '.join(dim)}" if dim else ""
        right = "passes" if r["passed"] else "FAILS"
        caught = f"{r['wrong'] - len(r['missed'])} of {r['wrong']}"
        missed = f", not {'; '.join(r['missed'])}" if r["missed"] else ""
        made = ", ".join(f"{100 * s:.0f}" for s in r["shares"]) + " %" if sum(r["shares"]) else "no radius is finite"
        yield (f"| {name} | {size} | {dtype} | {right} | {by_eager} | {caught}{missed} | {r['time']:.1f} × | "
               f"{r['memory']:.1f} × | {100 * r['used']:.1f} % | {made} | {blind} |")  # fmt: skip


def summary(found: dict[tuple[str, str], dict]) -> Iterator[str]:
    times, memories = [r["time"] for r in found.values()], [r["memory"] for r in found.values()]
    dim = {kind: [b > 0.5 for (_, d), r in found.items() if (d in NARROW) == kind for b in r["blind"].values()]
           for kind in (True, False)}  # fmt: skip
    failed = sum(not r["passed"] for r in found.values())
    eager_failed = sum("eager" in r and not r["eager"]["passed"] for r in found.values())
    missed = sum(len(r["missed"]) for r in found.values())
    yield f"- Of {sum(r['wrong'] for r in found.values())} wrong ones {missed} pass."
    yield f"- Of {len(found)} right ones {failed} fail, and {eager_failed} of eager's."
    yield f"- Blind are {sum(dim[True])} of {len(dim[True])} gradients in narrow dtypes, {sum(dim[False])} in float32."
    yield (f"- In multiples of the function's own forward and backward in float64, time is "
           f"{statistics.median(times):.1f} in the median and {max(times):.1f} at worst, memory "
           f"{statistics.median(memories):.1f} and {max(memories):.1f}.")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="these kernels")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS), help="what is measured now")
    parser.add_argument("--results", type=Path, default=Path(".tolerances.json"), help="where results are kept")
    parser.add_argument("--write", type=Path, help="the page whose tables are replaced by what was measured")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one)))
        return
    kept = json.loads(asked.results.read_text()) if asked.results.is_file() else {}
    for part in asked.part:
        for kernel in KERNELS:
            for dtype in DTYPES if not asked.only or kernel.name in asked.only else ():
                line = [sys.executable, __file__, "--one", kernel.name, dtype, part]
                made = subprocess.run(line, capture_output=True, text=True, check=False)
                if made.returncode:
                    sys.exit(made.stderr)
                found = json.loads(made.stdout)
                kept.setdefault(f"{kernel.name}, {dtype}", {}).update(found)
                asked.results.write_text(json.dumps(kept, indent=1))
                print(kernel.name, dtype, found, flush=True)
    if asked.write:
        whole = {"passed", "time", "shares"}
        found = {tuple(key.split(", ")): value for key, value in kept.items() if whole <= value.keys()}
        write(asked.write, {"rules": of_public_rules(), "kernels": [*table(found), "", *summary(found)]})


def write(page: Path, parts: dict[str, list[str]]) -> None:
    """Replace the tables of a page."""
    text = page.read_text(encoding="utf-8")
    for part, lines in parts.items():
        head, _, rest = text.partition(f"<!-- {part} -->\n")
        _, _, tail = rest.partition(f"<!-- end of {part} -->\n")
        text = f"{head}<!-- {part} -->\n" + "\n".join(lines) + f"\n<!-- end of {part} -->\n{tail}"
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
