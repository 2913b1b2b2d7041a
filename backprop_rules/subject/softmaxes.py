"""Softmaxes in autograd's graph, torch's own and written out: where each backward takes the sum over p ⊙ p̄.

p = softmax(z)          p = e / Σ e          p = e (1 / Σ e)          p = exp(z - log Σ exp z)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# These move a tensor's numbers, all of them.
MOVED = {
    "AliasBackward0", "CloneBackward0", "PermuteBackward0", "SqueezeBackward1", "TransposeBackward0",
    "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
}  # fmt: skip
# Behind these the shares are moved, cast, or some of them multiplied or left out: the sum over p ⊙ p̄ is that over
# ȳ ⊙ y as before.
SHARES = MOVED - {"PermuteBackward0", "TransposeBackward0"} | {
    "CopySlices", "DivBackward0", "MaskedFillBackward0", "MulBackward0", "NanToNumBackward0", "SliceBackward0",
    "SplitBackward0", "SplitWithSizesBackward0", "WhereBackward0", "CastBackward",
}  # fmt: skip
LARGEST = {"AmaxBackward0", "MaxBackward0"}
# The same numbers, once or several times.
_SAME = MOVED | {"ExpandBackward0", "CastBackward"}
# What stands between the numbers and the sum of them: a small constant may be added, or be the least.
_OF_A_SUM = _SAME | {"AddBackward0", "ClampBackward1", "ClampMinBackward0"}


# By how much a gradient is smaller where the sum over p ⊙ p̄ of each softmax is larger by so much.
Less = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Softmax:
    """A softmax over the last axis: its shape, and where its backward has the sum over p ⊙ p̄: the k-th of some nodes.

    The scores may be shifted by their largest, of which a kernel knows that its gradient is 0, whatever the sum.
    """

    shape: torch.Size
    at: tuple[tuple[Any, int, Less], ...]

    @classmethod
    def of(cls, shape: torch.Size, scores: Any, node: Any, k: int, less: Less) -> "Softmax":
        """Return the softmax of scores that come along an edge."""
        shift = _shift(scores)
        return cls(shape, ((node, k, less), *(((shift, 1, lambda c: c),) if shift is not None else ())))


def softmax_behind(shares: Any) -> Softmax | None:
    """Return the softmax over the last axis whose shares these are, or some of each; None if they are not."""
    found = _nearest(shares.grad_fn) if isinstance(shares, Tensor) and shares.grad_fn is not None else None
    if found is None or found.shape[:-1].numel() != shares.shape[:-1].numel() or not shares.ndim:
        return None
    return found if shares.shape[-1] <= found.shape[-1] else None


def divided_by_its_sum(y: Any) -> Softmax | None:
    """Return the softmax of y = (e v) / Σ e, None where it is none of that form."""
    node: Any = y.grad_fn if isinstance(y, Tensor) else None
    if node is None or node.name() != "DivBackward0":
        return None
    (numerator, _), (divisor, _) = node.next_functions
    product = _through(numerator, _SAME)
    parts = [] if product is None or product.name() not in ("BmmBackward0", "MmBackward0") else product.next_functions
    summed = _summed(divisor)
    if summed is None or not parts or _source(parts[0]) != summed or node._saved_other.shape[-1] != 1:
        return None
    total = node._saved_other
    return Softmax.of(total.shape, _exponent(parts[0]), node, 1, lambda c: c / total)


def _nearest(node: Any) -> Softmax | None:
    """Return the nearest softmax that is behind a node, through what leaves its shares shares."""
    left, seen = [node], {node}
    for one in left:
        if one is None:
            continue
        found = _FORMS[one.name()](one) if one.name() in _FORMS else None
        if found is not None:
            return found
        if one.name() in SHARES:
            others = [other for other, _ in one.next_functions if other not in seen]
            left += others
            seen.update(others)
    return None


def _of_torch(node: Any) -> Softmax | None:
    """Return torch's own softmax, if it is over the last axis."""
    made, scores = node._saved_result, node.next_functions[0]
    over_the_last = _over_the_last(node._saved_dim, made.ndim)
    return Softmax.of(made.shape, scores, node, 0, lambda c: made * c) if over_the_last else None


def _over_the_last(axis: int, ndim: int) -> bool:
    return axis in (ndim - 1, 2**64 - 1)  # -1 comes back without its sign


def _divided(node: Any) -> Softmax | None:
    """Return e / Σ e."""
    first, (divisor, _) = node.next_functions
    summed = _summed(divisor)
    if summed is None or _source(first) != summed:
        return None
    shares, total = node._saved_self, node._saved_other
    alike = shares.shape[:-1] == total.shape[:-1] and total.shape[-1] == 1
    return Softmax.of(shares.shape, _exponent(first), node, 1, lambda c: c / total) if alike else None


def _multiplied(node: Any) -> Softmax | None:
    """Return e (1 / Σ e), in either order."""
    first, second = node.next_functions
    return _times_the_inverse(first, second[0], node._saved_self) or _times_the_inverse(
        second, first[0], node._saved_other
    )


def _times_the_inverse(numbers: Any, other: Any, shares: Any) -> Softmax | None:
    inverse = _through(other, _SAME | {"MulBackward0"})  # 1 / x is the reciprocal times 1
    if inverse is None or inverse.name() != "ReciprocalBackward0" or shares is None:
        return None
    summed, result = _summed(inverse.next_functions[0][0]), inverse._saved_result
    if summed is None or _source(numbers) != summed or result.numel() != shares.shape[:-1].numel():
        return None
    return Softmax.of(shares.shape, _exponent(numbers), inverse, 0, lambda c: c.reshape(result.shape) * result)


def _exponential(node: Any) -> Softmax | None:
    """Return exp(log_softmax(z)), or exp(z - logsumexp(z))."""
    shares, ((inner, _),) = node._saved_result, node.next_functions
    inner = _through(inner, MOVED - {"PermuteBackward0", "TransposeBackward0"} | {"CastBackward"})
    if inner is not None and inner.name() == "LogSoftmaxBackward0":
        own, scores = shares.reshape(inner._saved_result.shape), inner.next_functions[0]
        over_the_last = _over_the_last(inner._saved_dim, own.ndim)
        return Softmax.of(own.shape, scores, inner, 0, lambda c: own * c) if over_the_last else None
    scores = _less_their_own(inner, {"LogsumexpBackward0"})
    return None if scores is None else Softmax.of(shares.shape, scores, inner, 1, lambda c: c)


def _exponent(edge: Any) -> Any:
    """Return where the exponents come from, (None, 0) where the numbers are no exponentials as they are."""
    node, _ = _source(edge)
    return node.next_functions[0] if node is not None and node.name() == "ExpBackward0" else (None, 0)


def _shift(edge: Any) -> Any:
    """Return the node that takes the largest score of each softmax from the scores, None if there is none."""
    node, _ = _source(edge)
    return node if _less_their_own(node, LARGEST) is not None else None


def _less_their_own(node: Any, reduction: set[str]) -> Any:
    """Return where the scores come from of which a node takes their own reduction, None if it takes none such."""
    if node is None or node.name() != "SubBackward0" or node._saved_alpha != 1:
        return None
    first, (second, _) = node.next_functions
    return first if _source(first) == _reduced(second, reduction) else None


def _through(node: Any, names: set[str]) -> Any:
    """Return the nearest node behind one that has none of these names."""
    while node is not None and node.name() in names:
        node = node.next_functions[0][0]
    return node


def _source(edge: Any) -> Any:
    """Return where the numbers come from that autograd gives on along an edge."""
    node, place = edge
    while node is not None and node.name() in _SAME:
        node, place = node.next_functions[0]
    return node, place


def _summed(node: Any) -> Any:
    """Return where the numbers come from of which a divisor is the sum over the last axis, None if it is no sum."""
    return _reduced(_through(node, _OF_A_SUM), {"SumBackward1"})


def _reduced(node: Any, names: set[str]) -> Any:
    """Return where the numbers come from that are reduced over the last axis alone, None if they are not."""
    node = _through(node, _SAME)
    if node is None or node.name() not in names:
        return None
    axes = node._saved_dim if isinstance(node._saved_dim, tuple) else (node._saved_dim,)
    sizes = node._saved_self_sym_sizes if hasattr(node, "_saved_self_sym_sizes") else node._saved_self.shape
    return _source(node.next_functions[0]) if len(axes) == 1 and _over_the_last(axes[0], len(sizes)) else None


_FORMS: dict[str, Callable[[Any], Softmax | None]] = {
    "SoftmaxBackward0": _of_torch, "SafeSoftmaxBackward0": _of_torch, "DivBackward0": _divided,
    "MulBackward0": _multiplied, "ExpBackward0": _exponential,
}  # fmt: skip
