"""How often the systematic question calls a right implementation off, where it can be seen: at a rate of 10^-3.

    python tests/false_alarms.py            # 100,000 trials, some minutes on two cores

Each trial draws a point and a right implementation: one that rounds operands and results to bfloat16 where it may, and
keeps its sums in float32, in an order of its own, rounded to nearest or cut off. Beside ordinary points there are those
of which a naive model of independent roundings is wrong: sums of one sign, a constant cotangent, repeated rows, equal
keys, the mean of a loss. In one trial of ten every slope and mean is asked, in the others what stands out.
"""

import argparse
import sys
from collections import Counter

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.precision import precision_named
from backprop_rules.evidence.at_size import Question, at_size
from backprop_rules.evidence.systematic import systematic
from backprop_rules.subject.function import function_of

RATE = 1e-3
BF16 = torch.bfloat16


def narrow(x: Tensor) -> Tensor:
    return x.to(BF16).float()


def cut_off(x: Tensor) -> Tensor:
    """Cut a float64 number off to float32's digits, as an accumulator that truncates does."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.trunc(mantissa * 2.0**24), exponent - 24)


def summed(terms: Tensor, order: Tensor, truncates: bool) -> Tensor:
    """Sum along the last axis in float32, one after another in this order."""
    total = torch.zeros(terms.shape[:-1], dtype=torch.float64)
    for k in order:
        total = total + terms[..., k].double()
        total = cut_off(total) if truncates else total.float().double()
    return total.float()


def product(a: Tensor, b: Tensor, numbers: torch.Generator, truncates: bool) -> Tensor:
    """Multiply matrices, with sums in an order of its own."""
    order = torch.randperm(a.shape[-1], generator=numbers)
    return summed(a.unsqueeze(-2) * b.mT.unsqueeze(-3), order, truncates)


def drawn(kind: str, numbers: torch.Generator) -> tuple[Tensor, ...]:
    """Draw x, w, b and a cotangent of one kind."""
    n, k, m = 24, 16, 12
    x, w, b, g = (torch.randn(*s, generator=numbers) for s in ((n, k), (k, m), (m,), (n, m)))
    if kind == "one sign":
        x, w, g = x.abs(), w.abs(), g.abs()
    if kind == "constant cotangent":
        g = torch.full_like(g, 0.7)
    if kind == "repeated rows":
        x = x[:2].repeat(n // 2, 1)
    if kind == "mean loss":
        g = torch.full_like(g, 1 / 288)
    return tuple(t.to(BF16) for t in (x, w / 4, b, g))


def of_a_layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(x @ w + b)


def right_layer(x: Tensor, w: Tensor, b: Tensor, g: Tensor, numbers: torch.Generator, truncates: bool):
    x, w, b, g = (t.float() for t in (x, w, b, g))
    y = torch.tanh(product(x, w, numbers, truncates) + b)
    full = g * (1 - y * y)
    d = narrow(full)
    order = torch.randperm(len(g), generator=numbers)
    made = product(d, w.T, numbers, truncates), product(x.T, d, numbers, truncates), summed(full.T, order, truncates)
    return tuple(t.to(BF16) for t in made)


def of_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / 4, -1) @ v


def right_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor, numbers: torch.Generator, truncates: bool):
    q, k, v, g = (t.float() for t in (q, k, v, g))
    p = torch.softmax(product(q, k.T, numbers, truncates) / 4, -1)
    dp = product(g, v.T, numbers, truncates)
    ds = narrow(p * (dp - (p * dp).sum(-1, keepdim=True)))
    made = product(ds, k, numbers, truncates) / 4, product(ds.T, q, numbers, truncates) / 4
    return tuple(t.to(BF16) for t in (*made, product(narrow(p).T, g, numbers, truncates)))


KINDS = ("ordinary", "one sign", "constant cotangent", "repeated rows", "mean loss")


def trial(k: int, factor: float = 1.0) -> tuple[str, bool]:
    """Return the kind of a trial, and whether an implementation, right but for a factor, was called off."""
    numbers = torch.Generator().manual_seed(k)
    truncates = bool(k % 2)
    if k % 3:
        kind = KINDS[k % len(KINDS)]
        *primals, g = drawn(kind, numbers)
        forward, got = of_a_layer, right_layer(*primals, g, numbers, truncates)
    else:
        kind = "equal keys" if k % 6 else "attention"
        q, keys, v, g = (torch.randn(16, 12, generator=numbers).to(BF16) for _ in range(4))
        keys = keys[:1].repeat(16, 1) if kind == "equal keys" else keys
        primals = [q, keys, v]
        forward, got = of_attention, right_attention(*primals, g, numbers, truncates)
    got = tuple((t.float() * factor).to(BF16) for t in got)
    structure = torch.utils._pytree.tree_flatten(tuple(primals))[1]
    question = Question(function_of(forward, structure, {}), tuple(primals), (g,))
    declared = precision_named(None, BF16)
    found = systematic(question, declared, at_size(question, declared), got, rate=RATE, every=k % 10 == 0)
    return f"{kind}, {'cut off' if truncates else 'rounded'}", found.found is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tried, off = Counter(), Counter()
    for k in range(asked.first, asked.first + asked.trials):
        kind, alarmed = trial(k)
        tried[kind] += 1
        off[kind] += alarmed
    for kind in sorted(tried):
        print(f"{kind:32} {off[kind]:6} of {tried[kind]:7} called off")
    total = sum(off.values())
    print(f"{total} of {asked.trials} right implementations called off, where {RATE * asked.trials:.0f} may be")
    sys.exit(total > RATE * asked.trials)


if __name__ == "__main__":
    main()
