"""The notation of the answer key: formulas are true of the right values, and say where they cannot be read."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backprop_rules import InputError
from backprop_rules.documents.answers.notation import holds_of, rounds_to, worked_out

A = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
B = torch.tensor([[0.0, 1.0], [-2.0, 5.0]], dtype=torch.float64)
ROW = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
NAMES = {"A": A, "B": B, "x": ROW, "y": ROW @ A, "∂L/∂y": B, "s": A.sum(), "f": torch.square, "ŷ": -A}


@pytest.mark.parametrize(
    ("formula", "wrong"),
    [
        ("y = xA", "y = xB"),
        ("y = x × A", "y = x × Aᵀ"),
        ("y_j = Σ_i x_i A_ij", "y_j = Σ_i x_i A_ji"),
        ("y_1 = x_1 A_11 + x_2 A_21", "y_1 = x_1 A_11 + x_2 A_12"),
        ("Aᵀ_ij = A_ji", "Aᵀ_ij = A_ij"),
        ("ŷ = −A", "ŷ = −A + A"),
        ("A ⊙ A = f(A)", "A A = f(A)"),
        ("A² = A ⊙ A", "A² = AA"),
        ("Σ(A) = s", "Σ(A) = −s"),
        ("Σ_ij A_ij = s", "Σ_ij B_ij = s"),
        ("(x_1, x_2) = x", "(x_2, x_1) = x"),
        ("[[A_11, A_12], [A_21, A_22]] = A", "[[A_11, A_21], [A_12, A_22]] = A"),
        ("max(A, 0) = A ⊙ [A ≥ 0]", "max(A, 0) = A ⊙ [A ≤ 0]"),
        ("δL/δy = B", "δL/δy = Bᵀ"),
        ("A B ≠ B A", "A B = B A"),
        ("2(A + B) = 2A + 2B", "2(A + B) = 2A + B"),
        ("A − B − B = A − 2B", "A − (B − B) = A − 2B"),
        ("½(2 − 3)² = 0.5", "½(2 − 3)² = 0.25"),
        ("0.98·0.92·0.82 = 0.739312", "0.98·0.92·0.82 = 0.739313"),
        ("9·2⁻⁴⁶ = 9/70368744177664", "9·2⁻⁴⁵ = 9/70368744177664"),
        ("1 − 0.1·(−1) = 11/10", "1 − 0.1·(−1) = 9/10"),
        ("5∗6=30", "5∗7=30"),
        ("30+42+49+42+30=193", "30+42+49+42=193"),
        ("1 < 2 < 3", "1 < 3 < 2"),
    ],
)
def test_a_formula_is_true_of_the_values_that_it_is_true_of(formula, wrong):
    assert holds_of(formula, NAMES)
    assert not holds_of(wrong, NAMES)


@given(st.fractions(), st.fractions(), st.fractions().filter(bool))
def test_fractions_are_exact(a, b, c):
    assert holds_of("(a + b)² = a² + 2ab + b²", {"a": a, "b": b})
    assert worked_out("(a − b)/c", {"a": a, "b": b, "c": c}) == (a - b) / c


@pytest.mark.parametrize("formula", ["A", "A = ", "A = C", "A = (B", "A = B)", "A = [A B]", "A = B ; A", "= A"])
def test_what_cannot_be_read_is_told(formula):
    with pytest.raises(InputError, match=r"the formula '.*' cannot be read at .*: known are A, B"):
        holds_of(formula, NAMES)


def test_shapes_that_do_not_fit_are_no_product():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        holds_of("y = A x", NAMES)


@pytest.mark.parametrize(
    ("value", "written", "other"),
    [
        (24.1707, "24.17", "24.18"),
        (1.29e-6, "1.3e-6", "1.2e-6"),
        (0.0026057, "0.26%", "0.27%"),
        (Fraction(1, 3), "0.333", "0.334"),
        (-3.6, "-3.6", "3.6"),
        (2000, "2,000", "2,001"),
    ],
)
def test_a_number_is_held_to_the_digits_that_are_written(value, written, other):
    assert rounds_to(value, written)
    assert not rounds_to(value, other)
