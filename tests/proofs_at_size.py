"""Prove elements of the gradients of real kernels at their real sizes: the truth in float64 must agree with each proof.

python tests/proofs_at_size.py --elements 1000              # all kernels, at full size
python tests/proofs_at_size.py --only rms_norm --elements 50

Each gradient is written out once more, as a textbook has it, in ball arithmetic; of a drawn element only what it
depends on is evaluated: a head of an attention, a row of a norm, a column of a weight.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from flint import arb, arb_mat, ctx
from real_sizes import KERNELS, Kernel
from torch import Tensor

from backprop_rules.testing import Agreement, enclose

# A drawn element: the place of its gradient, its index there, and the ball that holds it.
Index = tuple[int, ...]
Proof = tuple[int, Index, arb]


# ------------------------------------------------------------------ matrices of balls
def mat(x: Tensor) -> arb_mat:
    """Return a matrix of the numbers as they are; a vector as a row."""
    rows = x.reshape(-1, x.shape[-1])
    return arb_mat(*rows.shape, rows.reshape(-1).tolist())


def each(f: Callable[..., arb], *matrices: arb_mat) -> arb_mat:
    """Return f of the entries at each place."""
    first = matrices[0]
    return arb_mat(first.nrows(), first.ncols(), [f(*z) for z in zip(*(m.entries() for m in matrices), strict=True)])


def times(*matrices: arb_mat) -> arb_mat:
    """Return the product, entry by entry."""
    found, *others = matrices
    for m in others:
        found = each(arb.__mul__, found, m)
    return found


def rows(m: arb_mat) -> Iterator[list[arb]]:
    found = m.entries()
    return (found[k * m.ncols() : (k + 1) * m.ncols()] for k in range(m.nrows()))


def sums(m: arb_mat) -> list[arb]:
    """Return the sum over each row."""
    ones = arb_mat(m.ncols(), 1, [1] * m.ncols())
    return (m * ones).entries()


def dot(a: Iterable[arb], b: Iterable[arb]) -> arb:
    a, b = list(a), list(b)
    return (arb_mat(1, len(a), a) * arb_mat(len(b), 1, b))[0, 0]


def balls(x: Tensor) -> list[arb]:
    return [arb(v) for v in x.reshape(-1).tolist()]


def sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp())


def slope(s: arb) -> arb:
    """Return the derivative of the logistic function where its value is s."""
    return s * (1 - s)


class Draw:
    """What is drawn: indices below n, without repeating one, from a seed."""

    def __init__(self, elements: int, gradients: int) -> None:
        self.each, self._numbers = max(1, elements // gradients), torch.Generator().manual_seed(elements)

    def some(self, n: int, count: int) -> list[int]:
        return torch.randperm(n, generator=self._numbers)[:count].tolist()

    def few(self, n: int) -> list[int]:
        """A few rows or columns, in each of which several elements are proved."""
        return self.some(n, 4)

    def of(self, leaf: int, made: arb_mat, at: Callable[[int, int], Index], share: int = 1) -> Iterator[Proof]:
        """Yield drawn entries of a matrix, and where they lie in the gradient; a share of what is asked."""
        for k in self.some(made.nrows() * made.ncols(), -(-self.each // share)):
            i, j = divmod(k, made.ncols())
            yield leaf, at(i, j), made[i, j]


# ------------------------------------------------------------------ the gradients, from a textbook
def attention(draw: Draw, grad_y: Tensor, *primals: Tensor, masked: bool = False) -> Iterator[Proof]:
    """All of one head: dS = P (dP - sum(P dP)), with P the softmax of the scores."""
    head = draw.some(primals[0].shape[0], 1)[0], draw.some(primals[0].shape[1], 1)[0]
    q, k, v, g = (mat(x[head]) for x in (*primals, grad_y))
    factor = 1 / arb(q.ncols()).sqrt()
    shares = []
    for i, row in enumerate(rows(q * k.transpose() * factor)):
        weights = [s.exp() if j <= i or not masked else arb(0) for j, s in enumerate(row)]
        total = sum(weights, arb(0))
        shares += [w / total for w in weights]
    p, dp = arb_mat(q.nrows(), k.nrows(), shares), g * v.transpose()
    delta = sums(times(p, dp))
    ds = times(p, arb_mat(p.nrows(), p.ncols(), [x - d for d, row in zip(delta, rows(dp), strict=True) for x in row]))
    for leaf, made in enumerate((ds * k * factor, ds.transpose() * q * factor, p.transpose() * g)):
        yield from draw.of(leaf, made, lambda i, j: (*head, i, j))


def causal(draw: Draw, grad_y: Tensor, *primals: Tensor) -> Iterator[Proof]:
    return attention(draw, grad_y, *primals, masked=True)


def _standard(x: list[arb], eps: float, centred: bool) -> tuple[list[arb], arb]:
    mean = sum(x, arb(0)) / len(x) if centred else arb(0)
    off = [v - mean for v in x]
    r = 1 / (dot(off, off) / len(x) + arb(eps)).sqrt()
    return [v * r for v in off], r


def rms_norm(
    draw: Draw, grad_y: Tensor, x: Tensor, w: Tensor, *b: Tensor, eps: float = 1e-6, centred: bool = False
) -> Iterator[Proof]:
    """Rows of the input's gradient, and columns, over all rows, of the weight's and the bias's."""
    n, weight = x.shape[-1], balls(w)
    chosen, columns = set(draw.few(x.shape[0])), draw.some(n, draw.each)
    by_weight = {j: arb(0) for j in columns}
    for i in range(x.shape[0]):
        xhat, r = _standard(balls(x[i]), eps, centred)
        for j in columns:
            by_weight[j] += xhat[j] * float(grad_y[i, j])
        if i in chosen:
            gw = [g * v for g, v in zip(balls(grad_y[i]), weight, strict=True)]
            mean, along = sum(gw, arb(0)) / n if centred else arb(0), dot(gw, xhat) / n
            made = arb_mat(1, n, [r * (v - mean - h * along) for v, h in zip(gw, xhat, strict=True)])
            yield from draw.of(0, made, lambda _, j, i=i: (i, j), len(chosen))
    for j in columns:
        yield 1, (j,), by_weight[j]
        if b:
            yield 2, (j,), sum(balls(grad_y[:, j]), arb(0))


def layer_norm(draw: Draw, grad_y: Tensor, *primals: Tensor) -> Iterator[Proof]:
    return rms_norm(draw, grad_y, *primals, eps=1e-5, centred=True)


def swiglu(draw: Draw, grad_y: Tensor, x: Tensor, wg: Tensor, wu: Tensor, wd: Tensor) -> Iterator[Proof]:
    """A row of x, and a few hidden units: silu'(a) = s + a s (1 - s)."""

    def hidden(x: Tensor, g: Tensor, units: Any) -> tuple[arb_mat, arb_mat, arb_mat]:
        a, b, dh = mat(x) * mat(wg[:, units]), mat(x) * mat(wu[:, units]), mat(g) * mat(wd[units].T)
        s = each(sigmoid, a)
        da = each(lambda a, b, s, d: d * b * (s + a * slope(s)), a, b, s, dh)
        return da, times(dh, a, s), times(a, s, b)

    row = draw.some(x.shape[0], 1)
    da, db, _ = hidden(x[row], grad_y[row], slice(None))
    yield from draw.of(0, da * mat(wg.T) + db * mat(wu.T), lambda _, j: (row[0], j))
    units = draw.few(wg.shape[1])
    da, db, h = hidden(x, grad_y, units)
    yield from draw.of(1, mat(x.T) * da, lambda i, j: (i, units[j]))
    yield from draw.of(2, mat(x.T) * db, lambda i, j: (i, units[j]))
    yield from draw.of(3, h.transpose() * mat(grad_y), lambda i, j: (units[i], j))


def cross_entropy(draw: Draw, grad_y: Tensor, x: Tensor, target: Tensor) -> Iterator[Proof]:
    """A few rows: the softmax minus one-hot, over the number of rows; the target's element is always among them."""
    chosen = draw.few(x.shape[0])
    for i in chosen:
        weights, at = [v.exp() for v in balls(x[i])], int(target[i])
        total, factor = sum(weights, arb(0)), arb(float(grad_y)) / x.shape[0]
        made = arb_mat(1, len(weights), [factor * (w / total - (j == at)) for j, w in enumerate(weights)])
        yield 0, (i, at), made[0, at]
        yield from draw.of(0, made, lambda _, j, i=i: (i, j), len(chosen))


def conv(draw: Draw, grad_y: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Iterator[Proof]:
    """Elements one by one: y at (i, j) takes x at (i + p - 1, j + q - 1) times w at (p, q)."""
    size = x.shape[-1]
    grown, around = (torch.nn.functional.pad(t, (1, 1, 1, 1)) for t in (x, grad_y))
    for k in draw.some(x.numel(), draw.each):
        n, c, i, j = map(int, torch.unravel_index(torch.tensor(k), x.shape))
        yield 0, (n, c, i, j), dot(balls(around[n, :, i : i + 3, j : j + 3].flip(1, 2)), balls(w[:, c]))
    for k in draw.some(w.numel(), draw.each):
        o, c, p, q = map(int, torch.unravel_index(torch.tensor(k), w.shape))
        yield 1, (o, c, p, q), dot(balls(grown[:, c, p : p + size, q : q + size]), balls(grad_y[:, o]))
    for o in draw.some(len(b), draw.each):
        yield 2, (o,), sum(balls(grad_y[:, o]), arb(0))


def rotary(draw: Draw, grad_y: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> Iterator[Proof]:
    half = x.shape[-1] // 2
    for k in draw.some(x.numel(), draw.each):
        *head, t, j = map(int, torch.unravel_index(torch.tensor(k), x.shape))
        other = (j + half) % x.shape[-1]
        turned = arb(float(grad_y[*head, t, other])) * float(sin[t, other]) * (1 if j < half else -1)
        yield 0, (*head, t, j), arb(float(grad_y[*head, t, j])) * float(cos[t, j]) + turned


def lstm(draw: Draw, grad_y: Tensor, x: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Iterator[Proof]:
    """All steps, forward and back; of the weights' gradients a few columns."""
    steps, batch, n = x.shape[0], x.shape[1], wh.shape[0]
    zero, w_x, w_h = arb_mat(batch, n), mat(wx), mat(wh)
    bias = arb_mat(batch, 4 * n, balls(b) * batch)
    h, c, kept = zero, zero, []
    for t in range(steps):
        parts = [row[k * n : (k + 1) * n] for row in rows(mat(x[t]) * w_x + h * w_h + bias) for k in range(4)]
        i, f, o = (arb_mat(batch, n, [sigmoid(v) for row in parts[k::4] for v in row]) for k in range(3))
        u = arb_mat(batch, n, [v.tanh() for row in parts[3::4] for v in row])
        before, c = c, times(f, c) + times(i, u)
        kept.append((h, before, c, i, f, o, u))
        h = times(o, each(arb.tanh, c))
    dh, dc, dz = zero, zero, []
    for t in reversed(range(steps)):
        h, before, c, i, f, o, u = kept[t]
        dh, tanh = dh + mat(grad_y[t]), each(arb.tanh, c)
        dc = dc + each(lambda d, o, t: d * o * (1 - t * t), dh, o, tanh)
        through = (dc, u, i), (dc, before, f), (dh, tanh, o)
        gates = [each(lambda d, v, s: d * v * slope(s), *those) for those in through]
        parts = [list(rows(m)) for m in (*gates, each(lambda d, i, u: d * i * (1 - u * u), dc, i, u))]
        dz.insert(0, arb_mat(batch, 4 * n, [v for row in zip(*parts, strict=True) for part in row for v in part]))
        dc, dh = times(dc, f), dz[0] * w_h.transpose()
    for t in draw.few(steps):
        yield from draw.of(0, dz[t] * w_x.transpose(), lambda i, j, t=t: (t, i, j), 4)
    units = draw.few(4 * n)
    columns = [arb_mat(batch, len(units), [row[j] for row in rows(d) for j in units]) for d in dz]
    by_x = sum((mat(xt.T) * d for xt, d in zip(x, columns, strict=True)), arb_mat(n, len(units)))
    by_h = sum((k[0].transpose() * d for k, d in zip(kept, columns, strict=True)), arb_mat(n, len(units)))
    yield from draw.of(1, by_x, lambda i, j: (i, units[j]))
    yield from draw.of(2, by_h, lambda i, j: (i, units[j]))
    ones = arb_mat(1, batch, [1] * batch)
    yield from draw.of(3, sum((ones * d for d in dz), arb_mat(1, 4 * n)), lambda _, j: (j,))


def relu_net(draw: Draw, grad_y: Tensor, x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Iterator[Proof]:
    """A few rows of x, and a few hidden units."""

    def hidden(x: Tensor, g: Tensor, units: Any) -> tuple[arb_mat, arb_mat]:
        a = mat(x) * mat(w[:, units]) + arb_mat(len(x), len(b[units]), balls(b[units]) * len(x))
        return each(lambda d, a: d if a > 0 else arb(0), mat(g) * mat(v[units].T), a), each(lambda a: a.max(0), a)

    some = draw.few(len(x))
    da, _ = hidden(x[some], grad_y[some], slice(None))
    yield from draw.of(0, da * mat(w.T), lambda i, j: (some[i], j))
    units = draw.few(len(b))
    da, h = hidden(x, grad_y, units)
    yield from draw.of(1, mat(x.T) * da, lambda i, j: (i, units[j]))
    yield from draw.of(2, arb_mat(1, len(x), [1] * len(x)) * da, lambda _, j: (units[j],))
    yield from draw.of(3, h.transpose() * mat(grad_y), lambda i, j: (units[i], j))


def max_pool(draw: Draw, grad_y: Tensor, x: Tensor) -> Iterator[Proof]:
    """Elements one by one: the sum over the windows, 3 wide and 2 apart, whose first largest number it is."""
    size = x.shape[-1]
    for k in draw.some(x.numel(), draw.each):
        n, c, i, j = map(int, torch.unravel_index(torch.tensor(k), x.shape))
        total = arb(0)
        for p, q in ((p, q) for p in range(i // 2, (i + 1) // 2 + 1) for q in range(j // 2, (j + 1) // 2 + 1)):
            if p >= grad_y.shape[-2] or q >= grad_y.shape[-1]:
                continue
            window = [(a, e) for a in range(2 * p - 1, 2 * p + 2) for e in range(2 * q - 1, 2 * q + 2)]
            inside = [(a, e) for a, e in window if 0 <= a < size and 0 <= e < size]
            if max(inside, key=lambda at: float(x[n, c, *at])) == (i, j):  # the first of those that tie
                total += float(grad_y[n, c, p, q])
        yield 0, (n, c, i, j), total


def scan(draw: Draw, grad_y: Tensor, x: Tensor, gate: Tensor) -> Iterator[Proof]:
    """All steps of one lane."""
    lane = draw.some(x.shape[1], 1)[0], draw.some(x.shape[2], 1)[0]
    xs, gates, gs = (balls(t[:, lane[0], lane[1]]) for t in (x, gate, grad_y))
    a, h, before, dh = [sigmoid(v) for v in gates], arb(0), [], arb(0)
    for xt, at in zip(xs, a, strict=True):
        before.append(h)
        h = at * h + xt
    found = []
    for t in reversed(range(len(xs))):
        dh += gs[t]
        found.insert(0, (dh, dh * before[t] * slope(a[t])))
        dh *= a[t]
    for leaf in range(2):
        made = arb_mat(len(found), 1, [row[leaf] for row in found])
        yield from draw.of(leaf, made, lambda t, _: (t, *lane))


# By kernel: the gradients, and of how many primals there are some.
TEXTBOOK: dict[str, tuple[Callable[..., Iterator[Proof]], int]] = {
    "attention": (attention, 3), "causal attention": (causal, 3), "rms_norm": (rms_norm, 2),
    "layer_norm": (layer_norm, 3), "swiglu": (swiglu, 4), "cross_entropy": (cross_entropy, 1), "conv": (conv, 3),
    "rotary": (rotary, 1), "lstm": (lstm, 4), "relu_net": (relu_net, 4), "max_pool": (max_pool, 1), "scan": (scan, 2),
}  # fmt: skip


# ------------------------------------------------------------------ the truth, held to them
def proofs(kernel: Kernel, primals: Sequence[Tensor], grad_y: Tensor, elements: int) -> list[Proof]:
    """Return about so many elements of the gradients, each in a ball far smaller than an ulp of float64.

    Balls grow along a recurrence: with twice as many digits until they are small enough.
    """
    textbook, gradients = TEXTBOOK[kernel.name]
    kept, ctx.prec = ctx.prec, 128
    try:
        while True:
            found = list(textbook(Draw(elements, gradients), grad_y, *primals))
            if all(ball.rad() <= abs(ball.mid()) * 2.0**-60 for *_, ball in found):
                return found
            ctx.prec *= 2
    finally:
        ctx.prec = kept


def held(kernel: Kernel, large: bool, elements: int) -> tuple[list[Proof], float, Agreement]:
    """Hold the proved elements to the truth in float64, as if they were a gradient in float64.

    Returns the proofs, by how many ulps the truth misses them at most, and what comes of it.
    """
    primals = tuple(x.double() if x.is_floating_point() else x for x in kernel.primals(torch.float32, large))
    grad_y = kernel.cotangent(primals)
    found = proofs(kernel, primals, grad_y, elements)
    enclosed = enclose(kernel.forward, primals, grad_y=grad_y)
    got = [one.truth.clone() for one in enclosed]
    for leaf, at, ball in found:
        got[leaf][at] = float(ball.mid())
    apart = max(float(one.ulps(g).max()) for one, g in zip(enclosed, got, strict=True))
    return found, apart, enclosed.agreement([*got, *[None] * (len(primals) - len(got))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="these kernels")
    parser.add_argument("--elements", type=int, default=1000, help="how many of each kernel")
    asked, disagree = parser.parse_args(), 0
    for kernel in KERNELS:
        if not asked.only or kernel.name in asked.only:
            start = time.perf_counter()
            found, apart, agreement = held(kernel, True, asked.elements)
            print(f"{kernel.name}: {len(found)} proofs, the truth misses them by at most {apart:.3g} ulps "
                  f"({time.perf_counter() - start:.0f} s)\n{agreement}", flush=True)  # fmt: skip
            disagree += not agreement.right
    sys.exit(disagree > 0)


if __name__ == "__main__":
    main()
