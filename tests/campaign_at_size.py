"""Hold right kernels to what they may round, at drawn sizes from 10^3 to 10^6, in all real dtypes: none is called off.

    python tests/campaign_at_size.py --points 10000         # about half an hour on one core
    python tests/campaign_at_size.py --points 10000 --write docs/tolerances.md

Each point draws a kernel, its sizes, a dtype, how large its numbers are, and whether a fused backward is asked or
torch's own op by op. Printed is the largest share of an allowance that an element used, by kernel and dtype, and who
was called off.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from real_sizes import KERNELS, Kernel, stored
from tolerances import eager, write

from backprop_rules.testing import enclose

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
LONGEST = {"lstm": 12, "scan": 64}  # steps, each of which is an operation of its own


def uniform(numbers: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=numbers, dtype=torch.float64))


def drawn_size(kernel: Kernel, numbers: torch.Generator) -> tuple[int, ...]:
    """Draw sizes between the small ones and the large ones, of no more than 10^6 numbers in the first primal."""
    while True:
        size = [
            round(math.exp(uniform(numbers, math.log(max(1, low / 2)), math.log(high))))
            for low, high in zip(kernel.small, kernel.size, strict=True)
        ]
        size[-1] += size[-1] % 2
        size[0] = min(size[0], LONGEST.get(kernel.name, size[0]))
        if 10**3 <= math.prod(size) <= 10**6:
            return tuple(size)


def point(k: int) -> tuple[str, str, str, float, str]:
    """Return the kernel, the dtype, the precision, the share used, and what is said if a right one is called off."""
    numbers = torch.Generator().manual_seed(k)
    kernel = KERNELS[k % len(KERNELS)]
    dtype = DTYPES[int(uniform(numbers, 0, len(DTYPES)))]
    size, scale = drawn_size(kernel, numbers), 2.0 ** round(uniform(numbers, -2, 1))
    made = kernel.make(numbers, size)
    primals = tuple((x * scale if j == 0 and x.is_floating_point() else x) for j, x in enumerate(made))
    primals = tuple(x.to(dtype) if x.is_floating_point() else x for x in primals)
    grad_y = kernel.cotangent(primals, k)
    is_eager = dtype in DTYPES[:2] and uniform(numbers, 0, 1) < 1 / 3
    if is_eager or dtype == torch.float64:
        got, options = eager(kernel, primals, grad_y), {"precision": "eager" if is_eager else None}
    else:
        got, options = stored(kernel.fused(grad_y, *primals), primals), {}
    if not all(g is None or bool(g.isfinite().all()) for g in got):
        return kernel.name, str(dtype)[6:], "overflows", 0.0, ""
    found = enclose(kernel.forward, primals, grad_y=grad_y, **options).agreement(got, blind="allow")
    used = max(one.used for one in found.gradients)
    return kernel.name, str(dtype)[6:], found.precision, used, "" if found.right else f"{size}, seed {k}: {found}"


COLUMNS = {
    ("bfloat16", "tensorcore"): "bfloat16, fused", ("bfloat16", "eager"): "bfloat16, op by op",
    ("float16", "tensorcore"): "float16, fused", ("float16", "eager"): "float16, op by op",
    ("float32", "float32"): "float32", ("float64", "float64"): "float64",
}  # fmt: skip


def table(used: Mapping[tuple[str, str, str], Sequence[float]], alarms: int) -> Iterator[str]:
    """Yield the largest share of an allowance that an element used, and at how many points, by kernel."""
    yield f"| kernel | {' | '.join(COLUMNS.values())} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for kernel in KERNELS:
        cells = [used.get((kernel.name, *column), []) for column in COLUMNS]
        said = [f"{100 * max(shares):.1f} % ({len(shares)})" if shares else "" for shares in cells]
        yield f"| {kernel.name} | {' | '.join(said)} |"
    yield ""
    yield f"Of {sum(map(len, used.values())):,} right gradients {alarms} were called off."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--write", type=Path, help="the page whose table is replaced by what was measured")
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    used, alarms = defaultdict(list), []
    for k in range(asked.first, asked.first + asked.points):
        name, dtype, precision, share, said = point(k)
        used[name, dtype, precision].append(share)
        if said:
            alarms.append(f"{name}, {dtype}, {precision}, {said}")
            print(alarms[-1], flush=True)
    for key, shares in sorted(used.items()):
        print(f"{' '.join(key):44} {len(shares):6} points, at most {100 * max(shares):5.1f} % of the allowance")
    if asked.write:
        write(asked.write, {"campaign": list(table(used, len(alarms)))})
    print(f"{len(alarms)} of {asked.points} right gradients called off")
    sys.exit(bool(alarms))


if __name__ == "__main__":
    main()
