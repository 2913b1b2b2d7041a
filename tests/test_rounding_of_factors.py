"""Systems of equations, inverses, determinants and Cholesky's factor: their radii hold the exact values."""

import numpy as np
import pytest
import torch
from exact_functions import cholesky, eliminated, unit_matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import ANY, COMPLEX, REAL, REAL_ONLY, widened, worst

from backprop_rules.evidence.allowance import RunningError
from backprop_rules.evidence.allowance.behind import behind
from backprop_rules.testing import WrongGradients, assert_gradients, enclose


def square(x):
    return widened(x)[:, : len(x)]


def triangle(a):
    """Return the lower triangle, with ones on its diagonal, of a tensor or of exact numbers."""
    if isinstance(a, np.ndarray):
        return np.where(np.tri(len(a), k=-1, dtype=bool), a[:, : len(a)], unit_matrix(len(a)))
    return square(a).tril(-1) + torch.eye(len(a), dtype=widened(a).dtype)


def definite(a):
    """Return a a^T + I, of a tensor or of exact numbers."""
    if isinstance(a, np.ndarray):
        return a.dot(a.T) + unit_matrix(len(a))
    return widened(a) @ widened(a).mT + torch.eye(len(a), dtype=widened(a).dtype)


CASES = {
    "solve any": (
        lambda a, b: torch.linalg.solve_ex(square(a), widened(b))[0],
        lambda a, b: eliminated(a[:, : len(a)], b)[0],
        2,
        ANY,
    ),
    "solve any, from the left": (
        lambda a, b: torch.linalg.solve_ex(square(a), widened(b).mT, left=False)[0],
        lambda a, b: eliminated(a[:, : len(a)].T, b)[0].T,
        2,
        REAL_ONLY,
    ),
    "solve with factors": (
        lambda a, b: torch.linalg.lu_solve(*torch.ops.aten._linalg_solve_ex(square(a), widened(b))[1:3], widened(b)),
        lambda a, b: eliminated(a[:, : len(a)], b)[0],
        2,
        REAL_ONLY,
    ),
    "inverse": (
        lambda a: torch.linalg.inv_ex(square(a))[0],
        lambda a: eliminated(a[:, : len(a)], unit_matrix(len(a)))[0],
        1,
        ANY,
    ),
    "det": (
        lambda a: torch.linalg.det(square(a)),
        lambda a: np.array(eliminated(a[:, : len(a)], unit_matrix(len(a)))[1]),
        1,
        ANY,
    ),
    "slogdet": (
        lambda a: torch.linalg.slogdet(square(a)).logabsdet,
        lambda a: np.array(abs(eliminated(a[:, : len(a)], unit_matrix(len(a)))[1]).log()),
        1,
        ANY,
    ),
    "cholesky": (lambda a: torch.linalg.cholesky_ex(definite(a))[0], lambda a: cholesky(definite(a)), 1, REAL_ONLY),
    "cholesky, upper": (
        lambda a: torch.linalg.cholesky_ex(definite(a), upper=True)[0],
        lambda a: cholesky(definite(a)).T,
        1,
        REAL_ONLY,
    ),
    "cholesky_solve": (
        lambda a, b: torch.cholesky_solve(widened(b), torch.linalg.cholesky_ex(definite(a))[0]),
        lambda a, b: eliminated(definite(a), b)[0],
        2,
        REAL_ONLY,
    ),
    "cholesky_inverse": (
        lambda a: torch.cholesky_inverse(triangle(a)),
        lambda a: eliminated(triangle(a).dot(triangle(a).T), unit_matrix(len(a)))[0],
        1,
        REAL_ONLY,
    ),
}


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_radius_holds_the_exact_value(name, dtype, seed):
    if not dtype.is_complex or CASES[name][3] == ANY:
        worst(CASES[name], dtype, seed)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


aten = torch.ops.aten
A, WIDE, TALL = numbers(2, 6, 6), numbers(2, 6, 3), numbers(2, 3, 6)
# What is solved: the operation, its arguments after A, and the same of A.
SOLVED = {
    "solve": (aten._linalg_solve_ex.default, (WIDE,), {}, lambda a: torch.linalg.solve(a, WIDE)),
    "of a row": (
        aten._linalg_solve_ex.default,
        (TALL,),
        {"left": False},
        lambda a: torch.linalg.solve(a, TALL, left=False),
    ),
    "of vectors": (aten._linalg_solve_ex.default, (WIDE[..., 0],), {}, lambda a: torch.linalg.solve(a, WIDE[..., 0])),
    "inverse": (aten.linalg_inv_ex.default, (), {}, torch.linalg.inv),
    "logarithm": (aten._linalg_slogdet.default, (), {}, lambda a: torch.linalg.slogdet(a).logabsdet),
    "determinant": (aten._linalg_det.default, (), {}, torch.linalg.det),
    "with factors": (aten.linalg_lu_solve.default, (WIDE,), {}, lambda a: torch.linalg.solve(a, WIDE)),
    "adjoint": (aten.linalg_lu_solve.default, (WIDE,), {"adjoint": True}, lambda a: torch.linalg.solve(a.mT, WIDE)),
    "adjoint, of a row": (
        aten.linalg_lu_solve.default,
        (TALL,),
        {"adjoint": True, "left": False},
        lambda a: torch.linalg.solve(a.mT, TALL, left=False),
    ),
}


def off_in_order(a):
    permutation, low, up = torch.linalg.lu(a)
    return 18 * 2.0**-24 * ((a.square() + permutation @ low.square() @ up.square()) / 3).sqrt()


@pytest.mark.parametrize("name", SOLVED)
def test_a_backward_error_counts_by_the_sensitivity_to_the_matrix(name):
    func, args, named, solved = SOLVED[name]
    given = torch.linalg.lu_factor(A) if func is aten.linalg_lu_solve.default else (A,)
    result = func(*given, *args, **named)
    a = A.clone().requires_grad_()
    y = solved(a)
    sensitivity = numbers(*y.shape)
    (through,) = torch.autograd.grad(y, a, sensitivity)
    off = off_in_order(A)
    if name in ("logarithm", "determinant"):  # for which the transpose may be factorised
        off = torch.maximum(off, off_in_order(A.mT).mT)
    several = (sensitivity, sensitivity) if isinstance(result, tuple) else (sensitivity,)
    by = behind(func, (*given, *args), named, result, 2.0**-24)
    assert float(abs(by(several) / (through.abs() * off).sum() - 1)) < 1e-9
    assert by((None, None)) == 0


L = A.tril() + 3 * torch.eye(6, dtype=torch.float64)
DEFINITE = A @ A.mT + torch.eye(6, dtype=torch.float64)
# What is solved by triangles: the operation, its arguments, and which of these is not reached to the last bit.
BY_TRIANGLES = {
    "triangle": (aten.linalg_solve_triangular.default, (L, WIDE), {"upper": False}, 1),
    "upper, of a row": (aten.linalg_solve_triangular.default, (L.mT, TALL), {"upper": True, "left": False}, 1),
    "ones on the diagonal": (
        aten.linalg_solve_triangular.default,
        (L, WIDE),
        {"upper": False, "unitriangular": True},
        1,
    ),
    "cholesky": (aten.linalg_cholesky_ex.default, (DEFINITE,), {}, 0),
    "cholesky, upper": (aten.linalg_cholesky_ex.default, (DEFINITE,), {"upper": True}, 0),
    "cholesky_solve": (aten.cholesky_solve.default, (WIDE[0], L[0]), {}, 0),
    "cholesky_inverse": (aten.cholesky_inverse.default, (L[0],), {}, None),
}


@pytest.mark.parametrize("name", list(BY_TRIANGLES)[:5])
def test_the_backward_error_of_triangles_counts_by_the_sensitivity_to_what_is_not_reached(name):
    """By seven roundings of a sum in random order, whose terms are those of the triangle and the result."""
    func, args, named, place = BY_TRIANGLES[name]
    result = func(*args, **named)
    x, given = result[0] if isinstance(result, tuple) else result, list(args)
    given[place] = given[place].clone().requires_grad_()
    # Torch differentiates a function of a symmetric matrix as such.
    y = func(*given, **named)
    y, sensitivity = y[0] if isinstance(y, tuple) else y, numbers(*x.shape)
    (through,) = torch.autograd.grad(y, given[place], sensitivity)
    if place == 0:
        low = x.mT if named.get("upper") else x
        terms = low.square() @ low.square().mT
    else:
        a = args[0] - torch.diag_embed(args[0].diagonal(dim1=-2, dim2=-1) - 1) if "unitriangular" in named else args[0]
        terms = x.square() @ a.square() if named.get("left") is False else a.square() @ x.square()
    off = 7 * 2.0**-24 * ((args[place].square() + terms) / 3).sqrt()
    by = behind(func, args, named, result, 2.0**-24)
    several = (sensitivity, None) if isinstance(result, tuple) else (sensitivity,)
    assert float(abs(by(several) / (through.abs() * off).sum() - 1)) < 1e-9
    assert by((None, None)) == 0


@pytest.mark.parametrize("name", BY_TRIANGLES)
@pytest.mark.parametrize("n", [1, 2, 7, 40, 150])
def test_what_torch_solves_by_triangles_in_float32_is_no_farther_off(name, n):
    func, _, named, _ = BY_TRIANGLES[name]
    low = numbers(n, n).tril() / n**0.5 + torch.eye(n).double()
    whole, several = low @ low.mT, numbers(n, 3)
    turned = low.mT if named.get("upper") else low
    beside = several.mT if named.get("left") is False else several
    made = {
        aten.linalg_solve_triangular.default: (turned, beside), aten.linalg_cholesky_ex.default: (whole,),
        aten.cholesky_solve.default: (several, low), aten.cholesky_inverse.default: (low,),
    }[func]  # fmt: skip
    made = tuple(x.float().double() for x in made)
    truth, got = func(*made, **named), func(*(x.float() for x in made), **named)
    by = behind(func, made, named, truth, 2.0**-24)
    x, y = (one[0] if isinstance(one, tuple) else one for one in (truth, got))
    for seed in range(20):
        s = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        reach = by((s, None) if isinstance(truth, tuple) else (s,))
        assert float((s * (y.double() - x)).sum().abs()) <= float(reach)
        assert not n > 2 or reach > 0


def test_the_gradients_of_a_gaussian_process_are_seen():
    def likelihood(x, y, scale, noise):
        z = x / scale.exp()
        k = torch.exp(-(z[:, None] - z).square().sum(-1) / 2) + noise.exp() * torch.eye(len(x), dtype=x.dtype)
        low = torch.linalg.cholesky(k)
        return y @ torch.cholesky_solve(y[:, None], low)[:, 0] / 2 + low.diagonal().log().sum()

    primals = tuple(x.float() for x in (numbers(100, 4), numbers(100), numbers(4) / 10, torch.tensor(-1.0)))
    live = [x.double().requires_grad_() for x in primals]
    right = [g.float() for g in torch.autograd.grad(likelihood(*live), live)]
    assert all(one.blind < 0.5 for one in assert_gradients(right, forward=likelihood, primals=primals).gradients)
    for k in range(4):
        off = [1.02 * g if k == j else g for j, g in enumerate(right)]
        with pytest.raises(WrongGradients):
            assert_gradients(off, forward=likelihood, primals=primals)


def test_of_other_operations_there_is_none():
    assert behind(aten.mm.default, (A[0], A[1]), {}, A[0], 2.0**-24) is None


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("function", [torch.linalg.det, lambda a: torch.linalg.slogdet(a).logabsdet, torch.linalg.inv,
                                      lambda a: torch.linalg.solve(a, WIDE[0].float())])  # fmt: skip
def test_the_gradients_of_a_matrix_that_one_element_is_off_in_lie_within_their_radii(function, turned):
    off = torch.zeros(6, 6)
    off[0, 1] = 1e5  # which loses five digits of one element

    def of(x, off=off):
        a = (x + off) - off
        return function(a.mT.contiguous() if turned else a)

    x = (torch.eye(6) + A[0] / 50).float().requires_grad_()  # whose inverse is as sparse
    y = of(x)
    grad_y = numbers(*y.shape).float()
    (got,) = torch.autograd.grad(y, x, grad_y)
    assert bool(enclose(of, x.detach(), grad_y=grad_y).contains(got).all())
    assert not enclose(lambda x: of(x, 0.0), x.detach(), grad_y=grad_y).contains(got).all()


def test_a_product_that_underflows_on_the_way_is_within_its_radius():
    a = torch.diag(torch.tensor([10**-1.5] * 32 + [10**1.5] * 32))
    with RunningError() as errors:
        found = torch.linalg.det(a)
    assert found == 0 and errors.radius(found) >= 1
