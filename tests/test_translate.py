"""The definition that is made of a torch function: whole rules and layers, decisions, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_numbers import ROW, agree, evaluated, gradient, same, written
from flint import arb
from torch.nn import functional

from backprop_rules import CATALOGUE
from backprop_rules.errors import InputError
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof.balls import Undecided, ball, leaves, outputs
from backprop_rules.evidence.proof.certified import certify
from backprop_rules.evidence.proof.translate import definition_of
from backprop_rules.strategies.drawing.bulk import drawn
from backprop_rules.subject.ambient import quiet

# ---- the catalogue


@pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)
def test_the_definition_that_is_made_of_a_rules_forward_agrees_with_the_rules_own(rule):
    made, compared = definition_of(rule.forward), []

    def hold(point):
        try:
            own = certify(point)
        except Silent:
            return
        found = certify(replace(point, rule=replace(rule, definition=made)))
        for expected, balls in zip((own.y, *own.gradients), (found.y, *found.gradients), strict=True):
            assert (expected is None) == (balls is None)
            for a, b in zip(expected or (), balls or (), strict=True):
                assert a.overlaps(b)
                compared.append(b.is_finite())

    with quiet():
        for point in drawn(rule, 15):
            hold(point)
    assert any(compared)


LAYERS = {
    "linear": (torch.nn.Linear(6, 2), same),
    "lstm": (torch.nn.LSTMCell(6, 2), lambda y: y[0]),
    "conv1d": (torch.nn.Conv1d(1, 2, 3), same),
    "layer_norm": (torch.nn.LayerNorm(6), same),
    "batch_norm": (torch.nn.BatchNorm1d(6).eval(), same),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_another_dtype_are_taken_with_their_exact_values(name):
    layer, first = LAYERS[name]
    found = [
        evaluated(definition_of(lambda x, dtype=dtype: first(layer.to(dtype)(x[None]))), ROW)[0]
        for dtype in (torch.float32, torch.float64)
    ]
    assert all(a.overlaps(b) for a, b in zip(*found, strict=True))


def test_masks_and_indices_come_as_plain_arrays_and_a_missing_primal_as_none():
    made = definition_of(lambda x, mask, index, b=None, *, n: torch.where(mask, x, n)[index])
    tape = []
    x = leaves([1.0, 2.0, 3.0], (3,), tape)
    y = made(x, np.array([True, False, True]), np.array([2, 1]), None, n=0.5)
    assert [float(ball(v)) for v in outputs(y)] == [3, 0.5]


def test_holomorphic_functions_of_complex_numbers_have_complex_derivatives():
    agree(
        lambda z: (z @ z).exp() / (1 + z),
        lambda z: np.exp(z @ z) / (1 + z),
        [[0.5 + 0.25j, -0.5j], [0.125 + 0j, 0.25 - 0.5j]],
    )
    with pytest.raises(InputError, match="complex numbers"):
        gradient(lambda z: z.abs(), [1 + 1j])
    with pytest.raises(Undecided, match="conjugate"):
        gradient(lambda z: z.conj() * z, [1 + 1j])
    assert gradient(lambda x: x.conj() * x, [3.0])[1] == 6


# ---- decisions


def test_a_comparison_is_that_of_the_exact_values():
    def forward(x):
        return torch.where(x + 1 > 1, 3 * x, 5 * x) + (x + 1 > 1) * x

    y, slope = gradient(forward, [2.0**-70])
    assert slope == 4
    assert float(y) == 4 * 2.0**-70


# Where two pieces meet, the derivative holds both sides', and no others; None where the function jumps.
MEETING = {
    "relu": (torch.relu, 0, (0, 1)),
    "leaky_relu": (lambda x: functional.leaky_relu(x, 0.25), 0, (0.25, 1)),
    "elu": (functional.elu, 0, (1, 1)),
    "celu": (lambda x: functional.celu(x, 0.5), 0, (1, 1)),
    "huber": (lambda x: functional.huber_loss(x, torch.zeros(1)), 1, (1, 1)),
    "softshrink": (functional.softshrink, 0.5, (0, 1)),
    "hardswish": (functional.hardswish, -3, (-0.5, 0)),
    "a choice": (lambda x: torch.where(x > 0, x, x / 2), 0, (0.5, 1)),
    "a choice by two": (lambda x: torch.where((x >= -1) & (x <= 1), x, x.sign()), 1, (0, 1)),
    "a choice by either": (lambda x: torch.where((x < -1) | (x > 1), x.sign(), x), -1, (0, 1)),
    "a choice in place": (lambda x: x.clone().masked_fill_(~(x > 0), 0.0), 0, (0, 1)),
    "an index in place": (written, 0, (0, 2)),
    "a choice turned around": (lambda x: torch.where((x > 0).flip(0), x, 0.0), 0, None),
    "the sign": (torch.sign, 0, None),
    "floor": (torch.floor, 2, None),
    "hardshrink": (functional.hardshrink, 0.5, None),
    "softplus": (functional.softplus, 20, (1 - 1e-9, 1)),  # which float32 does not tell from 1
    "a softplus of a threshold that is meant": (lambda x: functional.softplus(x, 1, 2), 2, None),
    "a choice that jumps": (lambda x: torch.where(x > 0, x, 1), 0, None),
    "a product with a condition": (lambda x: x * (x > 0), 0, None),
    "an index": (lambda x: x[x >= 0], 0, None),
    "control flow": (lambda x: x if x > 0 else x / 2, 0, None),
    "any": (lambda x: x if (x > 0).any() else x / 2, 0, None),
    "the place of the largest": (lambda x: torch.stack([x, 2 - x]).argmax(0) * x, 1, None),
    "atan2": (lambda x: torch.atan2(x, -torch.ones(1)), 0, None),
}


@pytest.mark.parametrize("name", MEETING)
def test_where_pieces_meet_the_derivative_is_between_the_sides_and_a_jump_is_undecided(name):
    forward, at, sides = MEETING[name]
    if sides is None:
        with pytest.raises(Undecided):
            gradient(forward, [at])
        return
    *_, slope = gradient(forward, [at])
    assert slope.contains(sides[0])
    assert slope.contains(sides[1])


@pytest.mark.parametrize("name", ["elu", "celu", "huber", "leaky_relu", "softshrink", "hardswish"])
def test_where_pieces_meet_smoothly_there_is_one_derivative(name):
    forward, at, (low, high) = MEETING[name]
    *_, slope = gradient(forward, [at])
    assert not slope.contains(low - 0.01)
    assert not slope.contains(high + 0.01)


def test_a_ball_across_a_kink_holds_both_sides_and_across_a_jump_is_undecided():
    box = arb(0, 0.5)
    y, slope = gradient(lambda x: functional.leaky_relu(x, 0.25), [box])
    assert y.contains(-0.125) and y.contains(0.5)
    assert slope.contains(0.25) and slope.contains(1)
    for forward in (torch.sign, torch.floor, lambda x: torch.where(x > 0, x, x / 2)):
        with pytest.raises(Undecided):
            gradient(forward, [box])


def test_constants_are_compared_as_torch_compares_them():
    mask = torch.ones(2, 2).tril()
    agree(lambda x: x.masked_fill(mask == 0, 0.0), lambda x: x * mask.numpy(), [[1.0, 2.0], [3.0, 4.0]])
    agree(lambda x: padded(x).masked_fill(padded(x) == 0, 7.0), lambda x: np.concatenate([[7], x]), ROW)


def padded(x):
    made = torch.zeros(7, dtype=x.dtype)
    made[1:] = x
    return made


def test_where_a_constant_is_made_and_nothing_else_its_derivative_is_zero():
    y, *gradients = gradient(lambda x: torch.full((), 0.1, dtype=x.dtype), [2.0])
    assert float(y) == 0.1
    assert gradients == [0]


# ---- refusals

REFUSED = {
    "aten._linalg_det.default, which is not known": lambda x: torch.linalg.det(x.outer(x)),
    "draws random numbers": lambda x: functional.dropout(x, 0.5),
    "takes a Python number out of a tensor": lambda x: x * x.sum().item(),
    "takes values out of a tensor by numpy": lambda x: torch.from_numpy(np.sin(x.numpy())),
    "takes values out of a tensor by tolist": lambda x: x * x.tolist()[0],
    "takes values out of a tensor by tensor": lambda x: torch.tensor([x[0], 1.0]),
    "reads memory into which no operation of torch wrote": lambda x: torch.empty_like(x) + x,
    "takes the bits of a tensor": lambda x: x.view(torch.int64).double(),
    "depends on the dtype": lambda x: functional.rms_norm(x, (6,)),
    "changes the size": lambda x: x.clone().resize_(9) + 1,
    "ceil_mode": lambda x: functional.max_pool1d(x[None, None], 4, ceil_mode=True),
    "padding_idx": lambda x: functional.embedding(torch.tensor([0]), x.view(2, 3), padding_idx=0),
    "returns a tuple": lambda x: (x, x),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_known_is_refused_with_what_to_do(why):
    with pytest.raises(InputError, match=why) as refused:
        gradient(REFUSED[why], ROW)
    assert "no definition can be made of this forward, as" in str(refused.value)
    assert "`definition=`: the same function in NumPy notation" in str(refused.value)
