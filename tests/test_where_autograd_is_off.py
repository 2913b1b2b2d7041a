"""What forward computes under `no_grad` is a constant of its derivative: the witnesses and the proof take it so."""

import pytest
import torch
from torch import Tensor

from backprop_rules import check


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
