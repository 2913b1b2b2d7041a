"""Layers of spectra, images, graphs and angles: what is right passes, and a factor of 1.01 does not."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backprop_rules.testing import WrongGradients, assert_gradients


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def spectral_convolution(x: Tensor, w: Tensor) -> Tensor:
    n = x.shape[-1] + w.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(w, n), n)[..., : x.shape[-1]]


def spectral_layer(x: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    modes = torch.fft.rfft2(x, norm="ortho")[..., :4, :4] * torch.complex(real, imaginary)
    return torch.fft.irfft2(modes, s=x.shape[-2:], norm="ortho")


def fourier_operator(x: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    modes = torch.fft.rfft(x)
    kept = torch.zeros(modes.shape, dtype=modes.dtype)
    kept[..., :4] = modes[..., :4] * torch.complex(real, imaginary)
    return torch.fft.irfft(kept, x.shape[-1])


def spectrum(x: Tensor) -> Tensor:
    window = torch.hann_window(16)
    return torch.view_as_real(torch.stft(x, 16, 8, window=window, return_complex=True)).square().sum(-1)


def mean_of_neighbours(x: Tensor) -> Tensor:
    index = (torch.arange(len(x)) * 7 % 5).unsqueeze(1).expand(x.shape)
    return x.new_zeros(5, x.shape[1]).scatter_reduce(0, index, x, "mean", include_self=False)


def largest_of_neighbours(x: Tensor) -> Tensor:
    index = (torch.arange(len(x)) * 7 % 5).unsqueeze(1).expand(x.shape)
    return x.new_zeros(5, x.shape[1]).scatter_reduce(0, index, x, "amax", include_self=False)


def wrapped(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(torch.atan2(y, x) + 4.0, math.tau).sin() * torch.hypot(x, y)


def angle_between(x: Tensor, y: Tensor) -> Tensor:
    return torch.acos((functional.normalize(x, dim=-1) * functional.normalize(y, dim=-1)).sum(-1) * 0.99)


def by_the_third_norm(x: Tensor) -> Tensor:
    return functional.normalize(x, p=3.0, dim=-1)


def normed_by_the_batch(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return functional.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1]), w, b, training=True)


def pooled(x: Tensor) -> Tensor:
    return functional.adaptive_max_pool2d(x, 3)


def enlarged(x: Tensor) -> Tensor:
    return functional.interpolate(x, size=(11, 13), mode="nearest")


def powers_in_place(x: Tensor) -> Tensor:
    y = x * 1.5
    y.pow_(2)
    return y.exp_() + x


def running_extreme(x: Tensor) -> Tensor:
    return torch.cummax(x, 0).values * torch.block_diag(x[:2, :2], x[2:, 2:])


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    k, beta = functional.normalize(k, dim=-1), beta.sigmoid()[..., None]
    within = torch.eye(k.shape[-2], dtype=k.dtype) + torch.tril(beta * (k @ k.mT), -1)
    written = torch.linalg.solve_triangular(within, beta * v, upper=False, unitriangular=True)
    return torch.tril(q @ k.mT) @ written


def whitened(x: Tensor, covariance: Tensor) -> Tensor:
    factor = torch.tril(covariance) + 3 * torch.eye(len(covariance), dtype=x.dtype)
    return torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False)


def mean_so_far(scores: Tensor, v: Tensor) -> Tensor:
    return torch.exp(scores + v - torch.logcumsumexp(scores, 1))


def bags(table: Tensor, weights: Tensor) -> Tensor:
    indices, offsets = torch.arange(24) * 5 % 9, torch.tensor([0, 4, 4, 15])
    mean = functional.embedding_bag(indices, table, offsets, mode="mean", padding_idx=2)
    return mean + functional.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights)


def by_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(x, y)) * torch.cdist(x, y, p=1)


def pairs(x: Tensor) -> Tensor:
    return (functional.pdist(x) + functional.pdist(x, p=3)).reciprocal()


def weight_normed(x: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return x @ torch._weight_norm(v, g, 0).mT


def spaced_constants(x: Tensor) -> Tensor:
    decays = torch.logspace(-2, 0, 8) + torch.fft.fftfreq(8)
    return torch.sin(x * torch.arange(0.0, 0.8, 0.1)[:8]) * decays


def covariance_of(x: Tensor) -> Tensor:
    return x @ x.mT / x.shape[-1] + torch.eye(x.shape[-2], dtype=x.dtype)


def gaussian(x: Tensor, root: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(covariance_of(root))
    apart = torch.linalg.solve_triangular(factor, x.mT, upper=False)
    return apart.square().sum(0) / 2 + factor.diagonal().log().sum()


def gaussian_process(x: Tensor, y: Tensor) -> Tensor:
    kernel = torch.exp(-(x[:, None] - x).square().sum(-1))
    return kernel @ torch.cholesky_solve(y, torch.linalg.cholesky(kernel + torch.eye(len(x), dtype=x.dtype)))


def filtered(state: Tensor, root: Tensor, seen: Tensor, h: Tensor) -> Tensor:
    covariance = covariance_of(root)
    gain = torch.linalg.solve(covariance_of(h @ root), h @ covariance).mT
    return state + (seen - state @ h.mT) @ gain.mT


def whitened_by_the_inverse(x: Tensor) -> Tensor:
    return x.mT @ torch.linalg.inv(covariance_of(x)) @ x


def flow(x: Tensor, w: Tensor) -> Tensor:
    w = w + 2 * torch.eye(len(w), dtype=w.dtype)
    return x @ w + torch.linalg.slogdet(w).logabsdet * torch.linalg.det(w / 2)


def negative_binomial(mean: Tensor, shape: Tensor) -> Tensor:
    counts, mean, shape = torch.arange(5) * 3, mean.exp(), shape.exp()
    likely = torch.lgamma(counts + shape) - torch.lgamma(shape) - torch.lgamma(counts + 1)
    return likely + shape * (shape / (shape + mean)).log() + counts * (mean / (shape + mean)).log()


def between_dirichlets(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.exp() + 1, b.exp() + 1
    ends = torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1) - torch.lgamma(b.sum(-1)) + torch.lgamma(b).sum(-1)
    return ends + ((a - b) * (torch.digamma(a) - torch.digamma(a.sum(-1, keepdim=True)))).sum(-1)


def probit(x: Tensor, labels: Tensor) -> Tensor:
    return torch.special.log_ndtr(x * labels) + torch.special.erfcx(x.abs()).log()


def truncated(x: Tensor) -> Tensor:
    u = x.sigmoid() * 0.98 + 0.01
    return torch.erfinv(2 * u - 1) * torch.special.ndtri(u)


def on_a_circle(concentration: Tensor, x: Tensor) -> Tensor:
    kappa = concentration.exp()
    return kappa * (x.cos() - 1) - torch.special.i0e(kappa).log() + torch.special.i1e(kappa) / torch.i0(x)


def curvature(x: Tensor) -> Tensor:
    return torch.polygamma(1, x.exp()) - torch.polygamma(2, x.exp()) / 3


def between_quantiles(x: Tensor) -> Tensor:
    low, high = torch.quantile(x, torch.tensor([0.21, 0.83]), dim=0)
    return (x - low) / (high - low)


def magnified(x: Tensor) -> Tensor:
    return functional.interpolate(x, size=(13, 4), mode="bicubic", align_corners=False)


def reduced(x: Tensor) -> Tensor:
    fewer = functional.interpolate(x, size=(5, 4), mode="bicubic", antialias=True)
    return fewer * functional.interpolate(x, size=(5, 4), mode="bilinear", antialias=True)


def aligned(x: Tensor) -> Tensor:
    labels, lengths = torch.tensor([[1, 3, 3, 2], [2, 4, 0, 0]]), torch.tensor([4, 2])
    return functional.ctc_loss(x.log_softmax(-1), labels, torch.tensor([12, 9]), lengths, reduction="none")


def by_margins(x: Tensor) -> Tensor:
    return functional.multi_margin_loss(x, torch.arange(len(x)) % x.shape[1], p=2, weight=torch.ones(x.shape[1]) * 1.5)


def along_a_direction(x: Tensor, v: Tensor) -> Tensor:
    return torch.func.jvp(lambda t: t.sin() * t.square(), (x,), (v,))[1]


LAYERS = {
    spectral_convolution: (numbers(2, 3, 40), numbers(3, 12)),
    spectral_layer: (numbers(2, 16, 16), numbers(4, 4), numbers(4, 4) / 2),
    fourier_operator: (numbers(3, 16), numbers(3, 4), numbers(4, 3).mT.contiguous()),
    spectrum: (numbers(100),),
    mean_of_neighbours: (numbers(20, 6),),
    largest_of_neighbours: (numbers(20, 6),),
    wrapped: (numbers(9, 7), numbers(7, 9).T.contiguous()),
    angle_between: (numbers(9, 4), numbers(9, 4).flip(0)),
    by_the_third_norm: (numbers(9, 6),),
    normed_by_the_batch: (numbers(8, 4, 5), numbers(4), numbers(4) / 2),
    pooled: (numbers(2, 3, 8, 7),),
    enlarged: (numbers(2, 3, 5, 6),),
    powers_in_place: (numbers(50) / 2,),
    running_extreme: (numbers(6, 6),),
    delta_rule: (numbers(2, 16, 8), numbers(2, 8, 16).mT.contiguous(), numbers(4, 16, 6)[:2], numbers(2, 16)),
    whitened: (numbers(5, 8), numbers(8, 8) / 3),
    mean_so_far: (numbers(4, 30), numbers(4, 30).flip(0)),
    spaced_constants: (numbers(9, 8),),
    bags: (numbers(9, 5), numbers(24)),
    by_distance: (numbers(9, 5), numbers(7, 5)),
    pairs: (numbers(9, 5),),
    weight_normed: (numbers(9, 5), numbers(7, 5), numbers(7, 1)),
    gaussian: (numbers(9, 5), numbers(5, 7)),
    gaussian_process: (numbers(9, 3), numbers(9, 4)),
    filtered: (numbers(3, 4), numbers(4, 6), numbers(3, 2), numbers(2, 4)),
    whitened_by_the_inverse: (numbers(5, 9),),
    flow: (numbers(9, 5), numbers(5, 5) / 2),
    negative_binomial: (numbers(9, 5), numbers(5)),
    along_a_direction: (numbers(9, 5), numbers(5, 9).mT),
    probit: (3 * numbers(9, 5), numbers(5, 9).mT.sign()),
    truncated: (numbers(9, 5),),
    on_a_circle: (numbers(9, 5), numbers(5, 9).mT),
    curvature: (numbers(9, 5),),
    between_quantiles: (numbers(31, 4),),
    magnified: (numbers(2, 3, 7, 6),),
    reduced: (numbers(2, 3, 11, 9) + 1,),
    aligned: (numbers(12, 2, 5),),
    by_margins: (numbers(9, 5),),
    between_dirichlets: (numbers(9, 5), numbers(5, 9).mT),
}


def asked(layer, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], dict]:
    """Return gradients that are computed in float32 and rounded once, and what they are gradients of."""
    primals = tuple(x.to(dtype) for x in LAYERS[layer])
    live = [x.float().requires_grad_() for x in primals]
    y = layer(*live)
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = torch.autograd.grad(y, live, grad_y.float())
    return tuple(g.to(dtype) for g in found), {"forward": layer, "primals": primals, "grad_y": grad_y}


def name(layer) -> str:
    return layer.__name__


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layer", LAYERS, ids=name)
def test_what_is_computed_in_float32_and_rounded_once_passes(layer, dtype):
    got, what = asked(layer, dtype)
    found = assert_gradients(got, **what)
    assert all(one.blind <= 1 / 2 for one in found.gradients)


@pytest.mark.parametrize("layer", LAYERS, ids=name)
def test_a_factor_of_a_hundredth_more_does_not(layer):
    got, what = asked(layer, torch.float32)
    for k, g in enumerate(got):
        with pytest.raises(WrongGradients, match=r"1\.01 times|elements are farther off"):
            assert_gradients((*got[:k], g * 1.01, *got[k + 1 :]), **what)


def test_running_statistics_stay_as_they_are():
    mean, var = torch.zeros(4), torch.ones(4)

    def layer(x: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, var, training=True)

    x, grad_y = numbers(8, 4).requires_grad_(), numbers(8, 4) / 2
    (got,) = torch.autograd.grad(functional.batch_norm(x, None, None, training=True), x, grad_y)
    assert_gradients(got, forward=layer, primals=(x.detach(),), grad_y=grad_y)
    assert mean.tolist() == [0, 0, 0, 0] and var.tolist() == [1, 1, 1, 1]


def test_real_and_imaginary_parts_are_written_to():
    def layer(x: Tensor) -> Tensor:
        y = torch.zeros(4, 5, dtype=torch.complex64)
        y.real = x[0] * 1.1
        y.imag = x[1] * 1.2
        return torch.view_as_real(y * y.conj().mean())

    x = numbers(2, 4, 5).requires_grad_()
    grad_y = numbers(4, 5, 2)
    (got,) = torch.autograd.grad(layer(x), x, grad_y)
    assert_gradients((got,), forward=layer, primals=(x.detach(),), grad_y=grad_y)


def test_a_number_may_be_divided_by_a_tensor():
    x, grad_y = numbers(20).abs() + 0.3, numbers(20)
    got = grad_y * torch.remainder(2.0, x)
    assert_gradients((got,), forward=lambda x: x * torch.remainder(2.0, x.detach()), primals=(x,), grad_y=grad_y)


def test_parts_of_complex_numbers_are_written_to():
    def layer(x: Tensor) -> Tensor:
        y = torch.zeros(6, dtype=torch.complex64)
        y[:3] = torch.complex(x.sin(), x.cos())
        parts = torch.view_as_real(y)
        return (parts * parts.flip(-1)).sum() + y[2].real

    x = numbers(3).requires_grad_()
    (got,) = torch.autograd.grad((2 * x.sin() * x.cos()).sum() + x[2].sin(), x)
    assert_gradients(got, forward=layer, primals=(x.detach(),))


@pytest.mark.parametrize(
    "pool", [lambda x: functional.adaptive_avg_pool2d(x, (7, 5)), lambda x: functional.avg_pool2d(x, 10)]
)
def test_a_pool_in_bfloat16_is_no_looser_than_torchs_kernel_rounds(pool):
    """The sum over a window is kept in float32, and where windows do not overlap so is that of its gradient."""
    x = torch.randn(2, 4, 50, 33, generator=torch.Generator().manual_seed(0)).bfloat16()
    held = {"forward": lambda x: pool(x) * 1.5, "primals": (x,), "precision": "eager"}
    live = x.clone().requires_grad_()
    grad_y = torch.randn(pool(x).shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (got,) = torch.autograd.grad(held["forward"](live), live, grad_y)
    assert_gradients([got], grad_y=grad_y, **held)
    with pytest.raises(WrongGradients):
        assert_gradients([1.1 * got], grad_y=grad_y, **held)
