"""Images at places between their pixels: whatever these are, the gradients are within the radius."""

import pytest
import torch
from torch.nn import functional

from backprop_rules import InputError
from backprop_rules.evidence.allowance import RunningError
from backprop_rules.testing import assert_gradients, enclose

HOW = [{"padding_mode": padding, "align_corners": align} for padding in ("zeros", "border") for align in (False, True)]


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def places(seed, align, sizes):
    """Return places of which a third are pixels, and some lie outside."""
    grid = 0.8 * drawn(2, *(1 + n for n in sizes), len(sizes), seed=seed)
    sizes = torch.tensor(sizes[::-1])
    pixels = torch.round((grid + 1) * sizes / 2)
    whole = 2 * pixels / (sizes - 1) - 1 if align else (2 * pixels + 1) / sizes - 1
    grid[:, ::3] = whole[:, ::3]
    return grid


def outcome(image, grid, grad_y, how):
    """Return an image's samples and their gradients."""
    live = [image.clone().requires_grad_(), grid.clone().requires_grad_()]
    y = functional.grid_sample(*live, **how)
    return (y.detach(), *torch.autograd.grad(y, live, grad_y))


def followed(image, grid, radii, grad_y, how):
    """Return the same, each with its radius."""
    live = [image.clone().requires_grad_(), grid.clone().requires_grad_()]
    with RunningError() as errors:
        for x, radius in zip(live, radii, strict=True):
            errors.keep(x, radius)
        y = functional.grid_sample(*live, **how)
        found = (y.detach(), *torch.autograd.grad(y, live, grad_y))
    return [(x, errors.radius(x)) for x in (y, *found[1:])]


@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(map(str, how.values())))
@pytest.mark.parametrize(("seed", "sizes"), [*((seed, (5, 6)) for seed in range(4)), (0, (3, 5, 4))], ids=str)
def test_whatever_the_places_are_the_gradients_are_within_the_radius(how, seed, sizes):
    image, grid = drawn(2, 3, *sizes, seed=seed), places(seed, how["align_corners"], sizes)
    grad_y = drawn(2, 3, *grid.shape[1:-1], seed=9)
    radii = [0.02 * drawn(*x.shape, seed=seed + 20).abs() for x in (image, grid)]
    held = followed(image, grid, radii, grad_y, how)
    assert all(radius.isfinite().all() for _, radius in held)
    draws, jumped = torch.Generator().manual_seed(seed), 0
    for _ in range(40):
        others = [
            x + (1 - 1e-9) * r * (2 * torch.rand(x.shape, generator=draws, dtype=torch.float64) - 1).sign()
            for x, r in zip((image, grid), radii, strict=True)
        ]
        for (x, radius), other in zip(held, outcome(*others, grad_y, how), strict=True):
            assert bool(((other - x).abs() <= radius).all())
            jumped += bool(((other - x).abs() > 0.3 * radius)[radius > 0].any())
    assert jumped


@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(map(str, how.values())))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("places", [(15, 15), (7, 8, 6)], ids=["2d", "3d"])
def test_torchs_own_gradients_pass_and_wrong_ones_do_not(how, dtype, places):
    x, t = drawn(2, 3, *range(9, 9 - len(places), -1), seed=1, dtype=dtype), drawn(2, *places, len(places), seed=2)
    t = t.to(dtype)

    def warped(x, t):
        return functional.grid_sample(x, t * 0.5, **how)

    for precision in ("eager", None):
        cast = torch.Tensor.float if precision is None else torch.Tensor.clone
        live = [cast(z).requires_grad_() for z in (x, t)]
        grad_y = drawn(2, 3, *places, seed=3, dtype=dtype)
        got = [g.to(dtype) for g in torch.autograd.grad(warped(*live), live, cast(grad_y))]
        held = enclose(warped, (x, t), grad_y=grad_y, precision=precision)
        assert held.agreement(got, blind="allow").right
    for wrong in ((got[0] * 1.01, got[1]), (got[0], got[1] * 1.01), (got[0], got[1].flip(-1))):
        assert not held.agreement(wrong, blind="allow").right


def test_what_is_not_bilinear_is_refused_by_name():
    asked = {"primals": (drawn(1, 1, 4, 4, seed=0), drawn(1, 2, 2, 2, seed=1)), "grad_y": drawn(1, 1, 2, 2, seed=2)}
    with pytest.raises(InputError, match=r"grid_sampler_2d\.default but linear"):
        assert_gradients(
            asked["primals"],
            forward=lambda x, t: functional.grid_sample(x, t, mode="nearest", align_corners=False),
            **asked,
        )
