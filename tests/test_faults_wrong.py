"""Wrong backwards that were called right, each beside the right one."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from backprop_rules import check

drawn = torch.Generator().manual_seed(13)


def some(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=drawn, dtype=dtype)


def asked(backward, forward, example):
    return check(backward, forward=forward, example=example, raise_on_failure=False)


def attention(q, k, v):
    return torch.softmax(q @ k.mT, -1) @ v


def attention_backward(transposed=True):
    def backward(grad_y, q, k, v):
        p = torch.softmax(q @ k.mT, -1)
        grad_p = grad_y @ v.mT
        grad_s = p * (grad_p - (grad_p * p).sum(-1, keepdim=True))
        return grad_s @ k, grad_s.mT @ q, (p.mT if transposed else p) @ grad_y

    return backward


def with_its_sums(scores, v):
    return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)


def with_its_sums_backward(second=True):
    def backward(grad_y, scores, v):
        grad_out, grad_sums = grad_y
        p = torch.softmax(scores, -1)
        grad_p = grad_out @ v.mT
        row = (grad_p * p).sum(-1, keepdim=True)
        if second:
            row = row - grad_sums.unsqueeze(-1)
        return p * (grad_p - row), p.mT @ grad_out

    return backward


def first_of_the_ties(grad_y, x):
    _, at = functional.max_pool2d(x, 2, return_indices=True)
    found = torch.zeros_like(x).flatten(-2)
    return found.scatter_add(-1, at.flatten(-2), grad_y.flatten(-2)).reshape(x.shape)


def spread(pooled, x):
    """Return each number of the pooled array in the four places that it came of, and zero at an odd edge."""
    wide = pooled.repeat_interleave(2, -1).repeat_interleave(2, -2)
    edges = x.shape[-1] - wide.shape[-1], x.shape[-2] - wide.shape[-2]
    return functional.pad(wide, (0, edges[0], 0, edges[1]))


def every_tie(grad_y, x):
    return (x == spread(functional.max_pool2d(x, 2), x)) * spread(grad_y, x)


def averaged(grad_y, x):
    return spread(grad_y, x) / 4


def neighbours(image, at):
    """Return the four neighbours' places for each point, and how far it lies beyond the first."""
    y, x = at.unbind(-1)
    i, j = (p.floor().long().clamp(0, max(n - 2, 0)) for p, n in zip((y, x), image.shape, strict=True))
    return ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)), (y - i, x - j)


def sampled(image, at):
    places, (a, b) = neighbours(image, at)
    p, q, r, s = (image[place] for place in places)
    return (1 - a) * ((1 - b) * p + b * q) + a * ((1 - b) * r + b * s)


def sampled_backward(accumulate=True, swapped=False):
    def backward(grad_y, image, at):
        places, (a, b) = neighbours(image, at)
        p, q, r, s = (image[place] for place in places)
        shares = (1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b
        grad_image = torch.zeros_like(image)
        for place, share in zip(places, shares, strict=True):
            grad_image = grad_image + torch.zeros_like(image).index_put(place, share * grad_y, accumulate=accumulate)
        down, along = (1 - b) * (r - p) + b * (s - q), (1 - a) * (q - p) + a * (s - r)
        both = (along, down) if swapped else (down, along)
        return grad_image, torch.stack(both, -1) * grad_y.unsqueeze(-1)

    return backward


def summed_in_blocks(keep=True):
    """Return the backward of a running sum, block after block from the last to the first."""

    def backward(grad_y, x):
        found, carry = [], torch.zeros_like(grad_y[..., :1])
        for block in reversed(grad_y.split(64, -1)):
            sums = block.flip(-1).cumsum(-1).flip(-1) + carry
            found.append(sums)
            if keep:
                carry = sums[..., :1]
        return torch.cat(found[::-1], -1)

    return backward


def product(grad_y, x, w):
    return grad_y * w.conj(), grad_y * x.conj()


def unconjugated(grad_y, x, w):
    return grad_y * w, grad_y * x


def nan_at_zero(grad_y, x):
    return 2 * grad_y * (x * x / x)


SQUARES = tuple(some(4, 4) for _ in range(3))
COMPLEX = tuple(some(2, 3, dtype=torch.complex64) for _ in range(2))
POINTS = torch.rand(6, 2, generator=drawn) * torch.tensor([2.0, 3.0])
PAIRS = {  # forward, example, the right one, the wrong ones
    "attention": (attention, SQUARES, attention_backward(), {"p not transposed": attention_backward(False)}),
    "max-pool": (
        lambda x: functional.max_pool2d(x, 2),
        (some(2, 3, 4, 6),),
        first_of_the_ties,
        {"averaged": averaged},
    ),
    "bilinear sampler": (
        sampled,
        (some(3, 4), POINTS),
        sampled_backward(),
        {"writes lost": sampled_backward(accumulate=False), "axes swapped": sampled_backward(swapped=True)},
    ),
    "two outputs": (
        with_its_sums,
        (some(3, 4), some(4, 2)),
        with_its_sums_backward(),
        {"second cotangent ignored": with_its_sums_backward(False)},
    ),
    "a running sum in blocks": (
        lambda x: torch.cumsum(x, -1),
        (some(8),),
        summed_in_blocks(),
        {"carry dropped": summed_in_blocks(False)},
    ),
    "a complex product": (torch.mul, COMPLEX, product, {"not conjugated": unconjugated}),
    "a scale without axes": (
        torch.mul,
        (some(2, 3), some()),
        lambda g, x, s: (g * s, (g * x).sum()),
        {"not reduced": lambda g, x, s: (g * s, g * x)},
    ),
    "a bias": (
        torch.add,
        (some(4, 3), some(3)),
        lambda g, x, b: (g.clone(), g.sum(0)),
        {"not reduced": lambda g, x, b: (g.clone(), g.clone())},
    ),
    "a square": (lambda x: x * x, (some(5),), lambda g, x: 2 * g * x, {"NaN at zero": nan_at_zero}),
}
WRONG = [(case, name) for case, (*_, wrong) in PAIRS.items() for name in wrong]


@pytest.mark.parametrize("case", PAIRS)
def test_the_right_one_is_right(case):
    forward, example, right, _ = PAIRS[case]
    assert asked(right, forward, example).verdict == "right"


@pytest.mark.parametrize(("case", "name"), WRONG)
def test_the_wrong_one_is_wrong(case, name):
    forward, example, _, wrong = PAIRS[case]
    assert asked(wrong[name], forward, example).verdict == "wrong"


def test_a_gradient_for_every_tie_is_not_passed():
    forward, example, *_ = PAIRS["max-pool"]
    report = asked(every_tie, forward, example)
    assert report.verdict in {"wrong", "convention"}
    assert not report.passed


def test_a_mistake_of_long_arrays_is_found_with_few_calls():
    calls, wrong = [], summed_in_blocks(False)

    def counted(grad_y, x):
        calls.append(x.shape)
        return wrong(grad_y, x)

    assert asked(counted, lambda x: torch.cumsum(x, -1), (some(8),)).verdict == "wrong"
    assert len(calls) < 2000


def test_a_forward_that_changes_from_call_to_call_is_no_witness():
    calls = []

    def scaled(x):
        calls.append(x.shape)
        return x * len(calls)

    report = asked(lambda g, x: g * 2, scaled, (some(3),))
    assert report.verdict == "inconclusive" or (report.verdict == "right" and report.notes)


def test_a_backward_that_draws_its_mask_again_is_not_right():
    def dropout(x):
        return functional.dropout(x, 0.5)

    def drawn_again(grad_y, x):
        return grad_y * (torch.rand_like(x) > 0.5) * 2

    report = asked(drawn_again, dropout, (some(3, 4),))
    assert report.verdict != "right"
    assert not report.passed


def in_float32_alone(grad_y, x):
    found = grad_y * x.cos()
    if x.dtype == torch.float32:
        grad_y.mul_(2)
    return found


def into_the_output(grad_y, y, x):
    found = grad_y * y
    y.mul_(2)
    return found


@pytest.mark.parametrize(
    ("backward", "forward", "name"), [(in_float32_alone, torch.sin, "grad_y"), (into_the_output, torch.exp, "y")]
)
def test_a_write_is_found_in_the_examples_dtype_and_into_the_output(backward, forward, name):
    report = asked(backward, forward, (some(3, 4).float(),))
    assert report.verdict == "wrong"
    assert f"writes to its argument {name}" in str(report)


def test_the_example_is_not_what_the_backward_has_overwritten():
    def emptied(grad_y, x):
        found = grad_y * np.cos(x)
        grad_y[...] = 0
        return found

    report = check(emptied, definition=np.sin, example=(some(3, 4).numpy(),), raise_on_failure=False)
    assert "writes to its argument grad_y" in str(report)
    assert report.points == 1
