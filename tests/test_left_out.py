"""What one row of thousands gives and is left out, and what keeps too few digits, though every element is inside."""

import functools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from backprop_rules.testing import WrongGradients, enclose

BF16, F32 = torch.bfloat16, torch.float32


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), w, b)


def times(row, factor: float):
    """Return a change of a tensor: one of its rows, or more, are so many times as large."""

    def change(x: Tensor) -> Tensor:
        found = x.clone()
        found[row] *= factor
        return found

    return change


@functools.cache
def of_a_product(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0):
    """Return the enclosures of a product of many rows, and how its gradients are computed, of changed rows."""
    x, w = drawn(seed, *shape).to(dtype), (drawn(seed + 1, shape[-1], 48) / 8).to(dtype)
    g = drawn(seed + 2, *shape[:-1], 48).to(dtype)
    held = enclose(product, (x, w), grad_y=g)

    def made(change=lambda x: x) -> tuple[Tensor, Tensor]:
        rows = change(x.float()).reshape(-1, shape[-1])
        dw = rows.T @ g.float().reshape(-1, 48)
        return (g.float() @ w.float().T).to(dtype), dw.to(dtype)

    return held, made


def text_of(held, got) -> str:
    found = held.agreement(got)
    assert not found.right
    return str(WrongGradients(found))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("factor", "times_in", "likely"), [(0.0, "0", "left out"), (2.0, "2", "multiplied, or taken more than once")]
)
def test_a_row_of_many_thousands_is_missed_in_the_gradient_of_a_weight(dtype, factor, times_in, likely):
    held, made = of_a_product(dtype, (16384, 64))
    text = text_of(held, made(times(5, factor)))
    assert "The gradient of w is off systematically: every element is within its allowance" in text, text
    assert "index 5 of 16384 along axis 0 of output 0" in text and f"it is {likely}" in text, text
    told = float(text.split("gives to it is in it ")[1].split(" times")[0])
    assert round(told) == int(times_in)


def test_a_token_of_a_batch_is_missed():
    held, made = of_a_product(BF16, (16, 1024, 64))
    text = text_of(held, made(times((3, 700), 0.0)))
    assert "index [3, 700] of [16, 1024] along axes [0, 1] of output 0" in text and "it is left out" in text, text


def test_of_a_slice_that_gives_much_the_same_as_the_one_that_is_missed_it_is_not_said_that_it_is_taken_twice():
    x, w, g = drawn(0, 16384, 64), drawn(1, 64, 48) / 8, drawn(2, 16384, 48)
    x[6], g[6] = 1.5 * x[7], 1.5 * g[7]  # what row 7 gives is 4 / 9 of what row 6 does
    text = text_of(enclose(product, (x, w), grad_y=g), (g @ w.T, times(7, 0.0)(x).T @ g))
    assert "what index 6 of 16384 along axis 0 of output 0 gives to it is in it 0.5" in text, text
    assert "it is multiplied, or what is missed, or taken twice, is another slice that gives much the same" in text


def test_each_slice_counts_as_a_question_of_each_gradient_that_is_asked():
    """The worst case hides what a row gives to w, and not to x; of a row that stands out both are asked."""
    held, made = of_a_product(F32, (16384, 64))
    sums, slices = 2 * (1 + 16384 + 64) + 2 * (1 + 64 + 48), 16384 + 48
    assert held.agreement(made()).systematic.asked == sums + 2 * slices


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [BF16, F32], ids=["bfloat16", "float32"])
def test_a_right_one_of_as_many_rows_passes(dtype, seed):
    held, made = of_a_product(dtype, (16384, 64), 10 * seed)
    found = held.agreement(made())
    assert found.right, str(found)


def test_a_row_of_a_large_cotangent_stands_out_and_is_not_called_off():
    x, w, g = drawn(0, 16384, 64).bfloat16(), (drawn(1, 64, 48) / 8).bfloat16(), drawn(2, 16384, 48)
    g[7] *= 64
    g = g.bfloat16()
    got = [(g.float() @ w.float().T).bfloat16(), (x.float().T @ g.float()).bfloat16()]
    held = enclose(product, (x, w), grad_y=g)
    assert held.agreement(got).right
    got[1] = (times(7, 0.0)(x.float()).T @ g.float()).bfloat16()
    assert not held.agreement(got).right


@pytest.mark.parametrize("which", ["w", "b"])
def test_a_row_is_missed_in_a_norm(which):
    x, w, b, g = (drawn(k, *s).bfloat16() for k, s in enumerate(((16384, 256), (256,), (256,), (16384, 256))))
    held = enclose(layer, (x, w, b), grad_y=g)
    live = [t.double().requires_grad_() for t in (x, w, b)]
    dx, dw, db = torch.autograd.grad(layer(*live), live, g.double())
    assert held.agreement([t.bfloat16() for t in (dx, dw, db)]).right
    row = F.layer_norm(x[9].double(), (256,)) * g[9].double() if which == "w" else g[9].double()
    got = (dx, dw - row, db) if which == "w" else (dx, dw, db - row)
    text = text_of(held, [t.bfloat16() for t in got])
    assert f"The gradient of {which} is off systematically" in text, text


# ------------------------------------------------------------------ too few digits
def tf32(x: Tensor) -> Tensor:
    """Round to the nearest number of ten digits behind the point."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@functools.cache
def of_long_sums(length: int):
    x, w, g = drawn(0, 96, 128), drawn(1, 128, length) / 16, drawn(2, 96, length)
    return enclose(product, (x, w), grad_y=g), x, w, g


@pytest.mark.parametrize("length", [4096, 8192])
@pytest.mark.parametrize("narrow", [tf32, lambda x: x.half().float(), lambda x: x.bfloat16().float()])
def test_operands_that_are_rounded_to_fewer_digits_are_seen_in_long_sums(length, narrow):
    held, x, w, g = of_long_sums(length)
    assert held.agreement((g @ w.T, x.T @ g)).right
    found = held.agreement((narrow(g) @ narrow(w).T, x.T @ g))
    assert not found.right
    if length == 8192:
        text = str(WrongGradients(found))
        assert "The gradient of x is " in text and ": every element is within its allowance" in text, text
    if length == 8192 and narrow is tf32:
        assert "something is kept in too few digits, such as the operands of a product" in text


def test_a_result_that_was_stored_in_fewer_digits_is_seen():
    held, x, w, g = of_long_sums(8192)
    text = text_of(held, ((g @ w.T).bfloat16().float(), x.T @ g))
    assert "The gradient of x is " in text


def test_one_row_that_is_taken_in_half_precision_is_seen():
    held, x, w, g = of_long_sums(8192)
    dx = g @ w.T
    dx[3] = g[3].half().float() @ w.half().float().T
    text = text_of(held, (dx, x.T @ g))
    assert text.startswith("The gradient of x is farther off than roundings add up to"), text


# ------------------------------------------------------------------ nobody is accused
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_few_products_that_nearly_cancel_are_not_called_off(count):
    """Of two products both may round up: the slope of one number is off by more than sums in random order are."""
    for seed in range(120):
        random = torch.Generator().manual_seed(seed)
        x, g = torch.randn(count, generator=random), torch.randn(count, generator=random)
        g[-1] = -(g[:-1] * x[:-1]).sum() / x[-1] * (1 + 1e-3 * torch.randn((), generator=random))
        w, total = torch.randn(1, 1, generator=random), torch.zeros(())
        for k in range(count):
            total = total + g[k] * x[k]
        found = enclose(product, (x[:, None], w), grad_y=g[:, None]).agreement(
            ((g * w[0, 0])[:, None], total.reshape(1, 1)), blind="allow"
        )
        assert found.right, f"{seed}: {found}"


def test_the_mean_of_two_equal_numbers_may_round_as_far_as_their_sum():
    """Both count in full: the one addition is of a number of twice their size."""
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        x, w = 1e-7 * torch.randn(64, 2, generator=random), 8 + torch.rand(2, generator=random) / 4
        g, b = torch.randint(-3, 4, (64, 1), generator=random).float().expand(64, 2), torch.randn(2, generator=random)
        away = x - x.mean(-1, keepdim=True)
        inverse = torch.rsqrt(away.square().mean(-1, keepdim=True) + 1e-5)
        unit, weighted = away * inverse, g * w
        centred = weighted - weighted.mean(-1, keepdim=True)
        dx = inverse * (centred - unit * (weighted * unit).mean(-1, keepdim=True))
        found = enclose(layer, (x, w, b), grad_y=g).agreement((dx, (g * unit).sum(0), g.sum(0)), blind="allow")
        assert found.right, f"{seed}: {found}"


def test_a_sum_of_chunks_that_is_kept_in_bfloat16_is_seen():
    """Each element is off by some ulps, in no direction, and the worst case of long sums is as wide."""
    x, w, g = drawn(0, 8192, 96).bfloat16(), (drawn(1, 96, 64) / 8).bfloat16(), drawn(2, 8192, 64).bfloat16()
    held, dx = enclose(product, (x, w), grad_y=g), (g.float() @ w.float().T).bfloat16()
    total, kept = torch.zeros(96, 64), torch.zeros(96, 64, dtype=BF16)
    for a, b in zip(x.float().chunk(32), g.float().chunk(32), strict=True):
        total, kept = total + a.T @ b, (kept.float() + a.T @ b).bfloat16()
    assert held.agreement((dx, total.bfloat16())).right
    text = text_of(held, (dx, kept))
    assert text.startswith("The gradient of w is farther off than roundings add up to"), text
