"""Gradients at a point of one's own, at the edges: blocks, infinities, NaN, overflow, odd input."""

import math
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from real_sizes import KERNELS, WRONG, stored
from tolerances import shares

from backprop_rules import InputError
from backprop_rules.evidence import systematic
from backprop_rules.evidence.allowance import blocks, blockwise
from backprop_rules.testing import WrongGradients, assert_gradients, enclose


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scaled(x):
    s = (x.exp() * 1.1).mean() * 3
    y = (x * s).mean() * 0
    return y + s.sin()


# A function whose tensors are cut into blocks, beside numbers, rows and columns that are not.
CUT = {
    "a number used twice": (scaled, (numbers(50),)),
    "a mean, used later": (lambda x: (x - (m := (x * 1.1).mean())) * m, (numbers(6, 7),)),
    "a row": (lambda x, w: (x * w.exp()).exp() * w.exp(), (numbers(9, 5), numbers(5, seed=1))),
    "a column": (lambda x: x / (s := x.exp().sum(-1, keepdim=True)) + s, (numbers(9, 5),)),
    "square layer norm": (lambda x, w, b: F.layer_norm(x, (6,), w, b), (numbers(6, 6), numbers(6), numbers(6, seed=1))),
    "layer norm of two": (lambda x, w: F.layer_norm(x, (2, 9), w), (numbers(2, 2, 9), numbers(2, 9))),
    "softmax": (lambda x: x.softmax(1), (numbers(4, 5, 3),)),
    "log softmax": (lambda x: x.T.log_softmax(-1), (numbers(12, 5),)),
    "expanded": (lambda x: x[:, None].expand(6, 4) * x[:, None].exp(), (numbers(6),)),
}


@pytest.mark.parametrize("name", CUT)
def test_a_radius_does_not_depend_on_the_blocks(name, monkeypatch):
    function, primals = CUT[name]
    y = function(*primals)
    found = []
    for size in (5, 1 << 20):
        monkeypatch.setattr(blocks, "BLOCK", size)
        monkeypatch.setattr(blockwise, "BLOCK", size)
        found.append(enclose(function, primals, grad_y=torch.ones_like(y)))
    for small, large in zip(*found, strict=True):
        assert torch.equal(small.truth, large.truth)
        ratio = small.radius / large.radius
        assert bool(
            ((ratio > 0.999) & (ratio < 1.001) | (large.radius == 0)).all()
        )  # but for the order of its own sums


LAYERS = {
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (numbers(3, 4, 5, 5), numbers(4), numbers(4, seed=1))),
    "batch norm in evaluation": (
        lambda x, w, b: F.batch_norm(x, w.new_zeros(4), w.new_ones(4), w, b),
        (numbers(3, 4, 5, 5), numbers(4), numbers(4, seed=1)),
    ),
    "mean pooling": (lambda x: F.avg_pool2d(x, 3, 2, 1), (numbers(2, 3, 9, 9),)),
    "largest of windows": (lambda x: F.max_pool2d(x.exp(), 3, 2, 1), (numbers(2, 3, 9, 9),)),
    "convolution with strides and groups": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, groups=2),
        (numbers(2, 4, 9, 9), numbers(6, 2, 3, 3), numbers(6)),
    ),
    "transposed convolution": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
        (numbers(2, 4, 5, 5), numbers(4, 3, 3, 3), numbers(3)),
    ),
    "embedding": (lambda w: F.embedding(torch.tensor([[0, 2, 2], [1, 0, 2]]), w).tanh(), (numbers(3, 5),)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", LAYERS)
def test_torchs_own_layers_are_right(name, dtype):
    function, given = LAYERS[name]
    primals = [x.to(dtype) for x in given]
    live = [x.clone().requires_grad_() for x in primals]
    y = function(*live)
    g = numbers(*y.shape, seed=5).to(dtype)
    got = torch.autograd.grad(y, live, g)
    precision = "eager" if dtype == torch.bfloat16 else None
    assert_gradients(got, forward=function, primals=primals, grad_y=g, y=y.detach(), precision=precision, blind="allow")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0]  # wrong


def test_a_reference_with_somebodys_backward_is_held_to_it_and_that_is_said():
    x = numbers(8).requires_grad_()
    checkpointed = torch.utils.checkpoint.checkpoint
    for forward, said in [
        (lambda x: Square.apply(x).sin(), "is the backward of Square, somebody's autograd.Function"),
        (lambda x: checkpointed(torch.sin, x, use_reentrant=False), ""),
        (torch.sin, ""),
    ]:
        (got,) = torch.autograd.grad(forward(x).sum(), x)
        told = str(assert_gradients(got, forward=forward, primals=(x.detach(),), grad_y=torch.ones(8)))
        assert said in told
        assert bool(said) == ("autograd.Function" in told)
        with pytest.raises(WrongGradients) as caught:
            assert_gradients(2 * got, forward=forward, primals=(x.detach(),), grad_y=torch.ones(8))
        assert said in str(caught.value)


def test_where_the_radius_is_infinite_a_gradient_is_finite_still():
    a = torch.rand(64, generator=torch.Generator().manual_seed(0)) + 1
    b = a + 0.5
    b[0] = a[0] * (1 + 2**-23)

    def difference(a, b):
        return 1 / (a.exp() - b.exp())

    live = [t.clone().requires_grad_() for t in (a, b)]
    got = list(torch.autograd.grad(difference(*live), live, torch.ones(64)))
    held = {"forward": difference, "primals": (a, b), "grad_y": torch.ones(64)}
    assert math.isfinite(assert_gradients(tuple(got), **held).gradients[0].slope)
    for wrong in (math.nan, math.inf):
        off = got[0].clone()
        off[0] = wrong
        with pytest.raises(WrongGradients):
            assert_gradients((off, got[1]), **held)


def test_a_row_that_is_masked_whole_hides_nothing():
    x, g = numbers(48, 48).bfloat16(), numbers(48, 48, seed=1).bfloat16()
    mask = torch.zeros(48, 48)
    mask[0] = -math.inf

    def masked(x):
        return torch.softmax(x * 0.1 + mask, -1)

    truth = enclose(masked, (x,), grad_y=g).truth
    held = {"forward": masked, "primals": (x,), "grad_y": g}
    found = assert_gradients(truth.nan_to_num(0.0).bfloat16(), **held)
    assert "48 of 2304 elements of x are NaN in the reference: not judged." in str(found)
    with pytest.raises(WrongGradients):
        assert_gradients((truth.nan_to_num(0.0) * 1.005).bfloat16(), **held)


def test_what_overflows_its_dtype_may_be_infinite_and_nothing_else():
    x, g = torch.tensor([200.0, 3]).half(), torch.tensor([1000.0, 1]).half()
    held = {"forward": lambda x: x * x, "primals": (x,), "grad_y": g}
    assert_gradients(torch.tensor([math.inf, 6.0]).half(), **held)
    for wrong in (math.nan, -math.inf, -3.0):
        with pytest.raises(WrongGradients):
            assert_gradients(torch.tensor([wrong, 6.0]).half(), **held)


def test_sums_that_overflow_or_vanish_on_the_way_are_not_exact():
    a = torch.tensor([2.0**127, 2.0**127, -(2.0**127), -(2.0**127)])
    assert float(enclose(lambda a: a.sum(), (a,))._held.y[0].radius) > 0
    a, b = torch.full((1, 8), 2.0**-80), torch.full((8, 1), 3 * 2.0**-72)
    held = enclose(lambda a, b: a @ b, (a, b), grad_y=torch.ones(1, 1))._held.y[0]
    assert bool(held.contains(torch.zeros(1, 1)).all())


def test_an_infinite_gradient_is_told_as_one():
    with pytest.raises(WrongGradients) as caught:
        assert_gradients(
            torch.tensor([3.0, 0.5]), forward=torch.sqrt, primals=(torch.tensor([0.0, 1]),), grad_y=torch.ones(2)
        )
    assert "[0]: expected inf, got 3;" in str(caught.value)
    assert "nan" not in str(caught.value)


def test_messages_of_odd_input():
    x = torch.rand(6)

    def refused(got, **options):
        with pytest.raises(InputError) as caught:
            assert_gradients(got, **{"forward": lambda x: x * x, "primals": (x,), "grad_y": torch.ones(6), **options})
        return str(caught.value)

    assert refused((2 * x).bfloat16()).startswith(
        "the gradient of x has dtype torch.bfloat16, and its primal torch.float32"
    )
    assert refused(2 * x, forward=lambda x: x.detach() * 2).startswith("no primal has a gradient by forward")
    assert refused(2 * x, grad_y=1.0) == "grad_y is a tensor of the output's shape, or a tuple of them; got 1.0."
    assert refused(2 * x, grad_y=(None,)) == "grad_y is None for every output: there is no gradient."
    assert (
        refused(2 * x, also=lambda g, x: (2 * g * x).sum())
        == "also returns a tensor of shape () for a primal of shape (6,)."
    )
    assert "gives None where the reference has a gradient" in refused(2 * x, also=lambda g, x: None)
    assert refused(2 * x, also=lambda g, x: "x") == "also returns str for a primal of shape (6,)."
    assert refused((2 * x).to_sparse()).startswith("the gradient of x has no dense numbers to compare")
    assert refused((2 * x).to(torch.float8_e4m3fn)).startswith("the gradient of x has dtype torch.float8_e4m3fn")
    assert "at these primals" not in refused(2 * x, grad_y=torch.ones(5))
    with pytest.raises(InputError, match="forward raises RuntimeError"):
        enclose(lambda x: x @ x, (torch.rand(3, 4),))
    assert_gradients(
        {"w": 2 * x}, forward=lambda d: d["w"] * d["w"], primals=({"w": x},), grad_y=torch.ones(6), also=None
    )


@cache
def of_a_long_lstm():
    """Return right gradients of 96 steps of an LSTM, and what encloses them."""
    lstm = next(kernel for kernel in KERNELS if kernel.name == "lstm")
    primals = tuple(x.float() for x in lstm.make(torch.Generator().manual_seed(0), (96, 4, 64)))
    grad_y = lstm.cotangent(primals)
    return stored(lstm.fused(grad_y, *primals), primals), enclose(lstm.forward, primals, grad_y=grad_y)


def test_a_right_one_passes_where_the_worst_case_is_infinite():
    made, enclosed = of_a_long_lstm()
    assert all(one.radius.isinf().any() and one.blind > 0.5 for one in enclosed)
    assert enclosed.agreement(made).right


@pytest.mark.parametrize("mistake", ["sign", "1.01", "1.002", "one element", "one slice zero", "half of it zero"])
@pytest.mark.parametrize("primal", [0, 2], ids=["x", "wh"])
def test_where_the_worst_case_is_infinite_slopes_and_elements_are_asked(mistake, primal):
    made, enclosed = of_a_long_lstm()
    wrong = [WRONG[mistake](g) if k == primal else g for k, g in enumerate(made)]
    assert not enclosed.agreement(wrong).right


@pytest.mark.parametrize("primal", range(3), ids="xwb")
def test_a_factor_is_seen_in_the_long_sums_of_a_fused_norm(primal):
    """The sums of a layer norm's weight, too, are taken in an order that does not depend on their terms."""
    norm = next(kernel for kernel in KERNELS if kernel.name == "layer_norm")
    primals = tuple(x.float() for x in norm.make(torch.Generator().manual_seed(0), (16384, 16)))
    grad_y = norm.cotangent(primals)
    made = stored(norm.fused(grad_y, *primals), primals)
    enclosed = enclose(norm.forward, primals, grad_y=grad_y)
    assert enclosed.agreement(made).right
    assert not enclosed.agreement([1.002 * g if k == primal else g for k, g in enumerate(made)]).right


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: torch.relu(x * 2.1) * 3,
        lambda x: torch.nn.functional.hardtanh(x * 2.1) * 3,
        lambda x: torch.maximum(x * 2.1, torch.zeros_like(x)) * x,
    ],
)
def test_in_float64_a_choice_is_no_closer_than_its_operands_are_and_a_zero_no_wider_than_zero(forward):
    x = torch.linspace(-2, 1, 50, dtype=torch.float64)  # two thirds of it are cut off, none at a kink
    enclosed = enclose(forward, (x,), grad_y=torch.ones_like(x))[0]
    assert enclosed.blind == 0 and enclosed.radius.max() < 1e-13


def test_of_what_storing_alone_takes_to_zero_nothing_is_asked(monkeypatch):
    """Whatever the first order says of these elements, the result may be 0 there; each would be a reverse pass."""
    monkeypatch.setattr(systematic, "sensitivities", None)
    x, target = (4 * numbers(64, 3000)).half(), torch.arange(64)
    y = F.cross_entropy(x.float().requires_grad_(), target)
    live = x.float().requires_grad_()
    (grad_x,) = torch.autograd.grad(F.cross_entropy(live, target), live)
    enclosed = enclose(F.cross_entropy, (x, target), grad_y=torch.ones_like(y).half())
    assert enclosed["input"].blind > 0.5
    assert enclosed.agreement((grad_x.half(), None), blind="allow").right
    assert not enclosed.agreement((grad_x.half(), None)).right


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, (1 + numbers(5).abs())], ids=["", "weighted"])
@pytest.mark.parametrize("target", [[0, 4, 2, 3, 2, 1], [2] * 6], ids=["", "of one class"])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_the_gradient_of_a_likelihood_lies_at_its_targets(reduction, weight, ignored, target):
    def likelihood(x):
        return F.nll_loss(x, torch.tensor(target), weight, reduction=reduction, ignore_index=ignored)

    x = numbers(6, 5).requires_grad_()
    y = likelihood(x)
    grad_y = numbers(*y.shape, seed=1)
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    enclosed = enclose(likelihood, (x.detach(),), grad_y=grad_y)[0]
    assert enclosed.contains(grad_x).all()
    assert not enclosed.contains(grad_x * (1 + 2.0**-18))[grad_x != 0].any()
    assert not enclosed.radius[grad_x == 0].any()


@pytest.mark.parametrize("seed", range(20))
def test_torchs_own_quotient_of_a_likelihood_is_kept_in_float16(seed):
    target, weight = torch.randint(5, (9,), generator=torch.Generator().manual_seed(seed)), numbers(5).abs() + 0.1

    def likelihood(x):
        return F.nll_loss(x, target, weight.to(x))

    weight = weight.half()
    x = numbers(9, 5, seed=seed).half().requires_grad_()
    y = likelihood(x)
    grad_y = numbers(*y.shape, seed=seed + 1).half()
    (grad_x,) = torch.autograd.grad(y, x, grad_y)
    assert enclose(likelihood, (x.detach(),), grad_y=grad_y, precision="eager").contains(grad_x).all()


def test_one_element_far_off_is_seen_in_a_gradient_of_which_most_are_blind():
    """It is not blind itself; slope and mean are made up for by the others, well inside of their allowances."""
    weights = [(numbers(512, 512, seed=k) / 512**0.5).bfloat16() for k in range(3)]

    def product(b, w1, w2, w3):
        return w3 @ (w2 @ (w1 @ b))

    b, grad_y = numbers(512, 1, seed=4).bfloat16(), numbers(512, 1, seed=5).bfloat16()
    enclosed = enclose(product, (b, *weights), grad_y=grad_y)
    rights, held = [one.truth.bfloat16() for one in enclosed], enclosed[0]
    truth, radius = held.truth.reshape(-1), held.radius.reshape(-1)
    assert held.blind > 0.5
    k = int(((truth.abs() > radius) * radius).argmax())
    off, others, ones = torch.zeros_like(truth), torch.ones_like(truth), torch.ones_like(truth)
    off[k], others[k] = -truth[k].sign() * 0.9 * radius[k], 0
    asked = torch.stack([truth, ones])
    spread = torch.stack([truth * others, others], 1)
    off += spread @ torch.linalg.solve(asked @ spread, -(asked @ off))
    assert float(((off * others).abs() / radius).max()) < 0.1
    assert enclosed.agreement(rights, blind="allow").right
    found = enclosed.agreement([(truth + off).bfloat16().reshape(512, 1), *rights[1:]], blind="allow")
    assert found.systematic.found.sum.element == (k, 0)


def test_elements_that_are_zero_do_not_make_a_blind_gradient_seen():
    """Of 256 elements 26 are not 0, and of these roundings say nothing."""
    a, b = ((numbers(256, seed=k).abs() + 1).bfloat16().double() for k in (0, 1))
    few = torch.where(torch.arange(256) < 26, 2.0**-10, 0.0).double()

    def cancelling(x):
        return (x * a) * b - (x * b) * a + x * few

    x, grad_y = numbers(256, seed=2).bfloat16(), numbers(256, seed=3).bfloat16()
    enclosed = enclose(cancelling, (x,), grad_y=grad_y, precision="eager")
    for got in (enclosed.truth, torch.zeros(256), -enclosed.truth):
        assert not enclosed.agreement(got.bfloat16()).right


def test_a_truth_beyond_float16_leaves_the_other_elements_their_questions():
    x, w, grad_y = numbers(4096, 64).half(), numbers(64, seed=1).half(), numbers(4096, seed=2).half()
    x[0, 0], grad_y[0] = 6e4, 3
    enclosed = enclose(lambda x, w: x @ w, (x, w), grad_y=grad_y)
    of_x, of_w = (one.truth for one in enclosed)
    assert of_w[0] > torch.finfo(torch.float16).max
    wrong = torch.where(torch.arange(64) > 0, of_w * 1.01, of_w)
    assert enclosed.agreement([of_x.half(), of_w.half()]).right
    assert not enclosed.agreement([of_x.half(), wrong.half()]).right


@pytest.mark.parametrize("kernel", KERNELS[2:4], ids=lambda k: k.name)
def test_most_of_a_narrow_radius_is_storing(kernel):
    primals = kernel.primals(torch.bfloat16, large=False)
    found = shares(kernel, primals, kernel.cotangent(primals))["shares"]
    assert all(0 <= share <= 1 for share in found)  # storing, sums, and what is rounded before
    assert found[0] == max(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_what_is_0_in_any_implementation_is_not_blind(dtype):
    # Three quarters of the gradient of x are 0, as no window reads there; so are whole rows of one of w.
    primals = [x.to(dtype) for x in (numbers(2, 4, 8, 8), numbers(4, 4, 1, 1, seed=1))]
    live = [x.float().requires_grad_() for x in primals]  # torch's own in bfloat16 keeps its sums so on some processors
    y = F.conv2d(*live, stride=2)
    g = numbers(*y.shape, seed=2).to(dtype)
    asked = {"forward": lambda x, w: F.conv2d(x, w, stride=2), "primals": primals, "grad_y": g}
    got = [x.to(dtype) for x in torch.autograd.grad(y, live, g.float())]
    assert [one.blind for one in assert_gradients(got, **asked).gradients] == [0, 0]
    asked["precision"] = "eager"
    assert [one.blind for one in assert_gradients(got, **asked).gradients] == [0, 0]
    off = got[0].clone()
    off[0, 0, 1, 1] = torch.finfo(dtype).smallest_normal
    with pytest.raises(WrongGradients):
        assert_gradients((off, got[1]), **asked)


def test_a_complex_output_is_to_be_held_as_real_numbers():
    x = numbers(4, 8)
    with pytest.raises(InputError, match=r"one of these is complex\. Let forward return torch\.view_as_real of it"):
        assert_gradients((x,), forward=torch.fft.fft, primals=(x,), grad_y=torch.ones(4, 8, dtype=torch.complex64), y=x)


def test_a_mean_may_be_divided_by_a_negative_number():
    x, g = numbers(1, 1, 4, 4), numbers(1, 1, 2, 2)
    pooled = partial(F.avg_pool2d, kernel_size=2, divisor_override=-3)
    live = x.clone().requires_grad_()
    y = pooled(live)
    asked = {"forward": pooled, "primals": (x,), "grad_y": g}
    assert_gradients(torch.autograd.grad(y, live, g), **asked, y=y.detach())
    with pytest.raises(WrongGradients):
        assert_gradients((g.repeat_interleave(2, 2).repeat_interleave(2, 3) / 3,), **asked)
