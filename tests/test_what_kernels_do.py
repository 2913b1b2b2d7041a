"""What is told of gradients that are off as kernels make them: in place, at a kink, of one output, kept narrow."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backprop_rules import check
from backprop_rules.testing import WrongGradients, assert_gradients


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def said(got, forward, primals, grad_y=None, **options) -> str:
    with pytest.raises(WrongGradients) as caught:
        assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y, **options)
    return str(caught.value)


def distance(p, q):
    return 0.5 * (p - q.detach()).abs()


@pytest.mark.parametrize("ties", [1, 9])
def test_the_other_side_of_a_kink_between_two_tensors(ties):
    p, q, g = numbers(7, 30), numbers(7, 30, seed=1), numbers(7, 30, seed=2)
    q.view(-1)[20 : 20 + ties] = p.view(-1)[20 : 20 + ties]
    got = 0.5 * torch.where(p > q, g, -g), None
    told = said(got, distance, (p, q), g)
    assert "likely    as if `p` were a little smaller where it is off: there is a kink" in told
    got[0].view(-1)[20] *= 3
    assert "a kink" not in said(got, distance, (p, q), g)


def test_another_choice_at_a_kink_is_declared_by_a_reference_that_makes_it():
    """As oneDNN's clip has it, of numbers in bfloat16, of which many are a bound."""
    x, g = numbers(9, 40).bfloat16(), numbers(9, 40, seed=1).bfloat16()
    x[:, :3] = -0.5
    got = torch.where((x > -0.5) & (x <= 0.75), g, torch.zeros_like(g))
    assert "the reference's choice is expected, as by torch.where" in said(got, lambda x: x.clamp(-0.5, 0.75), (x,), g)

    def strict(x):
        return torch.where(x > -0.5, torch.where(x <= 0.75, x, 0 * x + 0.75), 0 * x - 0.5)

    assert_gradients(got, forward=strict, primals=(x,), grad_y=g)


def gated(a, b):
    return functional.silu(a) * b


def gated_backward(g, a, b):
    s = torch.sigmoid(a)
    return g * b * s * (1 + a * (1 - s)), g * a * s


def test_what_was_written_in_place_and_not_overwritten():
    a, b, g = (numbers(8, 30, seed=s) for s in range(3))
    grad_a, grad_b = gated_backward(g, a, b)
    grad_a[:, 25:] = a[:, 25:]
    told = said((grad_a, grad_b), gated, (a, b), g)
    assert "likely    `a` itself: memory that a kernel writes to in place, and has not overwritten" in told


def test_what_is_not_masked_where_forward_masks_it():
    x, g, keep = numbers(8, 30), numbers(8, 30, seed=1), torch.ones(8, 1, dtype=torch.bool)
    keep[5] = False
    told = said((2 * x * g,), lambda x: torch.where(keep, x * x, 0.0), (x,), g)
    assert "likely    the right one is 0 there: what forward leaves out is not left out" in told


def test_what_another_form_leaves_of_zeros_is_no_mask():
    x, g = numbers(8, 30), numbers(8, 30, seed=1)
    got = 2 * x * g
    got[5] = 2.0**-30 * g[5]  # as of terms that cancel
    told = said((got,), lambda x: torch.where(torch.arange(8).unsqueeze(1) != 5, x * x, 0.0), (x,), g)
    assert "but may in another form of the function: also= takes one" in told
    assert "likely    not recognised; if other steps lead to the same, give them as also=" in told


def normed(x, r, w):
    s = x + r
    return s * torch.rsqrt(s.square().mean(-1, keepdim=True) + 1e-6) * w, s


def test_the_mean_of_a_group_that_is_taken_for_a_constant():
    x, w, b, g = numbers(4, 6, 5), numbers(6), numbers(6, seed=1), numbers(4, 6, 5, seed=2)
    with torch.enable_grad():
        live = [t.clone().requires_grad_() for t in (x, w, b)]
        groups = live[0].view(4, 3, 10)
        centred = groups - groups.mean(-1, keepdim=True).detach()
        unit = centred * (groups.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt()
        y = unit.view(4, 6, 5) * live[1][:, None] + live[2][:, None]
        got = torch.autograd.grad(y, live, g)
    told = said(got, lambda x, w, b: torch.nn.functional.group_norm(x, 3, w, b), (x, w, b), g)
    assert "likely    as if the mean in `torch.nn.functional.group_norm(x, 3, w, b)`" in told


def test_the_cotangent_of_an_output_that_is_not_read():
    x, r, w, *g = numbers(8, 30), numbers(8, 30, seed=1), numbers(30), numbers(8, 30, seed=2), numbers(8, 30, seed=3)
    with torch.enable_grad():
        live = [t.clone().requires_grad_() for t in (x, r, w)]
        got = torch.autograd.grad(normed(*live)[0], live, g[0])
    told = said(got, normed, (x, r, w), tuple(g))
    assert told.count("likely    the cotangent of output 1 is not read") == 2


@pytest.mark.parametrize(("example_of_three", "words"), [(False, "0 and 1"), (True, "1 and 2")])
def test_cotangents_that_are_exchanged(example_of_three, words):
    def forward(x, w):
        found = x * w, (x + w).sin(), x * x
        return found if example_of_three else found[:2]

    def backward(g, x, w):
        g = (g[0], g[2], g[1]) if example_of_three else (g[1], g[0])
        inner = g[1] * (x + w).cos()
        return g[0] * w + inner + (2 * g[2] * x if example_of_three else 0), g[0] * x + inner

    x, w, *g = (numbers(8, 30, seed=k) for k in range(5))
    g = tuple(g[: 2 + example_of_three])
    told = f"likely    the cotangents of outputs {words} are exchanged"
    assert said(backward(g, x, w), forward, (x, w), g).count(told) == 2
    assert told in str(check(backward, forward=forward, example=(x, w), raise_on_failure=False))


def test_the_cotangent_of_a_loss_that_is_not_read():
    x, t, g = numbers(8, 30), torch.arange(8), torch.tensor(0.3)
    got = (x.softmax(-1) - torch.nn.functional.one_hot(t, 30)) / 8
    told = said((got,), lambda x: torch.nn.functional.cross_entropy(x, t), (x,), g)
    assert "times the right one, but for rounding; the cotangent is not read, as if it were 1" in told


def test_one_number_is_no_factor_times_another():
    x, a, w, g = numbers(8, 30), torch.tensor([0.5]), numbers(30), numbers(8, 30, seed=1)
    t = torch.tanh(a * x)
    d = g * w * (1 - t * t)
    got = a * d, (d[-1] * x[-1]).sum().reshape(1), (g * t).sum(0)  # of the last row alone
    told = said(got, lambda x, a, w: torch.tanh(a * x) * w, (x, a, w), g)
    assert "The gradient of a is wrong" in told and "is off by the factor" not in told


def test_statistics_that_are_kept_narrow_are_told_as_that_and_as_no_mistake():
    x, w, b, g = (t.half() for t in (numbers(96, 300), numbers(300), numbers(300, seed=1), numbers(96, 300, seed=2)))
    wide, turned = x.float(), g.float() * w.float()
    mean = wide.mean(-1, keepdim=True).half().float()
    r = torch.rsqrt(wide.var(-1, keepdim=True, unbiased=False) + 1e-5).half().float()
    hat = (wide - mean) * r
    grad_x = (turned - hat * (hat * turned).mean(-1, keepdim=True) - turned.mean(-1, keepdim=True)) * r
    got = tuple(t.half() for t in (grad_x, (g.float() * hat).sum(0), g.float().sum(0)))
    told = said(got, lambda x, w, b: torch.nn.functional.layer_norm(x, (300,), w, b), (x, w, b), g)
    assert 'All of it is within what precision="eager" allows' in told
    assert told.count("likely    not recognised") == told.count("likely")


def test_few_elements_that_are_hardly_off_are_no_factor():
    x, g = numbers(8, 30).half(), numbers(8, 30, seed=1).half()
    got = (x.double().cos() * g.double()).half()
    where = (0, 3), (2, 7)
    for at in where:
        got[at] += 2.0 ** (torch.frexp(got[at].float()).exponent - 11) * got[at].sign()  # another ulp
    told = said((got,), torch.sin, (x,), g)
    assert "is wrong: 2 of 240 elements" in told and "a factor" not in told


def test_what_fits_where_numbers_are_kept_narrow_on_the_way_is_told_to_be_so():
    a, b, g = (numbers(8, 300, seed=s).bfloat16() for s in range(3))
    s = torch.sigmoid(a.float())
    narrow = (a.float() * s).bfloat16() * g, (g * b) * (s * (1 + a.float() * (1 - s))).bfloat16()
    told = said((narrow[1], narrow[0]), gated, (a, b), g)
    assert 'All of it is within what precision="eager" allows: as if numbers were kept in bfloat16 on the way.' in told
    assert "eager" not in said((narrow[1] * 2, narrow[0]), gated, (a, b), g)
    assert assert_gradients((narrow[1], narrow[0]), forward=gated, primals=(a, b), grad_y=g, precision="eager").right


def test_gradients_under_autocast_are_told_to_be_within_eager():
    def forward(x, w):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.tanh(x @ w).float()

    x, w = numbers(64, 32).requires_grad_(), numbers(32, 16, seed=1).requires_grad_()
    y = forward(x, w)
    g = numbers(*y.shape, seed=2)
    got, asked = (
        torch.autograd.grad(y, (x, w), g),
        {"forward": forward, "primals": (x.detach(), w.detach()), "grad_y": g},
    )
    assert_gradients(got, precision="eager", **asked)
    with pytest.raises(WrongGradients, match="as if numbers were kept in what forward, or autocast, casts them to"):
        assert_gradients(got, **asked)
    with pytest.raises(WrongGradients) as error:
        assert_gradients([1.1 * x for x in got], **asked)
    assert "as if numbers were kept" not in str(error.value)
