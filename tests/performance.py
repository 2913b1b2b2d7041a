"""Time, memory and sharpness beside torch's gradcheck, slow and fast, and JAX's check_grads, at one point in float64.

    python tests/performance.py --write docs/performance.md       # some minutes; tox -e bench does it

Each checker is given the same function, sizes and numbers, in a process of its own. Sharpness is the smallest power of
two that one entry of the first gradient, of median size, may be off by in proportion and is called wrong.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from real_sizes import attention, layer_norm
from tolerances import peak, timed, write
from torch import Tensor

from backprop_rules.testing import WrongGradients, assert_gradients

# Above this side the slow Jacobian, of side^2 times side^2 numbers for each primal, does not fit.
SLOW_SIDE = 64
ROUNDS = 25
DIGITS = 56  # no relative error in float64 is smaller


@dataclass(frozen=True)
class Case:
    """A function with its handwritten backward, and the shapes of its primals."""

    name: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def primals(self) -> tuple[Tensor, ...]:
        numbers = torch.Generator().manual_seed(0)
        return tuple(torch.randn(s, generator=numbers, dtype=torch.float64) for s in self.shapes)


def linear_backward(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return g @ w.T, x.T @ g, g.sum(0)


def softmax_backward(g: Tensor, x: Tensor) -> tuple[Tensor]:
    y = torch.softmax(x, -1)
    return (y * (g - (g * y).sum(-1, keepdim=True)),)


def layer_norm_backward(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    mean = x.mean(-1, keepdim=True)
    r = torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5)
    z, gw = (x - mean) * r, g * w
    dx = r * (gw - gw.mean(-1, keepdim=True) - z * (gw * z).mean(-1, keepdim=True))
    return dx, (g * z).sum(0), g.sum(0)


def attention_backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    factor = q.shape[-1] ** -0.5
    p = torch.softmax(q @ k.mT * factor, -1)
    dp = g @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * factor
    return ds @ k, ds.mT @ q, p.mT @ g


SIDES = (8, 16, 32, 64, 128, 256, 512)
CASES = (
    *(Case(f"linear {n}", lambda x, w, b: x @ w + b, linear_backward, ((n, n), (n, n), (n,))) for n in SIDES),
    Case("softmax 64 × 64", lambda x: torch.softmax(x, -1), softmax_backward, ((64, 64),)),
    Case("layer norm 64 × 64", layer_norm, layer_norm_backward, ((64, 64), (64,), (64,))),
    Case("attention 1 × 2 × 32 × 16", attention, attention_backward, ((1, 2, 32, 16),) * 3),
)


def off_by(made: Sequence[Any], entry: int, times: float) -> tuple[Any, ...]:
    """Return gradients of which one entry of the first is off by a factor."""
    first = made[0].clone().reshape(-1)
    first[entry] *= times
    return first.reshape(made[0].shape), *made[1:]


def median_entry(g: Tensor) -> int:
    return int(g.abs().reshape(-1).argsort()[g.numel() // 2])


# ------------------------------------------------------------------ the checkers: True where they pass
def ours(case: Case, times: float) -> Callable[[], bool]:
    primals = case.primals
    grad_y = torch.randn(case.forward(*primals).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    entry = median_entry(case.backward(grad_y, *primals)[0])

    def check() -> bool:
        got = off_by(case.backward(grad_y, *primals), entry, times)
        try:
            assert_gradients(got, forward=case.forward, primals=primals, grad_y=grad_y)
        except WrongGradients:
            return False
        return True

    return check


def torchs(case: Case, times: float, fast: bool) -> Callable[[], bool]:
    primals = tuple(x.requires_grad_() for x in case.primals)
    entry = median_entry(case.backward(torch.ones_like(case.forward(*primals)), *primals)[0])

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *primals: Tensor) -> Tensor:
            ctx.save_for_backward(*primals)
            return case.forward(*primals)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return off_by(case.backward(g, *ctx.saved_tensors), entry, times)

    return lambda: torch.autograd.gradcheck(Held.apply, primals, fast_mode=fast, raise_exception=False)


def jaxs(case: Case, times: float) -> Callable[[], bool]:
    import jax
    import jax.numpy as jnp
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)

    def normed(x: Any, w: Any, b: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b

    def attended(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5, -1) @ v

    forwards = {"linear": lambda x, w, b: x @ w + b, "softmax": lambda x: jax.nn.softmax(x, -1),
                "layer": normed, "attention": attended}  # fmt: skip
    plain = forwards[case.name.split()[0]]
    primals = tuple(jnp.asarray(x.numpy()) for x in case.primals)
    ones = torch.ones_like(case.forward(*case.primals))
    entry = median_entry(case.backward(ones, *case.primals)[0])
    held = jax.custom_vjp(plain)

    def backward(primals: Any, g: Any) -> Any:
        first, *rest = jax.vjp(plain, *primals)[1](g)
        return first.ravel().at[entry].multiply(times).reshape(first.shape), *rest

    held.defvjp(lambda *primals: (plain(*primals), primals), backward)

    def check() -> bool:
        try:
            check_grads(held, primals, order=1, modes=["rev"])
        except AssertionError:
            return False
        return True

    return check


CHECKERS: dict[str, Callable[[Case, float], Callable[[], bool]]] = {
    "assert_gradients": ours, "gradcheck slow": partial(torchs, fast=False),
    "gradcheck fast": partial(torchs, fast=True), "check_grads": jaxs,
}  # fmt: skip


def measured(case: Case, make: Callable[[Case, float], Callable[[], bool]]) -> dict[str, float]:
    """Return seconds, MiB, and the smallest error that is called wrong; infinite if none is."""
    right, base = make(case, 1.0), peak()
    first, passes = timed(right, 1)
    assert passes, f"{case.name}: a right backward is called wrong"
    memory = peak() - base
    seconds = timed(right, ROUNDS)[0] if first < 1 else first
    low, high = -1, DIGITS  # the error 2^-low is caught, 2^-high is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if not make(case, 1 + 2.0**-middle)() else (low, middle)
    return {"seconds": seconds, "MiB": memory, "caught": 2.0**-low if low >= 0 else math.inf}


def rows(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Return the table: what each takes, and how sharp it is."""
    made = [f"| point | {' | '.join(CHECKERS)} |", "|---" * (1 + len(CHECKERS)) + "|"]
    for name, by in found.items():
        cells = []
        for checker in CHECKERS:
            one = by.get(checker)
            if one is None:
                cells.append("does not fit")
                continue
            caught = f"{one['caught']:.1e}" if math.isfinite(one["caught"]) else "none"
            cells.append(f"{1e3 * one['seconds']:.3g} ms, {one['MiB']:.0f} MiB, {caught}")
        made.append(f"| {name} | {' | '.join(cells)} |")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help="the page whose table is replaced by what was measured")
    asked = parser.parse_args()
    if asked.one:
        case = next(c for c in CASES if c.name == asked.one[0])
        print(json.dumps(measured(case, CHECKERS[asked.one[1]])))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for case in CASES:
        for checker in CHECKERS:
            if checker == "gradcheck slow" and max(case.shapes[0]) > SLOW_SIDE:
                continue
            line = [sys.executable, __file__, "--one", case.name, checker]
            made = subprocess.run(line, capture_output=True, text=True, check=False)
            if made.returncode:
                sys.exit(made.stderr)
            found.setdefault(case.name, {})[checker] = json.loads(made.stdout.splitlines()[-1])
            print(case.name, checker, found[case.name][checker], flush=True)
    if asked.write:
        write(asked.write, {"points": rows(found)})


if __name__ == "__main__":
    main()
