"""What is said of gradients of another form, and of a reference that is to blame itself."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backprop_rules import check
from backprop_rules.evidence.at_size import Held
from backprop_rules.report.where import likeness
from backprop_rules.testing import WrongGradients, assert_gradients


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


X, B = numbers(4, 5), numbers(5)
ONES = torch.ones(4, 5)


def said(got, forward, *primals: Tensor, **options) -> str:
    with pytest.raises(WrongGradients) as caught:
        assert_gradients(got, forward=forward, primals=primals, **options)
    return str(caught.value)


def test_another_form_is_wrong():
    assert said((ONES, ONES), torch.add, X, B, grad_y=ONES) == (
        "The gradient of x2 has the shape (4, 5), and the right one (5,). It is likely not summed over the axes along "
        "which the primal was broadcast."
    )
    assert said((ONES.T, ONES.sum(0)), torch.add, X, B, grad_y=ONES) == (
        "The gradient of x1 has the shape (5, 4), and the right one (4, 5)."
    )
    assert said((ONES, None), lambda x, b: x + b, X, B, grad_y=ONES) == (
        "The gradient of b is wrong: None was given, and by forward it has one. If it is meant to have none, cut it "
        "off in forward, by b.detach()."
    )
    assert said((B * ONES, X.sum(0)), lambda x, b: x * b.detach(), X, B, grad_y=ONES) == (
        "The gradient of b is wrong: by forward it has none, as of what is detached, and one was given that is not 0."
    )


def test_numbers_of_a_narrower_dtype_are_told():
    x, g = numbers(40).double(), numbers(40).double()
    right = g * torch.cos(x)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        words = f"each is a number of {name}: it was made, or kept, in that dtype"
        assert words in said(right.to(dtype).double(), torch.sin, x, grad_y=g)
    assert "a number of" not in said(1.25 * right, torch.sin, x, grad_y=g)
    for plain in (torch.ones(40), (x > 0).double(), x.sign(), 2 * torch.ones(40)):  # where a factor is left out
        assert "a number of" not in said(plain.double(), torch.sin, x, grad_y=torch.ones(40).double())
    assert "a number of" not in said(torch.where(g > 0, 2.0, g.sign()), lambda x: x * 1.0, x, grad_y=g.sign())


def test_what_is_not_finite_is_no_overflow_where_it_is_no_number():
    x = numbers(40).abs()
    (right,) = (0.5 / x.sqrt(),)
    ones = torch.ones(40)
    assert "a logarithm of 0" in said(right / torch.zeros(40), torch.sqrt, x, grad_y=ones)
    assert "0 / 0, 0 × inf, or a root" in said(right * torch.nan, torch.sqrt, x, grad_y=ones)


def test_a_factor_near_1_is_told_with_the_digits_that_it_has():
    x, g, at = numbers(40, 50), numbers(40), torch.arange(40)
    right = torch.softmax(x, -1)
    right[at, at] -= 1
    text = said(1.0001 * right * g[:, None], lambda x: functional.cross_entropy(x, at, reduction="none"), x, grad_y=g)
    assert "is off by the factor 1.0001" in text


def test_no_line_is_told_where_nothing_rounds():
    x, w, g = numbers(1, 2, 5, 5), numbers(3, 2, 1, 1), numbers(1, 3, 3, 3)
    of_w = torch.einsum("bnij,bcij->nc", g, x[..., ::2, ::2])[..., None, None]
    text = said((x + 3, of_w), lambda x, w: functional.conv2d(x, w, stride=2), x, w, grad_y=g)
    assert "expected 0, got" in text and "where nothing rounds" in text
    assert "    allowance" not in text


def test_none_is_taken_for_zeros():
    assert_gradients((ONES, None), forward=lambda x, b: x + b * 0, primals=(X, B), grad_y=ONES)


def test_a_reference_that_draws_is_told():
    drawn = functional.dropout(ONES) * 1.0
    text = said(drawn, functional.dropout, X, grad_y=ONES)
    assert "The reference draws random numbers (aten.bernoulli_.float), others than the gradients are of." in text


def test_a_number_that_vanishes_is_told():
    def normed(x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().sum() + 1e-8)

    zeros = torch.zeros(4, dtype=torch.float16)
    text = said(zeros * torch.nan, normed, zeros, grad_y=torch.ones_like(zeros), precision="eager")
    assert "[0]: expected any finite number, got nan" in text
    assert text.endswith("A number of the reference vanishes: 1e-08 is 0 in float16.")


def test_another_form_of_the_function_is_thought_of():
    def kept(x: Tensor) -> Tensor:
        return x * torch.cat([torch.zeros(1), torch.ones(4)])

    grad = ONES * torch.cat([torch.full((1,), 1e-9), torch.ones(4)])
    text = said(grad, kept, X, grad_y=ONES)
    assert "where nothing rounds, but may in another form of the function: also= takes one" in text
    assert "also=" not in said(grad * torch.cat([torch.full((1,), 1e9), torch.ones(4)]), kept, X, grad_y=ONES)


def test_what_sees_more_is_told_by_the_precision():
    x = torch.tensor([1.0, 1.0 + 2.0**-23])

    def cancels(x: Tensor) -> Tensor:
        return (x.exp() - x.exp().flip(0)) * 3

    for precision, words in (("float32", "inputs that lie less close to where terms cancel"), ("eager", "or float32")):
        some = x if precision == "float32" else x.bfloat16()
        got = torch.zeros_like(some)
        text = said(got, lambda x: cancels(x).square().sum(), some, precision=precision)
        assert "Nothing was proved of the gradient of x" in text and words in text


# ------------------------------------------------------------------ what `check` says
def test_a_forward_that_takes_no_float64_is_told_so():
    def narrow(x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise TypeError("float32 only")
        return x * 2

    with pytest.raises(ValueError, match="forward raises TypeError: float32 only, where it is called in float64"):
        check(lambda grad_y, x: 2 * grad_y, forward=narrow, example=(X,))


def test_y_is_a_primal_where_forward_has_one():
    def backward(grad_y: Tensor, mean: Tensor, y: Tensor, scaled: bool = True) -> tuple[Tensor, Tensor]:
        apart = 2 * grad_y * (mean - y[:, None])
        return apart, -apart.sum(1)

    report = check(backward, forward=lambda mean, y: (mean - y[:, None]).square().sum(), example=(X, numbers(4)))
    assert report.verdict == "right"


def test_the_call_is_told_as_it_is_made():
    def backward(grad_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return grad_y * y[:, :, 0]

    def exponential(x: Tensor) -> Tensor:
        return x.exp()

    with pytest.raises(ValueError, match=r"It is called as f\(grad_y, x, y\)"):
        check(backward, forward=exponential, example=(X,))


def test_a_forward_may_ask_autograd_itself():
    def force(x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.requires_grad_()
        (found,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        return found

    assert check(lambda grad_y, x: grad_y * 6 * x, forward=force, example=(B,)).verdict == "right"
    report = check(lambda grad_y, x: grad_y * 3 * x, forward=force, example=(B,), raise_on_failure=False)
    assert report.verdict == "wrong"
    assert_gradients((6 * B,), forward=force, primals=(B,), grad_y=torch.ones(5))


class Sine(torch.autograd.Function):
    """A sine, whose derivative is not to be differentiated again."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y: Tensor) -> Tensor:
        return grad_y * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1 + 6e-6, True)])
def test_what_stands_out_and_could_not_be_asked_is_told(factor, told):
    """The factor is inside of what sums of 128 may round at worst, and farther out than they are likely to."""
    x, w, grad_y = numbers(64, 1024), numbers(1024, 128), numbers(64, 128)
    right = (grad_y.double() @ w.double().mT * x.double().cos(), x.double().sin().mT @ grad_y.double())
    got = (factor * right[0]).float(), right[1].float()
    found = str(assert_gradients(got, forward=lambda x, w: Sine.apply(x) @ w, primals=(x, w), grad_y=grad_y))
    assert ("a factor near 1 may pass: a backward of the reference is differentiable once." in found) == told


def test_what_lies_below_the_dtype_is_told_as_such():
    x = numbers(64).half()
    told = said(2e-9 * x, lambda x: (x * x).sum() * 1e-9, x)
    assert "Most lie below what float16 can store: a cotangent that is some powers of two larger" in told


@pytest.mark.parametrize(("factor", "said_so"), [(0.9988, "a factor: each is 0.9988"), (1.0, "one element")])
def test_one_element_outside_is_told_as_a_factor_where_the_others_are_off_by_it_too(factor, said_so):
    truth = numbers(64).double()
    radius = 2e-3 * truth.abs()
    got = factor * truth
    if factor == 1:
        got[5] *= 2
    else:
        radius[5] = 1e-3 * truth[5].abs()
    held = Held(truth, radius, torch.float64)
    outside = ~held.contains(got)
    assert int(outside.sum()) == 1 and bool(outside[5])
    assert likeness(0, [held], ["x"], got, outside).startswith(said_so)


def test_heads_that_are_exchanged_are_told():
    def forward(q, k):
        return torch.softmax(q @ k.mT, -1)

    q, k, g = (torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(n)) for n in range(3))
    live = [q.clone().requires_grad_(), k.clone().requires_grad_()]
    of_q, of_k = torch.autograd.grad(forward(*live), live, g)
    moved = of_q[:, [0, 3, 2, 1, 4]]
    with pytest.raises(WrongGradients, match="axis 1: what belongs at index 3 is exchanged with that at 1"):
        assert_gradients((moved, of_k), forward=forward, primals=(q, k), grad_y=g)


def test_one_number_is_told_as_a_factor_where_that_has_a_name():
    def forward(x, b):
        return torch.tanh(x + b)

    x, b, g = torch.linspace(-1, 1, 50), torch.tensor(0.3), torch.ones(50)
    live = [x.clone().requires_grad_(), b.clone().requires_grad_()]
    of_x, of_b = torch.autograd.grad(forward(*live), live, g)
    for factor, told in ((-1, "the sign"), (1 / 50, "1 / the size of axis 0 of `x`"), (-5.8, None)):
        with pytest.raises(WrongGradients) as raised:
            assert_gradients((of_x, of_b * factor), forward=forward, primals=(x, b), grad_y=g)
        likely = next(line for line in str(raised.value).splitlines() if "likely" in line)
        assert told in likely if told else "each is" not in likely


@pytest.mark.parametrize("precision", [None, "eager"])
def test_a_gradient_that_is_stored_before_it_is_multiplied_is_told_as_one_more_rounding(precision):
    x, grad_y = numbers(33, 511).half(), torch.tensor(1.44)
    t = torch.arange(33) * 15

    def forward(x: Tensor) -> Tensor:
        return functional.cross_entropy(x.float(), t)

    def of_loss(x: Tensor) -> Tensor:
        return (x.float().softmax(-1) - functional.one_hot(t, 511)) / len(t)

    def stored(grad_y: Tensor, x: Tensor) -> Tensor:
        return (of_loss(x).to(x.dtype).float() * grad_y).to(x.dtype)

    asked = {"grad_y": grad_y, "precision": precision}
    text = said(stored(grad_y, x), forward, x, **asked)
    assert text.endswith(
        "All of it is within one more rounding of each result: as if each were stored in its dtype, and then "
        "multiplied by grad_y. A kernel that does so on purpose is declared by also=, a form with the same casts."
    )
    assert_gradients(stored(grad_y, x), forward=forward, primals=(x,), also=stored, **asked)
    assert_gradients((of_loss(x) * grad_y).half(), forward=forward, primals=(x,), **asked)
    assert "one more rounding" not in said((of_loss(x) * grad_y * 1.02).half(), forward, x, **asked)


def test_what_is_0_but_for_rounding_is_no_factor():
    x, g = numbers(40, 8), numbers(40, 8)
    y = torch.softmax(x, -1)
    got = y * (1 - y.sum(-1, keepdim=True))  # the cotangent left out: shares always add up to 1
    assert 0 < float(got.abs().max()) < 1e-6
    text = said(got, lambda x: torch.softmax(x, -1), x, grad_y=g)
    assert "0, but for rounding: its terms cancel" in text and "times the right one" not in text


def test_the_sign_is_no_rounding_however_far_that_goes():
    truth = numbers(20).double()
    words = likeness(0, [Held(truth, 1.5 * truth.abs(), torch.float32)], ["x"], -truth, truth != 0)
    assert words == "the sign: each is -1 times the right one, but for rounding"
