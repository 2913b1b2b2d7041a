"""Layer norm with a weight and a bias, and twenty wrong backwards of it, each with its mistake and the line of it.

`Same:` in a comment are the other descriptions of the very same gradients.
"""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

EPS = 1e-5
WRONG: list[Labelled] = []
labelled = into(WRONG)


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    variance = centred.square().mean(-1, keepdim=True)
    deviation = torch.sqrt(variance + EPS)
    unit = centred / deviation
    scaled = unit * weight
    return scaled + bias


def standardised(x):
    """Return x without its mean and over its deviation, and that deviation."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(-1, keepdim=True) + EPS)
    return centred / deviation, deviation


def through_unit(grad_unit, unit, deviation):
    """Return the gradient of the centred x from that of the standardised."""
    return (grad_unit - unit * (grad_unit * unit).mean(-1, keepdim=True)) / deviation


def through_mean(grad_centred):
    """Return the gradient of x from that of the centred."""
    return grad_centred - grad_centred.mean(-1, keepdim=True)


def over_rows(values):
    """Return the sum over all axes but the last."""
    return values.flatten(0, -2).sum(0)


def of_parameters(grad_y, unit):
    """Return the gradients of the weight and of the bias."""
    return over_rows(grad_y * unit), over_rows(grad_y)


def right(grad_y, x, weight, bias):
    unit, deviation = standardised(x)
    return through_mean(through_unit(grad_y * weight, unit, deviation)), *of_parameters(grad_y, unit)


# Same: branch at x - mean.
@labelled(Edit("constant", "x.mean("), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Take the mean for a constant."""
    unit, deviation = standardised(x)
    return through_unit(grad_y * weight, unit, deviation), *of_parameters(grad_y, unit)


# Same: constant at centred.square(); branch at centred / deviation.
@labelled(Edit("constant", "torch.sqrt"), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Take the deviation for a constant."""
    unit, deviation = standardised(x)
    return through_mean(grad_y * weight / deviation), *of_parameters(grad_y, unit)


# Same: factor at torch.sqrt.
@labelled(Edit("factor", "centred.square()"), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Divide by the size less one in the variance's derivative."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    spread = (grad_unit * unit).sum(-1, keepdim=True) / (x.shape[-1] - 1)
    return through_mean((grad_unit - unit * spread) / deviation), *of_parameters(grad_y, unit)


# Same: factor (the size) at x.mean, at x - mean.
@labelled(Edit("sum for mean", "x.mean("), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Sum where the mean's derivative is divided by the size."""
    unit, deviation = standardised(x)
    grad_centred = through_unit(grad_y * weight, unit, deviation)
    return grad_centred - grad_centred.sum(-1, keepdim=True), *of_parameters(grad_y, unit)


@labelled(Edit("eps", "variance + EPS"), wrong=("x", "weight"))
def _(grad_y, x, weight, bias):
    """Add eps to the root in the place of the variance."""
    centred = x - x.mean(-1, keepdim=True)
    root = torch.sqrt(centred.square().mean(-1, keepdim=True))
    deviation = root + EPS
    unit, grad_unit = centred / deviation, grad_y * weight
    grad_centred = (grad_unit - centred / root * (grad_unit * unit).mean(-1, keepdim=True)) / deviation
    return through_mean(grad_centred), *of_parameters(grad_y, unit)


# The minus is that of the quotient's rule. Same: sign at torch.sqrt, at centred.square().
@labelled(Edit("sign", "centred / deviation"), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Forget the minus before what comes by way of the deviation."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    grad_centred = (grad_unit + unit * (grad_unit * unit).mean(-1, keepdim=True)) / deviation
    return through_mean(grad_centred), *of_parameters(grad_y, unit)


# Same: axis at x - mean.
@labelled(Edit("axis", "x.mean("), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Subtract the gradient's mean over the rows in the place of the columns."""
    unit, deviation = standardised(x)
    grad_centred = through_unit(grad_y * weight, unit, deviation)
    return grad_centred - grad_centred.mean(-2, keepdim=True), *of_parameters(grad_y, unit)


@labelled(Edit("mean for sum", "scaled + bias"), wrong=("bias",))
def _(grad_y, x, weight, bias):
    """Average the gradient of the bias."""
    unit, deviation = standardised(x)
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    return grad_x, over_rows(grad_y * unit), grad_y.flatten(0, -2).mean(0)


@labelled(Edit("other value", "unit * weight"), wrong=("weight",))
def _(grad_y, x, weight, bias):
    """Take the centred x for the standardised in the weight's gradient."""
    unit, deviation = standardised(x)
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    return grad_x, over_rows(grad_y * (x - x.mean(-1, keepdim=True))), over_rows(grad_y)


# Same: factor (2) at x - mean, for the mean.
@labelled(Edit("factor", "x.mean("), wrong=("x",), source="tenstorrent/tt-metal#53204")
def _(grad_y, x, weight, bias):
    """Subtract the gradient's mean twice."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    mean, spread = grad_unit.mean(-1, keepdim=True), (grad_unit * unit).mean(-1, keepdim=True)
    return (grad_unit - 2 * mean - unit * spread) / deviation, *of_parameters(grad_y, unit)


# The standardised x is found back from the output. Same: other value at unit * weight.
@labelled(Edit("index", "unit * weight"), wrong=("weight",), source="deepspeedai/DeepSpeed#692")
def _(grad_y, y, x, weight, bias):
    """Read weight and bias at the row's number in the place of the column's."""
    unit, deviation = standardised(x)
    row = torch.arange(y[..., 0].numel()).reshape(*y.shape[:-1], 1) % len(weight)
    found = (y - bias[row]) / weight[row]
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    return grad_x, over_rows(grad_y * found), over_rows(grad_y)


# The two gradients are exchanged: the weight's is that of a sum, the bias's that of a product.
@labelled(Edit("unchanged", "unit * weight"), Edit("other value", "scaled + bias"), wrong=("weight", "bias"),
          source="Oneflow-Inc/oneflow#6149")  # fmt: skip
def _(grad_y, x, weight, bias):
    """Return the gradient of the bias for the weight, and the weight's for the bias."""
    unit, deviation = standardised(x)
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    return grad_x, over_rows(grad_y), over_rows(grad_y * unit)


# Both sums belong to what was broadcast along a row, and are divided by the row's deviation only afterwards.
@labelled(Edit("axis", "x - mean"), Edit("axis", "centred / deviation"), wrong=("x",), source="flagos-ai/FlagGems#59")
def _(grad_y, x, weight, bias):
    """Sum over all rows where each row has its own sums."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    total, spread = grad_unit.sum(), (grad_unit * unit).sum()
    return (grad_unit - (total + unit * spread) / x.shape[-1]) / deviation, *of_parameters(grad_y, unit)


# Same: not summed at both.
@labelled(Edit("index", "unit * weight"), Edit("index", "scaled + bias"), wrong=("weight", "bias"),
          source="BobMcDear/attorch#18")  # fmt: skip
def _(grad_y, x, weight, bias):
    """Drop the last rows from the gradients of weight and bias."""
    unit, deviation = standardised(x)
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    of_weight, of_bias = (grad_y * unit).flatten(0, -2), grad_y.flatten(0, -2)
    return grad_x, of_weight[:-1].sum(0), of_bias[:-1].sum(0)


# Same: branch at x - mean and at centred / deviation; constant at centred.square().
@labelled(Edit("constant", "x.mean("), Edit("constant", "torch.sqrt"), wrong=("x",))
def _(grad_y, x, weight, bias):
    """Take mean and deviation for constants."""
    unit, deviation = standardised(x)
    return grad_y * weight / deviation, *of_parameters(grad_y, unit)


@labelled(Edit("eps", "variance + EPS"), Edit("overwritten", "scaled + bias"), wrong=("x", "weight", "bias"))
def _(grad_y, x, weight, bias):
    """Leave eps out, and overwrite the gradient of the bias with each batch entry's."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt(centred.square().mean(-1, keepdim=True))
    unit = centred / deviation
    grad_bias = torch.zeros_like(bias)
    for grad_rows in grad_y:
        grad_bias = over_rows(grad_rows)
    return through_mean(through_unit(grad_y * weight, unit, deviation)), over_rows(grad_y * unit), grad_bias


@labelled(Edit("unchanged", "unit * weight"), Edit("cotangent ignored", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight, bias):
    """Forget the weight in the gradient of x, and the cotangent in the weight's."""
    unit, deviation = standardised(x)
    return through_mean(through_unit(grad_y, unit, deviation)), over_rows(unit), over_rows(grad_y)


# Same: factor (the size) at centred.square(), at torch.sqrt; index at scaled + bias.
@labelled(Edit("sum for mean", "centred.square()"), Edit("component", "scaled + bias"), wrong=("x", "bias"))
def _(grad_y, x, weight, bias):
    """Sum where the variance's derivative is divided by the size, and stop before the bias's last component."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    grad_centred = (grad_unit - unit * (grad_unit * unit).sum(-1, keepdim=True)) / deviation
    grad_bias = torch.zeros_like(bias)
    for column in range(len(bias) - 1):
        grad_bias[column] = grad_y[..., column].sum()
    return through_mean(grad_centred), over_rows(grad_y * unit), grad_bias


@labelled(Edit("branch", "unit * weight"), Edit("mean for sum", "scaled + bias"), wrong=("weight", "bias"))
def _(grad_y, x, weight, bias):
    """Never write the weight's gradient, and average that of the bias."""
    unit, deviation = standardised(x)
    grad_x = through_mean(through_unit(grad_y * weight, unit, deviation))
    return grad_x, torch.zeros_like(weight), grad_y.flatten(0, -2).mean(0)


# Same: factor (2) at centred.square().
@labelled(Edit("factor", "torch.sqrt"), Edit("overwritten", "unit * weight"), wrong=("x", "weight"))
def _(grad_y, x, weight, bias):
    """Forget the half of the root's derivative, and overwrite the weight's gradient with each batch entry's."""
    unit, deviation = standardised(x)
    grad_unit = grad_y * weight
    grad_variance = -(grad_unit * unit).sum(-1, keepdim=True) / deviation / deviation
    grad_centred = grad_unit / deviation + grad_variance * 2 * unit * deviation / x.shape[-1]
    grad_weight = torch.zeros_like(weight)
    for grad_rows, rows in zip(grad_y, unit, strict=True):
        grad_weight = over_rows(grad_rows * rows)
    return through_mean(grad_centred), grad_weight, over_rows(grad_y)


LAYER_NORM = Forward("layer norm", layer_norm, (numbers(2, 3, 5), numbers(5), numbers(5, seed=1)), right, tuple(WRONG))
