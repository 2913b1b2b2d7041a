"""RMSNorm with a weight, and twenty wrong backwards of it, each with its mistake and the line of it.

`Same:` in a comment are the other descriptions of the very same gradients.
"""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

EPS = 1e-5
WRONG: list[Labelled] = []
labelled = into(WRONG)


def rms_norm(x, weight):
    squares = x.square()
    mean_square = squares.mean(-1, keepdim=True)
    inverse = torch.rsqrt(mean_square + EPS)
    unit = x * inverse
    return unit * weight


def normalised(x):
    """Return x over its root mean square, and the inverse of that."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return x * inverse, inverse


def through_unit(grad_unit, unit, inverse):
    """Return the gradient of x from that of the normalised x."""
    return inverse * (grad_unit - unit * (grad_unit * unit).mean(-1, keepdim=True))


def over_rows(values):
    """Return the sum over all axes but the last."""
    return values.flatten(0, -2).sum(0)


def right(grad_y, x, weight):
    unit, inverse = normalised(x)
    return through_unit(grad_y * weight, unit, inverse), over_rows(grad_y * unit)


# Same: factor (the size) at squares.mean, at torch.rsqrt, at x.square().
@labelled(Edit("sum for mean", "squares.mean"), wrong=("x",))
def _(grad_y, x, weight):
    """Sum where the mean square's derivative is divided by the size."""
    unit, inverse = normalised(x)
    grad_unit = grad_y * weight
    grad_x = inverse * (grad_unit - unit * (grad_unit * unit).sum(-1, keepdim=True))
    return grad_x, over_rows(grad_y * unit)


# Same: factor (a half) at squares.mean, at torch.rsqrt.
@labelled(Edit("factor", "x.square()"), wrong=("x",))
def _(grad_y, x, weight):
    """Forget the 2 of the square's derivative."""
    unit, inverse = normalised(x)
    grad_inverse = (grad_y * weight * x).sum(-1, keepdim=True)
    grad_mean_square = -grad_inverse * inverse**3 / 2
    grad_x = grad_y * weight * inverse + grad_mean_square * x / x.shape[-1]
    return grad_x, over_rows(grad_y * unit)


# Same: sign at squares.mean, at x.square().
@labelled(Edit("sign", "torch.rsqrt"), wrong=("x",))
def _(grad_y, x, weight):
    """Forget the minus of the inverse root's derivative."""
    unit, inverse = normalised(x)
    grad_unit = grad_y * weight
    grad_x = inverse * (grad_unit + unit * (grad_unit * unit).mean(-1, keepdim=True))
    return grad_x, over_rows(grad_y * unit)


@labelled(Edit("eps", "mean_square + EPS"), wrong=("x", "weight"))
def _(grad_y, x, weight):
    """Leave eps out."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True))
    unit = x * inverse
    return through_unit(grad_y * weight, unit, inverse), over_rows(grad_y * unit)


# Same: factor (the root mean square) at torch.rsqrt, at squares.mean.
@labelled(Edit("other value", "torch.rsqrt"), wrong=("x",))
def _(grad_y, x, weight):
    """Take the square of the inverse root for its cube."""
    unit, inverse = normalised(x)
    grad_inverse = (grad_y * weight * x).sum(-1, keepdim=True)
    grad_mean_square = -grad_inverse * inverse**2 / 2
    grad_x = grad_y * weight * inverse + grad_mean_square * 2 * x / x.shape[-1]
    return grad_x, over_rows(grad_y * unit)


@labelled(Edit("branch", "x * inverse"), wrong=("x",))
def _(grad_y, x, weight):
    """Let x get only what comes by way of its root mean square."""
    unit, inverse = normalised(x)
    grad_inverse = (grad_y * weight * x).sum(-1, keepdim=True)
    grad_x = -grad_inverse * inverse**3 * x / x.shape[-1]
    return grad_x, over_rows(grad_y * unit)


# The sum is that of the inverse root, which was broadcast along a row; the mean keeps its size.
@labelled(Edit("axis", "x * inverse"), wrong=("x",))
def _(grad_y, x, weight):
    """Sum the inverse root's gradient over the rows in the place of the columns."""
    unit, inverse = normalised(x)
    grad_inverse = (grad_y * weight * x).sum(-2, keepdim=True)
    grad_x = grad_y * weight * inverse - grad_inverse * inverse**3 * x / x.shape[-1]
    return grad_x, over_rows(grad_y * unit)


@labelled(Edit("overwritten", "unit * weight"), wrong=("weight",))
def _(grad_y, x, weight):
    """Overwrite the weight's gradient with each batch entry's."""
    unit, inverse = normalised(x)
    grad_weight = torch.zeros_like(weight)
    for grad_rows, rows in zip(grad_y, unit, strict=True):
        grad_weight = over_rows(grad_rows * rows)
    return through_unit(grad_y * weight, unit, inverse), grad_weight


# Same: index at unit * weight.
@labelled(Edit("component", "unit * weight"), wrong=("weight",))
def _(grad_y, x, weight):
    """Stop before the last component of the weight's gradient."""
    unit, inverse = normalised(x)
    grad_weight = torch.zeros_like(weight)
    for column in range(len(weight) - 1):
        grad_weight[column] = (grad_y[..., column] * unit[..., column]).sum()
    return through_unit(grad_y * weight, unit, inverse), grad_weight


# Same: constant at squares.mean, at x.square(); branch at x * inverse.
@labelled(Edit("constant", "torch.rsqrt"), wrong=("x",), source="ooples/AiDotNet#695")
def _(grad_y, x, weight):
    """Take the root mean square for a constant."""
    unit, inverse = normalised(x)
    return grad_y * weight * inverse, over_rows(grad_y * unit)


@labelled(Edit("factor", "x.square()"), wrong=("x",), source="NVIDIA/Megatron-LM#6859")
def _(grad_y, x, weight):
    """Multiply what comes through the squares by the weight a second time."""
    unit, inverse = normalised(x)
    along = (grad_y * weight * x).mean(-1, keepdim=True)
    grad_x = grad_y * weight * inverse - weight * x * inverse**3 * along
    return grad_x, over_rows(grad_y * unit)


@labelled(Edit("unchanged", "unit * weight"), wrong=("x",), source="karpathy/llm.c#763")
def _(grad_y, x, weight):
    """Forget the weight in the gradient of x."""
    unit, inverse = normalised(x)
    return through_unit(grad_y, unit, inverse), over_rows(grad_y * unit)


@labelled(Edit("branch", "unit * weight"), wrong=("weight",), source="paiml/trueno#178")
def _(grad_y, x, weight):
    """Never write the weight's gradient."""
    unit, inverse = normalised(x)
    return through_unit(grad_y * weight, unit, inverse), torch.zeros_like(weight)


# Same: not summed at unit * weight.
@labelled(Edit("index", "unit * weight"), wrong=("weight",), source="BobMcDear/attorch#18")
def _(grad_y, x, weight):
    """Drop the last rows from the weight's gradient."""
    unit, inverse = normalised(x)
    of_rows = (grad_y * unit).flatten(0, -2)
    return through_unit(grad_y * weight, unit, inverse), of_rows[:-1].sum(0)


@labelled(Edit("other value", "torch.rsqrt"), wrong=("x", "weight"), source="flagos-ai/FlagGems#5771")
def _(grad_y, x, weight):
    """Read the mean square where the inverse root was to be saved."""
    inverse = x.square().mean(-1, keepdim=True)
    unit = x * inverse
    return through_unit(grad_y * weight, unit, inverse), over_rows(grad_y * unit)


@labelled(Edit("other value", "unit * weight"), wrong=("weight",), source="unslothai/unsloth#4550")
def _(grad_y, x, weight):
    """Take the cotangent for the weight after the gradient of x was written over it."""
    unit, inverse = normalised(x)
    grad = through_unit(grad_y * weight, unit, inverse)
    return grad, over_rows(grad * unit)


# Same: constant at squares.mean, at x.square(); branch at x * inverse.
@labelled(Edit("constant", "torch.rsqrt"), Edit("mean for sum", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight):
    """Take the root mean square for a constant, and average the weight's gradient."""
    unit, inverse = normalised(x)
    return grad_y * weight * inverse, (grad_y * unit).flatten(0, -2).mean(0)


@labelled(Edit("unchanged", "x * inverse"), Edit("other value", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight):
    """Forget the inverse root on the direct way to x, and x in the place of its normalised for the weight."""
    unit, inverse = normalised(x)
    grad_unit = grad_y * weight
    grad_x = grad_unit - inverse * unit * (grad_unit * unit).mean(-1, keepdim=True)
    return grad_x, over_rows(grad_y * x)


@labelled(Edit("eps", "mean_square + EPS"), Edit("unchanged", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight):
    """Leave eps out, and forget the weight in the gradient of x."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True))
    unit = x * inverse
    return through_unit(grad_y, unit, inverse), over_rows(grad_y * unit)


# Same: factor (the size) for sum for mean.
@labelled(Edit("sum for mean", "squares.mean"), Edit("cotangent ignored", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight):
    """Sum where the mean square's derivative is divided by the size, and ignore the cotangent for the weight."""
    unit, inverse = normalised(x)
    grad_unit = grad_y * weight
    grad_x = inverse * (grad_unit - unit * (grad_unit * unit).sum(-1, keepdim=True))
    return grad_x, over_rows(unit)


RMS_NORM = Forward("RMSNorm", rms_norm, (numbers(2, 3, 5), numbers(5)), right, tuple(WRONG))
