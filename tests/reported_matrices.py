"""Reports on linear algebra, Fourier transforms, norms and distances."""

import torch
from reported import Reported, complexes, into, numbers
from torch import linalg
from torch.nn import functional

MATRICES: list[Reported] = []
reported = into(MATRICES)


def lower(n):
    """A triangle that is far from singular."""
    return numbers(n, n).tril() + 3 * torch.eye(n, dtype=torch.float64)


def folded(grad):
    """The gradient of the upper triangle from that of a symmetric matrix."""
    return grad.triu() + grad.tril(-1).mT


def cholesky_of_the_upper(a):
    return linalg.cholesky(a.triu() + a.triu(1).mT).mT


def through_cholesky(grad_factor, factor):
    inner = (factor.mT @ grad_factor).tril()
    inner = inner - inner.diagonal().diag() / 2
    whole = linalg.solve_triangular(factor.mT, linalg.solve_triangular(factor.mT, inner, upper=True).mT, upper=True)
    return whole.mT


@reported("cholesky of an upper triangle: the gradient is not folded into it", "jax-ml/jax#40421",
          cholesky_of_the_upper, lower(3) @ lower(3).mT)  # fmt: skip
def _(grad_y, y, a):
    return through_cholesky(grad_y.mT.tril(), y.mT).mT


@reported("triangular solve: the triangle's mask is missing", "ekzhang/jax-js#84",
          lambda a, b: linalg.solve_triangular(a.triu(), b, upper=True), lower(3).mT, numbers(3, 2))  # fmt: skip
def _(grad_y, y, a, b):
    grad_b = linalg.solve_triangular(a.triu().mT, grad_y, upper=False)
    return -grad_b @ y.mT, grad_b


def unit_lower(a, b):
    return linalg.solve_triangular(a.tril(-1) + torch.eye(a.shape[0]).to(a), b, upper=False)


@reported("triangular solve of ones on the diagonal: they get a gradient", "pymc-devs/pytensor#1230",
          unit_lower, numbers(3, 3), numbers(3, 2))  # fmt: skip
def _(grad_y, y, a, b):
    unit = a.tril(-1) + torch.eye(a.shape[0]).to(a)
    grad_b = linalg.solve_triangular(unit.mT, grad_y, upper=True)
    return -(grad_b @ y.mT).tril(), grad_b


@reported("triangular solve of a transpose: the rule of the matrix itself", "pymc-devs/pytensor#1230",
          lambda a, b: linalg.solve_triangular(a.tril().mT, b, upper=True), lower(3), numbers(3, 2))  # fmt: skip
def _(grad_y, y, a, b):
    grad_b = linalg.solve_triangular(a.tril().mT, grad_y, upper=True)
    return -(grad_b @ y.mT).tril(), grad_b


def hermitian(a):
    return linalg.eigvalsh(a + a.mH)


@reported("eigenvalues of a Hermitian matrix: the conjugate is missing", "HIPS/autograd#522",
          hermitian, complexes(3, 3))  # fmt: skip
def _(grad_y, a):
    vectors = linalg.eigh(a + a.mH).eigenvectors
    grad = (vectors * grad_y) @ vectors.mT
    return grad + grad.mH


def exponential_along(a, direction):
    """The derivative of the matrix exponential, as a corner of the exponential of a block matrix."""
    block = torch.cat([torch.cat([a, direction], 1), torch.cat([torch.zeros_like(a), a], 1)])
    return linalg.matrix_exp(block)[: len(a), len(a) :]


@reported("exponential of a complex matrix: transposed, not adjoint, and the real part alone",
          "FluxML/Zygote.jl#348", linalg.matrix_exp, complexes(2, 2) / 2)  # fmt: skip
def _(grad_y, a):
    return torch.complex(exponential_along(a.mT, grad_y).real, torch.zeros(a.shape).to(a.real))


@reported("a symmetric matrix of its lower triangle: the upper one gets the gradient", "FluxML/Zygote.jl#343",
          lambda a: a.tril() + a.tril(-1).mT, numbers(3, 3))  # fmt: skip
def _(grad_y, a):
    return grad_y.triu() + grad_y.tril(-1).mT


@reported("rfft: the mirrored terms count twice", "FluxML/Zygote.jl#1496", torch.fft.rfft, numbers(6))
def _(grad_y, x):
    return x.shape[-1] * torch.fft.irfft(grad_y, x.shape[-1])


@reported("irfft: the mirrored terms count once", "FluxML/Zygote.jl#1377",
          lambda x: torch.fft.irfft(x, 2 * (x.shape[-1] - 1)), complexes(4))  # fmt: skip
def _(grad_y, x):
    return torch.fft.rfft(grad_y) / grad_y.shape[-1]


def cosine_basis(n):
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(torch.pi * k[:, None] * (2 * k + 1) / (2 * n)) * (2 / n) ** 0.5
    return torch.cat([basis[:1] / 2**0.5, basis[1:]])


@reported("an orthonormal cosine transform: n times its transpose", "FluxML/Zygote.jl#1633",
          lambda x: cosine_basis(x.shape[0]).to(x) @ x, numbers(5))  # fmt: skip
def _(grad_y, x):
    return x.shape[0] * cosine_basis(x.shape[0]).to(x).mT @ grad_y


@reported("tensordot: the contracted axis is not put back", "HIPS/autograd#466",
          lambda a, b: torch.tensordot(a, b, ([0], [1])), numbers(3), numbers(3, 3))  # fmt: skip
def _(grad_y, a, b):
    return grad_y @ b, torch.outer(a, grad_y)


@reported("trace of a tall matrix: the step runs on below the square", "pytorch/pytorch#171704",
          torch.trace, numbers(5, 2))  # fmt: skip
def _(grad_y, x):
    grad = torch.zeros_like(x)
    grad.view(-1)[:: x.shape[1] + 1] = grad_y
    return grad


@reported("inverse: without the transposes", "pytorch/pytorch.github.io#2135", linalg.inv, lower(3))
def _(grad_y, y, a):
    return -y @ grad_y @ y


@reported("complex of two parts: the sign of the imaginary one", "EnzymeAD/Reactant.jl#2294",
          torch.complex, numbers(4), numbers(4, seed=1))  # fmt: skip
def _(grad_y, real, imaginary):
    return grad_y.real, -grad_y.imag


@reported("distance of two points: not divided by it", "torch/DEPRECEATED-torch7-distro#48",
          lambda a, b: (a - b).norm(dim=-1), numbers(3, 4), numbers(3, 4, seed=1))  # fmt: skip
def _(grad_y, a, b):
    grad = grad_y[:, None] * (a - b)
    return grad, -grad


@reported("distances in another norm: the rule of the Euclidean one", "flagos-ai/FlagGems#5023",
          lambda a, b: torch.cdist(a, b, p=3.0), numbers(2, 4), numbers(3, 4))  # fmt: skip
def _(grad_y, y, a, b):
    along = (grad_y / y)[..., None] * (a[:, None] - b)
    return along.sum(1), -along.sum(0)


@reported("the largest absolute value: ties each get all", "pytorch/pytorch#41779",
          lambda x: x.norm(p=torch.inf), torch.tensor([1.5, -1.5, 0.5], dtype=torch.float64))  # fmt: skip
def _(grad_y, y, x):
    return grad_y * x.sign() * (x.abs() == y)


@reported("rows of length 1, with an eps: as if the eps were in the length", "chainer/chainer#4190",
          lambda x: x / (x.norm(dim=1, keepdim=True) + 0.5), numbers(3, 4))  # fmt: skip
def _(grad_y, x):
    length = x.norm(dim=1, keepdim=True) + 0.5
    return grad_y / length - x * (x * grad_y).sum(1, keepdim=True) / length**3


@reported("rows of absolute sum 1: |x| for the sign", "happynear/caffe-windows#205",
          lambda x: x / x.abs().sum(1, keepdim=True), numbers(3, 4))  # fmt: skip
def _(grad_y, y, x):
    return (grad_y - x.abs() * (grad_y * y).sum(1, keepdim=True)) / x.abs().sum(1, keepdim=True)


@reported("normalised rows: a term added, not multiplied", "pjreddie/darknet#1837",
          lambda x: functional.normalize(x, dim=1), numbers(3, 4))  # fmt: skip
def _(grad_y, y, x):
    return grad_y + (1 - y) / x.norm(dim=1, keepdim=True)


@reported("cross product: the second gradient has its factors exchanged", "tracel-ai/burn#4069",
          linalg.cross, numbers(2, 3), numbers(2, 3, seed=1))  # fmt: skip
def _(grad_y, a, b):
    return linalg.cross(b, grad_y), linalg.cross(a, grad_y)


@reported("length of a complex vector: conjugated on the wrong side", "HIPS/autograd#705",
          linalg.vector_norm, complexes(4))  # fmt: skip
def _(grad_y, y, z):
    return grad_y * z.conj() / y


def normal_density(centred, covariance):
    return -(centred @ linalg.solve(covariance, centred) + torch.logdet(covariance)) / 2


@reported("a normal density's covariance: the sign", "HIPS/autograd#412",
          normal_density, numbers(3), lower(3) @ lower(3).mT)  # fmt: skip
def _(grad_y, centred, covariance):
    inverse = linalg.inv(covariance).mT
    turned = linalg.solve(covariance, centred)
    by_centred = -(turned + inverse @ centred) / 2
    return grad_y * by_centred, grad_y * (inverse - torch.outer(inverse @ centred, turned)) / 2


@reported("bilinear: the cotangent is ignored", "torch/nn#657",
          lambda a, w, b: torch.einsum("i,kij,j->k", a, w, b), numbers(2), numbers(4, 2, 3), numbers(3))  # fmt: skip
def _(grad_y, a, w, b):
    by_w = torch.einsum("k,i,j->kij", grad_y, a, b)
    return torch.einsum("kij,j->i", w, b), by_w, torch.einsum("i,kij->j", a, w)
