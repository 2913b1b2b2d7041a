"""The references of kernels that look up rows or pairs of rows: bags of embeddings, distances; and of weight norms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.fused import norm

aten = torch.ops.aten

SUM, MEAN = 0, 1


def _in_bags(indices: Tensor, offsets: Tensor, last: bool, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each index that counts its place, and its bag, and how many of these each bag has."""
    begin = offsets[:-1] if last else offsets
    bags = torch.bucketize(torch.arange(len(indices), device=indices.device), begin, right=True) - 1
    counts = indices != padding
    return torch.nonzero(counts).reshape(-1), bags[counts], torch.bincount(bags[counts], minlength=len(begin))


def bag(
    weight: Tensor, indices: Tensor, offsets: Tensor, by_frequency: bool = False, mode: int = SUM, sparse: bool = False,
    weights: Any = None, last: bool = False, padding: int = -1,
) -> tuple[Tensor, None, None, None]:  # fmt: skip
    """The sum or the mean of the rows of each bag."""
    if mode not in (SUM, MEAN):
        raise NotImplementedError("no formula for the rounding of the largest of a bag of embeddings")
    places, bags, sizes = _in_bags(indices, offsets, last, padding)
    rows = weight.index_select(0, indices[places])
    rows = rows if weights is None else rows * weights[places].unsqueeze(1)
    found = weight.new_zeros(len(sizes), weight.shape[1]).index_add(0, bags, rows)
    return found if mode == SUM else found / sizes.clamp_min(1).unsqueeze(1), None, None, None


def bag_backward(
    grad: Tensor, indices: Tensor, offsets: Tensor, _: Tensor, sizes: Tensor, largest: Tensor, count: int,
    by_frequency: bool, mode: int, sparse: bool, weights: Any = None, padding: int = -1,
) -> Tensor:  # fmt: skip
    """The cotangent of an index's bag, over its size for a mean, added to the index's row."""
    places, bags, _ = _in_bags(indices, offsets, len(offsets) > len(grad), padding)
    rows = grad.index_select(0, bags)
    rows = rows / sizes[bags].unsqueeze(1) if mode == MEAN else rows
    rows = rows if weights is None else rows * weights[places].unsqueeze(1)
    rows = rows / torch.bincount(indices)[indices[places]].unsqueeze(1) if by_frequency else rows
    return grad.new_zeros(count, grad.shape[1]).index_add(0, indices[places], rows)


def bag_weights_backward(
    grad: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor, _: Tensor, mode: int, padding: int = -1
) -> Tensor:
    """The inner product of an index's row with the cotangent of its bag."""
    places, bags, _ = _in_bags(indices, offsets, len(offsets) > len(grad), padding)
    products = grad.index_select(0, bags) * weight.index_select(0, indices[places])
    return grad.new_zeros(len(indices)).index_copy(0, places, products.sum(1))


def distances(a: Tensor, b: Tensor, p: float, mode: Any = None) -> Tensor:
    """The norm of the difference of each row of a and each of b."""
    return norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, [-1])


def euclidean(rounded: Callable[[Tensor], Tensor], whole: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The root of the product (-2 a, |a|^2, 1) (b, 1, |b|^2) of each row of a and each of b, 0 where that is below.

    Operands of products are `rounded`, and so are a and b; what stands beside them is taken as a `whole`, as it is.
    """
    a, b = rounded(a), rounded(b)
    ones = [torch.ones_like(x[..., :1]) for x in (a, b)]
    left = torch.cat([-2 * a, a.square().sum(-1, keepdim=True), ones[0]], -1)
    right = torch.cat([b, ones[1], b.square().sum(-1, keepdim=True)], -1)
    return (whole(left) @ whole(right).mT).clamp_min(0).sqrt()


def _of_norm(grad: Tensor, away: Tensor, p: float, size: Tensor) -> Tensor:
    """Return the gradient of a norm of differences: 0 where these are."""
    grad, size = grad.unsqueeze(-1), size.unsqueeze(-1)
    if p == 1:
        return grad * away.sign()
    if p == float("inf"):
        return grad * away.sign() * (away.abs() == size)
    share = away / size if p == 2 else away.sign() * (away.abs() / size).pow(p - 1)
    return torch.where(size == 0, 0.0, grad * share)


def distances_backward(grad: Tensor, a: Tensor, b: Tensor, p: float, size: Tensor) -> Tensor:
    """The gradients of the distances of a row of a, added up."""
    return _of_norm(grad, a.unsqueeze(-2) - b.unsqueeze(-3), p, size).sum(-2)


def _pairs(a: Tensor) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(len(a), len(a), 1, device=a.device)
    return first, second


def pair_distances(a: Tensor, p: float = 2) -> Tensor:
    """The norm of the difference of each two rows."""
    first, second = _pairs(a)
    return norm(a[first] - a[second], p, [-1])


def pair_distances_backward(grad: Tensor, a: Tensor, p: float, size: Tensor) -> Tensor:
    """The gradients of the distances of each row, added up."""
    first, second = _pairs(a)
    each = _of_norm(grad, a[first] - a[second], p, size)
    return torch.zeros_like(a).index_add(0, first, each).index_add(0, second, -each)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """V g over the norm of v, over all dimensions but one."""
    size = norm(v, 2, [k for k in range(v.ndim) if k != dim % v.ndim], True)
    return v * (g / size), size


def weight_norm_backward(grad: Tensor, v: Tensor, g: Tensor, size: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """With s = sum(grad v) / |v|: g / |v| (grad - v s / |v|), and s."""
    along = (grad * v).sum([k for k in range(v.ndim) if k != dim % v.ndim], keepdim=True) / size
    return g / size * (grad - v * (along / size)), along


REFERENCES: dict[Any, Callable[..., Any]] = {
    aten._embedding_bag: bag, aten._embedding_bag_forward_only: bag, aten._embedding_bag_backward: bag_backward,
    aten._embedding_bag_per_sample_weights_backward: bag_weights_backward,
    aten._cdist_forward: distances, aten._cdist_backward: distances_backward,
    aten._pdist_forward: pair_distances, aten._pdist_backward: pair_distances_backward,
    aten._weight_norm_interface: weight_norm, aten._weight_norm_interface_backward: weight_norm_backward,
}  # fmt: skip
