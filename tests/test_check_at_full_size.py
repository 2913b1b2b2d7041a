"""A large example is made small for most points, and asked at its own size in every layout, and of whole numbers."""

import pytest
import torch

from backprop_rules import check

LIKE = torch.Generator()


@pytest.fixture(autouse=True)
def whatever_was_drawn_before():
    LIKE.manual_seed(0)


def product(x, w):
    return x @ w


def example(dtype, rows=4096):
    return torch.randn(rows, 64, generator=LIKE).to(dtype), torch.randn(64, 32, generator=LIKE).to(dtype)


def right(grad_y, x, w):
    return grad_y @ w.mT, x.mT @ grad_y


def without_its_last_row(grad_y, x, w):
    return grad_y @ w.mT, x[:-1].mT @ grad_y[:-1] if len(x) > 1000 else x.mT @ grad_y


def asked(backward, dtype, **options):
    options = {"forward": product, "example": example(dtype), "raise_on_failure": False} | options
    return check(backward, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_a_right_one_is_asked_at_its_own_size_in_every_layout_and_to_the_bit(dtype):
    report = asked(right, dtype)
    assert report.verdict == "right", str(report)
    assert report.classes["full size"] == 4 and report.classes["where nothing rounds"] == 1
    assert report.points > 30 and report.rungs["proved"] > 0


def test_a_row_that_is_dropped_at_full_size_alone_is_found():
    report = asked(without_its_last_row, torch.float32)
    assert report.verdict == "wrong"
    assert len(report.finding.point.leaves[0]) > 1000


def test_in_a_narrow_dtype_it_is_outside_of_what_that_rounds():
    report = asked(without_its_last_row, torch.bfloat16)
    assert report.verdict == "wrong"
    assert "whole numbers" not in str(report)


def test_in_a_narrow_dtype_whole_numbers_show_what_rounding_hides():
    x, w = example(torch.bfloat16)
    x[-1] *= 2.0**-10
    report = asked(without_its_last_row, torch.bfloat16, example=(x, w))
    assert report.verdict == "wrong"
    assert "whole numbers" in str(report)


def without_its_last_row_in_narrow_dtypes(grad_y, x, w):
    return (without_its_last_row if x.dtype == torch.bfloat16 else right)(grad_y, x, w)


@pytest.mark.parametrize("backward", [right, without_its_last_row_in_narrow_dtypes], ids=lambda f: f.__name__)
def test_whole_numbers_are_asked_too_where_none_is_given_for_what_forward_cuts_off(backward):
    x, w = example(torch.bfloat16)
    x[-1] *= 2.0**-10
    report = asked(
        lambda grad_y, x, w, b: (*backward(grad_y, x, w), None),
        torch.bfloat16,
        forward=lambda x, w, b: x @ w + b.detach(),
        example=(x, w, torch.randn(32, generator=LIKE).bfloat16()),
    )
    assert report.verdict == "right", str(report)
    assert report.classes["where nothing rounds"] == 1
    assert ("not right to the last bit" in str(report)) == (backward is not right)


def test_elements_that_are_small_beside_the_largest_are_held_to_what_they_may_round():
    def loss(x, target):
        return torch.nn.functional.cross_entropy(x.float(), target, reduction="sum").to(x.dtype)

    def backward(grad_y, x, target, tail=True):
        p = x.float().softmax(-1)
        p[torch.arange(len(x)), target] -= 1
        if tail:
            p[:, p.shape[1] // 1024 * 1024 or p.shape[1] :] = 0
        return (grad_y * p).to(x.dtype)

    like = torch.randn(8, 8200, generator=LIKE).bfloat16(), torch.arange(8)
    assert asked(backward, torch.bfloat16, forward=loss, example=like).verdict == "wrong"
    whole = asked(lambda *args: backward(*args, tail=False), torch.bfloat16, forward=loss, example=like)
    assert whole.verdict == "right", str(whole)


def test_what_is_not_right_to_the_bit_in_a_narrow_dtype_alone_is_noted():
    def narrower(grad_y, x, w):
        return without_its_last_row(grad_y, x, w) if x.dtype == torch.bfloat16 else right(grad_y, x, w)

    report = asked(narrower, torch.bfloat16)
    assert report.verdict == "right"
    assert "the gradient of w is not right to the last bit where no sum rounds" in str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_another_form_that_rounds_is_not_accused(dtype):
    def turned(h):
        n = len(h)
        return h[(torch.arange(n)[:, None] - torch.arange(n)) % n]

    def by_fourier(grad_y, x, h):
        over = torch.fft.rfft(grad_y)
        grad_h = torch.fft.irfft((over * torch.fft.rfft(x).conj()).sum(0), n=len(h))
        return torch.fft.irfft(over * torch.fft.rfft(h).conj(), n=len(h)), grad_h

    like = torch.randn(6, 16, generator=LIKE, dtype=dtype), torch.randn(16, generator=LIKE, dtype=dtype)
    report = asked(by_fourier, dtype, forward=lambda x, h: x @ turned(h).mT, example=like)
    assert report.verdict == "right", str(report)


def test_a_backward_for_its_own_sizes_is_asked_at_those():
    def blocks(grad_y, x):  # what is beyond the last whole block of 64 is not written
        whole = x.shape[-1] // 64 * 64
        return (torch.cat([2 * grad_y[..., :whole] * x[..., :whole], torch.zeros_like(x[..., whole:])], -1),)

    like = torch.randn(256, 256, generator=LIKE)
    report = asked(blocks, torch.float32, forward=lambda x: x * x, example=(like,))
    assert report.verdict == "right" and report.classes["full size"] == 4, str(report)
    report = asked(
        lambda g, x: (2 * g * x / x.numel(),), torch.float32, forward=lambda x: (x * x).sum() / 65536, example=(like,)
    )
    assert report.verdict == "right", str(report)


def test_memory_that_is_read_as_if_contiguous_at_full_size_alone_is_found():
    def contiguous(grad_y, x, w):
        flat = torch.as_strided(x, x.shape, (x.shape[1], 1), x.storage_offset()) if x.numel() > 50_000 else x
        return grad_y @ w.mT, flat.mT @ grad_y

    report = asked(contiguous, torch.float32)
    assert report.verdict == "wrong" and "contiguous" in str(report)


@pytest.mark.parametrize("block", [2, 16, 64])
def test_a_kernel_of_blocks_is_asked_at_blocks_and_not_accused(block):
    def blocks(grad_y, x, w):
        if len(x) % block or x.shape[1] % block:
            raise ValueError(f"blocks of {block}")
        return right(grad_y, x, w)

    report = asked(blocks, torch.float32)
    assert report.verdict == "right", str(report)
    assert report.classes["full size"] == 4 and report.classes["own"] > 10


def test_a_kernel_of_one_size_is_asked_at_that_alone():
    def one(grad_y, x, w):
        return right(grad_y.view(4096, 32), x.view(4096, 64), w.view(64, 32))

    report = asked(one, torch.float32)
    assert report.verdict == "right" and report.classes.keys() == {"own", "where nothing rounds"}


@pytest.mark.parametrize(("convention", "verdict"), [("torch", "convention"), ("any subgradient", "right")])
def test_another_choice_at_zero_is_no_wrong_bit(convention, verdict):
    def forward(x, w):
        return torch.relu(x @ w)

    def backward(grad_y, x, w):
        return right(grad_y * (x @ w >= 0), x, w)

    report = asked(backward, torch.float32, forward=forward, convention=convention)
    assert report.verdict == verdict, str(report)


def test_beside_large_constants_one_size_is_made_small():
    layer = torch.nn.Linear(64, 32)

    def backward(grad_y, x):
        return grad_y @ layer.weight.detach().to(grad_y.dtype)

    report = asked(backward, torch.float32, forward=layer, example=(torch.randn(4096, 64, generator=LIKE),))
    assert report.verdict == "right" and report.classes["full size"] == 4 and report.points > 20, str(report)


def test_sizes_that_are_asked_for_are_asked_of_the_small_example():
    report = asked(right, torch.float32, sizes={4096: (33, 65)})
    assert report.verdict == "right" and report.classes["asked for"] == 4


def test_of_a_size_for_which_some_are_asked_for_no_others_are_tried():
    seen = set()

    def backward(grad_y, x):
        seen.add(x.shape[-1])
        return 2 * grad_y * x

    asked(backward, torch.float32, forward=torch.square, example=(torch.randn(5, 4),), sizes={4: (3, 6)})
    assert seen == {3, 4, 6}


def test_labels_are_made_small_with_their_classes():
    logits, labels = torch.randn(400, 300, generator=LIKE), torch.randint(0, 300, (400,), generator=LIKE)

    def backward(grad_y, x, target):
        p = torch.softmax(x, 1)
        return grad_y / len(x) * (p - torch.nn.functional.one_hot(target, x.shape[1])), None

    options = {"forward": torch.nn.functional.cross_entropy, "example": (logits, labels)}
    report = asked(backward, torch.float32, **options)
    assert report.verdict == "right" and report.classes["full size"] == 4, str(report)
    report = asked(lambda g, x, target: (-backward(g, x, target)[0], None), torch.float32, **options)
    assert report.verdict == "wrong" and report.finding.point.size < 100


def test_labels_that_are_constants_keep_their_classes():
    labels = torch.randint(0, 300, (400,), generator=LIKE)

    def forward(x):
        return torch.nn.functional.cross_entropy(x, labels)

    def backward(grad_y, x):
        p = torch.softmax(x, 1)
        return (grad_y / len(x) * (p - torch.nn.functional.one_hot(labels, x.shape[1])),)

    report = asked(backward, torch.float32, forward=forward, example=(torch.randn(400, 300, generator=LIKE),))
    assert report.verdict == "right" and "full size" not in report.classes, str(report)


def test_an_example_that_is_small_is_not_made_smaller():
    report = asked(right, torch.float32, example=example(torch.float32, rows=7))
    assert report.verdict == "right" and "full size" not in report.classes


def test_a_convolution_is_held_to_its_own_roundings():
    x, w = torch.randn(2, 3, 6, 6, generator=LIKE), torch.randn(4, 3, 3, 3, generator=LIKE)

    def backward(grad_y, x, w):
        same = torch.nn.grad
        return same.conv2d_input(x.shape, w, grad_y), same.conv2d_weight(x, w.shape, grad_y)

    report = check(backward, forward=torch.nn.functional.conv2d, example=(x, w), raise_on_failure=False)
    assert report.verdict == "right" and "please report" not in str(report)
    assert report.rungs["allowed"] + report.rungs["proved"] > 0
