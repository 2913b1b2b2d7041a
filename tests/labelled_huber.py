"""Wrong backwards of the Huber loss of several predictions of one target, with its threshold as a parameter."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers

WRONG: list[Labelled] = []
labelled = into(WRONG)


def forward(prediction, target, delta):
    """Return the mean of the Huber loss; the target may be broadcast over the predictions."""
    error = prediction - target
    size = error.abs()
    inside = size <= delta
    quadratic = 0.5 * error.square()
    beyond = size - 0.5 * delta
    linear = delta * beyond
    loss = torch.where(inside, quadratic, linear)
    return loss.mean()


def steps(prediction, target, delta):
    """Return the error, its size, and where the loss is quadratic."""
    error = prediction - target
    return error, error.abs(), error.abs() <= delta


def split(grad_error, prediction, target):
    """Return the gradients of a prediction and a target from that of their difference."""
    return grad_error.sum_to_size(prediction.shape), -grad_error.sum_to_size(target.shape)


def right(grad_y, prediction, target, delta):
    """Return the right gradients."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("sum for mean", "loss.mean()"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Forget to divide by the number of losses."""
    error, size, inside = steps(prediction, target, delta)
    grad_error = grad_y * torch.where(inside, error, delta * error.sign())
    grad_delta = grad_y * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("sign", "prediction - target"), wrong=("target",))
def _(grad_y, prediction, target, delta):
    """Give the target the sign of the prediction."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return grad_error.sum_to_size(prediction.shape), grad_error.sum_to_size(target.shape), grad_delta


@labelled(Edit("unchanged", "error.abs()"), wrong=("prediction", "target"))
def _(grad_y, prediction, target, delta):
    """Forget the sign of the error in the linear part."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta)
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("branch", "size - 0.5 * delta"), wrong=("delta",))
def _(grad_y, prediction, target, delta):
    """Take the threshold in the bracket as a constant."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - 0.5 * delta).sum()
    return *split(grad_error, prediction, target), grad_delta


# The same: the two parts exchanged in `torch.where`.
@labelled(Edit("side", "size <= delta"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Take the other side of the threshold."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, delta * error.sign(), error)
    grad_delta = share * torch.where(inside, size - delta, 0).sum()
    return *split(grad_error, prediction, target), grad_delta


# The same: off by the factor 1 / predictions.
@labelled(Edit("mean for sum", "prediction - target"), wrong=("target",))
def _(grad_y, prediction, target, delta):
    """Average the target's gradient over the predictions."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return grad_error.sum_to_size(prediction.shape), -grad_error.mean(0), grad_delta


@labelled(Edit("cotangent ignored", "loss.mean()"),
          wrong=("prediction", "target", "delta"), source="chainer/chainer#1175")  # fmt: skip
def _(grad_y, prediction, target, delta):
    """Leave out the cotangent."""
    error, size, inside = steps(prediction, target, delta)
    grad_error = torch.where(inside, error, delta * error.sign()) / error.numel()
    grad_delta = torch.where(inside, 0, size - delta).mean()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("other value", "size <= delta"),
          wrong=("prediction", "target", "delta"), source="BobMcDear/attorch#13")  # fmt: skip
def _(grad_y, prediction, target, delta):
    """Compare the error itself with the threshold, not its size."""
    error, size, _ = steps(prediction, target, delta)
    inside, share = error <= delta, grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


# Restated from the pseudo-Huber loss.
@labelled(Edit("unchanged", "delta * beyond"), wrong=("prediction", "target", "delta"), source="RubixML/ML#446")
def _(grad_y, prediction, target, delta):
    """Forget that the bracket of the linear part is multiplied by the threshold."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_beyond = grad_linear = torch.where(inside, 0, share)
    grad_error = torch.where(inside, share * error, grad_beyond * error.sign())
    grad_delta = (grad_linear * (size - 0.5 * delta) - 0.5 * grad_beyond).sum()
    return *split(grad_error, prediction, target), grad_delta


# Restated from the modified Huber loss. The same: the quadratic part gets half in `torch.where`.
@labelled(Edit("factor", "error.square()"), wrong=("prediction", "target"), source="stdlib-js/stdlib#13111")
def _(grad_y, prediction, target, delta):
    """Miss the 2 of the square."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, 0.5 * error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


# For the factor the same: a mean over the first axis and a sum over the others ("axis").
@labelled(Edit("branch", "torch.where"), Edit("factor", "loss.mean()"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Give the linear part nothing, and divide by the number of predictions alone."""
    error, _, inside = steps(prediction, target, delta)
    share = grad_y / len(error)
    grad_error = share * torch.where(inside, error, 0)
    return *split(grad_error, prediction, target), torch.zeros_like(delta)


@labelled(Edit("cotangent ignored", "loss.mean()"), Edit("sum for mean", "loss.mean()"),
          wrong=("prediction", "target", "delta"))  # fmt: skip
def _(grad_y, prediction, target, delta):
    """Leave out the cotangent, and the division by the number of losses."""
    error, size, inside = steps(prediction, target, delta)
    grad_error = torch.where(inside, error, delta * error.sign())
    grad_delta = torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("mask", "torch.where"), Edit("branch", "torch.where"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Differentiate the square everywhere."""
    error, _, _ = steps(prediction, target, delta)
    grad_error = grad_y / error.numel() * error
    return *split(grad_error, prediction, target), torch.zeros_like(delta)


@labelled(Edit("mask", "torch.where"), Edit("sign", "prediction - target"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Add up both parts everywhere, and give the target the sign of the prediction."""
    error, size, _ = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * (error + delta * error.sign())
    grad_delta = share * (size - delta).sum()
    return grad_error.sum_to_size(prediction.shape), grad_error.sum_to_size(target.shape), grad_delta


@labelled(Edit("factor", "size - 0.5 * delta"), Edit("not summed", "prediction - target"), wrong=("target", "delta"))
def _(grad_y, prediction, target, delta):
    """Forget the half before the threshold, and give the target the first prediction's gradient."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - 1.5 * delta).sum()
    return grad_error.sum_to_size(prediction.shape), -grad_error[0], grad_delta


@labelled(Edit("branch", "delta * beyond"), Edit("unchanged", "error.abs()"),
          wrong=("prediction", "target", "delta"))  # fmt: skip
def _(grad_y, prediction, target, delta):
    """Differentiate the threshold in the bracket alone, and forget the sign of the error."""
    error, _, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta)
    grad_delta = share * torch.where(inside, 0, -0.5 * delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("branch", "prediction - target"), Edit("branch", "size - 0.5 * delta"), wrong=("target", "delta"))
def _(grad_y, prediction, target, delta):
    """Take the target as a constant, and the threshold in the bracket."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, error, delta * error.sign())
    grad_delta = share * torch.where(inside, 0, size - 0.5 * delta).sum()
    return grad_error.sum_to_size(prediction.shape), torch.zeros_like(target), grad_delta


@labelled(Edit("other value", "error.abs()"), Edit("sum for mean", "loss.mean()"),
          wrong=("prediction", "target", "delta"))  # fmt: skip
def _(grad_y, prediction, target, delta):
    """Put the error in the place of its sign, and forget to divide by the number of losses."""
    error, size, inside = steps(prediction, target, delta)
    grad_error = grad_y * torch.where(inside, error, delta * error)
    grad_delta = grad_y * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("constant", "error.abs()"), Edit("factor", "error.square()"), wrong=("prediction", "target"))
def _(grad_y, prediction, target, delta):
    """Let nothing through outside, and forget the half before the square."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, 2 * error, 0)
    grad_delta = share * torch.where(inside, 0, size - delta).sum()
    return *split(grad_error, prediction, target), grad_delta


@labelled(Edit("side", "size <= delta"), Edit("unchanged", "error.abs()"), wrong=("prediction", "target", "delta"))
def _(grad_y, prediction, target, delta):
    """Take the other side of the threshold, and forget the sign of the error."""
    error, size, inside = steps(prediction, target, delta)
    share = grad_y / error.numel()
    grad_error = share * torch.where(inside, delta, error)
    grad_delta = share * torch.where(inside, size - delta, 0).sum()
    return *split(grad_error, prediction, target), grad_delta


HUBER = Forward(
    "the Huber loss",
    forward,
    (numbers(5, 3), numbers(3, seed=1), torch.tensor(0.75, dtype=torch.float64)),
    right,
    tuple(WRONG),
)
