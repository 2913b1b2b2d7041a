"""A backward that has another number than forward is told which, and in the place of which: an eps, a slope, n - 1."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import check
from backprop_rules.diagnosis import at_size, other_numbers
from backprop_rules.testing import WrongGradients, assert_gradients

NUMBERS = torch.Generator().manual_seed(0)
X, W = torch.randn(6, 16, generator=NUMBERS), torch.randn(16, generator=NUMBERS)


def likely(backward, forward, *example):
    report = check(backward, forward=forward, example=example, raise_on_failure=False)
    assert report.verdict == "wrong"
    return next(line for line in str(report).splitlines() if line.strip().startswith("likely"))


def rms_norm(eps):
    def forward(x, w):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w

    return forward


def of_rms_norm(eps):
    def backward(grad_y, x, w):
        rstd = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        z, g = x * rstd, grad_y * w
        return rstd * (g - z * (g * z).mean(-1, keepdim=True)), (grad_y * z).sum_to_size(w.shape)

    return backward


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.0123])
def test_another_eps(eps):
    assert f"as if {eps:g} stood in the place of 1e-05 in `" in likely(of_rms_norm(eps), rms_norm(1e-5), X, W)


def test_another_eps_of_one_call():
    def backward(grad_y, x):
        centred = x - x.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        z = centred * rstd
        return rstd * (grad_y - grad_y.mean(-1, keepdim=True) - z * (grad_y * z).mean(-1, keepdim=True))

    told = likely(backward, lambda x: functional.layer_norm(x, (x.shape[-1],)), X)
    assert "as if 1e-06 stood in the place of 1e-05 in the add in `functional.layer_norm" in told


def test_another_slope():
    def backward(grad_y, x):
        return torch.where(x > 0, grad_y, 0.2 * grad_y)

    def forward(x):
        return functional.leaky_relu(x, 0.01) * 1.0

    assert "as if 0.2 stood in the place of 0.01 in `functional.leaky_relu(x, 0.01)`" in likely(backward, forward, X)


def test_another_number_in_every_round_of_a_loop():
    def forward(x, w):
        h = torch.zeros_like(x[0])
        for step in x:
            h = (0.9 * h + w * step).tanh()
        return h

    def backward(grad_y, x, w):
        kept = [torch.zeros_like(x[0])]
        for step in x:
            kept.append((0.8 * kept[-1] + w * step).tanh())
        g, grad_x, grad_w = grad_y, torch.zeros_like(x), torch.zeros_like(w)
        for t in reversed(range(len(x))):
            own = g * (1 - kept[t + 1] ** 2)
            grad_x[t], grad_w, g = own * w, grad_w + (own * x[t]).sum_to_size(w.shape), 0.8 * own
        return grad_x, grad_w

    told = likely(backward, forward, X[:5, :3], W[:3])
    assert "as if 0.8 stood in the place of 0.9 in `0.9 * h` (forward, line" in told


def test_a_variance_over_one_less():
    def over(grad_y, x, by_n):
        n, centred = x.shape[-1], x - x.mean(-1, keepdim=True)
        divisor = n if by_n else n - 1
        s = (centred.square().sum(-1, keepdim=True) / divisor + 0.1).rsqrt()
        z = centred * s
        return s * (grad_y - grad_y.mean(-1, keepdim=True) - z * (grad_y * z).sum(-1, keepdim=True) / divisor)

    def forward(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 0.1).rsqrt()

    def other(x):
        return (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True) + 0.1).rsqrt()

    told = likely(lambda grad_y, x: over(grad_y, x, False), forward, X)
    assert "as if `centred.square().mean(-1, keepdim=True)` (forward, line" in told
    assert "were over n - 1 in the place of n" in told
    told = likely(lambda grad_y, x: over(grad_y, x, True), other, X)
    assert "as if `x.var(-1, keepdim=True)` (forward, line" in told and "were over n in the place of n - 1" in told


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_eps_at_size(dtype):
    own = (torch.randn(64, 256, generator=NUMBERS) / 100).to(dtype), torch.randn(256, generator=NUMBERS).to(dtype)
    grad_y = torch.randn(64, 256, generator=NUMBERS).to(dtype)
    got = [g.to(dtype) for g in of_rms_norm(1e-6)(grad_y.float(), *(x.float() for x in own))]
    with pytest.raises(WrongGradients, match=r"as if 1e-06 stood in the place of 1e-05 in `"):
        assert_gradients(got, forward=rms_norm(1e-5), primals=own, grad_y=grad_y)


def test_a_loop_is_not_taken_again_for_every_one_of_its_numbers(monkeypatch):
    asked, own = [], other_numbers._tape_with
    monkeypatch.setattr(other_numbers, "_tape_with", lambda *what: asked.append(None) or own(*what))

    def forward(x):
        for _ in range(5):
            x = torch.tanh(x) * 0.9 + 0.1 * torch.sin(x)
        return x

    x = X.clone().requires_grad_()
    (got,) = torch.autograd.grad(forward(x), x, torch.ones_like(X))
    with pytest.raises(WrongGradients, match="not recognised"):
        assert_gradients(got + 0.1, forward=forward, primals=(X,), grad_y=torch.ones_like(X))
    assert 2 * 25 * len(asked) <= at_size.CALLS  # 25 steps, each taken forward and back


def test_what_no_number_explains_is_not_told_so():
    def backward(grad_y, x, w):
        first, second = of_rms_norm(1e-5)(grad_y, x, w)
        return first * (1 + x.sum() / 100), second

    assert "stood in the place" not in likely(backward, rms_norm(1e-5), X, W)
