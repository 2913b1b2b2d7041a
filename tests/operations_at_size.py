"""Hold torch's own outputs and gradients of all operations that its tests list to what eager code may round.

Nobody may be called off but who overflows: `python tests/operations_at_size.py` prints who is, and which of these
the report names itself. All take more than ten minutes.
"""

import argparse
import collections
import random
import sys
import warnings
from collections.abc import Iterator

import torch
from operations import Function, as_function, as_tuple, is_real_or_complex, operations
from samples import samples_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from backprop_rules import InputError
from backprop_rules.report.agreement import Agreement
from backprop_rules.testing import enclose

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SCALES = (1.0, 2.0**-14, 2.0**8)


def points(op, dtype: torch.dtype, most: int) -> Iterator[tuple[Function, tuple[Tensor, ...]]]:
    """Yield the operation as a function of what torch differentiates by, and those, of some of its samples."""
    if dtype not in op.supported_backward_dtypes("cpu"):
        return
    samples = list(samples_of(op, dtype))
    random.Random(op.full_name).shuffle(samples)
    for sample in samples[:most]:
        leaves = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
        live = [k for k, leaf in enumerate(leaves) if is_real_or_complex(leaf) and leaf.requires_grad]
        if live and all(leaves[k].dtype == dtype and leaves[k].layout == torch.strided for k in live):
            yield as_function(op, sample, live)


class Draws(TorchDispatchMode):
    """While it is entered, see whether numbers are drawn."""

    drawn = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.drawn = self.drawn or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def outputs(forward: Function, primals: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Return torch's own outputs, if they are real and no numbers are drawn on the way."""
    with Draws() as draws:
        y = as_tuple(forward(*primals))
    return None if draws.drawn or any(out.is_complex() for out in y) else tuple(out.detach() for out in y)


def agreement(forward: Function, primals: tuple[Tensor, ...]) -> Agreement | None:
    """Return what comes of torch's own gradient and output; None where it has none, or the reference is refused."""
    numbers = torch.Generator().manual_seed(7)
    live = [x.clone().requires_grad_() for x in primals]
    try:
        y = as_tuple(forward(*live))
        drawn = [torch.randn(out.shape, generator=numbers) if is_real_or_complex(out) else None for out in y]
        grads = [g.to(out.dtype) if out.requires_grad else None for out, g in zip(y, drawn, strict=True)]
        pairs = [(out, g) for out, g in zip(y, grads, strict=True) if g is not None]
        outs, along = zip(*pairs, strict=True)
        got = torch.autograd.grad(outs, live, along, allow_unused=True)
    except (RuntimeError, ValueError, NotImplementedError):
        return None  # torch's own refuses: a sample that is of another dtype inside, or that has no gradient
    try:
        precision = None if primals[0].dtype == torch.float32 else "eager"
        grad_y = tuple(grads) if len(grads) > 1 else grads[0]
        held = enclose(forward, primals, grad_y=grad_y, precision=precision)
        return held.agreement(got, outputs(forward, primals), blind="allow")
    except InputError:
        return None


def lacks(op) -> str:
    """Return what is said of an operation of which no formula is known; nothing where there is one."""
    for forward, primals in points(op, torch.float32, 2):
        try:
            y = as_tuple(forward(*[x.clone().requires_grad_() for x in primals]))
            grads = tuple(torch.ones_like(out) if out.requires_grad else None for out in y)
            enclose(forward, primals, grad_y=grads if len(grads) > 1 else grads[0])
        except (InputError, RuntimeError) as error:
            if "no formula" in str(error):
                return str(error).partition(". ")[0]
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8, help="of each operation")
    parser.add_argument("names", nargs="*", help="of operations; all, if none is given")
    parser.add_argument("--lacking", action="store_true", help="say only of which no formula is known: minutes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known, counts = operations(), collections.Counter()
    for name in asked.names or sorted(known):
        if asked.lacking:
            if said := lacks(known[name]):
                print(f"{name}: {said}", flush=True)
            continue
        for dtype in DTYPES:
            for forward, primals in points(known[name], dtype, asked.samples):
                for scale in SCALES:
                    found = agreement(forward, tuple((x * scale).contiguous() for x in primals))
                    overflows = found is not None and bool(found.said.overflow)
                    kind = "not judged" if found is None else "right" if found.right else "called off"
                    counts[dtype, kind, overflows] += 1
                    if kind == "called off" and not overflows:
                        print(f"{name}, {dtype}, times {scale}: {str(found).splitlines()[:2]}", flush=True)
    for (dtype, kind, overflows), count in sorted(counts.items(), key=str):
        print(f"{str(dtype)[6:]:9} {kind:11} {'overflows on the way' if overflows else '':21} {count:6}")
    sys.exit(any(kind == "called off" and not overflows for _, kind, overflows in counts))


if __name__ == "__main__":
    main()
