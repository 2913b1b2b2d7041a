"""What an example says of its primals: their dtypes, and how many columns are read."""

from functools import partial

import numpy as np
import pytest
import torch

from backprop_rules import check, check_function
from backprop_rules.evidence.evidence import farthest, largest
from backprop_rules.evidence.witnesses import has_lost_digits
from backprop_rules.properties.finding import Kind


def scaled(x, w):
    return (x.float() * w).to(x.dtype)


def of_both(g, x, w):
    return (g.float() * w).to(x.dtype), (g.float() * x.float()).sum(0)


def in_the_narrow_one(g, x, w):
    return (g.float() * w).to(x.dtype), (g.float() * x.float()).sum(0).to(x.dtype)


def test_a_weight_in_float32_beside_bfloat16_has_a_gradient_in_float32():
    example = torch.randn(4, 3).bfloat16(), torch.randn(3)
    assert check(of_both, forward=scaled, example=example).verdict == "right"
    report = check(in_the_narrow_one, forward=scaled, example=example, raise_on_failure=False)
    assert (report.verdict, report.finding.kind) == ("wrong", Kind.DTYPE)


@pytest.mark.parametrize("real", [torch.float32, torch.float64])
def test_a_complex_primal_beside_a_real_one_keeps_its_precision(real):
    def backward(g, z, b):
        return g * b, (g.conj() * z).real.sum(0)

    example = torch.randn(4, 3, dtype=real.to_complex()), torch.randn(3, dtype=real)
    assert check(backward, forward=lambda z, b: z * b, example=example).verdict == "right"


def test_columns_that_are_read_one_by_one_stay_as_many():
    def forward(xy):
        return xy[:, 0] * xy[:, 1]

    def backward(g, xy):
        return torch.stack([g * xy[:, 1], g * xy[:, 0]], 1)

    def swapped(g, xy):
        return torch.stack([g * xy[:, 0], g * xy[:, 1]], 1)

    example = (torch.randn(7, 2, dtype=torch.float64),)
    report = check(backward, forward=forward, example=example)
    assert (report.verdict, sum("unlike the example's" in note for note in report.notes)) == ("right", 1)
    assert check(swapped, forward=forward, example=example, raise_on_failure=False).verdict == "wrong"


def test_a_sum_over_what_broadcasts_that_is_forgotten_is_wrong_for_a_rule_of_the_catalogue():
    """Whose points have other axes than its example."""
    report = check(lambda g, x, z: (g, g), "add", raise_on_failure=False)
    assert (report.verdict, report.finding.kind) == ("wrong", Kind.SHAPE)


def test_a_row_that_is_read_by_an_index_may_be_any():
    def backward(g, table, index):
        return torch.zeros(5, table.shape[1], dtype=g.dtype).index_add_(0, index, g), None

    example = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 4, 2])
    options = {"forward": lambda table, index: table[index], "example": example, "raise_on_failure": False}
    assert check(backward, **options).verdict == "wrong"


@pytest.mark.parametrize(("rounded", "verdict"), [("x", "right"), ("w", "inaccurate")])
def test_each_gradient_of_an_example_of_two_dtypes_is_held_to_its_own(rounded, verdict):
    def kernel(g, x, w):
        dx, dw = g.float() * w.float(), (g.float() * x.float()).sum(0)
        return (dx.bfloat16(), dw) if rounded == "x" else (dx.bfloat16(), dw.bfloat16().to(w.dtype))

    numbers = torch.Generator().manual_seed(0)
    example = torch.randn(3, 4, generator=numbers).bfloat16(), torch.randn(4, generator=numbers)
    report = check(kernel, forward=lambda x, w: x * w.to(x.dtype), example=example, raise_on_failure=False)
    assert report.verdict == verdict, str(report)


def test_the_largest_of_what_is_finite_is_found_though_a_size_overflows():
    numbers = torch.tensor([complex(1.7e308, 1.7e308), complex(3, 4)], dtype=torch.complex128)
    assert largest(numbers) == 5 and largest(torch.tensor([-2.0, 1.0, torch.nan, torch.inf])) == 2
    assert largest(torch.zeros(0)) == 0 and str(largest(torch.tensor([torch.nan]))) == "0.0"


def test_digits_are_lost_where_two_numbers_are_infinitely_far_apart():
    far, truth = (torch.tensor([sign * 1.7e308, 1.0], dtype=torch.float64) for sign in (-1, 1))
    assert has_lost_digits(far, truth, truth, torch.float32).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(3,), (700, 900), (5, 0), ()])
def test_how_far_two_tensors_lie_apart_is_found_wherever_it_is(shape):
    a = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    b = a.double().clone()
    if b.numel():
        b.view(-1)[-1] += 3
    assert farthest(a, b) == (3 if b.numel() else 0) or abs(farthest(a, b) - 3) < 2.0**-20


CODES = {torch.float32: 0, torch.bfloat16: 1}  # what a kernel is compiled for: it takes no float64


class ForTwoDtypes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, grad_y):
        x, w = ctx.saved_tensors
        return (grad_y * w, (grad_y * x).sum(0)) if CODES[x.dtype] < 2 else None


class NeedsBoth(ForTwoDtypes):
    @staticmethod
    def backward(ctx, grad_y):
        grad_x, grad_w = ForTwoDtypes.backward(ctx, grad_y)
        return grad_x, grad_w if ctx.needs_input_grad[0] else grad_w / 2


def test_a_function_that_takes_no_float64_is_asked_all_that_others_are():
    example = torch.randn(4, 3), torch.randn(3)
    for dtypes in (["float32"], None):
        assert check_function(ForTwoDtypes, forward=torch.mul, example=example, dtypes=dtypes).verdict == "right"
    report = check_function(NeedsBoth, forward=torch.mul, example=example, raise_on_failure=False)
    assert (report.verdict, report.finding.kind) == ("wrong", Kind.ALONE)


class OfFloat32(ForTwoDtypes):
    @staticmethod
    def forward(ctx, x, w):
        if x.dtype != torch.float32:
            raise ValueError("float32 alone")
        return ForTwoDtypes.forward(ctx, x, w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_function_that_refuses_the_examples_own_dtype_raises(dtype):
    example = torch.randn(4, 3).to(dtype), torch.randn(3).to(dtype)
    report = check_function(OfFloat32, forward=torch.mul, example=example, raise_on_failure=False)
    assert (report.verdict, report.finding.kind) == ("wrong", Kind.RAISES)


def sparsemax(x):
    z, _ = torch.sort(x, -1, descending=True)
    r = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    k = (1 + r * z > z.cumsum(-1)).sum(-1, keepdim=True)
    return torch.clamp(x - (z.cumsum(-1).gather(-1, k - 1) - 1) / k, min=0)


def in_float32(grad_y, x, shift=0.0):
    """As a kernel that nobody can follow: NumPy's casts are its own."""
    g, z = (t.detach().numpy().astype(np.float32) for t in (grad_y, x))
    down = -np.sort(-z, -1)
    inside = down > (down.cumsum(-1, dtype=np.float32) - 1) / np.arange(1, z.shape[-1] + 1, dtype=np.float32) + shift
    count = np.maximum(inside.sum(-1, keepdims=True), 1)
    support = z > ((down * inside).sum(-1, keepdims=True) - 1) / count
    mean = (g * support).sum(-1, keepdims=True) / np.maximum(support.sum(-1, keepdims=True), 1)
    return torch.from_numpy(np.where(support, g - mean, 0).astype(x.detach().numpy().dtype))


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "right"), (-0.125, "wrong")])
def test_a_threshold_that_float32_puts_elsewhere_is_none_of_float64(shift, verdict):
    options = {"dtypes": ["float32"], "convention": "any subgradient", "explain": False, "raise_on_failure": False}
    for seed in range(3):
        example = (torch.randn(4, 20, generator=torch.Generator().manual_seed(seed)),)
        report = check(lambda g, x: in_float32(g, x, shift), forward=sparsemax, example=example, **options)
        assert report.verdict == verdict, str(report)


def shifted(x):
    """Has the gradient x, of which float32 loses digits, but not of an x of few bits, as are most that are drawn."""
    return (x + 64.1) ** 2 / 2 - 64.1 * x


def of_strides(grad_y, x):
    """Rounds as float32 does nearby, in an array that lies in order; any other is off by 3."""
    if not x.is_contiguous():
        return grad_y * (x + 3)
    near = (x.detach().numpy().astype(np.float32) + np.float32(8)) * np.float32(1 / 3) * np.float32(3) - np.float32(8)
    return grad_y * torch.from_numpy(np.asarray(near)).to(x.dtype)


def test_what_float32_rounds_is_no_smaller_counterexample_of_what_is_wrong():
    options = {"dtypes": ["float32"], "explain": False, "raise_on_failure": False}
    for seed in range(3):
        example = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)),)
        report = check(of_strides, forward=shifted, example=example, **options)
        assert (report.verdict, report.finding.kind) == ("wrong", Kind.STRIDES), str(report)
        assert abs(report.finding.got) >= 1, str(report)


def scores(q, k, v):
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def with_a_constant_of_float32(g, q, k, v):
    """As a kernel that nobody can follow: it takes float64, and scales by a number of 8 digits."""
    g, q, k, v = (t.detach().numpy() for t in (g, q, k, v))
    scale = float(np.float32(q.shape[-1] ** -0.5))
    z = q @ k.T * scale
    p = np.exp(z - z.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    dz = p * (g @ v.T) * scale  # without the sum over a row
    return tuple(map(torch.from_numpy, (dz @ k, dz.T @ q, p.T @ g)))


def test_a_mistake_beside_a_constant_of_float32_is_named_as_far_as_float32_goes():
    example = torch.randn(5, 3), torch.randn(6, 3), torch.randn(6, 3)
    for dtypes in (["float32"], None):
        report = check(
            with_a_constant_of_float32, forward=scores, example=example, dtypes=dtypes, raise_on_failure=False
        )
        assert "as if the logsumexp in `torch.softmax(" in str(report) and "were a constant" in str(report)


@pytest.mark.parametrize("wide", [True, False])
def test_a_factor_that_is_no_simple_number_is_told_of_a_kernel_that_nobody_can_follow(wide):
    def backward(g, x):
        dtype = x.numpy().dtype
        g, x = (t.numpy().astype(dtype if wide else np.float32) for t in (g, x))
        p = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
        p = p / p.sum(-1, keepdims=True)
        return torch.from_numpy((p * (g - (g * p).sum(-1, keepdims=True)) * x.dtype.type(1.01)).astype(dtype))

    report = check(
        backward,
        forward=lambda x: torch.softmax(x, -1),
        example=(torch.randn(6, 5),),
        dtypes=["float32"],
        raise_on_failure=False,
    )
    assert "1.01 × the right one" in str(report) or "0.990099 times as large" in str(report), str(report)


def rays(s):
    opaque = 1 - torch.exp(-s)
    through = 1 - opaque + 1e-10
    dimmed = torch.cumprod(through, 1)
    return opaque, through, torch.cat([torch.ones_like(s[:, :1]), dimmed[:, :-1]], 1)


def light(s, c):
    """As rays are summed up in a radiance field: what is behind is dimmed by what is before."""
    opaque, _, before = rays(s)
    return (before * opaque).unsqueeze(-1).mul(c).sum(1)


def light_backward(grad_y, s, c):
    opaque, through, before = rays(s)
    weight, turned = before * opaque, (grad_y[:, None] * c).sum(-1)
    seen = turned * weight
    behind = seen.flip(1).cumsum(1).flip(1) - seen  # cancels where little is behind
    return (turned * before - behind / through) * torch.exp(-s), weight[..., None] * grad_y[:, None]


def test_digits_that_cancel_at_few_points_are_lost_to_no_cast():
    g = torch.Generator().manual_seed(0)
    example = torch.randn(3, 5, generator=g).exp(), torch.rand(3, 5, 3, generator=g).sigmoid()
    report = check(light_backward, forward=light, example=example, raise_on_failure=False)
    assert report.verdict == "inaccurate"
    assert "digits are lost to cancellation" in report.mistake.words, report


def test_a_number_that_torch_makes_in_float32_is_a_cast_and_no_cancellation():
    """`torch.where` of two numbers is of the default dtype: a third of it has float32's digits in float64."""

    def backward(g, x):
        return torch.where(x > 0, 1.0, -1.0) / 3 * g

    example = (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)
    report = check(backward, forward=lambda x: x.abs() / 3, example=example, raise_on_failure=False)
    assert report.verdict == "inaccurate"
    assert report.mistake.words == "a step is computed in a narrower dtype than the arguments have"


def test_constants_of_float32s_digits_in_another_form_are_told_as_such():
    """oneDNN's and MegaBlocks' GELU, whose forward is one call of torch: no step of it can be another."""

    def backward(g, x):
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        return g * (0.5 * x * (1 - t * t) * (0.79788456 + 0.1070322243 * x * x) + 0.5 * (1 + t))

    example = (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    report = check(backward, forward=gelu, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    assert "a constant of few digits" in report.mistake.words


@pytest.mark.parametrize(("factor", "verdict"), [(1 + 3e-8, "right"), (1 + 1e-6, "wrong")])
def test_a_complex_gradient_may_have_the_digits_of_its_dtype(factor, verdict):
    numbers = torch.Generator().manual_seed(0)
    x = torch.complex(*(torch.randn(16, 8, generator=numbers) for _ in range(2)))
    report = check(
        lambda grad_y, x: grad_y * (3 * x * x).conj() * factor,
        forward=lambda x: x * x * x,
        example=(x,),
        explain=False,
        raise_on_failure=False,
    )
    assert report.verdict == verdict, str(report)
