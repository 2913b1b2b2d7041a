"""Rows that bfloat16 puts on the other side of a bound: torch's own gradients go elsewhere there, and are right."""

import pytest
import torch
from torch import Tensor

from backprop_rules.testing import WrongGradients, assert_gradients

BOUND = 1.2


def masked_in_place(z: Tensor) -> Tensor:
    mask = z < BOUND
    mask &= z > -9
    return torch.where(mask, z, 0.1 * z)


def masked_by_either_in_place(z: Tensor) -> Tensor:
    mask = z > BOUND
    mask |= z < -9
    return torch.where(mask, 0.1 * z, z)


def clamped(z: Tensor) -> Tensor:
    return z.clamp(-9, BOUND)


def surrogate(z: Tensor) -> Tensor:
    return torch.minimum(z * 1.5, z.clamp(0.8, BOUND) * 1.5)


def surrogate_from_below(z: Tensor) -> Tensor:
    return torch.maximum(z, z.clamp(min=BOUND))


def leaky(z: Tensor) -> Tensor:
    return torch.nn.functional.leaky_relu(z - BOUND, 0.2)


def chosen(z: Tensor) -> Tensor:
    return torch.where(z > BOUND, z, 0.2 * z)


def row_that_flips(above: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows and a weight: the product of the first row is on the other side of the bound in this dtype."""
    random = torch.Generator().manual_seed(0)
    w, rows = torch.randn(32, generator=random).to(dtype), torch.randn(40000, 32, generator=random).to(dtype)
    if dtype == torch.float32:  # whose first number takes it to the bound but for rounding
        rest = (rows[:, 1:].double() * w[1:].double()).sum(-1)
        rows[:, 0] = ((BOUND - rest) / w[0].double()).float()
    exact, own = (rows.double() * w.double()).sum(-1), (rows * w).sum(-1)
    bound = torch.tensor(BOUND, dtype=dtype)
    flips = (exact > bound) & (own < bound) if above else (exact < bound) & (own > bound)
    others = torch.randn(63, 32, generator=random).to(dtype)
    return torch.cat([rows[flips][:1], others]), w


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize(
    "bounded",
    [masked_in_place, masked_by_either_in_place, clamped, surrogate, surrogate_from_below, leaky, chosen],
)
def test_where_rounding_decides_the_other_side_torchs_own_gradient_is_right(bounded, above, dtype):
    """However many terms of either sign the gradient that arrives there has: its worst case is large then."""
    for terms in (1, 4096):
        x, w = row_that_flips(above, dtype)
        random = torch.Generator().manual_seed(1)
        c, grad_y = (torch.randn(*shape, generator=random).to(dtype) for shape in ((terms,), (64, terms)))

        def forward(x: Tensor, w: Tensor, c: Tensor = c) -> Tensor:
            return bounded((x * w).sum(-1))[:, None] * c.to(x.dtype)

        live = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        got = torch.autograd.grad(forward(*live), live, grad_y)
        held = {"forward": forward, "primals": (x, w), "grad_y": grad_y, "blind": "allow"}
        held["precision"] = "eager" if dtype == torch.bfloat16 else None
        assert_gradients(got, **held)
        with pytest.raises(WrongGradients):
            assert_gradients((got[0], 3 * got[1]), **held)


@pytest.mark.parametrize(
    ("dtype", "forward"),
    [
        (torch.float16, lambda x, w: x * (w + 0.7)),
        (torch.bfloat16, lambda x, w: (w + 0.3) ** 2 * x),
        (torch.bfloat16, lambda x, w: torch.add(w, x, alpha=0.75) ** 2),
    ],
)
def test_a_number_that_is_added_to_zeros_rounds_where_it_is_stored(dtype, forward):
    random = torch.Generator().manual_seed(0)
    x, grad_y = (torch.randn(40, 30, generator=random).to(dtype) for _ in range(2))
    live = [x.clone().requires_grad_(), torch.zeros(40, 30, dtype=dtype, requires_grad=True)]
    got = torch.autograd.grad(forward(*live), live, grad_y)
    primals = [x.detach() for x in live]
    assert_gradients(got, forward=forward, primals=primals, grad_y=grad_y, precision="eager")
