"""Cross entropy with label smoothing and class weights, its mean, written out, and twenty wrong backwards of it."""

import torch
from labelled import Edit, Forward, Labelled, into
from reported import numbers
from torch.nn import functional

WRONG: list[Labelled] = []
labelled = into(WRONG)

SMOOTHING = 0.2
TARGETS = torch.tensor([1, 3, 0, 2, 1])
KEPT = torch.tensor([True, True, True, False, True])


def cross_entropy(logits, weight):
    """The weighted mean over the rows that are kept of the loss against targets that are smoothed."""
    normaliser = torch.logsumexp(logits, -1, keepdim=True)
    log_probabilities = logits - normaliser
    weighted = log_probabilities * weight
    hit = weighted.gather(-1, TARGETS[:, None]).squeeze(-1)
    spread = weighted.mean(-1)
    sharp = (1 - SMOOTHING) * hit
    smooth = SMOOTHING * spread
    losses = -(sharp + smooth)
    counted = torch.where(KEPT, losses, 0)
    total = weight[TARGETS[KEPT]].sum()
    return counted.sum() / total


def smoothed(logits, targets=TARGETS, hit=1 - SMOOTHING, spread=SMOOTHING):
    """Return the targets: what the hit gets, and its part of what is spread over the classes."""
    classes = logits.shape[-1]
    return hit * functional.one_hot(targets, classes).to(logits) + spread / classes


def inside(logits, weight):
    """Return the log probabilities, the sum of the losses and the total of the weights."""
    log_probabilities = logits.log_softmax(-1)
    losses = -(smoothed(logits) * log_probabilities * weight).sum(-1)
    return log_probabilities, torch.where(KEPT, losses, 0).sum(), weight[TARGETS[KEPT]].sum()


def through_softmax(grad, log_probabilities):
    """Return the gradient of the logits from that of the log probabilities."""
    return grad - log_probabilities.exp() * grad.sum(-1, keepdim=True)


def through_total(grad_y, lost, total, weight):
    """Return what the weights get through their total."""
    share = (-grad_y * lost / total**2).expand(int(KEPT.sum()))
    return torch.zeros_like(weight).index_add(0, TARGETS[KEPT], share)


def overwriting_total(grad_y, lost, total, weight):
    """Return what the weights get through their total, where a class that comes twice gets it once."""
    grad_weight = torch.zeros_like(weight)
    grad_weight[TARGETS[KEPT]] = -grad_y * lost / total**2
    return grad_weight


def of_targets(grad_y, logits, weight, targets):
    """Return the gradients as they would be for other targets."""
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * targets
    grad_weight = (grad_weighted * log_probabilities).sum(0) + through_total(grad_y, lost, total, weight)
    return through_softmax(grad_weighted * weight, log_probabilities), grad_weight


def right(grad_y, logits, weight):
    return of_targets(grad_y, logits, weight, smoothed(logits))


# One step.


# The same as that the normaliser gets nothing in the difference.
@labelled(Edit("constant", "torch.logsumexp"), wrong=("logits",))
def _(grad_y, logits, weight):
    """The normaliser is taken for a constant: no softmax in the gradient."""
    _, grad_weight = right(grad_y, logits, weight)
    _, _, total = inside(logits, weight)
    grad_losses = torch.where(KEPT, grad_y / total, 0)[:, None]
    return -grad_losses * smoothed(logits) * weight, grad_weight


@labelled(Edit("sum for mean", "weighted.mean(-1)"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """The smoothing is not divided by the number of the classes."""
    targets = (1 - SMOOTHING) * functional.one_hot(TARGETS, logits.shape[-1]).to(logits) + SMOOTHING
    return of_targets(grad_y, logits, weight, targets)


@labelled(Edit("branch", "log_probabilities * weight"), wrong=("weight",))
def _(grad_y, logits, weight):
    """The weights get nothing but what goes through their total."""
    grad_logits, _ = right(grad_y, logits, weight)
    _, lost, total = inside(logits, weight)
    return grad_logits, through_total(grad_y, lost, total, weight)


# The same as the sign of torch.logsumexp.
@labelled(Edit("sign", "logits - normaliser"), wrong=("logits",))
def _(grad_y, logits, weight):
    """The softmax is added."""
    log_probabilities, _, total = inside(logits, weight)
    _, grad_weight = right(grad_y, logits, weight)
    grad = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits) * weight
    return grad + log_probabilities.exp() * grad.sum(-1, keepdim=True), grad_weight


@labelled(Edit("index", "weighted.gather"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """The targets are counted from one."""
    shifted = (TARGETS - 1) % logits.shape[-1]
    return of_targets(grad_y, logits, weight, smoothed(logits, shifted))


@labelled(Edit("mean for sum", "log_probabilities * weight"), wrong=("weight",))
def _(grad_y, logits, weight):
    """The gradient of the weights is the mean over the rows."""
    grad_logits, _ = right(grad_y, logits, weight)
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).mean(0)
    return grad_logits, grad_weight + through_total(grad_y, lost, total, weight)


@labelled(Edit("other value", "log_probabilities * weight"), wrong=("weight",))
def _(grad_y, logits, weight):
    """The gradient of the weights takes the logits, which are not normalised."""
    grad_logits, _ = right(grad_y, logits, weight)
    _, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits)
    return grad_logits, (grad_weighted * logits).sum(0) + through_total(grad_y, lost, total, weight)


@labelled(Edit("overwritten", "weight[TARGETS"), wrong=("weight",))
def _(grad_y, logits, weight):
    """A class that comes twice among the targets gets its part of the total once."""
    grad_logits, _ = right(grad_y, logits, weight)
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).sum(0)
    return grad_logits, grad_weight + overwriting_total(grad_y, lost, total, weight)


# From trackers.


@labelled(
    Edit("cotangent ignored", "counted.sum() / total"), wrong=("logits", "weight"), source="pytorch/pytorch#94226"
)
def _(grad_y, logits, weight):
    """The cotangent is ignored."""
    return right(torch.ones_like(grad_y), logits, weight)


@labelled(Edit("mask", "torch.where(KEPT"), wrong=("logits", "weight"), source="chainer/chainer#2715")
def _(grad_y, logits, weight):
    """Rows that are not kept get a gradient, too."""
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -(grad_y / total) * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).sum(0) + through_total(grad_y, lost, total, weight)
    return through_softmax(grad_weighted * weight, log_probabilities), grad_weight


# The mean is a weighted one, so that what is missing is the division by the total of the weights.
@labelled(Edit("sum for mean", "counted.sum() / total"), wrong=("logits", "weight"), source="victorlempitsky/Mate#2")
def _(grad_y, logits, weight):
    """The gradient of the losses is not divided as their mean is."""
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y, 0)[:, None] * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).sum(0) + through_total(grad_y, lost, total, weight)
    return through_softmax(grad_weighted * weight, log_probabilities), grad_weight


# What the weights get through the total is right, so that it is the sign of the losses, not of the cotangent.
@labelled(Edit("sign", "losses = -("), wrong=("logits", "weight"), source="deeplearning4j/deeplearning4j#349")
def _(grad_y, logits, weight):
    """The targets minus the softmax, where the softmax minus the targets is right."""
    return of_targets(grad_y, logits, weight, -smoothed(logits))


@labelled(Edit("factor", "(1 - SMOOTHING) * hit"), wrong=("logits", "weight"), source="ildoonet/pytorch-randaugment#30")
def _(grad_y, logits, weight):
    """The hit keeps 1 - s / n where it keeps 1 - s."""
    targets = smoothed(logits, hit=1 - SMOOTHING / logits.shape[-1])
    return of_targets(grad_y, logits, weight, targets)


# exp(y) + g where g - exp(y) sum(g) is right: what reaches the normaliser, -sum(g), is taken for 1.
@labelled(Edit("cotangent ignored", "torch.logsumexp"), wrong=("logits",), source="mlpack/mlpack#2360")
def _(grad_y, logits, weight):
    """The softmax is added to the gradient of the log probabilities."""
    log_probabilities, _, total = inside(logits, weight)
    _, grad_weight = right(grad_y, logits, weight)
    grad = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits) * weight
    return log_probabilities.exp() + grad, grad_weight


# Two mistakes.


@labelled(Edit("constant", "torch.logsumexp"), Edit("mask", "torch.where(KEPT"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """No softmax in the gradient, and rows that are not kept get one."""
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -(grad_y / total) * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).sum(0) + through_total(grad_y, lost, total, weight)
    return grad_weighted * weight, grad_weight


# The second is the same as that the total is taken for a constant.
@labelled(
    Edit("sum for mean", "weighted.mean(-1)"), Edit("branch", "counted.sum() / total"), wrong=("logits", "weight")
)
def _(grad_y, logits, weight):
    """The smoothing is not divided by the number of the classes, and the total gets nothing."""
    log_probabilities, _, total = inside(logits, weight)
    targets = (1 - SMOOTHING) * functional.one_hot(TARGETS, logits.shape[-1]).to(logits) + SMOOTHING
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * targets
    grad_weight = (grad_weighted * log_probabilities).sum(0)
    return through_softmax(grad_weighted * weight, log_probabilities), grad_weight


@labelled(
    Edit("mean for sum", "log_probabilities * weight"), Edit("cotangent ignored", "counted.sum() / total"),
    wrong=("logits", "weight"),
)  # fmt: skip
def _(grad_y, logits, weight):
    """The gradient of the weights is the mean over the rows, and the cotangent is ignored."""
    ones = torch.ones_like(grad_y)
    grad_logits, _ = right(ones, logits, weight)
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, ones / total, 0)[:, None] * smoothed(logits)
    grad_weight = (grad_weighted * log_probabilities).mean(0)
    return grad_logits, grad_weight + through_total(ones, lost, total, weight)


@labelled(Edit("index", "weighted.gather"), Edit("sign", "logits - normaliser"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """The targets are counted from one, and the softmax is added."""
    log_probabilities, _, total = inside(logits, weight)
    targets = smoothed(logits, (TARGETS - 1) % logits.shape[-1])
    _, grad_weight = of_targets(grad_y, logits, weight, targets)
    grad = -torch.where(KEPT, grad_y / total, 0)[:, None] * targets * weight
    return grad + log_probabilities.exp() * grad.sum(-1, keepdim=True), grad_weight


# The factor is n / (n - 1), the mean's: the same factor at the next use of the mean says as much.
@labelled(Edit("axis", "torch.logsumexp"), Edit("factor", "weighted.mean(-1)"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """The softmax is over the rows, and the smoothing is spread over all classes but one."""
    _, _, total = inside(logits, weight)
    targets = smoothed(logits, spread=SMOOTHING * logits.shape[-1] / (logits.shape[-1] - 1))
    _, grad_weight = of_targets(grad_y, logits, weight, targets)
    grad = -torch.where(KEPT, grad_y / total, 0)[:, None] * targets * weight
    return grad - logits.softmax(0) * grad.sum(-1, keepdim=True), grad_weight


@labelled(Edit("unchanged", "(1 - SMOOTHING) * hit"), Edit("overwritten", "weight[TARGETS"), wrong=("logits", "weight"))
def _(grad_y, logits, weight):
    """The hit keeps all that the smoothing takes from it, and a class that comes twice gets the total once."""
    log_probabilities, lost, total = inside(logits, weight)
    grad_weighted = -torch.where(KEPT, grad_y / total, 0)[:, None] * smoothed(logits, hit=1)
    grad_weight = (grad_weighted * log_probabilities).sum(0) + overwriting_total(grad_y, lost, total, weight)
    return through_softmax(grad_weighted * weight, log_probabilities), grad_weight


CROSS_ENTROPY = Forward("cross entropy", cross_entropy, (numbers(5, 4), numbers(4).abs() + 0.5), right, tuple(WRONG))
