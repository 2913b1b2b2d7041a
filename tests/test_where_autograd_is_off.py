"""What forward computes under `no_grad` is a constant of its derivative: the witnesses and the proof take it so."""

import pytest
import torch
from torch import Tensor

from backprop_rules import check
from backprop_rules.testing import WrongGradients, assert_gradients


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def weighted(x: Tensor, quiet) -> Tensor:
    with quiet():
        w = torch.sigmoid(x)
    return w * x * x


def weighted_right(grad_y: Tensor, x: Tensor) -> Tensor:
    return grad_y * torch.sigmoid(x) * 2 * x


def weighted_wrong(grad_y: Tensor, x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return grad_y * (s * 2 * x + s * (1 - s) * x * x)


def normed(x: Tensor, w: Tensor, quiet) -> Tensor:
    with quiet():
        norm = w.square().sum(1, keepdim=True).add(1).sqrt()
    return x @ (w / norm).mT


def normed_right(grad_y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    norm = w.square().sum(1, keepdim=True).add(1).sqrt()
    return grad_y @ (w / norm), grad_y.mT @ x / norm


def normed_wrong(grad_y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    norm = w.square().sum(1, keepdim=True).add(1).sqrt()
    inner = grad_y.mT @ x
    return grad_y @ (w / norm), (inner - w * (inner * w).sum(1, keepdim=True) / norm**2) / norm


CASES = {
    "weighted": (weighted, weighted_right, weighted_wrong, (numbers(5),)),
    "normed": (normed, normed_right, normed_wrong, (numbers(4, 3), numbers(2, 3))),
}


def there(name: str, quiet):
    forward, *backwards, example = CASES[name]
    return lambda *primals: forward(*primals, quiet), backwards, example


@pytest.mark.parametrize("quiet", [torch.no_grad, lambda: torch.set_grad_enabled(False)])
@pytest.mark.parametrize("name", CASES)
def test_a_backward_that_takes_it_for_a_constant_is_right(name, quiet):
    forward, (right, wrong), example = there(name, quiet)
    report = check(right, forward=forward, example=example)
    assert report.verdict == "right"
    assert any("no_grad" in note for note in report.notes)
    assert check(wrong, forward=forward, example=example, raise_on_failure=False).verdict == "wrong"


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_there_is_told_with_a_proof(name):
    forward, (_, wrong), example = there(name, torch.no_grad)
    report = check(wrong, forward=forward, example=example, raise_on_failure=False)
    assert "certified, torch's own gradient agrees" in str(report)


def test_what_is_written_there_stays_what_it_was_to_autograd():
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        with torch.no_grad():
            y.clamp_(max=1)
        return y * 3

    assert check(lambda grad_y, x: grad_y * 6, forward=forward, example=(numbers(6),)).verdict == "right"


def straight_through(dtype: torch.dtype, how: str):
    """Return x, rounded to a dtype, times w; the rounding has no derivative."""

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.to(dtype).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            return g

    def forward(x: Tensor, w: Tensor) -> Tensor:
        if how == "detached":
            return (x + (x.to(dtype).to(x.dtype) - x).detach()) @ w
        if how == "a function":
            return Rounded.apply(x) @ w
        with torch.no_grad():
            off = x.to(dtype).to(x.dtype) - x
        return (x + off) @ w

    return forward


@pytest.mark.parametrize("how", ["detached", "without autograd", "a function"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_rounding_without_a_derivative_counts_in_what_is_systematic(dtype, how):
    """All were off by what the rounding does to w's gradient: the truth is taken without it."""
    forward, x, w, grad_y = straight_through(dtype, how), numbers(256, 128), numbers(128, 64), numbers(256, 64)
    live = [x.requires_grad_(), w.requires_grad_()]
    got = torch.autograd.grad(forward(*live), live, grad_y)
    held = {"forward": forward, "primals": (x.detach(), w.detach()), "grad_y": grad_y}
    assert_gradients(got, **held)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0], got[1] * (1.1 if dtype.itemsize == 1 else 1.01)), **held)


def test_a_live_rounding_to_float8():
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x.to(torch.float8_e4m3fn).to(x.dtype) @ w

    x, w, grad_y = numbers(64, 32), numbers(32, 16), numbers(64, 16)
    live = [x.requires_grad_(), w.requires_grad_()]
    got = torch.autograd.grad(forward(*live), live, grad_y)
    assert_gradients(got, forward=forward, primals=(x.detach(), w.detach()), grad_y=grad_y, blind="allow")


def test_a_penalty_on_a_gradient_needs_no_cotangent():
    """Its forward asks autograd for a gradient itself."""

    def penalty(x: Tensor, w: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(torch.tanh(x @ w).sum(), x, create_graph=True)
        return ((slope.norm(dim=1) - 1) ** 2).mean()

    live = [numbers(6, 4).requires_grad_(), numbers(4, 3).requires_grad_()]
    got = torch.autograd.grad(penalty(*live), live)
    assert_gradients(got, forward=penalty, primals=[x.detach() for x in live])
