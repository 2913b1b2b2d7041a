"""Formulas in LaTeX, written for a terminal."""

import re

import pytest

from backprop_rules import CATALOGUE
from backprop_rules.formula import plain


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"y = x^2:\quad \bar x = 2 x^* \bar y", "y = x²: x̄ = 2 x* ȳ"),
        (r"x^{n-1}", "xⁿ⁻¹"),
        (r"x^{-1/2}", "x^(-1/2)"),
        (r"e^{x_i}", "e^xᵢ"),
        (r"x_{ij} + \tfrac12 y_{it_i}", "xᵢⱼ + ½ y_itᵢ"),
        (r"\frac{1}{1 + e^{-x}}", "1/(1 + e⁻ˣ)"),
        (r"\tfrac{2}{n - c} (x_i - \mu)", "(2/(n - c)) (xᵢ - μ)"),
        (r"\bar{\hat y} = \sqrt{\sigma^2 + \epsilon}", "ŷ̄ = √(σ² + ε)"),
        (r"\|x\|_p,\ [|x| = y] / \#\{j\}", "‖x‖ₚ, [|x| = y] / #{j}"),
        (r"\bar Y^\top X^H", "Ȳᵀ Xᴴ"),
        (r"\operatorname{sign} x \text{ for } p \ne \infty", "sign x for p ≠ ∞"),
    ],
)
def test_it_reads_as_it_is_printed(tex, expected):
    assert plain(tex) == expected


@pytest.mark.parametrize("name", CATALOGUE)
def test_no_formula_keeps_a_command(name):
    told = plain(CATALOGUE[name].formula)
    assert "\\" not in told
    assert not re.search(r"bar|frac|quad|tfrac|left|mathrm", told)
    assert told.count("(") == told.count(")")
    assert told.count("[") == told.count("]")
