"""Kernels that fool checkers, each with a right twin: memory, and what depends on the call and not on its arguments.

The public ones are restated from their records; the others are of the same kind.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Adversary:
    """A wrong backward and its right twin, both made anew for each test, and the words that tell the kind.

    Each is a backward for `check`, or an autograd.Function for `check_function`.
    """

    name: str
    source: str
    forward: Callable[..., Any]
    example: tuple[Any, ...]
    wrong: Callable[[], Any]
    right: Callable[[], Any]
    says: str
    options: Mapping[str, Any] = field(default_factory=dict)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def always(backward: Callable[..., Any]) -> Callable[[], Any]:
    """A backward that keeps nothing: made anew it is the same."""
    return lambda: backward


# ------------------------------------------------------------------ memory
def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def softmax_backward(g: Tensor, x: Tensor) -> Tensor:
    p = softmax(x)
    return p * (g - (p * g).sum(-1, keepdim=True))


def experts(x: Tensor, w: Tensor, which: Tensor) -> Tensor:
    """Each row is multiplied by the matrix of its expert."""
    return torch.stack([row @ w[k] for row, k in zip(x, which.tolist(), strict=True)])


def experts_backward(memory: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def backward(g: Tensor, x: Tensor, w: Tensor, which: Tensor) -> tuple[Tensor, Tensor, None]:
        dx = torch.stack([row @ w[k].mT for row, k in zip(g, which.tolist(), strict=True)])
        dw = memory(w)
        for k in which.unique().tolist():
            mine = which == k
            dw[k] = x[mine].mT @ g[mine]
        return dx, dw, None

    return backward


def tail_left_out(g: Tensor, x: Tensor) -> Tensor:
    """Four columns at a time; the last ones are of nobody."""
    dx = torch.empty_like(x)
    n = x.shape[-1] // 4 * 4
    dx[..., :n] = g[..., :n] * x[..., :n].cos()
    return dx


def only_where_it_is_not_zero(g: Tensor, x: Tensor) -> Tensor:
    dx = torch.empty_like(x)
    dx[x > 0] = g[x > 0]
    return dx


def taken_by_zero(g: Tensor, x: Tensor) -> Tensor:
    """Zeros, made of memory that was never written: 0 x NaN is NaN."""
    return torch.empty_like(x) * 0 + g * x.cos()


def beyond(t: Tensor) -> Tensor | None:
    """What lies just behind a tensor in the same memory."""
    end = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1
    inside = t.numel() and end < t.untyped_storage().nbytes() // t.element_size()
    return t.as_strided((1,), (1,), end) if inside else None


def writes_behind(g: Tensor, x: Tensor) -> Tensor:
    """A block too long: it clears what lies behind its argument."""
    behind = beyond(x)
    if behind is not None:
        behind.zero_()
    return g * x.cos()


def reads_behind(g: Tensor, x: Tensor) -> Tensor:
    """A sum whose last block is not masked."""
    behind = beyond(x)
    dx = g * x.cos()
    return dx if behind is None else dx + 0 * behind


def clears_behind_its_rows(g: Tensor, x: Tensor, rows: Tensor) -> tuple[Tensor, None]:
    """Whole numbers that are used as scratch, one too many."""
    behind = beyond(rows)
    if behind is not None:
        behind.fill_(-1)
    return torch.zeros_like(x).index_add(0, rows, g), None


def clears_behind_y(g: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """What it saved is used as scratch, one number too many."""
    behind = beyond(y)
    if behind is not None:
        behind.zero_()
    return g * y


MEMORY = (
    Adversary("an empty that is never written", "KernelBench, pull 82", softmax, (randn(3, 5),),
              always(lambda g, x: torch.empty_like(x)), always(softmax_backward), "never written"),
    Adversary("the inputs set to zero", "KernelBench, pull 82", softmax, (randn(3, 5),),
              always(lambda g, x: x.zero_()), always(softmax_backward), "writes to its argument"),
    Adversary("experts without tokens", "MSLK, pull 158", experts,
              (randn(5, 3), randn(4, 3, 2), torch.tensor([0, 2, 2, 0, 3])),
              always(experts_backward(torch.empty_like)), always(experts_backward(torch.zeros_like)), "never written"),
    Adversary("the tail of a row", "", torch.sin, (randn(3, 6),),
              always(tail_left_out), always(lambda g, x: g * x.cos()), "never written"),
    Adversary("where nothing flows", "", torch.relu, (randn(4, 5),),
              always(only_where_it_is_not_zero), always(lambda g, x: torch.where(x > 0, g, 0.0)), "never written"),
    Adversary("memory times zero", "", torch.sin, (randn(3, 6),),
              always(taken_by_zero), always(lambda g, x: g * x.cos()), "never written"),
    Adversary("writes behind its argument", "", torch.sin, (randn(3, 6),),
              always(writes_behind), always(lambda g, x: g * x.cos()), "outside"),
    Adversary("reads behind its argument", "", torch.sin, (randn(3, 6),),
              always(reads_behind), always(lambda g, x: g * x.cos()), "outside"),
    Adversary("writes behind its indices", "", lambda x, rows: x[rows], (randn(4, 3), torch.tensor([2, 0, 2])),
              always(clears_behind_its_rows),
              always(lambda g, x, rows: (torch.zeros_like(x).index_add(0, rows, g), None)), "outside"),
    Adversary("writes behind what it saved", "", torch.exp, (randn(3, 6),),
              always(clears_behind_y), always(lambda g, y, x: g * y), "outside"),
    Adversary("two gradients in one memory", "", torch.add, (randn(3, 4), randn(3, 4)),
              always(lambda g, a, b: (g, g)), always(lambda g, a, b: (g.clone(), g.clone())), "shares memory",
              {"strict_memory": True}),
)  # fmt: skip


# ------------------------------------------------------------------ replay
def square(x: Tensor) -> Tensor:
    return x * x


def squared(g: Tensor, x: Tensor) -> Tensor:
    return 2 * g * x


def remembering(key: Callable[[Tensor, Tensor], Any]) -> Callable[[], Callable[..., Tensor]]:
    """Answer what was answered before, where the key is the same."""

    def made() -> Callable[..., Tensor]:
        kept: dict[Any, Tensor] = {}

        def backward(g: Tensor, x: Tensor) -> Tensor:
            k = key(g, x)
            if k not in kept:
                kept[k] = squared(g, x)
            return kept[k].clone()

        return backward

    return made


def by_contents(g: Tensor, x: Tensor) -> Any:
    return tuple(g.reshape(-1).tolist()), tuple(x.reshape(-1).tolist()), x.shape, x.dtype


def by_pointer(g: Tensor, x: Tensor) -> Any:
    return g.data_ptr(), x.data_ptr(), x.shape, x.dtype


def by_fingerprint(g: Tensor, x: Tensor) -> Any:
    return tuple(g.reshape(-1)[:2].tolist()), tuple(x.reshape(-1)[:2].tolist()), x.shape, x.dtype


def by_sums(g: Tensor, x: Tensor) -> Any:
    return float(g.sum()), float(x.sum()), x.shape, x.dtype


def by_pointer_and_version(g: Tensor, x: Tensor) -> Any:
    """The count of writes tells of those that torch knows; memory that is given back comes again with another one."""
    return g.data_ptr(), x.data_ptr(), g._version, x._version, x.shape, x.dtype


def by_shape(g: Tensor, x: Tensor) -> Any:
    return x.shape, x.dtype


def for_some_calls(count: int) -> Callable[[], Callable[..., Tensor]]:
    """Right so many times; from then on element 0 is not."""

    def made() -> Callable[..., Tensor]:
        calls = 0

        def backward(g: Tensor, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            dx = squared(g, x)
            if calls > count and dx.numel():
                dx.view(-1)[0] += 1
            return dx

        return backward

    return made


def through_one_scratch() -> Callable[..., Tensor]:
    """A scratch that all calls share, in whatever thread."""
    scratch: dict[str, Tensor] = {}

    def backward(g: Tensor, x: Tensor) -> Tensor:
        scratch["x"] = 2 * x
        time.sleep(2e-4)  # as long as a kernel takes that lets go of the interpreter
        return g * scratch["x"]

    return backward


def through_its_own_scratch() -> Callable[..., Tensor]:
    own = threading.local()

    def backward(g: Tensor, x: Tensor) -> Tensor:
        own.x = 2 * x
        return g * own.x

    return backward


def with_a_stale_buffer() -> type[torch.autograd.Function]:
    """What the forward leaves for the backward lies in one place for all calls."""

    class Square(torch.autograd.Function):
        left: Tensor

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            Square.left = x
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g * Square.left

    return Square


def with_a_context() -> type[torch.autograd.Function]:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * g * x

    return Square


def that_uses_up_what_it_saved() -> type[torch.autograd.Function]:
    """The second backward of one forward finds what the first one left."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.kept = x.clone()
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return ctx.kept.mul_(2).mul_(g).clone()

    return Square


REPLAY = (
    Adversary("the last result, by pointer", "kernelbot#501", square, (randn(3, 4),),
              remembering(by_pointer), remembering(by_contents), "an earlier call"),
    Adversary("the last result, by a light fingerprint", "flashinfer-bench-starter-kit#21", square, (randn(3, 4),),
              remembering(by_fingerprint), remembering(by_contents), "an earlier call"),
    Adversary("the last result, by sums", "", square, (randn(3, 4),),
              remembering(by_sums), remembering(by_contents), "an earlier call"),
    Adversary("the last result, by pointer and version", "", square, (randn(3, 4),),
              remembering(by_pointer_and_version), remembering(by_contents), "an earlier call"),
    Adversary("the last result, by shape", "", square, (randn(3, 4),),
              remembering(by_shape), remembering(by_contents), "an earlier call"),
    Adversary("right for ten calls", "llm.c, pull 852", square, (randn(3, 4),),
              for_some_calls(10), always(squared), "later call|same bits twice"),
    Adversary("right for sixty calls", "", square, (randn(3, 4),),
              for_some_calls(60), always(squared), "later call|same bits twice"),
    Adversary("one scratch for all threads", "", square, (randn(3, 4),),
              through_one_scratch, through_its_own_scratch, "thread"),
    Adversary("a stale buffer between forward and backward", "", square, (randn(3, 4),),
              with_a_stale_buffer, with_a_context, "another forward"),
    Adversary("a backward that uses up what was saved", "", square, (randn(3, 4),),
              that_uses_up_what_it_saved, with_a_context, "writes into what it saved"),
)  # fmt: skip
