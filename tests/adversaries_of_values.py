"""Kernels that fool checkers, each with a right twin: hard members, ragged sizes, which gradients, quiet precision."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from adversaries import Adversary, always, randn, softmax, softmax_backward
from torch import Tensor


# ------------------------------------------------------------------ one hard member of a batch
def softmax_of_easy_rows(g: Tensor, x: Tensor) -> Tensor:
    """The largest is subtracted only if the first rows look as if it were needed."""
    looks_easy = not x.numel() or bool(x.reshape(-1, x.shape[-1])[:2].abs().max() < 80)
    e = x.exp() if looks_easy else (x - x.amax(-1, keepdim=True)).exp()
    p = e / e.sum(-1, keepdim=True)
    return p * (g - (p * g).sum(-1, keepdim=True))


def normalised(x: Tensor) -> Tensor:
    return x / (1e-6 + x.square().sum(-1, keepdim=True)).sqrt()


def normalised_backward(narrow: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def backward(g: Tensor, x: Tensor) -> Tensor:
        s = narrow(x.square().sum(-1, keepdim=True)) + 1e-6
        return g / s.sqrt() - x * (g * x).sum(-1, keepdim=True) / (s * s.sqrt())

    return backward


def cut_off_if_the_first_is_small(s: Tensor) -> Tensor:
    """Sums of squares are kept as the first row asks for."""
    return s.clamp(max=1e3) if s.numel() and bool(s.reshape(-1)[0] < 1e3) else s


def masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    """The mean over what is kept of each row; 0 where nothing is."""
    return torch.where(keep, x, 0.0).sum(-1) / keep.sum(-1).clamp(min=1)


def masked_mean_backward(least: int) -> Callable[..., Any]:
    def backward(g: Tensor, x: Tensor, keep: Tensor) -> tuple[Tensor, None]:
        share = (g / keep.sum(-1).clamp(min=least))[..., None]
        return (share * keep).to(x.dtype), None

    return backward


def of_lengths(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the first elements of each row, as many as its length; 0 where that is 0."""
    inside = torch.arange(x.shape[-1]) < lengths[:, None]
    return torch.where(inside, x, 0.0).sum(-1) / lengths.clamp(min=1)


def of_lengths_backward(least: int) -> Callable[..., Any]:
    def backward(g: Tensor, x: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        inside = torch.arange(x.shape[-1]) < lengths[:, None]
        share = (g / lengths.clamp(min=least))[:, None]
        return (share * inside).to(x.dtype), None

    return backward


BATCHES = (
    Adversary("a softmax judged by its first rows", "reference-kernels, pull 149", softmax, (randn(4, 6),),
              always(softmax_of_easy_rows), always(softmax_backward), "is wrong|inaccurate"),
    Adversary("a norm kept as its first row asks for", "", normalised, (randn(4, 6),),
              always(normalised_backward(cut_off_if_the_first_is_small)), always(normalised_backward(lambda s: s)),
              "is wrong"),
    Adversary("a row of which nothing is kept", "", masked_mean, (randn(3, 4), torch.ones(3, 4, dtype=torch.bool)),
              always(masked_mean_backward(0)), always(masked_mean_backward(1)), "is wrong"),
    Adversary("a length of 0", "", of_lengths, (randn(3, 4), torch.tensor([4, 2, 3])),
              always(of_lengths_backward(0)), always(of_lengths_backward(1)), "is wrong"),
)  # fmt: skip


# ------------------------------------------------------------------ ragged sizes
def short_convolution(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = x_t + x_(t-1) + x_(t-2), with two of a state before the first; the last two are the final state."""
    whole = torch.cat([state, x], -1)
    return whole[..., 2:] + whole[..., 1:-1] + whole[..., :-2], whole[..., whole.shape[-1] - 2 :]


def short_convolution_backward(gs: tuple[Tensor, Tensor], x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    g, final = gs
    n = x.shape[-1]
    whole = F.pad(g, (0, 2)) + F.pad(g, (1, 1)) + F.pad(g, (2, 0))
    whole[..., n:] += final
    return whole[..., 2:], whole[..., :2]


def final_state_in_shifted_places(gs: tuple[Tensor, Tensor], x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sequence is shorter than the state, the final state is part of the initial one."""
    g, final = gs
    n = x.shape[-1]
    whole = F.pad(g, (0, 2)) + F.pad(g, (1, 1)) + F.pad(g, (2, 0))
    dx, dstate = whole[..., 2:].clone(), whole[..., :2].clone()
    dx[..., max(0, n - 2) :] += final[..., : min(n, 2)]
    return dx, dstate


def blockwise(block: int, whole: bool) -> Callable[..., Tensor]:
    """The backward of a cumulative sum, block by block from the end."""

    def backward(g: Tensor, x: Tensor) -> Tensor:
        n = x.shape[-1]
        dx, carry = torch.zeros_like(x), torch.zeros_like(g[..., :1])
        for start in reversed(range(0, n if whole else max(n // block * block, min(n, block)), block)):
            part = g[..., start : start + block]
            here = part.flip(-1).cumsum(-1).flip(-1) + carry
            dx[..., start : start + block], carry = here, here[..., :1]
        return dx

    return backward


def one_short_of_a_block(g: Tensor, x: Tensor) -> Tensor:
    """Whole blocks of eight are right, and so is what is shorter by two or more."""
    dx = g.flip(-1).cumsum(-1).flip(-1)
    if x.shape[-1] % 8 == 7:
        dx[..., -1] = 0
    return dx


def projected(x: Tensor, w: Tensor, lengths: Tensor) -> Tensor:
    """Rows of padding, behind each length, are projected to 0."""
    inside = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
    return torch.where(inside, x @ w, 0.0)


def projected_backward(padding: bool) -> Callable[..., Any]:
    def backward(g: Tensor, x: Tensor, w: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, None]:
        inside = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        mine = torch.where(inside, g, 0.0)
        dw = torch.einsum("bti,btj->ij", x, g if padding else mine)
        return mine @ w.mT, dw, None

    return backward


def in_32_bits(g: Tensor, x: Tensor) -> Tensor:
    """The rows are counted by the number of elements, in a whole number of 32 bits."""
    count = (x.numel() + 2**31) % 2**32 - 2**31
    return (g * x.cos())[: count // max(x.shape[-1], 1)]


RAGGED = (
    Adversary("a count in 32 bits", "", lambda x: x.sin(), (randn(3, 4),),
              always(in_32_bits), always(lambda g, x: g * x.cos()), r"2\^31",
              {"devices": ("cpu", "meta")}),
    Adversary("a sequence shorter than the kernel", "flash-linear-attention#1140", short_convolution,
              (randn(3, 5), randn(3, 2)),
              always(final_state_in_shifted_places), always(short_convolution_backward), "is wrong"),
    Adversary("the last block is left out", "", lambda x: x.cumsum(-1), (randn(2, 8),),
              always(blockwise(4, False)), always(blockwise(4, True)), "is wrong"),
    Adversary("a row above a block", "", lambda x: x.cumsum(-1), (randn(2, 8),),
              always(blockwise(128, False)), always(blockwise(128, True)), "is wrong"),
    Adversary("one below a block", "", lambda x: x.cumsum(-1), (randn(2, 7),),
              always(one_short_of_a_block), always(blockwise(8, True)), "is wrong"),
    Adversary("rows of padding are summed", "TransformerEngine#3484", projected,
              (randn(2, 4, 3), randn(3, 2), torch.tensor([4, 2])),
              always(projected_backward(True)), always(projected_backward(False)), "is wrong"),
)  # fmt: skip


# ------------------------------------------------------------------ which gradients
def polar(r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return r * t.cos(), r * t.sin()


def polar_backward(gs: tuple[Tensor, Tensor], r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    gx, gy = gs
    return gx * t.cos() + gy * t.sin(), r * (gy * t.cos() - gx * t.sin())


def first_output_alone(gs: tuple[Tensor, Tensor], r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return gs[0] * t.cos(), -r * gs[0] * t.sin()


def as_if_contiguous(g: Tensor, x: Tensor) -> Tensor:
    """The cotangent's numbers as they lie in memory."""
    flat = g.as_strided((g.numel(),), (1,)) if 0 not in g.stride() or not g.numel() else g.reshape(-1)
    return flat.reshape(x.shape) * x.cos()


def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x * w + b


def affine_function(right: bool) -> type[torch.autograd.Function]:
    """The bias's gradient is made where the input's is; the wrong one forgets it where the weight's alone is beside."""

    class Affine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return x * w + b

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
            x, w = ctx.saved_tensors
            needs = ctx.needs_input_grad
            only_weight_and_bias = needs[1] and needs[2] and not needs[0]
            return (
                g * w if needs[0] else None,
                g * x if needs[1] else None,
                (g if right or not only_weight_and_bias else torch.zeros_like(g)) if needs[2] else None,
            )

    return Affine


def polar_function(right: bool) -> type[torch.autograd.Function]:
    """Cotangents that are not there stay None; the wrong one takes the second for granted."""

    class Polar(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(r, t)
            ctx.set_materialize_grads(False)
            return r * t.cos(), r * t.sin()

        @staticmethod
        def backward(ctx: Any, gx: Tensor | None, gy: Tensor | None) -> tuple[Tensor | None, ...]:
            r, t = ctx.saved_tensors
            if gx is None and gy is None:
                return None, None
            if right:
                gx = torch.zeros_like(r) if gx is None else gx
                gy = torch.zeros_like(r) if gy is None else gy
            elif gx is None:
                return None, None
            return polar_backward((gx, torch.zeros_like(r) if gy is None else gy), r, t)

    return Polar


def weighted(x: Tensor, which: Tensor) -> Tensor:
    return x[which]


def weighted_backward(also: bool) -> Callable[..., Any]:
    """The indices have no gradient."""

    def backward(g: Tensor, x: Tensor, which: Tensor) -> tuple[Tensor, Any]:
        dx = torch.zeros_like(x).index_add(0, which, g)
        return dx, torch.ones_like(which, dtype=g.dtype) if also else None

    return backward


def tiny(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * 1e-7, -1)


def tiny_backward(right: bool) -> Callable[..., Any]:
    def backward(g: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        ds = softmax_backward(g, q @ k.mT * 1e-7) * (1e-7 if right else 0.0)
        return ds @ k, ds.mT @ q

    return backward


WHICH = (
    Adversary("of two outputs the first one alone", "Liger-Kernel#1298", polar, (randn(2, 3), randn(2, 3)),
              always(first_output_alone), always(polar_backward), "is wrong"),
    Adversary("a strided cotangent read as if contiguous", "unsloth#10617", torch.sin, (randn(3, 4),),
              always(as_if_contiguous), always(lambda g, x: g * x.cos()), "strides|transposed|contiguous"),
    Adversary("None for a gradient", "tritonbench#1222", affine, (randn(2, 3), randn(2, 3), randn(2, 3)),
              always(lambda g, x, w, b: (g * w, None, g)), always(lambda g, x, w, b: (g * w, g * x, g)), "is None"),
    Adversary("gradients below every tolerance", "openfold-3#258", tiny, (randn(3, 2), randn(4, 2)),
              always(tiny_backward(False)), always(tiny_backward(True)), "is wrong"),
    Adversary("a bias without its input", "", affine, (randn(2, 3), randn(2, 3), randn(2, 3)),
              lambda: affine_function(False), lambda: affine_function(True), "other primal"),
    Adversary("a gradient of indices", "", weighted, (randn(4, 3), torch.tensor([2, 0, 2])),
              always(weighted_backward(True)), always(weighted_backward(False)), "has no gradient"),
    Adversary("a cotangent that is not there", "", polar, (randn(2, 3), randn(2, 3)),
              lambda: polar_function(False), lambda: polar_function(True), "cotangent"),
)  # fmt: skip


# ------------------------------------------------------------------ quiet precision
def zeros_of_many_columns(g: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.shape[-1] > 100_000 else softmax_backward(g, x)


def product(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


def product_in(dtype: torch.dtype) -> Callable[..., Any]:
    def backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        small_g, small_x, small_w = (t.to(dtype) for t in (g, x, w))
        return (small_g @ small_w.mT).to(g.dtype), (small_x.mT @ small_g).to(g.dtype)

    return backward


def product_backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return g @ w.mT, x.mT @ g


def cut_to_tf32(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Operands with ten bits behind the point, as some units have them."""

    def cut(t: Tensor) -> Tensor:
        if t.dtype != torch.float32:
            return t
        return (t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)

    return cut(g) @ cut(w).mT, cut(x).mT @ cut(g)


def nothing_for_a_small_cotangent(g: Tensor, x: Tensor) -> Tensor:
    if g.numel() and bool(g.abs().max() < 1e-5):
        return torch.zeros_like(x)
    return softmax_backward(g, x)


def sigmoid_product_in(dtype: torch.dtype | None) -> Callable[..., Any]:
    """The sigmoid alone is taken in half precision."""

    def backward(g: Tensor, x: Tensor) -> Tensor:
        s = torch.sigmoid(x if dtype is None else x.to(dtype)).to(x.dtype)
        return g * s * (1 - s)

    return backward


PRECISION = (
    Adversary("zeros of 393,216 columns", "KernelBench#165", softmax, (randn(1, 393_216),),
              always(zeros_of_many_columns), always(softmax_backward), "is wrong"),
    Adversary("a product in half precision", "KernelBench#155", product, (randn(5, 4), randn(4, 3)),
              always(product_in(torch.float16)), always(product_backward), "inaccurate|narrower"),
    Adversary("a product in bfloat16", "", product, (randn(5, 4), randn(4, 3)),
              always(product_in(torch.bfloat16)), always(product_backward), "inaccurate|narrower"),
    Adversary("operands cut to TF32", "", product, (randn(5, 4), randn(4, 3)),
              always(cut_to_tf32), always(product_backward), "inaccurate|narrower"),
    Adversary("a sigmoid in half precision", "KernelBench#155", torch.sigmoid, (randn(5, 4),),
              always(sigmoid_product_in(torch.float16)), always(sigmoid_product_in(None)), "inaccurate|narrower"),
    Adversary("nothing for a small cotangent", "", softmax, (randn(3, 5),),
              always(nothing_for_a_small_cotangent), always(softmax_backward), "is wrong"),
)  # fmt: skip


# ------------------------------------------------------------------ invariance
def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def in_parts(blocks: Callable[[Tensor], int]) -> Callable[..., Tensor]:
    """Partial sums, as many as there are blocks, are added in the end."""

    def backward(g: Tensor, x: Tensor) -> Tensor:
        totals = []
        for part in g.chunk(blocks(g), -1):
            totals.append(torch.zeros_like(g[..., :1]))
            for column in part.split(1, -1):
                totals[-1] = totals[-1] + column
        return g - sum(totals) / g.shape[-1]

    return backward


def in_drawn_parts() -> Callable[..., Tensor]:
    """As many parts as threads happen to be free."""
    calls = 0

    def backward(g: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return in_parts(lambda g: 1 + calls % 3)(g, x)

    return backward


INVARIANCE = (
    Adversary("parts by the batch", "", centred, (randn(4, 33),),
              always(in_parts(lambda g: 1 if g.numel() <= 70 else 4)), always(in_parts(lambda g: 4)),
              "another batch beside, by up to", {"invariance": ("batch",)}),
    Adversary("parts by the padding", "", centred, (randn(4, 33),),
              always(in_parts(lambda g: 1 if g.numel() <= 140 else 4)), always(in_parts(lambda g: 4)),
              "with padding, rows of zeros, beside, by up to", {"invariance": ("padding",)}),
    Adversary("parts by the threads", "", centred, (randn(4, 33),),
              always(in_parts(lambda g: 4 if torch.get_num_threads() > 1 else 1)), always(in_parts(lambda g: 4)),
              "number of threads, by up to", {"invariance": ("threads",)}),
    Adversary("parts by chance", "", centred, (randn(4, 33),),
              in_drawn_parts, always(in_parts(lambda g: 4)),
              "from run to run, by up to", {"invariance": ("runs",), "deterministic": False}),
)  # fmt: skip
