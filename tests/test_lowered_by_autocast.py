"""What autocast computes in a narrow dtype is held as such, by its place or by its name."""

import pytest
import torch
from torch.nn import functional

from backprop_rules.testing import WrongGradients, assert_gradients

attention = functional.scaled_dot_product_attention
LOWERED = {
    "attention": (attention, ((2, 5, 8), (2, 6, 8), (2, 6, 8))),
    "attention by names": (lambda q, k, v: attention(query=q, key=k, value=v), ((2, 5, 8), (2, 6, 8), (2, 6, 8))),
    "dot products": (torch.linalg.vecdot, ((5, 8), (5, 8))),
    "a chain": (lambda *some: torch.linalg.multi_dot(some), ((3, 4), (4, 5), (5, 2))),
    "bilinear": (functional.bilinear, ((5, 3), (5, 4), (6, 3, 4))),
    "a transposed convolution": (functional.conv_transpose1d, ((2, 3, 9), (3, 4, 3))),
}


@pytest.mark.parametrize("name", LOWERED)
def test_what_autocast_lowers_may_round_so(name):
    function, shapes = LOWERED[name]

    def forward(*primals):
        with torch.autocast("cpu", torch.bfloat16):
            return function(*primals).float()

    numbers = torch.Generator().manual_seed(0)
    primals = [torch.randn(shape, generator=numbers).requires_grad_() for shape in shapes]
    y = forward(*primals)
    g = torch.randn(y.shape, generator=numbers)
    got = torch.autograd.grad(y, primals, g)
    held = {"forward": forward, "primals": [x.detach() for x in primals], "grad_y": g, "precision": "eager"}
    assert assert_gradients(got, y=y.detach(), **held).right
    with pytest.raises(WrongGradients):
        assert_gradients((1.25 * got[0], *got[1:]), **held)
