"""How far a function may move with its operand: no less than to the ends of the interval, against exact numbers.

Near poles, ends of domains and large slopes, and of radii that are smaller than the spacing of the numbers, too.
"""

import math
import random

import pytest
import torch
from flint import arb, ctx

from backprop_rules.evidence.allowance.elementwise import VARIATIONS
from backprop_rules.evidence.allowance.mode import RunningError
from backprop_rules.evidence.allowance.operation import UP, Operand
from backprop_rules.evidence.allowance.units import ULPS

U = 2.0**-53
FUNCTIONS = {
    **{name: getattr(arb, name) for name in (
        "exp", "expm1", "log", "log1p", "sqrt", "atan", "asinh", "asin", "acos", "acosh", "atanh", "sinh", "tanh",
        "erf", "erfc", "erfinv",
    )},
    "exp2": lambda v: arb(2) ** v,
    "log2": lambda v: v.log() / arb(2).log(),
    "log10": lambda v: v.log() / arb(10).log(),
    "rsqrt": lambda v: 1 / v.sqrt(),
    "sigmoid": lambda v: 1 / (1 + (-v).exp()),
    "special_i1": lambda v: v.bessel_i(1),
    "special_erfcx": lambda v: (v * v).exp() * v.erfc(),
    # Of these the least is at 0, and the ends are the farthest.
    "cosh": arb.cosh,
    "i0": lambda v: v.bessel_i(0),
}  # fmt: skip
LEAST, MOST = {"sqrt": 0, "acosh": 1, "asin": -1, "acos": -1}, {"asin": 1, "acos": 1}


def drawn(numbers):
    near_one = 1 + numbers.choice([1, -1, 2]) * numbers.randint(1, 40) * U * 2.0 ** numbers.choice([0, 1, 10, 20])
    a = numbers.choice([numbers.uniform(0, 1), numbers.uniform(0, 40), 2.0 ** numbers.uniform(-60, 50), near_one])
    parts = [2.0 ** numbers.uniform(-60, 2), 1 - 2.0 ** -numbers.uniform(1, 24)]
    radii = [*(a * part for part in parts), U * 2.0 ** numbers.uniform(-2, 10), numbers.uniform(0, 40)]
    nearly = 1 - 2.0 ** -numbers.uniform(0, 54)  # the whole way to a pole, or to the end of the domain
    return numbers.choice([a, -a]), numbers.choice([*radii, *(way * nearly for way in (abs(1 - a), 1 + a, a))])


def moved(name, a, radius):
    """Return how far the formula lets the function move, and by how much it moves to an end of the interval."""
    function = FUNCTIONS[name]
    with ctx.workprec(400):
        here = function(arb(a))
        ends = (
            (arb(a) - arb(radius)).max(arb(LEAST.get(name, -math.inf))),
            (arb(a) + radius).min(MOST.get(name, math.inf)),
        )
        off = [abs(there - here) for there in map(function, ends) if there.is_finite()]
        if not here.is_finite() or not math.isfinite(float(here.mid())) or not off:
            return 0.0, 0.0
        most = max(float(one.abs_lower()) for one in off)
    size = torch.tensor([abs(float(here.mid())) * (1 + 2 * U) + 1e-322], dtype=torch.float64)
    x = Operand(*(torch.tensor([v], dtype=torch.float64) for v in (a, radius)))
    found = float(VARIATIONS[name](x, size, x.value))
    return (math.inf if math.isnan(found) else found * UP + 1e-320), most


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_moves_no_farther_than_its_formula_says(name):
    numbers = random.Random(name)
    for _ in range(1000):
        a, radius = drawn(numbers)
        found, most = moved(name, a, radius)
        assert found >= most, f"{name} of {a!r} within {radius!r} moves by {most!r}, and not by {found!r} at most"


# What each of these formulas once had for the radius was too small: to the right of it is by how many times.
LOST = [
    ("asin", 1 - 2 * U, 0.4 * U),  # 2 * 10^6: the end was rounded to the number itself
    ("erfinv", 1 - 8 * U, 0.3 * U),  # 2 * 10^11: so it was here
    ("i0", 581.0, 5e-14),  # 14: and here
    ("special_erfcx", -22.0, 1.4e-15),  # 17: and here
    ("tanh", 28.7, 19.0),  # 2: 1 - tanh(19) has one digit left
    ("acosh", 1 + 4 * U, 0.8 * U),  # 1.06: the lower end was rounded up
    ("atanh", 1 - 17 * U, 16.46 * U),  # 1.1: one minus a product near one
    ("atanh", -0.2940109366841306, 0.7059890633158693),  # 1.01: or one minus a number that is not near one
    ("log1p", 1.0000000000000069, 2.0000000000000067),  # 1.02: one plus a number
    ("asin", -2.367357826543844e-08, 1.000000023673578),  # 1 + 4e-9: here the end is at -1
    ("rsqrt", 3.0, 3.0 * (1 - 2.0**-52)),  # 1.08: so is what is left of 1 - r / a
]


@pytest.mark.parametrize(("name", "a", "radius"), LOST, ids=str)
def test_no_digit_is_lost_on_the_way_to_the_end_of_an_interval(name, a, radius):
    found, most = moved(name, a, radius)
    assert most <= found <= 30 * most


@pytest.mark.parametrize("name", ["erfinv", "special_erfcx", "special_ndtri", "i0", "special_i0e", "special_i1"])
def test_both_ends_may_be_off_by_the_ulps_that_are_documented(name):
    function, a = getattr(torch.ops.aten, name), torch.tensor([0.6], dtype=torch.float64)
    beside = [function(torch.nextafter(a, torch.full_like(a, end))) for end in (-math.inf, math.inf)]
    steps, ulp = max(abs(float(y - function(a))) for y in beside), 2.0**-52 * float(function(a).abs())
    found = float(VARIATIONS[name](Operand(a, torch.full_like(a, 1e-300)), function(a).abs(), a))
    assert found * UP >= steps + 2 * ULPS[name][1] * ulp


ON_THE_EDGE = {
    "floor": (torch.floor, 3.0, -1),
    "ceil": (torch.ceil, 3.0, 1),
    "round": (torch.round, 2.5, 1),
    "searchsorted": (lambda x: torch.searchsorted(torch.tensor([1.0, 3.0, 4.0]).double(), x), 3.0, 1),
}


@pytest.mark.parametrize("name", ON_THE_EDGE)
def test_what_lies_on_an_edge_may_be_beyond_it_however_little_it_is_off(name):
    function, edge, beyond = ON_THE_EDGE[name]
    with RunningError() as errors:
        x = torch.tensor([edge], dtype=torch.float64) * 1
        errors.keep(x, torch.full_like(x, 2.0**-60))
        y = function(x)
    other = function(torch.nextafter(x, torch.tensor(math.inf * beyond, dtype=torch.float64)))
    assert bool((other != y).all())
    assert float(errors.radius(y)) >= float((other - y).abs())
