"""Indices: sampling between pixels, bags of words, routing to experts, messages along edges, masked positions."""

import torch
from modules_common import Module, numbers, through_softmax
from torch.nn import functional

INDICES: list[Module] = []


def corners(points, height, width):
    """Yield each corner of the cells that the points are in: flat index, whether it is in the image, weights, signs."""
    row, column = points.unbind(-1)
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    for r, part, sign in ((top, 1 - down, -1), (top + 1, down, 1)):
        for c, part_c, sign_c in ((left, 1 - right, -1), (left + 1, right, 1)):
            inside = (r >= 0) & (r <= height - 1) & (c >= 0) & (c <= width - 1)
            index = torch.where(inside, r, 0).long() * width + torch.where(inside, c, 0).long()
            yield index, inside, (part, part_c), (sign, sign_c)


def bilinear(image, points):
    flat = image.flatten(1)
    return sum(flat[:, at] * (inside * a * b) for at, inside, (a, b), _ in corners(points, *image.shape[1:]))


def bilinear_backward(grad_y, image, points):
    flat, grad_image, grad_points = image.flatten(1), torch.zeros_like(image.flatten(1)), torch.zeros_like(points)
    for at, inside, (a, b), (sign, sign_b) in corners(points, *image.shape[1:]):
        grad_image.index_add_(1, at, grad_y * (inside * a * b))
        seen = (grad_y * flat[:, at]).sum(0) * inside
        grad_points += torch.stack([sign * seen * b, sign_b * seen * a], -1)
    return grad_image.reshape(image.shape), grad_points


def bilinear_overwritten(grad_y, image, points):
    grad_image = torch.zeros_like(image.flatten(1))
    for at, inside, (a, b), _ in corners(points, *image.shape[1:]):
        grad_image[:, at] = grad_y * (inside * a * b)
    return grad_image.reshape(image.shape), bilinear_backward(grad_y, image, points)[1]


def bilinear_rows_for_columns(grad_y, image, points):
    grad_image, grad_points = bilinear_backward(grad_y, image, points)
    return grad_image, grad_points.flip(-1)


INDICES.append(
    Module(
        "a bilinear sampler",
        bilinear,
        (
            *numbers((3, 4, 5)),
            torch.tensor([[0.3, 0.6], [2.2, 3.1], [2.7, 3.4], [-0.4, 1.2], [1.5, 4.8], [5.2, 1.1]]).double(),
        ),
        bilinear_backward,
        {"overlaps overwritten": bilinear_overwritten, "rows for columns": bilinear_rows_for_columns},
    )
)
WORDS = torch.tensor([[3, 1, 3, 6], [0, 1, 2, 1], [5, 5, 0, 3]])


def bag(words, table, weights):
    return functional.embedding_bag(words, table, per_sample_weights=weights, mode="sum")


def bag_backward(grad_y, words, table, weights):
    rows = (weights.unsqueeze(-1) * grad_y.unsqueeze(1)).flatten(0, 1)
    grad_table = torch.zeros_like(table).index_add_(0, words.flatten(), rows)
    return None, grad_table, torch.einsum("bld,bd->bl", table[words], grad_y)


def bag_overwritten(grad_y, words, table, weights):
    grad_table = torch.zeros_like(table)
    grad_table[words] = weights.unsqueeze(-1) * grad_y.unsqueeze(1)
    return None, grad_table, torch.einsum("bld,bd->bl", table[words], grad_y)


def bag_unweighted(grad_y, words, table, weights):
    _, grad_table, grad_weights = bag_backward(grad_y, words, table, torch.ones_like(weights))
    return None, grad_table, grad_weights


INDICES.append(
    Module(
        "an embedding bag",
        bag,
        (WORDS, *numbers((7, 5), (3, 4))),
        bag_backward,
        {"repeated words overwritten": bag_overwritten, "weights forgotten": bag_unweighted},
    )
)
CHOSEN = 2  # experts for each token


def routed(x, gate):
    top = (x @ gate).topk(CHOSEN, -1)
    return top.values.softmax(-1), top.indices


def experts_of(x, gate, experts):
    p, chosen = routed(x, gate)
    return (p.unsqueeze(-1) * torch.einsum("nd,nkdo->nko", x, experts[chosen])).sum(1)


def experts_backward(grad_y, x, gate, experts):
    p, chosen = routed(x, gate)
    picked = experts[chosen]
    grad_p = torch.einsum("no,nd,nkdo->nk", grad_y, x, picked)
    grad_logits = x.new_zeros(len(x), gate.shape[1]).scatter_(1, chosen, through_softmax(grad_p, p))
    grad_out = p.unsqueeze(-1) * grad_y.unsqueeze(1)
    pairs = torch.einsum("nd,nko->nkdo", x, grad_out).flatten(0, 1)
    grad_experts = torch.zeros_like(experts).index_add_(0, chosen.flatten(), pairs)
    return torch.einsum("nko,nkdo->nd", grad_out, picked) + grad_logits @ gate.mT, x.mT @ grad_logits, grad_experts


def experts_without_the_gates_path(grad_y, x, gate, experts):
    _, grad_gate, grad_experts = experts_backward(grad_y, x, gate, experts)
    p, chosen = routed(x, gate)
    return torch.einsum("no,nkdo,nk->nd", grad_y, experts[chosen], p), grad_gate, grad_experts


def experts_overwritten(grad_y, x, gate, experts):
    grad_x, grad_gate, _ = experts_backward(grad_y, x, gate, experts)
    p, chosen = routed(x, gate)
    grad_experts = torch.zeros_like(experts)
    for k in range(CHOSEN):
        grad_experts[chosen[:, k]] = torch.einsum("nd,no->ndo", x, p[:, k, None] * grad_y)
    return grad_x, grad_gate, grad_experts


INDICES.append(
    Module(
        "a mixture of the top experts",
        experts_of,
        numbers((4, 3), (3, 5), (5, 3, 2)),
        experts_backward,
        {
            "gate's path to the input forgotten": experts_without_the_gates_path,
            "experts overwritten": experts_overwritten,
        },
    )
)
EDGES = torch.tensor([[0, 1, 2, 3, 1, 4, 0], [1, 0, 1, 1, 3, 3, 2]])


def degrees(x, edges):
    """Return how many edges arrive at each node, at least 1."""
    return torch.bincount(edges[1], minlength=len(x)).clamp(min=1).to(x.dtype).unsqueeze(-1)


def messages(x, edges, w):
    source, target = edges
    return torch.zeros_like(x @ w).index_add(0, target, (x @ w)[source]) / degrees(x, edges)


def messages_backward(grad_y, x, edges, w):
    source, target = edges
    shares = grad_y / degrees(x, edges)
    grad_sent = torch.zeros_like(shares).index_add_(0, source, shares[target])
    return grad_sent @ w.mT, None, x.mT @ grad_sent


def messages_summed(grad_y, x, edges, w):
    source, target = edges
    grad_sent = torch.zeros_like(grad_y).index_add_(0, source, grad_y[target])
    return grad_sent @ w.mT, None, x.mT @ grad_sent


def messages_by_source(grad_y, x, edges, w):
    source, target = edges
    grad_sent = torch.zeros_like(grad_y).index_add_(0, source, grad_y[target]) / degrees(x, edges.flip(0))
    return grad_sent @ w.mT, None, x.mT @ grad_sent


def messages_overwritten(grad_y, x, edges, w):
    source, target = edges
    grad_sent = torch.zeros_like(grad_y)
    grad_sent[source] = (grad_y / degrees(x, edges))[target]
    return grad_sent @ w.mT, None, x.mT @ grad_sent


INDICES.append(
    Module(
        "the mean of the messages along edges",
        messages,
        (*numbers((5, 3)), EDGES, *numbers((3, 4), seed=1)),
        messages_backward,
        {
            "sum in the place of the mean": messages_summed,
            "degree of the sources": messages_by_source,
            "overwritten where edges share a source": messages_overwritten,
        },
    )
)


def pooled(x, mask):
    kept = mask.unsqueeze(-1).to(x.dtype)
    return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


def pooled_backward(grad_y, x, mask):
    kept = mask.unsqueeze(-1).to(x.dtype)
    return (grad_y / kept.sum(1).clamp(min=1)).unsqueeze(1) * kept, None


def pooled_by_length(grad_y, x, mask):
    return (grad_y / x.shape[1]).unsqueeze(1) * mask.unsqueeze(-1), None


def pooled_unmasked(grad_y, x, mask):
    return (grad_y / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(1).expand_as(x).clone(), None


INDICES.append(
    Module(
        "the mean of masked positions",
        pooled,
        (*numbers((2, 5, 3)), torch.tensor([[True, True, False, False, True], [False, True, True, True, True]])),
        pooled_backward,
        {"divided by the length": pooled_by_length, "mask forgotten": pooled_unmasked},
    )
)
