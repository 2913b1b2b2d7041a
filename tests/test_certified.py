"""The certified derivative: its claims are so, it finds what torch gets wrong, and contradictions blame the checker."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import arb

from backprop_rules import CATALOGUE
from backprop_rules.call import call
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified, directional
from backprop_rules.evidence.verdict import judge
from backprop_rules.properties.finding import Kind, Rung
from backprop_rules.properties.of_rules import PROPERTIES, asked
from backprop_rules.strategies.drawing.bulk import drawn
from backprop_rules.subject.ambient import quiet
from backprop_rules.verify import verified, verify_rule

every_rule = pytest.mark.parametrize("rule", CATALOGUE.values(), ids=str)


def at(name, *primals, dtype=torch.float64, **params):
    primals = tuple(torch.tensor(x, dtype=dtype) for x in primals)
    return call(name, torch.ones_like(CATALOGUE[name].forward(*primals, **params)), *primals, **params)


def check(made):
    return [found for holds in PROPERTIES for found in asked(holds, made)]


def verdicts(made):
    return {v.oracle: v for v in judge(made)}


# Where torch's own formula loses the derivative: the point, and the derivative to the digits that float64 has.
LOST = [
    (at("expm1", -40.0), math.exp(-40)),
    (at("sigmoid", 40.0), 4.248354255291589e-18),
    (at("tanh", 25.0), 4 * math.exp(-50)),
]


@pytest.mark.parametrize(("made", "derivative"), LOST, ids=lambda value: str(getattr(value, "rule", "")))
def test_where_torchs_gradient_is_wrong_the_rule_is_right_and_torch_is_said_to_be_outside(made, derivative):
    (gradient,) = made.gradients
    assert abs(gradient.item() - derivative) <= 4 * math.ulp(derivative)
    assert verdicts(made)["certified"].agrees
    assert verdicts(made)["reverse mode"].disagrees
    assert not check(made)


def test_powers_of_negative_numbers_have_the_gradients_of_monomials():
    made = at("pow_tensor", [-2.0, -2.0, -2.0, -0.5], [2.0, 3.0, -1.0, 0.0])
    assert made.gradients[0].tolist() == [-4.0, 12.0, -0.25, 0.0]
    assert made.gradients[1].isnan().all()  # x^n has no value beside a whole n
    assert verdicts(made)["certified"].agrees


def test_a_bound_is_rounded_to_the_dtype_of_what_it_bounds_as_torch_does():
    assert not check(at("clamp", [0.69921875, 0.5], dtype=torch.bfloat16, min=0.7))


def test_a_kink_beside_it_leaves_no_element_less_certain():
    made = at("relu", [0.0, -600.0])
    made = replace(
        made, rule=replace(made.rule, definition=lambda x: np.abs(x) * [1, 0] + (1 + np.exp(x) - 1) * [0, 1])
    )
    ball = certified.certify(made).gradients[0][1]
    assert abs(float(ball.mid()) - math.exp(-600)) <= math.ulp(math.exp(-600))
    assert certified.width(ball, torch.float64) <= 1


def test_an_enclosure_is_narrower_than_half_a_unit_of_its_dtype():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        made = at("tanh", [0.1, -3.0, 1e-30, 20.0], dtype=dtype)
        for ball, x in zip(certified.certify(made).gradients[0], made.gradients[0].double().tolist(), strict=True):
            assert 2 * float(ball.rad()) <= math.ldexp(torch.finfo(dtype).eps, math.frexp(x)[1] - 1) / 2


def test_more_bits_are_taken_where_terms_cancel():
    made = at("log1p", [1e-300])
    made = replace(made, rule=replace(made.rule, definition=lambda x: np.log(1 + x)))
    (ball,) = certified.certify(made).y
    assert float(ball.mid()) == 1e-300
    assert float(ball.rad()) < 1e-316


def test_a_definition_without_a_value_is_not_judged():
    assert not verdicts(at("sqrt", [0.0]))["certified"].enclosure.proves.any()
    never = replace(CATALOGUE["exp"], definition=lambda x: np.exp(x) if x.flat[0] > 0 else x)
    with pytest.raises(Silent):
        certified.certify(replace(at("exp", [0.0]), rule=never))


def test_infinity_is_held_only_by_what_reaches_past_the_largest_number():
    for value, holds in ((709.0, False), (709.9, True)):
        made = at("exp", [value])
        (ball,) = certified.certify(made).gradients[0]
        enclosure = certified.enclosure([ball], torch.zeros(1, dtype=torch.float64), made.gradients[0])
        assert (enclosure.outside(torch.tensor([math.inf], dtype=torch.float64)) is None) is holds


def test_nan_lies_in_no_enclosure_that_claims_something():
    made = at("exp", [1.0])
    enclosure = certified.enclosure(certified.certify(made).y, torch.zeros(1, dtype=torch.float64), made.y)
    assert enclosure.outside(torch.tensor([math.nan], dtype=torch.float64)) is not None


@every_rule
def test_differences_of_the_forward_hold_the_certified_derivative_and_are_of_use(rule):
    useful = []

    def narrow(made):
        along = directional.directions(made)
        try:
            truth = certified.inner([b for b in certified.certify(made).gradients if b is not None], along)
            differences = directional.derivative_along(made, along)
        except Silent:
            return
        if differences.is_finite() and truth.is_finite() and abs(truth) > 0:
            assert differences.overlaps(truth)
            useful.append(bool(differences.rad() < abs(truth)))

    with quiet():
        for made in drawn(rule, 60, tiers=["bounded"]):
            narrow(made)
    assert any(useful)


def test_where_two_oracles_contradict_each_other_that_is_said(monkeypatch):
    made = at("exp", [1.0, 2.0])
    monkeypatch.setattr(certified, "inner", lambda *_: arb(7))
    (found,) = (f for f in check(made) if f.kind is Kind.ORACLES)
    assert found.expected.startswith("7.0")


def test_what_a_wrong_degree_makes_wrong_is_not_blamed_on_the_backward():
    square = CATALOGUE["square"]
    linear = replace(square, domain=replace(square.domain, degree=1, power=1))
    made = replace(call(linear, torch.ones(1), torch.tensor([0.5])), spacing=0.5)
    shifted = replace(made, rule=replace(linear, forward=lambda x: x * x * x, definition=lambda x: x * x * x))
    found = check(shifted)[0]
    assert found.kind is Kind.ORACLES
    assert set(found.against) == {"reverse mode", "central differences"}


def test_a_large_product_is_too_long_for_ball_arithmetic():
    x, w, b = (torch.ones(shape).bfloat16() for shape in ((8, 1024), (1024, 1024), (1024,)))
    assert not any(v.agrees or v.disagrees for v in judge(call("linear", x, x, w, b)))


@pytest.mark.parametrize("seed", [0, 1])
def test_where_torch_cancels_the_proof_decides(seed):
    """Of equal numbers near 1e23 torch's gradient is 0, or noise: the rule's is nearer to the exact one, or is it."""
    assert not verify_rule(CATALOGUE["layer_norm"], seed=seed).problem


def test_points_of_the_grid_are_witnessed_where_no_device_is_asked():
    outcome, report = verified(CATALOGUE["neg"], 40, devices=["meta"])
    assert report.passed
    assert outcome.exact == 0
    assert outcome.rungs[Rung.WITNESSED] > 30
    assert not outcome.asked


def test_what_every_oracle_bears_out_on_the_grid_needs_no_second_witness():
    outcome, report = verified(CATALOGUE["abs"], 2, 2, devices=["cpu"])
    assert report.verdict == "right"
    assert outcome.exact == 1
