"""Losses: cross entropies, divergences, contrasts and overlaps, with labels, masks and temperatures."""

import torch
from modules_common import Module, numbers, sigmoid_slope, through_unit, unit
from torch.nn import functional

LOSSES: list[Module] = []
LABELS = torch.tensor([2, 0, -100, 2, 5])


def by_label(x, labels):
    return -torch.where(labels == 1, functional.logsigmoid(x), functional.logsigmoid(-x)).mean()


def by_label_backward(grad_y, x, labels):
    # sigmoid(x) - 1 would lose its digits.
    return grad_y / x.numel() * torch.where(labels == 1, -torch.sigmoid(-x), torch.sigmoid(x)), None


def by_label_sign(grad_y, x, labels):
    return grad_y / x.numel() * torch.where(labels == 1, torch.sigmoid(-x), torch.sigmoid(x)), None


def by_label_swapped(grad_y, x, labels):
    return grad_y / x.numel() * torch.where(labels == 0, -torch.sigmoid(-x), torch.sigmoid(x)), None


def by_label_summed(grad_y, x, labels):
    return grad_y * torch.where(labels == 1, -torch.sigmoid(-x), torch.sigmoid(x)), None


LOSSES.append(
    Module(
        "a choice by integer labels",
        by_label,
        (*numbers((2, 4)), torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])),
        by_label_backward,
        {"sign of one branch": by_label_sign, "labels swapped": by_label_swapped, "mean forgotten": by_label_summed},
    )
)

SMOOTHING = 0.1


def smoothed(logits, target):
    return functional.cross_entropy(logits, target, ignore_index=-100, label_smoothing=SMOOTHING)


def from_labels(logits, target, smoothing):
    """Return the softmax without what the labels ask for, in rows that have one: zeros in the others."""
    kept = target != -100
    asked = functional.one_hot(torch.where(kept, target, 0), logits.shape[1]).to(logits.dtype)
    grad = logits.softmax(1) - ((1 - smoothing) * asked + smoothing / logits.shape[1])
    return torch.where(kept[:, None], grad, 0), kept.sum()


def smoothed_backward(grad_y, logits, target):
    grad, count = from_labels(logits, target, SMOOTHING)
    return grad_y * grad / count, None


def smoothed_ignored_counted(grad_y, logits, target):
    return grad_y * from_labels(logits, target, SMOOTHING)[0] / len(target), None


def smoothed_as_if_hard(grad_y, logits, target):
    grad, count = from_labels(logits, target, 0.0)
    return grad_y * grad / count, None


def smoothed_ignored_as_class_0(grad_y, logits, target):
    count = (target != -100).sum()
    return grad_y * from_labels(logits, target.clamp(min=0), SMOOTHING)[0] / count, None


LOSSES.append(
    Module(
        "cross entropy with ignored and smoothed labels",
        smoothed,
        (*numbers((5, 6)), LABELS),
        smoothed_backward,
        {
            "ignored rows counted": smoothed_ignored_counted,
            "smoothing forgotten": smoothed_as_if_hard,
            "ignored rows taken for class 0": smoothed_ignored_as_class_0,
        },
    )
)

WARMTH = 2.0  # of the two distributions


def distilled(student, teacher):
    p = (teacher.detach() / WARMTH).softmax(1)
    return functional.kl_div((student / WARMTH).log_softmax(1), p, reduction="batchmean") * WARMTH**2


def distilled_backward(grad_y, student, teacher):
    apart = (student / WARMTH).softmax(1) - (teacher / WARMTH).softmax(1)
    return grad_y * apart * (WARMTH / len(student)), None


def distilled_without_warmth(grad_y, student, teacher):
    apart = (student / WARMTH).softmax(1) - (teacher / WARMTH).softmax(1)
    return grad_y * apart * (WARMTH**2 / len(student)), None


def distilled_mean_of_all(grad_y, student, teacher):
    apart = (student / WARMTH).softmax(1) - (teacher / WARMTH).softmax(1)
    return grad_y * apart * (WARMTH / student.numel()), None


LOSSES.append(
    Module(
        "distillation by KL divergence",
        distilled,
        numbers((3, 5), (3, 5)),
        distilled_backward,
        {"inner temperature forgotten": distilled_without_warmth, "mean over all elements": distilled_mean_of_all},
    )
)

TAU, EPS = 0.5, 1e-12


def contrast(image, text):
    logits = functional.normalize(image, dim=1, eps=EPS) @ functional.normalize(text, dim=1, eps=EPS).mT / TAU
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.mT, labels)) / 2


def contrast_backward(grad_y, image, text):
    (a, a_norm), (b, b_norm) = unit(image, EPS), unit(text, EPS)
    logits = a @ b.mT / TAU
    apart = logits.softmax(1) + logits.softmax(0) - 2 * torch.eye(len(a), dtype=a.dtype, device=a.device)
    grad = grad_y * apart / (2 * TAU * len(a))
    return through_unit(grad @ b, a, a_norm, EPS), through_unit(grad.mT @ a, b, b_norm, EPS)


def contrast_one_direction(grad_y, image, text):
    (a, a_norm), (b, b_norm) = unit(image, EPS), unit(text, EPS)
    apart = (a @ b.mT / TAU).softmax(1) - torch.eye(len(a), dtype=a.dtype, device=a.device)
    grad = grad_y * apart / (TAU * len(a))
    return through_unit(grad @ b, a, a_norm, EPS), through_unit(grad.mT @ a, b, b_norm, EPS)


def contrast_not_projected(grad_y, image, text):
    (a, a_norm), (b, b_norm) = unit(image, EPS), unit(text, EPS)
    logits = a @ b.mT / TAU
    apart = logits.softmax(1) + logits.softmax(0) - 2 * torch.eye(len(a), dtype=a.dtype, device=a.device)
    grad = grad_y * apart / (2 * TAU * len(a))
    return grad @ b / a_norm, grad.mT @ a / b_norm


LOSSES.append(
    Module(
        "a contrastive loss in both directions",
        contrast,
        numbers((3, 4), (3, 4)),
        contrast_backward,
        {"one direction only": contrast_one_direction, "norm held constant": contrast_not_projected},
    )
)


def similarity(x, z):
    return 1 - functional.cosine_similarity(x, z, dim=-1, eps=1e-8)


def similarity_backward(grad_y, x, z):
    (a, a_norm), (b, b_norm) = unit(x, 1e-8), unit(z, 1e-8)
    grad = -grad_y.unsqueeze(-1)
    return through_unit(grad * b, a, a_norm, 1e-8), through_unit(grad * a, b, b_norm, 1e-8)


def similarity_sign(grad_y, x, z):
    return tuple(-grad for grad in similarity_backward(grad_y, x, z))


def similarity_not_projected(grad_y, x, z):
    (a, a_norm), (b, b_norm) = unit(x, 1e-8), unit(z, 1e-8)
    grad = -grad_y.unsqueeze(-1)
    return grad * b / a_norm, grad * a / b_norm


LOSSES.append(
    Module(
        "a cosine distance",
        similarity,
        numbers((3, 4), (3, 4)),
        similarity_backward,
        {"sign": similarity_sign, "norm held constant": similarity_not_projected},
    )
)

DELTA = 0.7


def huber(x, target):
    return functional.huber_loss(x, target, delta=DELTA)


def huber_backward(grad_y, x, target):
    grad_x = grad_y * (x - target).clamp(-DELTA, DELTA) / x.numel()
    return grad_x, -grad_x


def huber_of_delta_1(grad_y, x, target):
    grad_x = grad_y * (x - target).clamp(-1, 1) / x.numel()
    return grad_x, -grad_x


def huber_same_sign(grad_y, x, target):
    grad_x, _ = huber_backward(grad_y, x, target)
    return grad_x, grad_x.clone()


LOSSES.append(
    Module(
        "the Huber loss",
        huber,
        numbers((2, 5), (2, 5)),
        huber_backward,
        {"delta ignored": huber_of_delta_1, "target's sign": huber_same_sign},
    )
)


def dice(logits, mask):
    p, m = torch.sigmoid(logits).flatten(1), mask.flatten(1).to(logits.dtype)
    return 1 - ((2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)).mean()


def dice_parts(logits, mask):
    """Return the mask as numbers, the overlap of each image and what it is divided by, ready to broadcast."""
    p, m = torch.sigmoid(logits), mask.to(logits.dtype)
    axes = tuple(range(1, logits.ndim))
    below = (p + m).sum(axes, keepdim=True) + 1
    return m, (2 * (p * m).sum(axes, keepdim=True) + 1) / below, below


def dice_backward(grad_y, logits, mask):
    m, overlap, below = dice_parts(logits, mask)
    return grad_y / len(logits) * (overlap - 2 * m) / below * sigmoid_slope(logits), None


def dice_of_constant_size(grad_y, logits, mask):
    m, _, below = dice_parts(logits, mask)
    return grad_y / len(logits) * (-2 * m) / below * sigmoid_slope(logits), None


def dice_of_probabilities(grad_y, logits, mask):
    m, overlap, below = dice_parts(logits, mask)
    return grad_y / len(logits) * (overlap - 2 * m) / below, None


LOSSES.append(
    Module(
        "the dice loss",
        dice,
        (*numbers((2, 3, 4)), numbers((2, 3, 4), seed=1)[0] > 0),
        dice_backward,
        {"denominator held constant": dice_of_constant_size, "sigmoid forgotten": dice_of_probabilities},
    )
)


ANCHOR, NEAR, FAR = numbers((4, 3), (4, 3), (4, 3))
APART = ANCHOR, ANCHOR + 0.8 * NEAR, FAR  # the margin is kept in one of four


def triplet(anchor, positive, negative):
    return functional.triplet_margin_loss(anchor, positive, negative, margin=1.0)


def directions(anchor, positive, negative):
    """Return the directions from both to the anchor, and whether the margin is not kept; torch adds 1e-6."""
    apart = torch.stack([anchor - positive, anchor - negative]) + 1e-6
    norm = torch.linalg.vector_norm(apart, dim=-1, keepdim=True)
    return *(apart / norm), 1 + norm[0] - norm[1] >= 0


def triplet_backward(grad_y, anchor, positive, negative):
    near, far, active = directions(anchor, positive, negative)
    share = active * (grad_y / len(anchor))
    return share * (near - far), -share * near, share * far


def triplet_always_active(grad_y, anchor, positive, negative):
    near, far, _ = directions(anchor, positive, negative)
    share = grad_y / len(anchor)
    return share * (near - far), -share * near, share * far


def triplet_attracted(grad_y, anchor, positive, negative):
    grad_anchor, grad_positive, grad_negative = triplet_backward(grad_y, anchor, positive, negative)
    return grad_anchor, grad_positive, -grad_negative


LOSSES.append(
    Module(
        "the triplet loss",
        triplet,
        APART,
        triplet_backward,
        {"margin that is kept": triplet_always_active, "negative's sign": triplet_attracted},
    )
)


def tempered(logits, target, log_scale):
    return functional.cross_entropy(logits * log_scale.exp(), target)


def tempered_backward(grad_y, logits, target, log_scale):
    scaled = logits * log_scale.exp()
    grad = grad_y * from_labels(scaled, target, 0.0)[0] / len(target)
    return grad * log_scale.exp(), None, (grad * scaled).sum()


def tempered_by_the_scale(grad_y, logits, target, log_scale):
    grad = grad_y * from_labels(logits * log_scale.exp(), target, 0.0)[0] / len(target)
    return grad * log_scale.exp(), None, (grad * logits).sum()


def tempered_without_scale(grad_y, logits, target, log_scale):
    scaled = logits * log_scale.exp()
    grad = grad_y * from_labels(scaled, target, 0.0)[0] / len(target)
    return grad, None, (grad * scaled).sum()


LOSSES.append(
    Module(
        "a 0-d temperature beside logits",
        tempered,
        (*numbers((3, 4)), torch.tensor([1, 3, 0]), torch.tensor(0.5, dtype=torch.float64)),
        tempered_backward,
        {"gradient of the scale, not its log": tempered_by_the_scale, "scale forgotten": tempered_without_scale},
    )
)
