"""What was differentiated otherwise, told of gradients at one point by assert_gradients."""

import math

import pytest
import torch

from backprop_rules.diagnosis.at_size import allowed
from backprop_rules.diagnosis.tape import Step
from backprop_rules.evidence.at_size import Held
from backprop_rules.testing import WrongGradients, assert_gradients


def attention(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores, -1) @ v


def backward(g, q, k, v, diagonal=False, scale=True):
    p = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    dp = g @ v.mT
    ds = p * (1 - p) * dp if diagonal else p * (dp - (dp * p).sum(-1, keepdim=True))
    ds = ds / math.sqrt(q.shape[-1]) if scale else ds
    return ds @ k, ds.mT @ q, p.mT @ g


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


POINT = [numbers(2, 3, 64, 32), numbers(2, 3, 48, 32), numbers(2, 3, 48, 16)]
COTANGENT = numbers(2, 3, 64, 16)


def told(got, forward, primals, grad_y, **options):
    with pytest.raises(WrongGradients) as raised:
        assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y, **options)
    lines = [line for line in str(raised.value).splitlines() if line.startswith("    likely")]
    assert lines
    return lines


def test_a_wrong_softmax_is_told_in_its_line():
    first = attention.__code__.co_firstlineno
    for line in told(backward(COTANGENT, *POINT, diagonal=True), attention, POINT, COTANGENT):
        assert f"the sub in `torch.softmax(scores, -1)` (forward, line {first + 2}) is not summed" in line


def test_a_factor_is_told_as_the_size_that_it_is_of_and_in_its_line():
    first = attention.__code__.co_firstlineno
    for line in told(backward(COTANGENT, *POINT, scale=False), attention, POINT, COTANGENT):
        assert f"(forward, line {first + 1}) is off by the factor the root of the size of axis 3 of `q`" in line


def norm(x, w):
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    return x * inverse * w


def test_in_bfloat16_a_constant_is_told():
    x, w, g = (numbers(*s, dtype=torch.bfloat16) for s in ((64, 128), (128,), (64, 128)))
    wide, scale = x.float(), torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    got = (g.float() * w.float() * scale).bfloat16(), (g.float() * wide * scale).sum(0).bfloat16()
    (line,) = told(got, norm, (x, w), g)
    assert "as if `torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)`" in line
    assert "were a constant" in line


def test_an_element_of_which_nothing_is_said_allows_the_others_nothing():
    far = torch.tensor([0.25, math.inf, 0.5], dtype=torch.float64)
    held = Held(torch.zeros(3, dtype=torch.float64), far, torch.float32)
    assert allowed(held, held.truth).tolist() == [0.5, math.inf, 0.5]
    assert allowed(None, held.truth).tolist() == [math.inf] * 3


def test_what_no_edit_explains_is_not_recognised():
    dq, dk, dv = backward(COTANGENT, *POINT)
    (line,) = told((dq, dk, dv + 0.1 * dv.roll(1, -1).square()), attention, POINT, COTANGENT)
    assert "not recognised" in line


def test_where_half_of_the_digits_are_right_other_steps_to_the_same_are_thought_of():
    dq, dk, dv = backward(COTANGENT, *POINT)
    noise = torch.randn(dv.shape, generator=torch.Generator().manual_seed(0)).to(dv)
    (line,) = told((dq, dk, dv + 1e-5 * noise), attention, POINT, COTANGENT)
    assert "if other steps lead to the same, give them as also=, a backward in torch" in line
    (line,) = told((dq, dk, dv + 0.1 * dv.roll(1, -1).square()), attention, POINT, COTANGENT)
    assert "also=" not in line


def test_an_operation_that_torch_differentiates_once_costs_no_jacobian_of_all_its_numbers():
    q, k, v = (numbers(2, 3, 96, 32 + n)[..., :32] for n in range(3))
    g = numbers(2, 3, 96, 40)[..., :32]
    reference = torch.nn.functional.scaled_dot_product_attention
    live = [x.double().requires_grad_() for x in (q, k, v)]
    right = [x.float() for x in torch.autograd.grad(reference(*live), live, g.double())]
    (line,) = told((1.5 * right[0], *right[1:]), reference, (q, k, v), g)
    assert "each is 1.5 times the right one" in line and "scaled_dot_product_attention" in line


def test_a_jacobian_is_made_where_there_is_no_other_way_and_it_is_small():
    def pushed(n):
        x = numbers(n, 4).double()
        y = torch.pdist(x)
        step = Step(0, "pdist", lambda args: torch.pdist(*args), [x], (0,), {}, (), y, "", 0)
        along = numbers(1, n, 4).double()
        return step.pushed({0: along}), (torch.pdist(x + 1e-7 * along[0]) - torch.pdist(x - 1e-7 * along[0])) / 2e-7

    found, differences = pushed(20)
    assert float((found[0] - differences).abs().max()) < 1e-6
    with pytest.raises(RuntimeError):
        pushed(400)


def of(forward, primals, grad_y):
    """Return the gradients of another forward, as a kernel that computes in float32 stores them."""
    live = [x.float().requires_grad_() for x in primals]
    found = torch.autograd.grad(forward(*live), live, grad_y.float())
    return [g.to(x) for g, x in zip(found, primals, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_forward_that_is_not_there_is_named(dtype):
    mask = torch.ones(48, 48, dtype=torch.bool).tril()

    def masked(q, k, v):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        return torch.softmax(scores.masked_fill(~mask, -math.inf), -1) @ v

    primals, grad_y = [numbers(2, 3, 48, n, dtype=dtype) for n in (31, 31, 16)], numbers(2, 3, 48, 16, dtype=dtype)
    lines = told(of(attention, primals, grad_y), masked, primals, grad_y)
    assert all("as if `scores.masked_fill(~mask, -math.inf)` (forward, line" in line for line in lines)
    assert all("were left out of forward altogether" in line for line in lines)


def test_a_mean_over_one_less_is_named():
    def norm(x, w, by=0):
        return x * (x.square().sum(-1, keepdim=True) / (x.shape[-1] - by) + 1e-5).rsqrt() * w

    def reference(x, w):
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w

    primals, grad_y = [numbers(64, 256) / 300, numbers(256)], numbers(64, 257)[:, 1:]
    lines = told(of(lambda x, w: norm(x, w, 1), primals, grad_y), reference, primals, grad_y)
    words = "as if `x.square().mean(-1, keepdim=True)` (forward, line"
    assert all(words in line and "were over n - 1 in the place of n" in line for line in lines)


def composited(features, opacity):
    seen = torch.cumprod(1 - opacity, 1)
    before = torch.cat([torch.ones_like(seen[:, :1]), seen[:, :-1]], 1)
    return (before * opacity * features).sum(1)


def test_what_passes_nothing_at_0_is_not_said_to_be_negative():
    features, opacity, g = numbers(40, 6), torch.sigmoid(numbers(40, 7))[:, :6].contiguous(), numbers(40)
    opacity[::3, 2] = 1.0  # what is behind has no light
    before = torch.cat([torch.ones(40, 1), torch.cumprod(1 - opacity, 1)[:, :-1]], 1)
    share = g[:, None] * before * opacity * features
    behind = share.flip(1).cumsum(1).flip(1) - share
    clear = 1 - opacity
    by_opacity = g[:, None] * before * features - torch.where(clear > 0, behind / clear, 0.0)
    lines = told((g[:, None] * before * opacity, by_opacity), composited, (features, opacity), g)
    assert any("nothing passes where argument 1 is not positive where `before * opacity`" in line for line in lines)


def solved(a, b):
    return torch.linalg.solve(a, b)


@pytest.mark.parametrize(
    ("matrices", "sides"), [((6, 6), (6,)), ((6, 6), (6, 3)), ((2, 6, 6), (2, 6)), ((2, 6, 6), (2, 6, 3))]
)
def test_a_system_that_is_solved_with_the_matrix_itself_on_the_way_back_is_named(matrices, sides):
    a, b, g = numbers(*matrices) + 4 * torch.eye(6), numbers(*sides), numbers(7, *sides)[3]
    x, wrong = torch.linalg.solve(a, b), torch.linalg.solve(a, g)
    columns = [t.unsqueeze(-1) if x.ndim < a.ndim else t for t in (wrong, x)]
    for line in told((-columns[0] @ columns[1].mT, wrong), solved, (a, b), g):
        assert "the system is solved with the matrix as it is, not with its transpose, where `torch.linalg" in line


def normalised(grad_y, x, w, b, axes, groups, forgotten):
    """The backward of a normalisation over axes of x's groups, without what comes by the mean or the variance."""
    grouped, weighted = (t.reshape(groups) for t in (x, grad_y * w[:, None, None]))
    centred = grouped - grouped.mean(axes, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)
    unit = centred * inverse
    shift = 0 if forgotten == "mean" else weighted.mean(axes, keepdim=True)
    scale = 0 if forgotten == "rsqrt" else (weighted * unit).mean(axes, keepdim=True)
    grad_x = inverse * (weighted - shift - unit * scale)
    return grad_x.reshape(x.shape), (grad_y * unit.reshape(x.shape)).sum((0, 2, 3)), grad_y.sum((0, 2, 3))


NORMS = {
    "group_norm": (lambda x, w, b: torch.nn.functional.group_norm(x, 2, w, b), -1, (4, 2, -1)),
    "batch_norm": (
        lambda x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, training=True),
        (0, 2, 3),
        (4, 8, 6, 6),
    ),
}


@pytest.mark.parametrize("forgotten", ["mean", "rsqrt"])
@pytest.mark.parametrize("name", NORMS)
def test_the_statistic_of_a_norm_that_is_taken_for_a_constant_is_told(name, forgotten):
    forward, axes, groups = NORMS[name]
    point, grad_y = [numbers(4, 8, 6, 6), numbers(8), numbers(8) + 1], numbers(4, 8, 6, 6).flip(0)
    got = normalised(grad_y, *point, axes, groups, forgotten)
    (line,) = told(got, forward, point, grad_y)
    assert f"as if the {forgotten} in `torch.nn.functional.{name}(" in line
    assert "were a constant" in line


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_right_gradient_cancels_other_numbers_are_not_explained(dtype):
    """What an edit makes is larger there by more than there are digits, and so is not any number as near to it."""

    def forward(x):
        return (x - x.mean(-1, keepdim=True)).sum(-1)

    x, g, other = numbers(8, 64, dtype=dtype), numbers(8, dtype=dtype), numbers(8, 63, dtype=dtype)
    held_constant = g[:, None].expand(8, 64).contiguous()
    (line,) = told((held_constant,), forward, (x,), g)
    assert "as if `x.mean(-1, keepdim=True)`" in line and "were a constant" in line
    (line,) = told((torch.cat([other, other[:, :1]], -1),), forward, (x,), g)
    assert line.endswith("not recognised")
    (line,) = told((torch.cat([other, other[:, :1]], -1),), lambda x: torch.softmax(x, -1).sum(-1), (x,), g)
    assert line.endswith("not recognised")  # not a factor of 10^15, either


def test_a_cotangent_that_is_clipped_and_a_factor_at_all_uses_of_a_primal_are_told():
    def forward(x, w):
        return torch.tanh(x * w) + x.sin() * w

    x, w, g = numbers(40, 30), numbers(30), numbers(40, 30)

    def got(g, times=1.0):
        slope = 1 - torch.tanh(x * w) ** 2
        return g * (slope * w + x.cos() * w), times * (g * (slope * x + x.sin())).sum(0)

    (*_, line) = told(got(g.clamp(-0.5, 0.5)), forward, (x, w), g)
    assert "the cotangent is clipped at 0.5 where" in line
    (line,) = told(got(g, 0.5), forward, (x, w), g)
    assert "the gradient of `w`, at" in line and "is off by the factor 1/2" in line


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_factor_of_what_is_exact_is_one_though_it_rounds(dtype):
    x, b, g = (numbers(*shape, dtype=dtype) for shape in ((30, 4), (4,), (30, 4)))
    (line,) = told((1.04 * g, g.float().sum(0).to(dtype)), lambda x, b: x + b, (x, b), g)
    assert "a factor: each is 1.04 times the right one, but for rounding" in line
    (line,) = told((g + 0.04 * g.abs(), g.float().sum(0).to(dtype)), lambda x, b: x + b, (x, b), g)
    assert "a factor" not in line
