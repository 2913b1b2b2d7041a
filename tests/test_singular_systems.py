"""Where a matrix of products A^T A has fewer ranks than rows, what solves it all the same is no gradient."""

import pytest
import torch
from right_entry import normal

from backprop_rules import check
from backprop_rules.testing import WrongGradients, assert_gradients

F64 = torch.float64


def least_squares(a, b):
    return torch.linalg.solve(a.T @ a, a.T @ b)


def through_least_squares(grad_y, a, b, sign=1):
    x, z = least_squares(a, b), torch.linalg.solve(a.T @ a, grad_y)
    return torch.outer(b - a @ x, z) - sign * torch.outer(a @ z, x), a @ z


def inverse_of_products(a):
    return torch.linalg.inv(a @ a.T)


def through_inverse(grad_y, a, sign=-1):
    y = inverse_of_products(a)
    inside = sign * y @ grad_y @ y
    return (inside + inside.T) @ a


def volume(a):
    return torch.linalg.cholesky(a.T @ a).diagonal().log().sum()


def through_volume(grad_y, a, power=-1):
    return grad_y * a @ torch.linalg.matrix_power(a.T @ a, power)


def constrained(q, a, b):
    zeros = a.new_zeros(len(a), len(a))
    return torch.cat([torch.cat([q, a.T], 1), torch.cat([a, zeros], 1)]), torch.cat([b.new_zeros(len(q)), b])


def optimum(q, a, b):
    return torch.linalg.solve(*constrained(q, a, b))


def through_optimum(grad_y, q, a, b, both=1):
    system, right = constrained(q, a, b)
    n, z = len(q), torch.linalg.solve(system.T, grad_y)
    whole = -torch.outer(z, torch.linalg.solve(system, right))
    return whole[:n, :n], whole[n:, :n] + both * whole[:n, n:].T, z[n:]


FUNCTIONS = {
    "least squares": (least_squares, through_least_squares, -1, ((5, 3), (5,))),
    "inverse": (inverse_of_products, through_inverse, 1, ((3, 5),)),
    "volume": (volume, through_volume, 1, ((5, 3),)),
    "optimum": (optimum, through_optimum, 0, ((4, 4), (2, 4), (2,))),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_right_backward_is_right_where_the_system_is_singular_at_some_sizes(name, seed):
    forward, backward, _, shapes = FUNCTIONS[name]
    report = check(backward, forward=forward, example=normal(F64, *shapes), seed=seed, raise_on_failure=False)
    assert report.verdict == "right", str(report)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_one_is_wrong_all_the_same(name, seed):
    forward, backward, wrong, shapes = FUNCTIONS[name]
    report = check(
        lambda grad_y, *xs: backward(grad_y, *xs, wrong),
        forward=forward, example=normal(F64, *shapes), seed=seed, raise_on_failure=False, explain=False,
    )  # fmt: skip
    assert report.verdict == "wrong", str(report)


UNUSED = {
    "inverse": lambda a: torch.linalg.inv_ex(a)[0],
    "solution": lambda a: torch.linalg.solve_ex(a, torch.ones_like(a))[0],
    "factor": lambda a: torch.linalg.cholesky_ex(a)[0],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", UNUSED)
def test_of_a_batch_a_matrix_that_cannot_be_solved_may_be_left_out(name, dtype):
    def forward(a):
        return torch.where(torch.tensor([True, False])[:, None, None], UNUSED[name](a), a)

    a = torch.tensor([[[3.0, 1.0], [1.0, 2.5]], [[1.0, 2.0], [2.0, 4.0]]], dtype=dtype)
    leaf, grad_y = a.clone().requires_grad_(), torch.tensor([[[0.3, -1.7], [0.9, 0.4]]] * 2, dtype=dtype)
    (grad,) = torch.autograd.grad(forward(leaf), leaf, grad_y)
    held = {"forward": forward, "primals": (a,), "grad_y": grad_y, "blind": "allow"}
    assert assert_gradients((grad,), **held).right
    with pytest.raises(WrongGradients):
        assert_gradients((grad * 1.5,), **held)
