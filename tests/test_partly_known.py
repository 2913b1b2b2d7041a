"""An operation without a rounding formula leaves open what is made of its results: the rest is held."""

import pytest
import torch

from backprop_rules import InputError
from backprop_rules.testing import WrongGradients, assert_gradients

UNKNOWN = "Of what is made of its results nothing is said, and the rest is held: no formula for the rounding of {}."


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def penalised(x, w, v):
    return (x @ w).tanh().square().mean() + torch.linalg.svdvals(v).sum()


PRIMALS = numbers(9, 4), numbers(4, 5), numbers(6, 3)
HELD = {"forward": penalised, "primals": PRIMALS}


def gradients():
    live = [x.clone().requires_grad_() for x in PRIMALS]
    return torch.autograd.grad(penalised(*live), live)


def test_the_other_gradients_are_held():
    found = assert_gradients(gradients(), **HELD, blind="allow")
    assert [one.blind for one in found.gradients] == [0, 0, 1]
    assert UNKNOWN.format("aten._linalg_svd.default") in str(found)


def test_what_is_open_is_blind():
    with pytest.raises(WrongGradients) as caught:
        assert_gradients(gradients(), **HELD)
    assert "Nothing was proved of the gradient of v" in str(caught.value)
    assert UNKNOWN.format("aten._linalg_svd.default") in str(caught.value)


@pytest.mark.parametrize("k", [0, 1])
def test_another_gradient_that_is_wrong_is_told(k):
    got = [g * 1.01 if n == k else g for n, g in enumerate(gradients())]
    with pytest.raises(WrongGradients, match=f"The gradient of {'xw'[k]} is wrong"):
        assert_gradients(got, **HELD, blind="allow")


def test_where_all_is_open_the_operation_is_refused():
    with pytest.raises(InputError, match=r"not known: no formula for the rounding of aten\._linalg_svd\.default\."):
        assert_gradients((torch.ones(6, 3),), forward=lambda v: torch.linalg.svdvals(v).sum(), primals=PRIMALS[2:])


def test_a_value_that_no_gradient_is_made_of_may_be_unknown():
    shape, x = numbers(20).abs() + 0.5, numbers(5, 4).reshape(20).abs() + 0.1
    right = x ** (shape - 1) * torch.exp(-x - torch.lgamma(shape))
    held = {"forward": lambda x: torch.special.gammainc(shape.to(x), x), "primals": (x,), "grad_y": torch.ones(20)}
    assert "aten.igamma.default" in str(assert_gradients((right,), **held))
    with pytest.raises(WrongGradients):
        assert_gradients((right * 1.01,), **held)


@pytest.mark.parametrize("n", [3, 4])
def test_an_output_that_is_made_of_constants_alone_may_be_unknown(n):
    constant = numbers(5, n)  # in float32, as no primal meets it

    def forward(x, w):
        return torch.linalg.svdvals(constant), (x @ w).tanh()

    outputs, along = forward(*PRIMALS[:2]), (None, numbers(9, 5))
    live = [x.clone().requires_grad_() for x in PRIMALS[:2]]
    got = torch.autograd.grad(forward(*live)[1], live, along[1])
    with pytest.raises(WrongGradients, match=r"Nothing was proved of y\[0\]"):
        assert_gradients(got, forward=forward, primals=PRIMALS[:2], grad_y=along, y=outputs)


BOUNDED = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": lambda v: v.clamp(0.1, 0.9),
    "arctangent": torch.atan,
    "softmax": lambda v: torch.stack((v, v * 2)).softmax(0)[0],
    "angle": lambda v: torch.atan2(v, torch.ones(())),
    "a mask": lambda v: torch.where(v > 0, 0.5, 0.25),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_bounded_is_no_better_known(name):
    def forward(x):
        return (x.square() * (1 + BOUNDED[name](torch.linalg.svdvals(x.detach()).sum()))).sum()

    x = PRIMALS[2]
    live = x.clone().requires_grad_()
    got = torch.autograd.grad(forward(live), live)[0]
    for factor in (1, 0.7):
        with pytest.raises(InputError, match=r"not known: no formula for the rounding of aten\._linalg_svd\.default\."):
            assert_gradients((got * factor,), forward=forward, primals=(x,))


def largest_of_all(x, far):
    sizes = x.exp().sum(1)
    return x[(sizes / sizes.detach() + far * torch.arange(6)).argmax()].square().sum()


def largest_of_what_is_unknown(x, _):
    return x[torch.linalg.svdvals(x.detach()).argmax()].square().sum()


@pytest.mark.parametrize(
    ("forward", "far", "told"),
    [(largest_of_all, 1e-9, True), (largest_of_all, 1.0, False), (largest_of_what_is_unknown, 0.0, True)],
)
def test_the_place_of_the_largest_of_all_that_may_be_another_is_told_as_taken(forward, far, told):
    with pytest.raises(WrongGradients) as caught:
        assert_gradients((torch.zeros(6, 3), None), forward=forward, primals=(PRIMALS[2], far))
    assert ("takes it as it came out" in str(caught.value)) == told, str(caught.value)


def test_what_a_mask_leaves_out_opens_nothing():
    def forward(x, v):
        far = torch.linalg.svdvals(v.detach())[0]
        return (torch.where(x > 0, x.exp(), far) + torch.where(x < 0, far, x.exp()).masked_fill(x < 0, 1.0)).sum()

    x = PRIMALS[0]
    right = 2 * torch.where(x > 0, x.exp(), 0.0)
    assert assert_gradients((right, None), forward=forward, primals=(x, PRIMALS[2])).right
    with pytest.raises(WrongGradients, match="farther off than rounding goes"):
        assert_gradients((right * 1.01, None), forward=forward, primals=(x, PRIMALS[2]))
