"""Torch's scaled_dot_product_attention, held as fused kernels compute it: the product is scaled, not its operands."""

import pytest
import torch
from real_sizes import KERNELS, stored
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from backprop_rules import InputError
from backprop_rules.testing import WrongGradients, assert_gradients, enclose


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SEEN = numbers(5, 7) > 0
SEEN[2] = False  # a query that sees nothing
WAYS = {
    "as it is": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "groups": {"enable_gqa": True},
    "a mask": {"attn_mask": SEEN},
    "a bias": {"attn_mask": numbers(5, 7, seed=1)},
    "a bias that hides": {"attn_mask": torch.where(SEEN, numbers(5, 7, seed=1), -torch.inf)},
    "groups and a mask": {"enable_gqa": True, "attn_mask": SEEN},
}


def asked(dtype: torch.dtype, **way: object):
    groups = 2 if way.get("enable_gqa") else 4
    q, k, v = (numbers(2, h, n, 6, seed=n).to(dtype) for h, n in ((4, 5), (groups, 7), (groups, 7)))
    own = {name: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in way.items()}

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, **own)

    return forward, (q, k, v), numbers(2, 4, 5, 6, seed=3).to(dtype)


def own_gradients(forward, primals, grad_y) -> tuple[Tensor, ...]:
    live = [x.clone().requires_grad_() for x in primals]
    return torch.autograd.grad(forward(*live), live, grad_y)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_kernel_is_right_and_a_factor_is_seen(dtype, way):
    forward, primals, grad_y = asked(dtype, **way)
    held = {"forward": forward, "primals": primals, "grad_y": grad_y}
    got = own_gradients(forward, primals, grad_y)
    assert_gradients(got, y=forward(*primals), **held)
    with pytest.raises(WrongGradients):
        assert_gradients((got[0] * (1.01 if dtype == torch.float32 else 1.1), *got[1:]), **held)


@pytest.mark.parametrize("name", ["attention", "causal attention"])
def test_a_fused_kernel_is_inside_and_is_held_no_looser_than_by_its_own_form(name):
    """Of heads of six numbers sqrt(s) is no power of two: q sqrt(s) would be rounded to bfloat16."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    primals = [x.bfloat16() for x in kernel.make(torch.Generator().manual_seed(0), (2, 3, 33, 6))]
    grad_y = kernel.cotangent(primals)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=name == "causal attention")

    ours = enclose(fused, primals, grad_y=grad_y)
    assert ours.agreement(stored(kernel.fused(grad_y, *primals), primals)).right
    declared = enclose(kernel.forward, primals, grad_y=grad_y, also=kernel.forms)
    for one, other in zip(ours.every, declared.every, strict=True):
        assert bool((one.radius <= other.radius).all())


def test_a_forward_that_asks_for_the_gradient_of_the_values_before_goes_back_as_well():
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = scaled_dot_product_attention(q, k, v)
        (of_values,) = torch.autograd.grad(y.sum(), v, create_graph=True)
        return y + of_values[..., :5, :]

    _, primals, grad_y = asked(torch.float32)
    with sdpa_kernel(SDPBackend.MATH):  # the others are differentiable once
        got = own_gradients(forward, primals, grad_y)
    assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y)


def test_in_a_checkpoint_it_is_taken_as_torch_computes_it():
    _, primals, grad_y = asked(torch.bfloat16)

    def forward(*primals: Tensor) -> Tensor:
        return checkpoint(scaled_dot_product_attention, *primals, use_reentrant=False)

    got = own_gradients(scaled_dot_product_attention, primals, grad_y)
    assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y, blind="allow")


def test_a_mask_beside_is_causal_is_refused():
    forward, primals, grad_y = asked(torch.float32, attn_mask=SEEN, is_causal=True)
    with pytest.raises(InputError, match="attn_mask or is_causal, and not both"):
        enclose(forward, primals, grad_y=grad_y)
