"""What shows in one planned point alone: layouts, sizes and values that real kernels treat by a path of their own."""

import pytest
import torch
from adversaries import randn

from backprop_rules import check, check_function


def square(x):
    return x * x


def read(misread):
    """The cotangent is read wrongly where it lies otherwise than in order."""
    return lambda g, x: misread(g) * 2 * x


def as_if_in_order(x):
    return torch.as_strided(x, x.shape, x.contiguous().stride(), x.storage_offset())


def where_rows_are_in_order(x):
    return as_if_in_order(x) if x.ndim and x.stride(-1) == 1 else x


def by_the_first_stride(x):
    if x.ndim != 3 or x.stride(-1) != 1:
        return x
    return torch.as_strided(x, x.shape, (x.stride(0), x.shape[2], 1), x.storage_offset())


def channels_last_for_first(x):
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return as_if_in_order(x) if last else x


def heads_for_rows(x):
    return as_if_in_order(x) if x.ndim == 4 and x.transpose(1, 2).is_contiguous() and not x.is_contiguous() else x


def rows_of_one_number(x):
    alike = x.ndim > 1 and x.stride(-1) == 0 and x.stride(-2) != 0
    return x[..., :1].roll(1, -2).expand_as(x) if alike else x


def divided_by_the_rows(x):
    alike = x.ndim > 1 and x.stride(0) == 0 and x.stride(-1) == 1 and len(x) > 1
    return x / len(x) if alike else x


def from_an_aligned_address(x):
    offset = x.storage_offset()
    return torch.as_strided(x, x.shape, x.stride(), offset - offset % 4) if x.is_contiguous() else x


LAYOUTS = {
    "rows in order": (where_rows_are_in_order, (4, 6)),
    "rows in order, of a large example": (where_rows_are_in_order, (160, 160)),
    "the first stride alone": (by_the_first_stride, (2, 3, 4)),
    "channels last": (channels_last_for_first, (2, 3, 4, 5)),
    "heads swapped": (heads_for_rows, (2, 3, 4, 5)),
    "rows of one number": (rows_of_one_number, (4, 6)),
    "equal rows": (divided_by_the_rows, (4, 6)),
    "an address that is not aligned": (from_an_aligned_address, (8,)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cotangent_that_is_misread_in_one_layout_is_found(name):
    misread, shape = LAYOUTS[name]
    report = check(read(misread), forward=square, example=(randn(*shape),), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert report.finding.kind.name == "STRIDES"


def multiples(n):
    return lambda x: x.shape[-1] > 0 and x.shape[-1] % n == 0


SIZES = {
    "rows of a whole number of 8": multiples(8),
    "rows of a whole number of 128": multiples(128),
    "more than one tile both ways": lambda x: min(x.shape) > 64,
    "more than 4096 elements": lambda x: x.numel() > 4096,
}


@pytest.mark.parametrize("name", SIZES)
def test_what_is_wrong_at_some_sizes_alone_is_found(name):
    def backward(g, x):
        return g * (3 if SIZES[name](x) else 2) * x

    assert check(backward, forward=square, example=(randn(3, 5),), raise_on_failure=False).verdict == "wrong"


def test_a_product_that_is_wrong_where_all_three_sizes_are_more_than_a_tile_is_found():
    def backward(g, x, w):
        tiles = min(*x.shape, *w.shape) > 64
        return g @ w.T * (2 if tiles else 1), x.T @ g

    example = randn(3, 4), randn(4, 5)
    assert check(backward, forward=torch.matmul, example=example, raise_on_failure=False).verdict == "wrong"


def silu(beyond):
    def backward(g, x):
        s = torch.sigmoid(x)
        return torch.where(x > beyond, g, g * s * (1 + x * (1 - s)))

    return backward


@pytest.mark.parametrize("beyond", [8, 10])
def test_what_is_taken_for_saturated_too_early_is_found(beyond):
    report = check(silu(beyond), forward=torch.nn.functional.silu, example=(randn(4, 5),), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert check(silu(1000), forward=torch.nn.functional.silu, example=(randn(4, 5),)).verdict == "right"


def test_a_gradient_that_is_clipped_by_its_norm_is_found_as_of_a_loss_that_is_scaled():
    def backward(g, x):
        found = g * 2 * x
        return found * (1e4 / found.norm().clamp(min=1e4))

    assert check(backward, forward=square, example=(randn(10),), raise_on_failure=False).verdict == "wrong"


MASK = torch.tensor([[False, False, False, True, False]]).expand(3, 5).contiguous()


def masked(x, mask):
    return x.masked_fill(mask, -torch.inf).log_softmax(-1)


def masked_backward(times):
    def backward(g, x, mask):
        p, g = x.masked_fill(mask, -torch.inf).softmax(-1), torch.where(mask, 0, g)
        return torch.where(mask, 0, g - times * p * g.sum(-1, keepdim=True)), None

    return backward


def test_a_gradient_is_asked_where_some_outputs_are_masked_by_infinity():
    asked = {"forward": masked, "example": (randn(3, 5), MASK), "raise_on_failure": False}
    assert check(masked_backward(2), **asked).verdict == "wrong"
    assert check(masked_backward(1), **asked).verdict == "right"


@pytest.mark.parametrize("forgets", [True, False])
def test_a_cotangent_of_a_masked_score_that_is_passed_on_is_noted(forgets):
    """A softmax behind it gives a 0 there, and so do the points: a kernel may count on that, if it is told."""

    def scores(q, k, mask):
        return torch.tanh(q @ k.mT).masked_fill(mask, -torch.inf)

    def backward(g, q, k, mask):
        g = (g if forgets else g.masked_fill(mask, 0)) * (1 - torch.tanh(q @ k.mT) ** 2)
        return g @ k, g.mT @ q, None

    example = randn(4, 3), randn(4, 3), torch.ones(4, 4, dtype=torch.bool).triu(1)
    report = check(backward, forward=scores, example=example)
    assert report.verdict == "right"
    assert any("an output that is infinite is passed on" in note for note in report.notes) is forgets


def test_what_is_infinite_at_all_sizes_but_one_is_not_called_right():
    def forward(x):  # of more than one number each is added to an infinity
        return x * x + (torch.inf if x.numel() > 1 else 0.0)

    def backward(g, x):
        return g * (3 if x.numel() > 1 else 2) * x

    assert check(backward, forward=forward, example=(randn(4),), raise_on_failure=False).verdict != "right"


def function(wrong):
    class Square(torch.autograd.Function):
        """Its forward is another where it is wrong, and its backward is right."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x + torch.as_tensor(wrong(x)).to(x)

        @staticmethod
        def backward(ctx, g):
            return g * 2 * ctx.saved_tensors[0]

    return Square


FORWARDS = {
    "past a block": lambda x: x.shape[-1] > 64,
    "of one row": lambda x: x.shape[0] == 1,
    "where it is 0": lambda x: x == 0,
    "where numbers are equal": lambda x: x.unique().numel() < x.numel(),
    "out of order": lambda x: not x.is_contiguous(),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_that_is_another_function_at_some_points_alone_is_found(name):
    asked = {"forward": square, "example": (randn(3, 4),), "raise_on_failure": False}
    report = check_function(function(FORWARDS[name]), **asked)
    assert report.verdict == "wrong"
    assert "forward that computes another function" in str(report)
    assert check_function(function(lambda x: False), **asked).verdict == "right"
