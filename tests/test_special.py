"""Special values: the catalogue's gradients are the limits of the definition, and what misses them is objected to."""

import math
from dataclasses import replace

import pytest
import torch

from backprop_rules import CATALOGUE, InputError
from backprop_rules.properties import special_values as special
from backprop_rules.properties.finding import Kind

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)


@every_rule
def test_every_gradient_at_a_special_value_is_the_derivative_or_its_limit(rule):
    assert not list(special.wrong(rule))
    rows = special.table(rule)
    assert {str(row.value) for row in rows} == {"0.0", "-0.0", "inf", "-inf", "nan"}
    assert {row.at for row in rows} == {*(rule.primals[i] for i in rule.differentiable), "grad_y"}


def rows(name, at, value, **params):
    return [
        row
        for row in special.table(CATALOGUE[name])
        if row.at == at and str(row.value) == str(value) and params.items() <= row.call.params.items()
    ]


@pytest.mark.parametrize(
    ("name", "value", "params", "limit"),
    [
        ("sqrt", 0.0, {}, math.inf),
        ("log", 0.0, {}, math.inf),
        ("log", math.inf, {}, 0.0),
        ("tanh", math.inf, {}, 0.0),
        ("sigmoid", -math.inf, {}, 0.0),
        ("silu", math.inf, {}, 1.0),
        ("gelu", math.inf, {}, 1.0),
        ("silu", -math.inf, {}, 0.0),
        ("gelu", -math.inf, {}, 0.0),
        ("logsumexp", math.inf, {}, 1.0),
        ("norm", math.inf, {"p": 2}, 1.0),
        ("exp", math.nan, {}, math.nan),
        ("sin", math.inf, {}, None),
        ("pow", 0.0, {"n": 0.5}, math.inf),
    ],
)
def test_limits_are_found_in_the_definition(name, value, params, limit):
    (row,) = rows(name, "x", value, **params)
    assert row.limit == limit or (math.isnan(limit) and math.isnan(row.limit))
    assert row.right


@pytest.mark.parametrize(("name", "at", "value", "ends"), [
    ("relu", "x", 0.0, ("0", "1")), ("abs", "x", 0.0, ("-1", "1")), ("reciprocal", "x", math.inf, ("-0", "-0")),
    ("sin", "x", 0.0, ("1", "1")),
])  # fmt: skip
def test_what_a_gradient_may_be_is_told_without_the_roundings_of_a_ball(name, at, value, ends):
    assert {row.ends for row in rows(name, at, value)} == {ends}


def test_powers_of_zero_have_the_slopes_of_polynomials():
    for n, slope in ((0, 0.0), (1, 1.0), (2, 0.0)):
        (row,) = rows("pow", "x", 0.0, n=n)
        assert row.limit[0] <= slope <= row.limit[1]
        assert row.gradient == slope


def test_nothing_is_asked_outside_of_the_values_that_a_rule_takes():
    assert not rows("log", "x", -math.inf)
    narrow = replace(CATALOGUE["log"], domain=replace(CATALOGUE["log"].domain, values={"x": (2.0, 3.0)}))
    assert {str(row.value) for row in special.table(narrow) if row.at == "x"} == {"nan"}
    assert all(row.right and bool((row.call.primals[0] > 2).all()) for row in special.table(narrow) if row.at != "x")


def raises(*those):
    raise KeyError("k")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backward": lambda grad_y, y, x: raises()}, "one of its functions raises KeyError: 'k'"),
        (
            {"backward": lambda grad_y, y, x: None},
            r"its gradients have the shapes \[None\], and the primals \[\(2,\)\]",
        ),
        ({"forward": raises}, "one of its functions raises KeyError: 'k'"),
        ({"definition": raises}, "one of its functions raises KeyError: 'k'"),
    ],
)
def test_a_rule_that_does_not_run_is_refused_in_words(changes, words):
    with pytest.raises(InputError, match=f"exp: {words}.* Verify it first."):
        special.table(replace(CATALOGUE["exp"], **changes))


def test_at_a_kink_the_definition_leaves_an_interval():
    (row,) = rows("relu", "x", 0.0)
    assert row.chosen
    assert row.limit[0] <= 0
    assert row.limit[1] >= 1


def test_torchs_own_answer_is_there_to_compare_with():
    (row,) = rows("relu", "x", math.nan)
    assert (row.gradient, row.torchs) == (0.0, 1.0)


def passes_nan(grad_y, y, x):
    return torch.where(x <= 0, 0, grad_y)


def spreads_infinity(grad_y, y, x):
    return grad_y * (torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)))


@pytest.mark.parametrize(
    ("name", "backward", "where", "expected", "got"),
    [
        ("relu", passes_nan, ": where x is nan", 0.0, 1.0),
        ("silu", spreads_infinity, ": where x is inf", 1.0, math.nan),
    ],
)
def test_what_misses_a_special_value_is_found(name, backward, where, expected, got):
    wrong = replace(CATALOGUE[name], backward=backward, saves=("x",))
    (found,) = special.wrong(wrong)
    assert (found.kind, found.detail, found.expected) == (Kind.AT_SPECIAL, where, expected)
    assert found.got == got or (math.isnan(got) and math.isnan(found.got))
