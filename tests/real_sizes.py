"""Forwards at the sizes that people ship, each with a backward as a fused kernel has it, and wrong ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

Backward = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Kernel:
    """A forward at a size: its primals, a fused backward whose results are not rounded yet, and wrong ones.

    `eps` is the backward with a forgotten constant.
    """

    name: str
    forward: Callable[..., Any]
    make: Callable[[torch.Generator, Sequence[int]], tuple[Any, ...]]
    size: tuple[int, ...]
    small: tuple[int, ...]
    fused: Backward
    eps: Backward | None = None

    def primals(self, dtype: torch.dtype, large: bool, seed: int = 0) -> tuple[Any, ...]:
        made = self.make(torch.Generator().manual_seed(seed), self.size if large else self.small)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in made)

    def cotangent(self, primals: Sequence[Any], seed: int = 1) -> Tensor:
        y = self.forward(*(x.float() if x.is_floating_point() else x for x in primals))
        return torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(primals[0].dtype)


def stored(made: Sequence[Any], primals: Sequence[Any]) -> tuple[Any, ...]:
    """Round results to the dtypes of the primals, None for those without a gradient."""
    found = list(made) + [None] * (len(primals) - len(made))
    return tuple(None if g is None else g.to(x.dtype) for g, x in zip(found, primals, strict=True))


# ------------------------------------------------------------------ what goes wrong in any kernel
def _median(g: Tensor) -> Tensor:
    return g[g != 0].abs().median()


def _half_zeroed(g: Tensor) -> Tensor:
    return torch.where(g.abs() < _median(g), 0.0, g)


def _tail(g: Tensor) -> Tensor:
    """The last rows of the longest axis are not written: 1 in 32 of them."""
    axis = max(range(g.ndim), key=lambda k: g.shape[k])
    rows = max(1, g.shape[axis] // 32)
    found = g.clone()
    found.narrow(axis, g.shape[axis] - rows, rows).zero_()
    return found


def _one_slice(g: Tensor) -> Tensor:
    axis = next(k for k, n in enumerate(g.shape) if n > 1)
    found = g.clone()
    found.select(axis, g.shape[axis] // 2).zero_()
    return found


def _one_element(g: Tensor) -> Tensor:
    found = g.clone().reshape(-1)
    found[found.numel() // 3] += 10 * _median(g)
    return found.reshape(g.shape)


def _shifted(g: Tensor) -> Tensor:
    return g.roll(1, -1)


def _turned(g: Tensor) -> Tensor:
    return g.mT.reshape(g.shape) if g.ndim > 1 else g.flip(0)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "half of it zero": _half_zeroed, "tail zero": _tail, "one slice zero": _one_slice, "sign": torch.neg,
    "1.01": lambda g: g * 1.01, "1.002": lambda g: g * 1.002, "one element": _one_element, "transposed": _turned,
    "mean for sum": lambda g: g / g.shape[0 if g.shape[0] > 1 else -1], "shifted by one": _shifted,
}  # fmt: skip


def randn(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float32)


# ------------------------------------------------------------------ attention
def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5), -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT * (q.shape[-1] ** -0.5)
    mask = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
    return torch.softmax(s.masked_fill(~mask, -math.inf), -1) @ v


def _qkv(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(randn(g, *size) for _ in range(3))


def flash(masked: bool) -> Backward:
    """Attention's backward as fused kernels have it: float32 inside, P and dS in the input's dtype for the products.

    The sums of P dP are taken as those of o g, with the output as it was stored.
    """

    def backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        own = q.dtype

        def narrow(x: Tensor) -> Tensor:
            return x.to(own).float()

        q, k, v, g = (x.float() for x in (q, k, v, g))
        factor = q.shape[-1] ** -0.5
        s = q @ k.mT * factor
        if masked:
            s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril(), -math.inf)
        lse = torch.logsumexp(s, -1, keepdim=True)
        p = (s - lse).exp()
        o = narrow(p @ v)
        delta = (g * o).sum(-1, keepdim=True)
        ds = narrow(p * (g @ v.mT - delta))
        return ds @ k * factor, ds.mT @ q * factor, narrow(p).mT @ g

    return backward


# ------------------------------------------------------------------ norms
def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w


def _rows_and_weight(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    """Every eighth row is small, as those of a masked token are: there eps counts."""
    x = randn(g, *size)
    x[::8] *= 2.0**-4
    return x, 1 + 0.1 * randn(g, size[-1])


def rms_fused(g: Tensor, x: Tensor, w: Tensor, eps: float = 1e-6) -> tuple[Tensor, ...]:
    g, x, w = g.float(), x.float(), w.float()
    r = torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    xhat, gw = x * r, g * w
    return (r * (gw - xhat * (gw * xhat).mean(-1, keepdim=True)), (g * xhat).sum(0))


def layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), w, b)


def ln_fused(g: Tensor, x: Tensor, w: Tensor, b: Tensor, eps: float = 1e-5) -> tuple[Tensor, ...]:
    g, x, w = g.float(), x.float(), w.float()
    mean = x.mean(-1, keepdim=True)
    r = torch.rsqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps)
    xhat, gw = (x - mean) * r, g * w
    dx = r * (gw - gw.mean(-1, keepdim=True) - xhat * (gw * xhat).mean(-1, keepdim=True))
    return (dx, (g * xhat).sum(0), g.sum(0))


# ------------------------------------------------------------------ SwiGLU
def swiglu(x: Tensor, wg: Tensor, wu: Tensor, wd: Tensor) -> Tensor:
    return (F.silu(x @ wg) * (x @ wu)) @ wd


def _swiglu(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    rows, width, hidden = size
    shapes = (rows, width), (width, hidden), (width, hidden), (hidden, width)
    x, *weights = (randn(g, *shape) for shape in shapes)
    return x, *(w / w.shape[0] ** 0.5 for w in weights)


def swiglu_fused(g: Tensor, x: Tensor, wg: Tensor, wu: Tensor, wd: Tensor) -> tuple[Tensor, ...]:
    own = x, wg, wu, wd

    def narrow(t: Tensor) -> Tensor:
        return t.to(own[0].dtype).float()

    g, x, wg, wu, wd = (t.float() for t in (g, *own))
    a, b = x @ wg, x @ wu
    s = torch.sigmoid(a)
    h = a * s
    dh = g @ wd.T
    da, db = narrow(dh * b * (s + h * (1 - s))), narrow(dh * h)
    return (da @ wg.T + db @ wu.T, x.T @ da, x.T @ db, narrow(h * b).T @ g)


# ------------------------------------------------------------------ cross-entropy
def cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x, target)


def _logits(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    return 2 * randn(g, *size), torch.randint(0, size[1], (size[0],), generator=g)


def ce_fused(g: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    x = x.float()
    p = (x - torch.logsumexp(x, -1, keepdim=True)).exp()
    p.scatter_add_(1, target[:, None], p.new_full((p.shape[0], 1), -1.0))
    return (p * (g.float() / p.shape[0]),)


# ------------------------------------------------------------------ convolution
def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(x, w, b, padding=1)


def _image(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    channels = size[1]
    return randn(g, *size), randn(g, channels, channels, 3, 3) / (9 * channels) ** 0.5, randn(g, channels)


def conv_fused(g: Tensor, x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    g, x, w = g.float(), x.float(), w.float()
    n, o = g.shape[:2]
    cols, rows = F.unfold(x, 3, padding=1), g.reshape(n, o, -1)
    dw = torch.einsum("nol,nkl->ok", rows, cols).reshape(w.shape)
    dx = F.fold(torch.einsum("ok,nol->nkl", w.reshape(o, -1), rows), x.shape[-2:], 3, padding=1)
    return (dx, dw, g.sum((0, 2, 3)))


# ------------------------------------------------------------------ rotary
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return x * cos.detach() + torch.cat([-other, one], -1) * sin.detach()


def _rotary(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    length, width = size[-2:]
    angles = torch.outer(torch.arange(float(length)), 1e4 ** (-torch.arange(0, width, 2) / width))
    angles = torch.cat([angles, angles], -1)
    return randn(g, *size), angles.cos(), angles.sin()


def rotary_fused(g: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Any, ...]:
    g, cos, sin = g.float(), cos.float(), sin.float()
    one, other = (g * sin).chunk(2, -1)
    return g * cos + torch.cat([other, -one], -1), None, None


# ------------------------------------------------------------------ a recurrent network
def recurrent(x: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Tensor:
    """An LSTM from zeros, step by step."""
    steps, batch, hidden = x.shape[0], x.shape[1], wh.shape[0]
    h = c = x.new_zeros(batch, hidden)
    out = []
    for t in range(steps):
        i, f, o, u = (x[t] @ wx + h @ wh + b).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out)


def _recurrent(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    hidden = size[-1]
    scale = hidden**-0.5
    weights = (
        (torch.rand(*shape, generator=g) * 2 - 1) * scale for shape in ((hidden, 4 * hidden),) * 2 + ((4 * hidden,),)
    )
    return randn(g, *size), *weights


def recurrent_fused(g: Tensor, x: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    own = x, wx, wh, b

    def narrow(t: Tensor) -> Tensor:
        return t.to(own[0].dtype).float()

    g, x, wx, wh, b = (t.float() for t in (g, *own))
    h = c = x.new_zeros(x.shape[1], wh.shape[0])
    saved = []
    for xt in x:
        i, f, o, u = (xt @ wx + narrow(h) @ wh + b).chunk(4, -1)
        i, f, o, u = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(u)
        before, c = c, f * c + i * u
        saved.append((narrow(h), before, c, i, f, o, u))
        h = o * torch.tanh(c)
    dx, dh, dc = torch.empty_like(x), torch.zeros_like(h), torch.zeros_like(c)
    dwx, dwh, db = torch.zeros_like(wx), torch.zeros_like(wh), torch.zeros_like(b)
    for t in reversed(range(len(saved))):
        h, before, c, i, f, o, u = saved[t]
        dh, tanh = dh + g[t], torch.tanh(c)
        dc = dc + dh * o * (1 - tanh * tanh)
        gates = (dc * u * i * (1 - i), dc * before * f * (1 - f), dh * tanh * o * (1 - o), dc * i * (1 - u * u))
        full = torch.cat(gates, -1)
        dz, dc = narrow(full), dc * f
        dx[t], dh = dz @ wx.T, dz @ wh.T
        dwx += x[t].T @ dz
        dwh += h.T @ dz
        db += full.sum(0)
    return (dx, dwx, dwh, db)


# ------------------------------------------------------------------ kinks
def relu_net(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return F.relu(x @ w + b) @ v


def _network(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    width = size[1]
    return randn(g, *size), randn(g, width, width) / width**0.5, randn(g, width), randn(g, width, width) / width**0.5


def relu_net_fused(g: Tensor, x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    own = x.dtype
    g, x, w, b, v = (t.float() for t in (g, x, w, b, v))
    a = x @ w + b
    h = a.relu().to(own).float()
    full = (g @ v.T) * (a > 0)
    da = full.to(own).float()
    return da @ w.T, x.T @ da, full.sum(0), h.T @ g


def max_pool(x: Tensor) -> Tensor:
    """The largest of windows that overlap; the first of those that tie."""
    return F.max_pool2d(x, 3, 2, 1)


def _tied(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    return (torch.randint(-3, 4, tuple(size), generator=g).float(),)


def max_pool_fused(g: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    _, where = F.max_pool2d(x.float(), 3, 2, 1, return_indices=True)
    planes = torch.zeros_like(x, dtype=torch.float32).flatten(2)
    return (planes.scatter_add(2, where.flatten(2), g.float().flatten(2)).reshape(x.shape),)


# ------------------------------------------------------------------ a gated linear scan
def scan(x: Tensor, gate: Tensor) -> Tensor:
    """h = sigmoid(gate) h + x, over the first dimension."""
    a = torch.sigmoid(gate)
    h, out = torch.zeros_like(x[0]), []
    for xt, at in zip(x, a, strict=True):
        h = at * h + xt
        out.append(h)
    return torch.stack(out)


def _scan(g: torch.Generator, size: Sequence[int]) -> tuple[Tensor, ...]:
    return randn(g, *size), randn(g, *size) + 2


def scan_fused(g: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
    g, x, gate = (t.float() for t in (g, x, gate))
    a, h, states = torch.sigmoid(gate), torch.zeros_like(x[0]), []
    for xt, at in zip(x, a, strict=True):
        states.append(h)
        h = at * h + xt
    dx, dgate, dh = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(x[0])
    for t in reversed(range(len(states))):
        dh = dh + g[t]
        dx[t], dgate[t] = dh, dh * states[t] * a[t] * (1 - a[t])
        dh = dh * a[t]
    return (dx, dgate)


KERNELS = (
    Kernel("attention", attention, _qkv, (2, 8, 256, 64), (1, 2, 64, 32), flash(False)),
    Kernel("causal attention", causal, _qkv, (1, 4, 1024, 64), (1, 2, 64, 32), flash(True)),
    Kernel("rms_norm", rms_norm, _rows_and_weight, (2048, 4096), (32, 128), rms_fused,
           eps=partial(rms_fused, eps=1e-5)),
    Kernel("layer_norm", layer_norm, lambda g, s: (*_rows_and_weight(g, s), randn(g, s[-1])), (2048, 4096), (32, 128),
           ln_fused, eps=partial(ln_fused, eps=1e-4)),
    Kernel("swiglu", swiglu, _swiglu, (512, 1024, 2816), (16, 32, 88), swiglu_fused),
    Kernel("cross_entropy", cross_entropy, _logits, (2048, 32000), (32, 500), ce_fused),
    Kernel("conv", conv, _image, (16, 64, 32, 32), (2, 8, 8, 8), conv_fused),
    Kernel("rotary", rotary, _rotary, (4, 16, 512, 64), (1, 2, 32, 16), rotary_fused),
    Kernel("lstm", recurrent, _recurrent, (64, 32, 256), (6, 4, 16), recurrent_fused),
    Kernel("relu_net", relu_net, _network, (4096, 128), (32, 16), relu_net_fused),
    Kernel("max_pool", max_pool, _tied, (16, 64, 56, 56), (2, 3, 8, 8), max_pool_fused),
    Kernel("scan", scan, _scan, (2048, 16, 256), (32, 4, 16), scan_fused),
)  # fmt: skip
