"""Balls hold the exact value and derivative, know of ties, and run definitions in NumPy notation."""

import math

import numpy as np
import pytest
from flint import acb, arb, ctx

from backprop_rules.evidence.proof.balls import ZERO, Undecided, leaves, outputs, pull_back


def gradient(definition, values, shape, cotangent=None):
    """Return the balls of y and of the gradient at these values."""
    tape = []
    x = leaves(values, shape, tape)
    y = definition(x)
    elements = list(outputs(y))
    pull_back(y, cotangent or [1] * len(elements), tape)
    return [e.value for e in elements], [leaf.adjoint for leaf in outputs(x)]


# The derivative in FLINT's own functions of balls, which are not those that the numbers take theirs from.
KNOWN = {
    "exp": (np.exp, lambda x: x.exp()),
    "expm1": (np.expm1, lambda x: x.exp()),
    "log": (np.log, lambda x: 1 / x),
    "log1p": (np.log1p, lambda x: 1 / (1 + x)),
    "sqrt": (np.sqrt, lambda x: x.rsqrt() / 2),
    "sin": (np.sin, lambda x: x.cos()),
    "cos": (np.cos, lambda x: -x.sin()),
    "tanh": (np.tanh, lambda x: 1 - x.tanh() ** 2),
    "erf": (np.frompyfunc(lambda x: x.erf(), 1, 1), lambda x: 2 * (-x * x).exp() / arb.pi().sqrt()),
    "erfc": (np.frompyfunc(lambda x: x.erfc(), 1, 1), lambda x: -2 * (-x * x).exp() / arb.pi().sqrt()),
    "ndtr": (np.frompyfunc(lambda x: x.ndtr(), 1, 1), lambda x: (-x * x / 2).exp() / (2 * arb.pi()).sqrt()),
    "a power": (lambda x: x**2.5, lambda x: arb(2.5) * x ** arb(1.5)),
    "a whole power": (lambda x: x**-3, lambda x: -3 / x**4),
    "a quotient": (lambda x: (1 - x) / x, lambda x: -1 / x**2),
    "a constant power": (lambda x: x**0, lambda x: arb(0)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("value", [0.7, 2.0, 11.25])
def test_the_derivative_of_a_function_is_the_known_one(name, value):
    function, derivative = KNOWN[name]
    with ctx.workprec(128):
        _, (found,) = gradient(function, [value], (1,))
        known = derivative(arb(value))
        assert found.overlaps(known)
        assert found.rad() < arb(2) ** -100


def test_a_complex_derivative_is_conjugated_into_the_gradient():
    _, (found,) = gradient(lambda z: z * z, [3 + 4j], (1,))
    assert found == acb(6, -8)


def test_sums_products_and_broadcasting_are_numpys():
    values = [0.5 * k for k in range(6)]
    ys, found = gradient(lambda x: x @ x.T, values, (2, 3), [1, 0, 0, 0])
    assert ys[0] == arb(0.25 + 1)
    assert found == [2 * v for v in values[:3]] + [0, 0, 0]


@pytest.mark.parametrize("function", [np.maximum, np.minimum], ids=["maximum", "minimum"])
def test_at_a_tie_the_derivative_is_the_interval_from_0_to_1(function):
    _, found = gradient(lambda x: function(x[:1], x[1:]), [1.5, 1.5], (2,))
    for part in found:
        assert part.contains(0)
        assert part.contains(1)
        assert not part.contains(1.001)
        assert not part.contains(-0.001)


def test_the_absolute_value_has_every_slope_from_minus_1_to_1_at_0():
    _, (found,) = gradient(np.abs, [0.0], (1,))
    assert found.contains(-1)
    assert found.contains(1)
    assert not found.contains(1.001)


def test_away_from_ties_the_larger_takes_it_all():
    _, found = gradient(lambda x: np.max(x, axis=(0,)), [1.0, 3.0, 2.0], (3,))
    assert found == [0, 1, 0]


def test_maxima_of_arrays_without_axes_know_of_ties_too():
    _, (found,) = gradient(lambda x: np.minimum(np.maximum(x, 1.0), 1.0), [1.0], ())
    assert found.contains(0)


def test_a_comparison_of_what_cannot_be_told_apart_is_refused():
    with pytest.raises(Undecided, match="write the choice as a maximum"):
        gradient(lambda x: 1.0 if x[0] > 1 else 0.0, [1.0], (1,))
    with pytest.raises(Undecided):
        gradient(lambda x: np.where(x == 0, 0, x), [0.0], (1,))
    assert gradient(lambda x: np.where(x == 0, 0, x), [0.5], (1,))[1] == [1]
    assert gradient(lambda x: x * (2.0 if x[0] > 1 else 1.0), [1.5], (1,))[1] == [2]


@pytest.mark.parametrize(("exponent", "slope"), [(0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (3.5, 0.0)])
def test_powers_of_zero(exponent, slope):
    _, found = gradient(lambda x: x[0] ** x[1], [0.0, exponent], (2,))
    assert found[0] == slope
    assert exponent == 0 or found[1] == 0


def test_an_exponent_that_is_a_ball_keeps_its_width():
    tape = []
    (x,), (n,) = leaves([arb(10)], (1,), tape), leaves([arb(1, 0.5)], (1,), tape)
    pull_back(x**n, [1], tape)
    assert x.adjoint.contains(arb(0.75) * arb(10) ** arb(-0.25))
    assert n.adjoint.contains(arb(10) ** arb(1.25) * arb(10).log())


def test_no_path_leads_from_what_is_passed_over():
    tape = []
    x = leaves([1.0, 3.0], (2,), tape)
    pull_back(np.maximum(x[0:1], x[1:2]) * 0.0, [1], tape)
    assert [leaf.adjoint is ZERO for leaf in outputs(x)] == [True, False]


def test_a_cancellation_is_seen_in_the_width():
    with ctx.workprec(64):
        _, (coarse,) = gradient(lambda x: np.exp(x) / np.exp(x) * x, [200.0], (1,))
    with ctx.workprec(256):
        _, (fine,) = gradient(lambda x: np.exp(x) / np.exp(x) * x, [200.0], (1,))
    assert coarse.contains(1)
    assert fine.contains(1)
    assert 0 < float(fine.rad()) < float(coarse.rad()) < math.inf
