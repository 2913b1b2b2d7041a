"""Right backwards of products of matrices, inverses, determinants and factors."""

import torch
from right_entry import Right, into, normal
from right_reductions import products_of_the_others
from torch import bfloat16, float16, float32, float64
from torch.nn import functional

LINEAR_ALGEBRA: dict[str, Right] = {}
right = into(LINEAR_ALGEBRA)


def invertible(dtype, n, *shapes):
    """Return a matrix that is far from singular, and arrays of these shapes."""
    a, *others = normal(dtype, (n, n), *shapes)
    return a + 3 * torch.eye(n, dtype=dtype), *others


def positive_definite(dtype, n):
    (a,) = normal(dtype, (n, n))
    return (a @ a.T + torch.eye(n, dtype=dtype),)


@right("matmul", torch.matmul, normal(float64, (3, 4), (4, 5)))
def _(grad_y, x, w):
    return grad_y @ w.T, x.T @ grad_y


@right("matmul_batched", torch.matmul, normal(float32, (2, 3, 4), (4, 5)))
def _(grad_y, x, w):
    return grad_y @ w.T, x.flatten(0, 1).T @ grad_y.flatten(0, 1)


@right("matvec", torch.mv, normal(bfloat16, (3, 4), (4,)))
def _(grad_y, a, v):
    return torch.outer(grad_y, v), a.T @ grad_y


@right("linear", functional.linear, normal(bfloat16, (2, 3, 4), (5, 4), (5,)))
def _(grad_y, x, w, b):
    rows, grads = x.flatten(0, 1), grad_y.flatten(0, 1)
    return grad_y @ w, grads.T @ rows, grads.sum(0)


@right(
    "mixed_linear",
    lambda x, w: functional.linear(x.to(w.dtype), w),
    (*normal(bfloat16, (3, 4)), *normal(float32, (5, 4))),
)
def _(grad_y, x, w):
    return (grad_y @ w).to(x.dtype), grad_y.T @ x.to(w.dtype)


@right("bmm", torch.bmm, normal(float16, (2, 3, 4), (2, 4, 5)))
def _(grad_y, a, b):
    return grad_y @ b.mT, a.mT @ grad_y


@right("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b), normal(float64, (2, 3, 4), (2, 5, 4)))
def _(grad_y, a, b):
    return torch.einsum("bik,bkj->bij", grad_y, b), torch.einsum("bik,bij->bkj", grad_y, a)


@right("bilinear", lambda x, w, z: torch.einsum("bi,kij,bj->bk", x, w, z), normal(float64, (2, 3), (5, 3, 4), (2, 4)))
def _(grad_y, x, w, z):
    grad_x = torch.einsum("bk,kij,bj->bi", grad_y, w, z)
    grad_w = torch.einsum("bk,bi,bj->kij", grad_y, x, z)
    return grad_x, grad_w, torch.einsum("bk,bi,kij->bj", grad_y, x, w)


@right("outer", torch.outer, normal(float32, (3,), (4,)))
def _(grad_y, a, b):
    return grad_y @ b, grad_y.T @ a


@right("dot", torch.dot, normal(float16, (4,), (4,)))
def _(grad_y, a, b):
    return grad_y * b, grad_y * a


@right("cross", lambda a, b: torch.linalg.cross(a, b, dim=0), normal(float64, (3, 2), (3, 2)))
def _(grad_y, a, b):
    return torch.linalg.cross(b, grad_y, dim=0), torch.linalg.cross(grad_y, a, dim=0)


@right("trace", torch.trace, normal(float32, (3, 4)))
def _(grad_y, a):
    return grad_y * torch.eye(*a.shape, dtype=a.dtype)


@right("inverse", torch.linalg.inv, invertible(float64, 3))
def _(grad_y, y, a):
    return -y.mT @ grad_y @ y.mT


@right("solve", torch.linalg.solve, invertible(float64, 3, (3, 2)))
def _(grad_y, y, a, b):
    # The forward has passed: a matrix that is all but singular is no reason to raise now.
    grad_b = torch.linalg.solve_ex(a.mT, grad_y).result
    return -grad_b @ y.mT, grad_b


def solve_lower(a, b):
    return torch.linalg.solve_triangular(a, b, upper=False)


@right("solve_triangular", solve_lower, invertible(float32, 3, (3, 2)))
def _(grad_y, y, a, b):
    grad_b = torch.linalg.solve_triangular(a.mT, grad_y, upper=True)
    return -(grad_b @ y.mT).tril(), grad_b


@right("det", torch.linalg.det, invertible(float64, 3))
def _(grad_y, a):
    # The cofactors by singular values: det(a) a⁻ᵀ is not there for a singular matrix.
    u, s, vh = torch.linalg.svd(a)
    sign = (torch.linalg.det(u) * torch.linalg.det(vh)).sign()
    return grad_y * sign * (u * products_of_the_others(s)) @ vh


@right("logabsdet", lambda a: torch.linalg.slogdet(a).logabsdet, invertible(float32, 3))
def _(grad_y, a):
    return grad_y * torch.linalg.inv_ex(a).inverse.mT


def through_cholesky(grad_y, y):
    """Return the symmetric gradient of the matrix whose Cholesky factor y is."""
    inner = (y.mT @ grad_y).tril()
    inner = inner - inner.diagonal().diag() / 2
    half = torch.linalg.solve_triangular(y.mT, inner, upper=True)
    whole = torch.linalg.solve_triangular(y, half, upper=False, left=False)
    return (whole + whole.mT) / 2


@right("cholesky", lambda a: torch.linalg.cholesky((a + a.mT) / 2), positive_definite(float64, 3))
def _(grad_y, y, a):
    return through_cholesky(grad_y, y)


def factor_of_gram(x):
    return torch.linalg.cholesky(x @ x.mT + torch.eye(x.shape[0], dtype=x.dtype))


@right("cholesky_of_gram", factor_of_gram, normal(float32, (3, 4)))
def _(grad_y, y, x):
    return 2 * through_cholesky(grad_y, y) @ x


def distances(x, z):
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")


@right("cdist", distances, normal(float64, (3, 2), (4, 2)))
def _(grad_y, y, x, z):
    scale = torch.where(y == 0, 0, grad_y / y).unsqueeze(-1)
    pulls = scale * (x.unsqueeze(1) - z)
    return pulls.sum(1), -pulls.sum(0)
