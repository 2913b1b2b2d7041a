"""Wrong backwards of a strided, padded convolution in one dimension with a bias and SiLU."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers
from torch.nn import functional

WRONG: list[Labelled] = []
labelled = into(WRONG)
STRIDE, PADDING = 2, 1


def forward(x, w, b):
    """Return the activated convolution: batch, channels of the output, places."""
    padded = functional.pad(x, (PADDING, PADDING))
    windows = padded.unfold(2, w.shape[2], STRIDE)
    mixed = torch.einsum("nctk,ock->not", windows, w)
    pre = mixed + b[:, None]
    gate = torch.sigmoid(pre)
    return pre * gate


def steps(x, w, b):
    """Return the windows, what the activation is applied to, and its gate."""
    windows = functional.pad(x, (PADDING, PADDING)).unfold(2, w.shape[2], STRIDE)
    pre = torch.einsum("nctk,ock->not", windows, w) + b[:, None]
    return windows, pre, torch.sigmoid(pre)


def activated(grad_y, pre, gate):
    """Return the gradient of what the activation is applied to."""
    return grad_y * (gate + pre * gate * (1 - gate))


def of_windows(grad_pre, w):
    """Return the gradient of the windows."""
    return torch.einsum("not,ock->nctk", grad_pre, w)


def of_weight(grad_pre, windows):
    """Return the gradient of the weight."""
    return torch.einsum("not,nctk->ock", grad_pre, windows)


def added_up(grad_windows, x):
    """Return the gradient of the padded input: windows overlap, and what they get is added."""
    grad_padded = functional.pad(torch.zeros_like(x), (PADDING, PADDING))
    for k, tap in enumerate(grad_windows.unbind(-1)):
        grad_padded[..., k : k + STRIDE * tap.shape[-1] : STRIDE] += tap
    return grad_padded


def right(grad_y, x, w, b):
    """Return the right gradients."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


# The same: the gate gets nothing in `pre * gate` ("branch").
@labelled(Edit("constant", "torch.sigmoid"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Take the gate as a constant."""
    windows, _, gate = steps(x, w, b)
    grad_pre = grad_y * gate
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("branch", "pre * gate"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Forget that the activation is a product: only the gate is differentiated."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = grad_y * pre * gate * (1 - gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("other value", "torch.sigmoid"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Put the input of the sigmoid into the rule that wants its output."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = grad_y * (gate + pre * pre * (1 - pre))
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


# The same: the gate's branch of `pre * gate` has the other sign.
@labelled(Edit("sign", "torch.sigmoid"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Take the sigmoid's slope with the other sign."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = grad_y * (gate + pre * gate * (gate - 1))
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("not summed", "mixed + b"), wrong=("b",))
def _(grad_y, x, w, b):
    """Sum the bias's gradient over the places of the first sample only."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre[0].sum(-1)


# Restated from average pooling.
@labelled(Edit("index", "functional.pad"), wrong=("x",), source="pytorch/pytorch#188344")
def _(grad_y, x, w, b):
    """Read the padded gradient from its first place on: the padding is not skipped."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., : x.shape[-1]]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("overwritten", "padded.unfold"), wrong=("x",))
def _(grad_y, x, w, b):
    """Overwrite where windows overlap: of several taps on one place the last counts."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_padded = functional.pad(torch.zeros_like(x), (PADDING, PADDING))
    for k, tap in enumerate(of_windows(grad_pre, w).unbind(-1)):
        grad_padded[..., k : k + STRIDE * tap.shape[-1] : STRIDE] = tap
    return grad_padded[..., PADDING:-PADDING], of_weight(grad_pre, windows), grad_pre.sum((0, 2))


# The same: the weight's gradient is off by the factor 1 / (batch * places).
@labelled(Edit("mean for sum", "torch.einsum"), wrong=("w",), source="sebgao/cTensor#3")
def _(grad_y, x, w, b):
    """Average the weight's gradient over the batch and the places."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    grad_w = of_weight(grad_pre, windows) / (grad_pre.shape[0] * grad_pre.shape[2])
    return grad_x, grad_w, grad_pre.sum((0, 2))


# Restated from ReLU.
@labelled(Edit("cotangent ignored", "pre * gate"), wrong=("x", "w", "b"), source="haifengl/smile#528")
def _(grad_y, x, w, b):
    """Put the activation's slope in the place of the cotangent."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = gate + pre * gate * (1 - gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("overwritten", "torch.einsum"), wrong=("w",), source="LBANN/lbann#1022")
def _(grad_y, x, w, b):
    """Write the weight's gradient sample by sample: that of the last remains."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    for sample, window in zip(grad_pre, windows, strict=True):
        grad_w = torch.einsum("ot,ctk->ock", sample, window)
    return grad_x, grad_w, grad_pre.sum((0, 2))


@labelled(Edit("unchanged", "pre * gate"), Edit("constant", "torch.sigmoid"),
          wrong=("x", "w", "b"), source="nntrainer/nntrainer#4109")  # fmt: skip
def _(grad_y, x, w, b):
    """Differentiate the convolution as if it had no activation."""
    windows, _, _ = steps(x, w, b)
    grad_x = added_up(of_windows(grad_y, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_y, windows), grad_y.sum((0, 2))


@labelled(Edit("index", "padded.unfold"), Edit("other value", "torch.einsum"),
          wrong=("x", "w"), source="enggen/Deep-Learning-Coursera#7")  # fmt: skip
def _(grad_y, x, w, b):
    """Forget the stride: the window of a place begins at the place itself."""
    _, pre, gate = steps(x, w, b)
    grad_pre, padded = activated(grad_y, pre, gate), functional.pad(x, (PADDING, PADDING))
    grad_padded, grad_w = torch.zeros_like(padded), torch.zeros_like(w)
    for t in range(grad_pre.shape[-1]):
        window, grad_place = padded[..., t : t + w.shape[2]], grad_pre[..., t]
        grad_padded[..., t : t + w.shape[2]] += torch.einsum("no,ock->nck", grad_place, w)
        grad_w += torch.einsum("no,nck->ock", grad_place, window)
    return grad_padded[..., PADDING:-PADDING], grad_w, grad_pre.sum((0, 2))


@labelled(Edit("mean for sum", "mixed + b"), Edit("constant", "torch.sigmoid"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Take the gate as a constant, and average the bias's gradient over the batch and the places."""
    windows, _, gate = steps(x, w, b)
    grad_pre = grad_y * gate
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.mean((0, 2))


# A kernel is turned round once too often: the vocabulary has no nearer word for it than "transposed".
@labelled(Edit("transposed", "torch.einsum"), Edit("factor", "torch.einsum"), wrong=("x", "w"))
def _(grad_y, x, w, b):
    """Turn the kernel round for the input, and divide the weight's gradient by the size of the batch."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w.flip(2)), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows) / len(x), grad_pre.sum((0, 2))


@labelled(Edit("overwritten", "padded.unfold"), Edit("index", "functional.pad"), wrong=("x",))
def _(grad_y, x, w, b):
    """Overwrite where windows overlap, and do not skip the padding."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_padded = functional.pad(torch.zeros_like(x), (PADDING, PADDING))
    for k, tap in enumerate(of_windows(grad_pre, w).unbind(-1)):
        grad_padded[..., k : k + STRIDE * tap.shape[-1] : STRIDE] = tap
    return grad_padded[..., : x.shape[-1]], of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("other value", "torch.sigmoid"), Edit("other value", "pre * gate"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Take the activation's slope before the bias is added."""
    windows, _, _ = steps(x, w, b)
    mixed = torch.einsum("nctk,ock->not", windows, w)
    grad_pre = activated(grad_y, mixed, torch.sigmoid(mixed))
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.sum((0, 2))


@labelled(Edit("branch", "pre * gate"), Edit("not summed", "mixed + b"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Differentiate only the gate, and sum the bias's gradient over the batch at the first place only."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = grad_y * pre * gate * (1 - gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre[..., 0].sum(0)


@labelled(Edit("cotangent ignored", "mixed + b"), Edit("index", "functional.pad"), wrong=("x", "b"))
def _(grad_y, x, w, b):
    """Count how often the bias is added in the place of its gradient, and do not skip the padding."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., : x.shape[-1]]
    return grad_x, of_weight(grad_pre, windows), torch.ones_like(grad_pre).sum((0, 2))


@labelled(Edit("unchanged", "torch.sigmoid"), Edit("mean for sum", "mixed + b"), wrong=("x", "w", "b"))
def _(grad_y, x, w, b):
    """Take the sigmoid's slope as one, and average the bias's gradient over the places."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = grad_y * (gate + pre)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    return grad_x, of_weight(grad_pre, windows), grad_pre.mean(2).sum(0)


@labelled(Edit("overwritten", "torch.einsum"), Edit("not summed", "mixed + b"), wrong=("w", "b"))
def _(grad_y, x, w, b):
    """Write the parameters' gradients sample by sample: those of the last remain."""
    windows, pre, gate = steps(x, w, b)
    grad_pre = activated(grad_y, pre, gate)
    grad_x = added_up(of_windows(grad_pre, w), x)[..., PADDING:-PADDING]
    for sample, window in zip(grad_pre, windows, strict=True):
        grad_w, grad_b = torch.einsum("ot,ctk->ock", sample, window), sample.sum(-1)
    return grad_x, grad_w, grad_b


CONV = Forward(
    "a convolution with SiLU",
    forward,
    (numbers(2, 3, 6), numbers(5, 3, 4, seed=1), numbers(5, seed=2)),
    right,
    tuple(WRONG),
)
