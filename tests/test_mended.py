"""Wrong backwards that no edit of forward explains: what is to be done otherwise in their own lines."""

import math

import pytest
import torch
from torch.nn import functional

from backprop_rules import check, check_function
from backprop_rules.diagnosis import mended

K = math.sqrt(2 / math.pi)


def gelu(a, b):
    return functional.gelu(a, approximate="tanh") * b


def without_the_three(g, a, b):
    t = torch.tanh(K * (a + 0.044715 * a**3))
    inner = K * (1 + 0.044715 * a * a)
    return g * b * (0.5 * (1 + t) + 0.5 * a * (1 - t * t) * inner), g * 0.5 * a * (1 + t)


def without_the_square(g, a, b):
    t = torch.tanh(K * (a + 0.044715 * a**3))
    inner = K * (1 + 3 * 0.044715 * a * a)
    return g * b * (0.5 * (1 + t) + 0.5 * a * (1 - t) * inner), g * 0.5 * a * (1 + t)


def gated(q, k, gate):
    state, y = torch.zeros_like(q[0]), []
    for t in range(len(q)):
        state = gate[t].exp() * state + k[t]
        y.append(state * q[t])
    return torch.stack(y)


def never_gated(g, q, k, gate):
    state, states = torch.zeros_like(q[0]), []
    for t in range(len(q)):
        states.append(state)
        state = gate[t].exp() * state + k[t]
    states.append(state)
    of_state, of_q, of_k = torch.zeros_like(state), torch.zeros_like(q), torch.zeros_like(k)
    for t in reversed(range(len(q))):
        of_q[t] = g[t] * states[t + 1]
        of_state = of_state + g[t] * q[t]
        of_k[t] = of_state
    return of_q, of_k, (q * of_q - k * of_k).flip(0).cumsum(0).flip(0)


def from_the_start(g, q, k, gate):
    """The gradient of the gate is a sum from the end."""
    of_q, of_k, _ = gated_backward(g, q, k, gate)
    inner = q * of_q - k * of_k
    return of_q, of_k, inner.cumsum(0)


def gated_backward(g, q, k, gate):
    live = [x.detach().requires_grad_() for x in (q, k, gate)]
    with torch.enable_grad():
        return torch.autograd.grad(gated(*live), live, g)


def decibels(x):
    return torch.log10(x.abs() + 1)


def in_nepers(g, x):
    return g * x.sign() / (x.abs() + 1)


def looked_up(x, i):
    return functional.embedding(i, x)


class Written(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, i):
        ctx.save_for_backward(x, i)
        return looked_up(x, i)

    @staticmethod
    def backward(ctx, g):
        x, i = ctx.saved_tensors
        found = torch.zeros_like(x)
        found[i] = g
        return found, None


def summed_up(x):
    return x.flip(-1).cumsum(-1).exp()


def from_the_wrong_end(g, x):
    return (g * x.flip(-1).cumsum(-1).exp()).flip(-1).cumsum(-1)


def sorted_sum(x, w):
    return (x.sort(descending=True).values.relu() * w).sum()


class OfTheSorted(torch.autograd.Function):
    """The permutation is applied once more, and not undone."""

    @staticmethod
    def forward(ctx, x, w):
        found, order = x.sort(descending=True)
        ctx.save_for_backward(found, order, w)
        return (found.relu() * w).sum()

    @staticmethod
    def backward(ctx, g):
        found, order, w = ctx.saved_tensors
        of_sorted = g * w * (found > 0)
        return of_sorted[order], g * found.relu()


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


WRONG = {
    "a factor of three": (without_the_three, gelu, (numbers(3, 4), numbers(3, 4)), "is to be 3 times as large"),
    "a square": (without_the_square, gelu, (numbers(3, 4), numbers(3, 4)), "lacks the factor `1 + t`"),
    "a gate in a loop": (
        never_gated, gated, (numbers(4, 5), numbers(4, 5), numbers(4, 5)),
        "lacks the factor `gate[t].exp()`",
    ),
    "a direction": (
        from_the_start, gated, (numbers(4, 5), numbers(4, 5), numbers(4, 5)), "`inner.cumsum(0)` (backward, line",
    ),
    "a logarithm": (in_nepers, decibels, (numbers(4, 5),), "is to be 1 / ln 10 times as large"),
}  # fmt: skip


@pytest.mark.parametrize(("backward", "forward", "example", "words"), WRONG.values(), ids=WRONG)
def test_it_is_said_which_line_is_to_be_what(backward, forward, example, words):
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert report.mistake is not None
    assert words in report.mistake.words


def test_what_is_written_where_it_is_to_be_added():
    example = numbers(5, 3), torch.tensor([0, 2, 2, 1, 0, 4])
    report = check_function(Written, forward=looked_up, example=example, raise_on_failure=False)
    assert report.mistake is not None
    assert "add" in report.mistake.words


def test_a_permutation_that_is_to_be_undone():
    example = numbers(6), numbers(6).exp()
    report = check_function(OfTheSorted, forward=sorted_sum, example=example, raise_on_failure=False)
    assert report.mistake is not None
    assert "argument 2 of `of_sorted[order]`" in report.mistake.words
    assert "is to be inverted, as a permutation" in report.mistake.words


def test_beside_a_gradient_that_is_all_rounding():
    """As of a bias that all scores have in common: what is left of it is no part of what is missing."""

    def scored(x, bias, i):
        return torch.softmax(functional.embedding(i, x) + bias, 0)

    def written(g, x, bias, i):
        y = scored(x, bias, i)
        of_scores = y * (g - (g * y).sum(0))
        found = torch.zeros_like(x)
        found[i] = of_scores
        return found, of_scores.sum(), None

    example = numbers(5, 3), torch.tensor(0.3, dtype=torch.float64), torch.tensor([0, 2, 2, 1, 0, 4])
    report = check(written, forward=scored, example=example, raise_on_failure=False)
    assert report.mistake is not None
    assert "added" in report.mistake.words


def test_what_mends_one_point_alone_is_not_told(monkeypatch):
    """A number that is another one at each point mends each alone."""

    def backward(g, x):
        return torch.addcmul(torch.zeros_like(g), g, x.cos(), value=1 + float(x.abs().max())) if x.numel() else g

    asked = {"forward": torch.sin, "example": (numbers(3, 4),), "raise_on_failure": False}
    assert check(backward, **asked).mistake is None
    monkeypatch.setattr(mended._Seen, "_mends", lambda one, call, c, own=mended._Seen._mends: call is not None)
    assert "times as large" in check(backward, **asked).mistake.words


def test_what_a_backward_keeps_stays_without_autograd():
    """A buffer that it writes to, and a result that it remembers, are its own."""
    buffer, kept = torch.zeros(3, 4, dtype=torch.float64), []

    def backward(g, x):
        t = torch.tanh(K * (x + 0.044715 * x**3))
        if x.shape == buffer.shape:
            buffer.copy_(t)
            buffer[0].add_(t[0])
        kept.append(t)
        return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * K * (1 + 0.044715 * x * x))

    def forward(x):
        return functional.gelu(x, approximate="tanh")

    report = check(backward, forward=forward, example=(numbers(3, 4),), raise_on_failure=False)
    assert report.mistake is not None
    assert "is to be 3 times as large" in report.mistake.words
    assert not any(x.requires_grad for x in (buffer, *kept))


def test_a_backward_that_waits_until_it_converges_ends():
    """What is put in to see which rounds count never converges."""

    def forward(x):
        y = torch.zeros_like(x)
        for _ in range(14):
            y = torch.cos(y) / 20 + x
        return y

    def backward(g, x, y):
        if not bool((g + x + y).isfinite().all()):
            return g * math.nan
        slope, found = torch.sin(y) / 20, g
        while g.numel():
            before, found = found, g - slope * found
            if bool((found - before).abs().max() < 64 * torch.finfo(x.dtype).eps * (1 + g.abs().max())):
                break
        return torch.special.xlog1py(found, x * x + 1.7)

    report = check(backward, forward=forward, example=(numbers(3, 4),), raise_on_failure=False)
    assert report.verdict == "wrong"


def test_a_sum_that_is_to_be_a_difference_is_told_in_words():
    def backward(g, x):
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 + s))

    report = check(backward, "silu", raise_on_failure=False)
    assert report.mistake is not None
    assert "`1 + s` (backward, line" in report.mistake.words
    assert "is to be a difference in the place of a sum, of the other sign" in report.mistake.words


def test_what_is_not_taken_apart_as_it_is_called_is_still_a_step():
    """A batch norm of running statistics has none of the steps of one that takes its own."""
    mean, variance = torch.linspace(-1, 1, 6), torch.linspace(0.5, 1.5, 6)

    def forward(x, w):
        return functional.batch_norm(x, mean.to(x.dtype), variance.to(x.dtype), w)

    def backward(g, x, w):
        scale = torch.rsqrt(variance.to(x.dtype) + 1e-5)[:, None]
        return g * w[:, None] * scale * scale, (g * (x - mean.to(x.dtype)[:, None]) * scale).sum((0, 2))

    report = check(backward, forward=forward, example=(numbers(4, 6, 5), numbers(6)), raise_on_failure=False)
    assert report.mistake is not None
    assert "has the factor `torch.rsqrt(variance.to(x.dtype) + 1e-5)[:, None]`" in report.mistake.words
