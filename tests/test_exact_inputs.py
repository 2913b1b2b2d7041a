"""Where nothing rounds, gradients are held to the last bit: of whole numbers, of a softmax of zeros, in float64."""

import math
from fractions import Fraction

import pytest
import torch

from backprop_rules import InputError
from backprop_rules.evidence.allowance.granules import FEW, granule_of
from backprop_rules.testing import WrongGradients, assert_gradients, enclose, exact_inputs

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def text_of(got, **options) -> str:
    with pytest.raises(WrongGradients) as caught:
        assert_gradients(got, **options)
    return str(caught.value)


def test_exact_inputs_are_held_to_the_bit():
    def layer(x, w, b):
        return x @ w + b

    like = tuple(torch.zeros(*shape, dtype=torch.bfloat16) for shape in ((4096, 64), (64, 32), (32,)))
    (x, w, b), g, density = exact_inputs(layer, like)
    assert 0 < density <= 1
    got = [t.bfloat16() for t in (g.float() @ w.float().T, x.float().T @ g.float(), g.float().sum(0))]
    found = assert_gradients(got, forward=layer, primals=(x, w, b), grad_y=g)
    assert all(one.used == 0 for one in found.gradients)
    shorter = (x.float()[:-1].T @ g.float()[:-1]).bfloat16()  # one row of 4,096 is dropped
    assert "where nothing rounds" in text_of((got[0], shorter, got[2]), forward=layer, primals=(x, w, b), grad_y=g)


def test_a_softmax_of_scores_that_are_zero_is_held_to_the_bit():
    def attention(q, k, v):
        return torch.softmax(q @ k.mT / 8, -1) @ v

    like = tuple(torch.zeros(2, n, 64) for n in (48, 256, 256))
    (q, k, v), g, _ = exact_inputs(attention, like)
    assert not (q @ k.mT).any() and all(x.any() for x in (q, k, v))
    p = torch.softmax(q @ k.mT / 8, -1)
    dp = g @ v.mT
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / 8
    got = [ds @ k, ds.mT @ q, p.mT @ g]
    found = assert_gradients(got, forward=attention, primals=(q, k, v), grad_y=g, blind="allow")
    assert all(one.used == 0 for one in found.gradients)
    got[2] = torch.nextafter(got[2], torch.tensor(1e9))
    assert "where nothing rounds" in text_of(got, forward=attention, primals=(q, k, v), grad_y=g, blind="allow")
    with pytest.raises(InputError, match="_softmax"):  # of 96 scores each is 1 / 96, which rounds
        exact_inputs(attention, tuple(torch.zeros(2, n, 64) for n in (48, 96, 96)))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=lambda dtype: str(dtype)[6:])
def test_what_is_exact_stays_the_truth(dtype):
    numbers = torch.Generator().manual_seed(0)
    x, w, g = (torch.randint(-2, 3, shape, generator=numbers).to(dtype) for shape in ((6, 5), (5, 4), (6, 4)))
    found = enclose(lambda x, w: (x @ w).relu(), (x, w), grad_y=g)
    kept = g.double() * ((x.double() @ w.double()) > 0)
    assert torch.equal(found["x"].truth, kept @ w.double().mT) and not found["x"].radius.any()
    assert torch.equal(found["w"].truth, x.double().mT @ kept)


def test_a_mask_of_infinities_rounds_nothing():
    mask = torch.full((8, 8), -math.inf).triu(1)
    primals, g, density = exact_inputs(lambda q: torch.where(mask < 0, 0.0, q + mask), (torch.zeros(8, 8),))
    assert density == 1 and primals[0].all() and g.any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64, torch.bool], ids=lambda dtype: str(dtype)[6:])
def test_whole_numbers_divide(dtype):
    x, n = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5, 1).to(dtype)
    found = enclose(lambda x, n: x / n, (x, n), grad_y=torch.ones(5, 3))
    assert found["x"].contains(torch.ones(5, 3)).all()


def test_exact_inputs_of_other_polynomials():
    image = torch.zeros(2, 4, 8, 8), torch.zeros(4, 4, 3, 3), torch.zeros(4)
    exact_inputs(lambda x, w, b: torch.nn.functional.conv2d(x, w, b, padding=1), image)
    exact_inputs(torch.nn.functional.embedding, (torch.randint(0, 9, (6, 5)), torch.zeros(9, 4)))
    exact_inputs(lambda x, w, v: (x @ w) * (x @ v), (torch.zeros(32, 16), torch.zeros(16, 8), torch.zeros(16, 8)))
    with pytest.raises(InputError, match=r"^something rounds whatever the inputs: aten\._softmax\."):
        exact_inputs(lambda x: torch.softmax(x, -1), (torch.zeros(4, 8),))


@pytest.mark.parametrize("exponent", [-1074, -1023, -5, 0, 7, 970])
@pytest.mark.parametrize("other", [None, -1074, -1024, -7, 0, 3, 1020])
@pytest.mark.parametrize("place", [3, 2 * FEW])
def test_what_divides_all_numbers_is_found_whichever_of_them_has_the_most_digits(exponent, other, place):
    x = torch.randint(-8, 9, (3 * FEW,), generator=torch.Generator().manual_seed(0)).double() * 2.0**exponent
    if other is not None:
        x[place] = 2.0**other
    whole = [abs(int(n * 2**1074)) if abs(n) < 1 else abs(int(n)) * 2**1074 for n in map(Fraction, x.tolist())]
    assert granule_of(x) == min((n & -n).bit_length() - 1 for n in whole if n) - 1074
