"""What is 0 whatever is rounded is seen: it is not blindness that 0 lies in its enclosure, which is {0}."""

import pytest
import torch
from torch.nn.functional import relu

from backprop_rules.testing import assert_gradients, enclose


def rendered(density, lengths, colours):
    """Return the colour of rays: of samples with a density, behind those before them."""
    clear = torch.exp(-relu(density) * lengths)
    before = torch.cumprod(torch.cat([torch.ones_like(clear[:, :1]), clear[:, :-1] + 1e-10], -1), -1)
    return (((1 - clear) * before)[..., None] * colours).sum(1)


def rays(dtype):
    draws = torch.Generator().manual_seed(0)
    density, lengths = (torch.randn(40, 32, generator=draws, dtype=torch.float64) for _ in range(2))
    colours, grad_y = (torch.rand(shape, generator=draws, dtype=torch.float64) for shape in ((40, 32, 3), (40, 3)))
    primals = [x.to(dtype) for x in (density - 0.5, 0.2 * lengths.abs(), colours)]
    return primals, grad_y.to(dtype)


def torchs_own(primals, grad_y):
    live = [x.clone().requires_grad_() for x in primals]
    return torch.autograd.grad(rendered(*live), live, grad_y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_where_nothing_is_dense_the_gradient_of_the_colour_is_zero_and_seen(dtype):
    primals, grad_y = rays(dtype)
    assert (primals[0] <= 0).double().mean() > 0.5
    held = enclose(rendered, primals, grad_y=grad_y)
    empty = (primals[0] <= 0)[..., None].expand(40, 32, 3)
    assert not held[2].truth[empty].any()
    assert float(held[2].radius[empty].max()) < torch.finfo(torch.float64).tiny
    got = torchs_own(
        [x.float() if dtype == torch.bfloat16 else x for x in primals],
        grad_y.to(torch.promote_types(dtype, torch.float32)),
    )
    assert_gradients([x.to(dtype) for x in got], forward=rendered, primals=primals, grad_y=grad_y)
