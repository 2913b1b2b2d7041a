"""Attention as fused kernels compute it, in the place of torch's own steps and where it is written out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from backprop_rules.domain import precision

PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum}
SOFTMAXES = {"SoftmaxBackward0", "SafeSoftmaxBackward0"}
# Behind these the shares are cast, or some of them multiplied: the sum over p ⊙ p̄ is that over ȳ ⊙ y as before.
SHARES = {
    "AliasBackward0", "CloneBackward0", "DivBackward0", "ExpandBackward0", "MaskedFillBackward0", "MulBackward0",
    "SqueezeBackward1", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0", "WhereBackward0",
    "_CastBackward",
}  # fmt: skip


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    lost: Callable[[Tensor], Tensor | None],
) -> Tensor:
    r"""Return softmax(s q kᵀ + m) v, with the arguments of torch's `scaled_dot_product_attention`.

    $$z = s\, q k^\top + m, \qquad p = \operatorname{softmax}(z), \qquad y = p v, \qquad
      \bar z = p \odot (\bar p - \textstyle\sum \bar y \odot y)$$

    The product is scaled, and not its operands: q √s and k √s would be rounded anew to the dtype in which products are
    taken. The sum over p ⊙ p̄ of a softmax's backward is that over ȳ ⊙ y, of which storing has `lost` something.

    Source: Dao, FlashAttention-2, 2023, algorithm 2. Raises ValueError for a mask and `is_causal` at once.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention takes attn_mask or is_causal, and not both")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        is_mask = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if is_mask else scores + attn_mask
    shares = torch._safe_softmax(scores, -1)  # 0 where nothing may be seen
    kept = functional.dropout(shares, dropout_p) if dropout_p else shares
    y = kept @ value
    if scores.requires_grad:
        _Product(y, shares.grad_fn, _sums).goes_back_by_what_is_stored(lost(y))
    return y


class Stored(Protocol):
    """What knows the dtypes that tensors have in their own run, and by how much one that is stored so is off."""

    def dtype_of(self, x: Tensor) -> torch.dtype:
        """Return the dtype of a tensor."""

    def lost(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return by how much x is off, stored in a dtype; None where it is not stored anew."""


def _sums(x: Tensor) -> Tensor:
    return x.sum(-1)


@dataclass(frozen=True, eq=False)
class _Product:
    """A product softmax(z) v, the node of the softmax, and what sums over ȳ ⊙ y, to a number for each softmax."""

    y: Tensor
    softmax: Any
    sums: Callable[[Tensor], Tensor]

    def goes_back_by_what_is_stored(self, off: Tensor | None) -> None:
        """Let the reverse pass, the first alone, add p ⊙ Σ ȳ ⊙ off to the gradient of the scores: 0, as `off` is."""
        if off is None:
            return
        shares, met = self.softmax._saved_result, list[Tensor]()

        def gradient(grads: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...] | None:
            for hook in hooks:
                hook.remove()
            if not met:
                return None
            return (grads[0] - shares * self.sums(met[-1] * off).reshape(*shares.shape[:-1], 1),)

        hooks = [self.y.register_hook(met.append), self.softmax.register_hook(gradient)]


class Attentions:
    """The products softmax(z) v of a run in which they are written out."""

    def __init__(self) -> None:
        self._products: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by storage

    def multiplied(self, func: Any, args: Any, y: Any, shadow: Stored) -> None:
        """Take note of a product, which is stored, if it is one of a softmax."""
        product = _product(func, args, y) if isinstance(y, Tensor) and y.requires_grad else None
        if product is not None:
            self._products[y.untyped_storage()] = product
            product.goes_back_by_what_is_stored(shadow.lost(y, shadow.dtype_of(y)))

    def cast(self, x: Tensor, dtype: torch.dtype, shadow: Stored) -> None:
        """Take note of a cast: where it is of such a product, that is what is stored."""
        product = self._products.get(x.untyped_storage()) if self._products.data else None
        if product is not None and precision(dtype) < precision(shadow.dtype_of(product.y)):
            product.goes_back_by_what_is_stored(shadow.lost(product.y, dtype))


def _product(func: Any, args: Any, y: Tensor) -> _Product | None:
    """Return the product that a function makes of a softmax over the axis that is summed, None if it makes none."""
    if func is torch.einsum:
        return _by_einsum(y, *args)
    softmax = _softmax_behind(args[0])
    return _Product(y, softmax, _sums) if softmax is not None and y.shape[:-1] == args[0].shape[:-1] else None


def _by_einsum(y: Tensor, equation: Any, *operands: Any) -> _Product | None:
    """Return the product where one of two operands is a softmax whose other axes are all kept."""
    names, _, made = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    axes = names.split(",")
    if len(given) != 2 or len(axes) != 2 or "." in names or not made:
        return None
    sizes = dict(zip(made, y.shape, strict=True))
    for x, its in zip(given, axes, strict=True):
        softmax = _softmax_behind(x) if its and its[-1] not in made else None
        if softmax is not None and [sizes.get(axis) for axis in its[:-1]] == [*x.shape[:-1]]:
            return _Product(y, softmax, partial(torch.einsum, f"{made}->{its[:-1]}"))
    return None


def _softmax_behind(shares: Any) -> Any:
    """Return the node of the softmax over the last axis whose shares these are, None if they are not."""
    node: Any = shares.grad_fn if isinstance(shares, Tensor) else None
    while node is not None and node.name() in SHARES:
        node = node.next_functions[0][0]
    if node is None or node.name() not in SOFTMAXES:
        return None
    made = node._saved_result
    over_the_last = node._saved_dim in (made.ndim - 1, 2**64 - 1)  # -1 comes back without its sign
    alike = made.numel() == shares.numel() and made.shape[-1:] == shares.shape[-1:]
    return node if over_the_last and alike else None
