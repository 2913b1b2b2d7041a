"""Attention as fused kernels compute it, in the place of torch's own steps."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


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
    off = lost(y) if scores.requires_grad else None
    if off is not None:
        _go_back_by_what_is_stored(scores, shares, y, off)
    return y


def _go_back_by_what_is_stored(scores: Tensor, shares: Tensor, y: Tensor, off: Tensor) -> None:
    """Let the reverse pass, the first alone, add p ⊙ Σ ȳ ⊙ off to the gradient of the scores: 0, as `off` is."""
    met: list[Tensor] = []

    def gradient(grad: Tensor) -> Tensor:
        for hook in hooks:
            hook.remove()
        return grad - shares * (met[-1] * off).sum(-1, keepdim=True)

    hooks = [y.register_hook(met.append), scores.register_hook(gradient)]
