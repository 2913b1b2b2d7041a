"""Right backwards of functions of complex numbers: a gradient is the conjugate derivative's."""

import torch
from right_entry import Right, into, normal
from torch import complex64, complex128, float32, float64

COMPLEX: dict[str, Right] = {}
right = into(COMPLEX)


@right("complex_mul", torch.mul, normal(complex128, (2, 3), (3,)))
def _(grad_y, x, z):
    return (grad_y * z.conj()).sum_to_size(x.shape), (grad_y * x.conj()).sum_to_size(z.shape)


@right("complex_div", torch.div, normal(complex64, (2, 3), (2, 3)))
def _(grad_y, y, x, z):
    return grad_y / z.conj(), -grad_y * (y / z).conj()


@right("complex_matmul", torch.matmul, normal(complex64, (3, 4), (4, 5)))
def _(grad_y, x, w):
    return grad_y @ w.mH, x.mH @ grad_y


@right("complex_abs", torch.abs, normal(complex128, (2, 3)))
def _(grad_y, x):
    return grad_y * torch.sgn(x)


@right("complex_square_of_abs", lambda x: (x * x.conj()).real, normal(complex128, (4,)))
def _(grad_y, x):
    return 2 * grad_y * x


@right("complex_exp", torch.exp, normal(complex128, (2, 3)))
def _(grad_y, y, x):
    return grad_y * y.conj()


@right("complex_log", torch.log, normal(complex64, (3,)))
def _(grad_y, x):
    return grad_y / x.conj()


@right("complex_sum", lambda x: x.sum(1), normal(complex64, (2, 3)))
def _(grad_y, x):
    return grad_y.unsqueeze(1).expand_as(x)


@right("complex_inner", torch.vdot, normal(complex128, (4,), (4,)))
def _(grad_y, a, b):
    return grad_y.conj() * b, grad_y * a


def from_polar(length, angle):
    return torch.complex(length * torch.cos(angle), length * torch.sin(angle))


@right("polar", from_polar, normal(float64, (2, 3), (2, 3)))
def _(grad_y, length, angle):
    unit = torch.complex(torch.cos(angle), torch.sin(angle))
    along = grad_y * unit.conj()
    return along.real, along.imag * length


@right("rfft", torch.fft.rfft, normal(float64, (2, 6)))
def _(grad_y, x):
    # y has the first half of the spectrum alone, and nothing flows through the rest.
    return torch.fft.ifft(grad_y, n=x.shape[-1], norm="forward").real


@right("irfft", torch.fft.irfft, normal(complex128, (2, 4)))
def _(grad_y, x):
    n = grad_y.shape[-1]
    twice = torch.full((x.shape[-1],), 2.0, dtype=grad_y.dtype)
    twice[0] = twice[-1] = 1  # every other frequency stands for its conjugate too
    return torch.fft.rfft(grad_y) * (twice / n)


@right("fft", torch.fft.fft, normal(complex64, (2, 5)))
def _(grad_y, x):
    return torch.fft.ifft(grad_y, norm="forward")


def pairs_of(x):
    return torch.complex(*x.unflatten(-1, (-1, 2)).unbind(-1))


def rotated(x, z):
    return torch.view_as_real(pairs_of(x) * torch.polar(z.exp(), z))


@right("complex_rotary", rotated, normal(float32, (2, 6), (2, 3)))
def _(grad_y, y, x, z):
    g, turned = torch.complex(*grad_y.unbind(-1)), torch.complex(*y.unbind(-1))
    grad_pairs = (g * torch.polar(z.exp(), z).conj()).sum_to_size(pairs_of(x).shape)
    # The factor is exp((1 + i) z).
    grad_z = (g * ((1 + 1j) * turned).conj()).real
    return torch.view_as_real(grad_pairs).flatten(-2), grad_z.sum_to_size(z.shape)
