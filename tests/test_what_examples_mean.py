"""What the numbers of an example mean is kept: offsets stay in order, classes one-hot, masks of 0 and 1."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from backprop_rules import InputError, check, check_function
from backprop_rules.strategies.values import drawn, numbers_from


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def asked(backward, forward, *example, **options):
    return check(backward, forward=forward, example=example, raise_on_failure=False, **options)


# ------------------------------------------------------------------ offsets
OFFSETS = torch.tensor([0, 2, 3, 7])


def of_sequences(q, k, v, offsets):
    ends = offsets.tolist()
    return torch.cat([functional.softmax(q[a:b] @ k[a:b].T, -1) @ v[a:b] for a, b in pairwise(ends)])


def of_sequences_backward(grad_y, q, k, v, offsets):
    found, ends = [torch.zeros_like(x) for x in (q, k, v)], offsets.tolist()
    for a, b in pairwise(ends):
        p, g = functional.softmax(q[a:b] @ k[a:b].T, -1), grad_y[a:b]
        dp = g @ v[a:b].T
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        for x, part in zip(found, (ds @ k[a:b], ds.T @ q[a:b], p.T @ g), strict=True):
            x[a:b] = part
    return tuple(found)


def as_one_sequence(grad_y, q, k, v, offsets):
    return of_sequences_backward(grad_y, q, k, v, torch.tensor([0, len(q)]))


def test_offsets_stay_offsets():
    example = random(7, 4), random(7, 4, seed=1), random(7, 3, seed=2), OFFSETS
    assert asked(of_sequences_backward, of_sequences, *example).verdict == "right"
    assert asked(as_one_sequence, of_sequences, *example).verdict == "wrong"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_offsets_of_few_bits_are_no_others(dtype):
    def sums(x, offsets):
        return torch.stack([x[a:b].sum(0) for a, b in pairwise(offsets.tolist())])

    def backward(grad_y, x, offsets):
        return torch.repeat_interleave(grad_y, offsets.long().diff(), 0)

    for n in (8, 40, 200, 50_000)[: 2 + dtype.itemsize // 2]:
        ends = torch.tensor([0, n // 4, n // 2, n], dtype=dtype)
        assert asked(backward, sums, random(n, 1), ends).verdict == "right"


@pytest.mark.parametrize("x", [torch.tensor(3), torch.tensor(True), torch.zeros(0, dtype=torch.long)], ids=str)
def test_a_number_and_nothing_are_whole_numbers_too(x):
    assert asked(lambda g, x, _: 2 * g, lambda x, _: 2 * x, random(4, 5), x).verdict == "right"


def test_what_is_in_order_stays_so():
    def mean(x, segment):
        counts = torch.bincount(segment, minlength=4).clamp(min=1)
        return x.new_zeros(4, x.shape[1]).index_add(0, segment, x) / counts[:, None]

    def backward(grad_y, x, segment):
        which, count = torch.unique_consecutive(segment, return_counts=True)
        counts = torch.ones(4, dtype=torch.long).index_put((which,), count)
        return (grad_y / counts[:, None])[segment]

    report = asked(backward, mean, random(6, 3), torch.tensor([0, 0, 1, 1, 1, 3]))
    assert report.verdict == "right", str(report)
    for n in (1, 2, 3, 5, 8, 20):
        made = drawn(numbers_from(n), OFFSETS, (n,), "normal")
        assert bool((made.diff() >= 0).all()) and made[0] == 0 and (n == 1 or made[-1] == 7)


# ------------------------------------------------------------------ classes, shares and masks
CLASSES = torch.tensor([0, 2, 4, 1])
MEANT = {
    "classes in ones": (functional.one_hot(CLASSES, 5), lambda x, t: functional.cross_entropy(x, t.argmax(1))),
    "classes in floats": (functional.one_hot(CLASSES, 5).float(), lambda x, t: functional.cross_entropy(x, t.detach())),
    "classes in bits": (
        functional.one_hot(CLASSES, 5).bool(),
        lambda x, t: functional.cross_entropy(x, t.to(x.dtype)),
    ),
    "shares in bfloat16": (
        random(4, 5, seed=3).softmax(-1).bfloat16(),
        lambda x, t: functional.cross_entropy(x, t.detach()),
    ),
    "shares": (random(4, 5, seed=3).softmax(-1), lambda x, t: functional.cross_entropy(x, t.detach())),
}


@pytest.mark.parametrize("name", MEANT)
def test_classes_and_shares_add_up_to_one(name):
    target, forward = MEANT[name]
    x = random(4, 5).to(target.dtype if target.is_floating_point() else torch.float32)
    report = asked(lambda g, x, t: (g * (x.softmax(-1) - t.to(x)) / len(x), None), forward, x, target)
    assert report.verdict == "right", str(report)
    wrong = asked(lambda g, x, t: (g * (x.softmax(-1) - t.to(x)), None), forward, x, target)
    assert wrong.verdict == "wrong"


def test_a_mask_that_is_detached_stays_one():
    mask = (random(4, 5, seed=4) > 0).float()

    def backward(grad_y, x, mask):
        return grad_y * torch.where(mask > 0, 2.0, 0.0).to(grad_y.dtype), None

    report = asked(backward, lambda x, mask: x * mask.detach() * 2, random(4, 5), mask)
    assert report.verdict == "right", str(report)
    assert asked(backward, lambda x, mask: x * mask * 2, random(4, 5), mask).verdict == "wrong"  # it has a gradient


@pytest.mark.parametrize("seed", range(3))
def test_a_row_of_which_all_is_masked_is_told_whatever_the_examples_mask(seed):
    """A number stands for infinity, and the backward does not mask: at a row without a key it is no more 0."""
    mask = random(2, 4, 5, seed=seed) > 0.7
    assert not mask.all(-1).any()

    def forward(x, mask):
        return x.masked_fill(mask, -1e4).softmax(-1)

    def unmasked(g, x, mask):
        y = forward(x, mask)
        return y * (g - (g * y).sum(-1, keepdim=True)), None

    report = asked(unmasked, forward, random(2, 4, 5, seed=7), mask)
    assert report.verdict == "right"
    assert any("keeps nothing" in note for note in report.notes)


def test_a_mask_that_keeps_all_in_the_example_and_is_not_read_is_told():
    def forward(x, mask):
        return x.masked_fill(~mask, 0).sum(-1)

    def backward(read):
        return lambda g, x, mask: (g[..., None] * (mask if read else torch.ones_like(mask)), None)

    example = random(3, 4, seed=7), torch.ones(3, 4, dtype=torch.bool)
    for read in (False, True):
        report = asked(backward(read), forward, *example)
        assert report.verdict == "right"
        assert any("a mask some" in note for note in report.notes) is not read


def test_what_has_no_meaning_of_that_kind_is_varied():
    """Running statistics, which the example has at their first values."""

    def normed(x, mean, var):
        return (x - mean.detach()) * (var.detach() + 1e-5).rsqrt()

    example = random(6, 4), torch.zeros(4), torch.ones(4)
    assert asked(lambda g, x, m, v: (g * (v + 1e-5).rsqrt(), None, None), normed, *example).verdict == "right"
    assert asked(lambda g, x, m, v: (g / (v + 1e-5), None, None), normed, *example).verdict == "wrong"
    assert asked(lambda g, x, m, v: (g / (1 + 1e-5) ** 0.5, None, None), normed, *example).verdict == "wrong"
    assert asked(lambda g, x, m: (g * 1, None), lambda x, m: x * m.detach(), *example[::2]).verdict == "wrong"


def test_a_matrix_that_is_detached_stays_symmetric():
    a = random(4, 4)
    report = asked(lambda g, x, a: (g * 2 * (a @ x), None), lambda x, a: x @ a.detach() @ x, random(4), a + a.T)
    assert report.verdict == "right", str(report)


# ------------------------------------------------------------------ where torch's own kernels do not look
def test_keys_and_values_are_as_many():
    def backward(grad_y, q, k, v):
        scale = q.shape[-1] ** -0.5
        p = (q @ k.mT * scale).softmax(-1)
        dp = grad_y @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
        return ds @ k, ds.mT @ q, p.mT @ grad_y

    example = [random(1, 2, 8, 16, seed=seed) for seed in range(3)]
    report = asked(backward, functional.scaled_dot_product_attention, *example)
    assert report.verdict == "right", str(report)


def test_there_are_some_bags():
    def backward(grad_y, weight, index, offsets):
        bag = torch.bucketize(torch.arange(len(index)), offsets, right=True) - 1
        counts = torch.bincount(bag, minlength=len(offsets)).clamp(min=1).to(grad_y.dtype)
        return torch.zeros_like(weight).index_add(0, index, (grad_y / counts[:, None])[bag])

    def bags(weight, index, offsets):
        return functional.embedding_bag(index, weight, offsets, mode="mean")

    report = asked(backward, bags, random(7, 3), torch.tensor([0, 2, 2, 4, 1, 6]), torch.tensor([0, 2, 3, 5]))
    assert report.verdict == "right", str(report)


def test_where_a_derivative_is_exact_its_digits_are_another_matter():
    """Softplus is x itself above 20, whose derivative is 1."""
    for scale in (1, 20):
        x = random(6, 10) * scale
        assert asked(lambda g, x: g * torch.sigmoid(x), functional.softplus, x).verdict == "right"
        assert asked(lambda g, x: g * torch.sigmoid(x), functional.softplus, x.bfloat16()).verdict == "right"


def test_a_row_that_is_none_is_no_padding():
    def backward(grad_y, index, weight):
        grad_y = torch.where((index == 5)[..., None], 0.0, grad_y)
        return None, torch.zeros_like(weight).index_add(0, index.flatten(), grad_y.flatten(0, -2))

    example = torch.tensor([[0, 5, 1], [2, 3, 4]]), random(6, 5)
    report = asked(backward, lambda index, w: functional.embedding(index, w, padding_idx=5), *example)
    assert report.verdict == "right", str(report)


def test_the_padding_of_an_embedding_is_as_torch_masks_it():
    def backward(grad_y, index, weight, masked=True):
        found = torch.zeros_like(weight).index_add(0, index.flatten(), grad_y.flatten(0, -2))
        found[0] *= not masked
        return None, found

    def looked_up(index, weight):
        return functional.embedding(index, weight, padding_idx=0)

    example = torch.tensor([[0, 2, 1], [4, 0, 3]]), random(5, 3)
    assert asked(backward, looked_up, *example).verdict == "right"
    assert asked(lambda *a: backward(*a, masked=False), looked_up, *example).verdict == "wrong"


# ------------------------------------------------------------------ what is said of the domain
def shifted(x, taps):
    wide = functional.pad(x, (taps - 1, 0))
    return [wide[:, taps - 1 - k : taps - 1 - k + x.shape[1]] for k in range(taps)]


def convolved(x, w):
    return sum(part * w[k] for k, part in enumerate(shifted(x, len(w))))


def of_three(grad_y, x, w):
    wide = functional.pad(grad_y, (0, 2))
    grad_x = sum(wide[:, k : k + x.shape[1]] * w[k] for k in range(3))
    return grad_x, torch.stack([(grad_y * part).sum() for part in shifted(x, 3)])


def test_a_size_stays_that_is_said_to():
    assert asked(of_three, convolved, random(4, 6), random(3)).verdict == "wrong"
    for sizes in ({3: 3}, {3: (3,)}):
        report = asked(of_three, convolved, random(4, 6), random(3), sizes=sizes)
        assert report.verdict == "right" and "unlike the example's" not in str(report), str(report)


def test_arrays_that_lie_in_order_may_be_all_that_is_meant():
    def backward(grad_y, x):
        assert grad_y.is_contiguous()
        assert x.is_contiguous()
        return grad_y * x.exp()

    report = asked(backward, torch.exp, random(3, 4))
    assert report.verdict == "wrong" and "contiguous=True tries no such arrays" in str(report)
    assert asked(backward, torch.exp, random(3, 4), contiguous=True).verdict == "right"
    assert check(backward, "exp", contiguous=True, raise_on_failure=False).verdict == "right"


def test_a_domain_is_what_forward_does_not_raise_at():
    def clipped(x, alpha):
        if float(alpha) <= 0:
            raise ValueError("alpha is positive")
        return torch.minimum(x.clamp_min(0), alpha)

    def backward(grad_y, x, alpha):
        return grad_y * ((x > 0) & (x < alpha)), (grad_y * (x >= alpha)).sum()

    report = asked(backward, clipped, random(4, 5), torch.tensor(0.7), convention="any subgradient")
    assert report.verdict == "right", str(report)


# ------------------------------------------------------------------ what is lost, and what is told
def test_squares_beyond_float16_are_told():
    def normed(x):
        return (x.float() / x.float().norm(dim=-1, keepdim=True)).to(x.dtype)

    def backward(grad_y, x, wide=False):
        x = x.float() if wide else x
        r = 1 / (x * x).sum(-1, keepdim=True).sqrt()
        y, g = x * r, grad_y.to(x.dtype)
        return (r * (g - y * (g * y).sum(-1, keepdim=True))).to(grad_y.dtype)

    example = (random(4, 16) / 4).half()
    report = asked(backward, normed, example)
    assert report.verdict == "right" and "loses its digits in float16 at numbers" in str(report), str(report)
    whole = asked(lambda *a: backward(*a, wide=True), normed, example)
    assert whole.verdict == "right" and "in float16 at" not in str(whole), str(whole)
    assert asked(backward, normed, example * 1200).verdict == "inaccurate"


def test_a_kernel_for_bfloat16_alone_may_round_to_it():
    def backward(grad_y, x, w, stored=torch.bfloat16):
        g, x, w = (t.float() for t in (grad_y, x, w))
        return tuple(t.to(stored).bfloat16() for t in (g @ w.T, x.T @ g))

    example = random(4, 6).bfloat16(), random(6, 3).bfloat16()

    def product(x, w):
        return (x.float() @ w.float()).to(x.dtype)

    assert asked(backward, product, *example).verdict == "right"
    assert asked(lambda *a: backward(*a, stored=torch.float8_e4m3fn), product, *example).verdict != "right"


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y.clone())
        return y

    @staticmethod
    def backward(ctx, grad_y):
        (y,) = ctx.saved_tensors
        return y.mul_(grad_y)


def test_a_backward_that_can_be_called_once_is_told_so():
    report = check_function(InPlace, forward=torch.exp, example=(random(3),))
    assert report.verdict == "right" and "raises at a second backward of one forward" in str(report)


def test_a_backward_that_takes_ctx_is_told_of_its_function():
    with pytest.raises(InputError, match=r"is checked with its Function, as in check_function"):
        check(InPlace.backward, forward=torch.exp, example=(random(3),))


def test_a_definition_that_cannot_be_followed_is_called_one():
    import numpy as np

    with pytest.raises(InputError, match=r"the definition raises .* write it with other functions, or give forward="):
        check(lambda g, x: g[1:-1], definition=lambda x: np.pad(x, 1), example=(np.ones(3),))


def test_a_cotangent_that_lies_out_of_order_is_told_as_arrays_are():
    def by_rows(grad_y, x, w):
        rows = grad_y.view(-1, grad_y.shape[-1])
        return (rows @ w.t()).view(x.shape), x.reshape(-1, x.shape[-1]).t() @ rows

    asked = {"forward": torch.matmul, "example": (torch.randn(2, 3, 4), torch.randn(4, 5)), "raise_on_failure": False}
    report = check(by_rows, **asked)
    assert report.verdict == "wrong" and "contiguous=True tries no such arrays" in str(report)
    assert check(by_rows, **asked, contiguous=True).verdict == "right"


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)
def test_numbers_in_order_along_the_last_axis_stay_so(shape):
    """Midpoints along rays, as of the distortion loss that torch-ngp computes by sums up to each."""

    def forward(w, m):
        m = m.detach()
        return torch.einsum("...i,...j,...ij->...", w, w, (m[..., :, None] - m[..., None, :]).abs())

    def before(x):
        return x.cumsum(-1) - x

    def after(x):
        return x.sum(-1, keepdim=True) - x.cumsum(-1)

    def backward(grad_y, w, m, factor=2):
        below, above = m * before(w) - before(w * m), after(w * m) - m * after(w)
        return factor * grad_y[..., None] * (below + above), None

    example = torch.rand(shape, generator=numbers_from(1)), torch.rand(shape, generator=numbers_from(2)).sort(-1)[0]
    report = asked(backward, forward, *example)
    assert report.verdict == "right", str(report)
    assert asked(lambda g, w, m: backward(g, w, m, 1), forward, *example).verdict == "wrong"
    for n in (1, 2, 8, 300):
        made = drawn(numbers_from(n), example[1].double(), (*shape[:-1], n), "normal", kept=True)
        assert bool((made.diff() >= 0).all())
