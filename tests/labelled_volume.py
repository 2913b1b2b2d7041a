"""Wrong backwards of volume rendering: densities, lengths and colours of the samples along rays, before white."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers
from torch.nn import functional

WRONG: list[Labelled] = []
labelled = into(WRONG)


def forward(sigma, delta, rgb):
    """Return the colour of each ray."""
    density = torch.relu(sigma)
    thickness = density * delta
    alpha = 1 - torch.exp(-thickness)
    total = thickness.cumsum(-1)
    passed = functional.pad(total[..., :-1], (1, 0))
    transmittance = torch.exp(-passed)
    weights = transmittance * alpha
    colour = (weights[..., None] * rgb).sum(-2)
    opacity = weights.sum(-1, keepdim=True)
    return colour + (1 - opacity)


def steps(sigma, delta):
    """Return the density, what a sample lets through, its opacity, and the transmittance up to it."""
    density = torch.relu(sigma)
    thickness = density * delta
    passed = functional.pad(thickness.cumsum(-1)[..., :-1], (1, 0))
    clear = torch.exp(-thickness)
    return density, clear, 1 - clear, torch.exp(-passed)


def of_weights(grad_y, rgb):
    """Return the gradient of the weights: of the samples' colours, and of the white behind them."""
    return (grad_y[..., None, :] * rgb).sum(-1) - grad_y.sum(-1, keepdim=True)


def from_here(grad):
    """Return the sum over a sample and those behind it."""
    return grad.flip(-1).cumsum(-1).flip(-1)


def behind(grad):
    """Return the sum over the samples behind each."""
    return from_here(functional.pad(grad[..., 1:], (0, 1)))


def of_density(grad_thickness, sigma, delta):
    """Return the gradient of the density before the ReLU."""
    return torch.where(sigma > 0, grad_thickness * delta, 0)


def of_rgb(grad_y, alpha, transmittance):
    """Return the gradient of the colours."""
    return (transmittance * alpha)[..., None] * grad_y[..., None, :]


def right(grad_y, sigma, delta, rgb):
    """Return the right gradients."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


# The same: what is passed is constant, or the transmittance gets nothing in `transmittance * alpha` ("branch").
@labelled(Edit("constant", "torch.exp(-passed)"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Take the transmittance as a constant: a sample does not shade those behind it."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_thickness = of_weights(grad_y, rgb) * transmittance * clear
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


# The same: the white gets nothing in the last line ("branch").
@labelled(Edit("constant", "weights.sum(-1"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Forget the white behind the samples."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = (grad_y[..., None, :] * rgb).sum(-1)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("other value", "1 - torch.exp(-thickness)"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Take the opacity for the exponential in its slope."""
    density, _, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * alpha + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


# The same: the other sign at a line before, where what is passed is summed or moved on by one.
@labelled(Edit("sign", "torch.exp(-passed)"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Forget the minus of the transmittance."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("transposed", "thickness.cumsum(-1)"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Sum from the front again, not from the back."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_total = functional.pad((-grad_weights * alpha * transmittance)[..., 1:], (0, 1))
    grad_thickness = grad_weights * transmittance * clear + grad_total.cumsum(-1)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


# The same: the cotangent passes the ReLU "unchanged".
@labelled(Edit("mask", "torch.relu"), wrong=("sigma",))
def _(grad_y, sigma, delta, rgb):
    """Forget the mask of the ReLU."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    return grad_thickness * delta, grad_thickness * density, of_rgb(grad_y, alpha, transmittance)


@labelled(Edit("unchanged", "density * delta"), wrong=("sigma",))
def _(grad_y, sigma, delta, rgb):
    """Forget the length in the gradient of the density."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return torch.where(sigma > 0, grad_thickness, 0), grad_thickness * density, grad_rgb


@labelled(Edit("cotangent ignored", "* rgb"), wrong=("rgb",))
def _(grad_y, sigma, delta, rgb):
    """Give the colours the weights alone."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = (transmittance * alpha)[..., None].expand_as(rgb)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("index", "functional.pad"), wrong=("sigma", "delta"), source="mitsuba-renderer/mitsuba-tutorials#18")
def _(grad_y, sigma, delta, rgb):
    """Let a sample shade itself, too: the sum over those behind it begins one too early."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + from_here(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


# The same: the factor at the line before, where the opacity is summed.
@labelled(
    Edit("factor", "1 - opacity"), wrong=("sigma", "delta"), source="graphdeco-inria/diff-gaussian-rasterization#86"
)
def _(grad_y, sigma, delta, rgb):
    """Count the white behind the samples twice."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb) - grad_y.sum(-1, keepdim=True)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("unchanged", "thickness.cumsum(-1)"), Edit("factor", "thickness.cumsum(-1)"),
          wrong=("sigma", "delta"), source="Oneflow-Inc/oneflow#7050")  # fmt: skip
def _(grad_y, sigma, delta, rgb):
    """Multiply a sample's own gradient by the number of samples from it on, in the place of summing theirs."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_total = functional.pad((-grad_weights * alpha * transmittance)[..., 1:], (0, 1))
    grad_total = grad_total * torch.arange(sigma.shape[-1], 0, -1)
    grad_thickness = grad_weights * transmittance * clear + grad_total
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("mask", "torch.relu"), Edit("other value", "density * delta"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Forget the ReLU below the thickness: its mask, and what the length is multiplied by."""
    _, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    return grad_thickness * delta, grad_thickness * sigma, of_rgb(grad_y, alpha, transmittance)


@labelled(Edit("constant", "torch.exp(-passed)"), Edit("constant", "weights.sum(-1"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Take the transmittance as a constant, and forget the white behind the samples."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_thickness = (grad_y[..., None, :] * rgb).sum(-1) * transmittance * clear
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("not summed", "* rgb"), Edit("sign", "1 - opacity"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Take the first channel of the colours alone, and add the white."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = (grad_y[..., None, :] * rgb)[..., 0] + grad_y.sum(-1, keepdim=True)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("mean for sum", "* rgb"), Edit("constant", "weights.sum(-1"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Average over the channels, and forget the white behind the samples."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = (grad_y[..., None, :] * rgb).mean(-1)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("transposed", "thickness.cumsum(-1)"), Edit("transposed", "functional.pad"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Sum over the samples in front, as forward does, not over those behind."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    in_front = functional.pad((-grad_weights * alpha * transmittance).cumsum(-1)[..., :-1], (1, 0))
    grad_thickness = grad_weights * transmittance * clear + in_front
    grad_rgb = of_rgb(grad_y, alpha, transmittance)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("unchanged", "1 - torch.exp(-thickness)"), Edit("cotangent ignored", "* rgb"),
          wrong=("sigma", "delta", "rgb"))  # fmt: skip
def _(grad_y, sigma, delta, rgb):
    """Take the opacity's slope as one, and give the colours the weights alone."""
    density, _, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance + behind(grad_passed)
    grad_rgb = (transmittance * alpha)[..., None].expand_as(rgb)
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("constant", "1 - torch.exp(-thickness)"), Edit("mask", "torch.relu"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Take the opacity of a sample as a constant, and forget the mask of the ReLU."""
    density, _, alpha, transmittance = steps(sigma, delta)
    grad_thickness = behind(-of_weights(grad_y, rgb) * alpha * transmittance)
    return grad_thickness * delta, grad_thickness * density, of_rgb(grad_y, alpha, transmittance)


@labelled(Edit("other value", "* rgb"), Edit("sign", "torch.exp(-passed)"), wrong=("sigma", "delta", "rgb"))
def _(grad_y, sigma, delta, rgb):
    """Give the colours the opacities for the weights, and forget the minus of the transmittance."""
    density, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = of_weights(grad_y, rgb)
    grad_passed = grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    grad_rgb = alpha[..., None] * grad_y[..., None, :]
    return of_density(grad_thickness, sigma, delta), grad_thickness * density, grad_rgb


@labelled(Edit("component", "weights.sum(-1"), Edit("unchanged", "density * delta"), wrong=("sigma", "delta"))
def _(grad_y, sigma, delta, rgb):
    """Let the last sample alone hide the white, and forget the density in the gradient of the length."""
    _, clear, alpha, transmittance = steps(sigma, delta)
    grad_weights = (grad_y[..., None, :] * rgb).sum(-1)
    grad_weights[..., -1] -= grad_y.sum(-1)
    grad_passed = -grad_weights * alpha * transmittance
    grad_thickness = grad_weights * transmittance * clear + behind(grad_passed)
    return of_density(grad_thickness, sigma, delta), grad_thickness, of_rgb(grad_y, alpha, transmittance)


VOLUME = Forward(
    "volume rendering",
    forward,
    (numbers(4, 5) + 0.5, numbers(4, 5, seed=1).abs() / 2, numbers(4, 5, 3, seed=2).sigmoid()),
    right,
    tuple(WRONG),
)
