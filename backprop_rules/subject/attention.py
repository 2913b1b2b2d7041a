"""Attention as fused kernels compute it, in the place of torch's own steps and where it is written out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from backprop_rules.domain import precision
from backprop_rules.subject.softmaxes import MOVED, Less, Softmax, divided_by_its_sum, softmax_behind

if TYPE_CHECKING:
    from backprop_rules.subject.ambient import Shadow

PRODUCTS = {
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm, torch.einsum,
    functional.linear, torch.baddbmm,
}  # fmt: skip
# More than float64 rounds in the sums of a product; where it rounds more, what is lost counts as a whole.
ROUNDING = 2.0**-40
QUOTIENTS = {torch.div, torch.true_divide, Tensor.div, Tensor.true_divide, Tensor.__truediv__}
MADE_BY = PRODUCTS | QUOTIENTS


def _opened(func: Any) -> FunctionType:
    """Return a function of torch's that is written in Python, as one that nobody overrides: its steps are seen."""
    known = {**func.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(func.__code__, known, func.__name__, func.__defaults__, func.__closure__)


OPENED = {functional.multi_head_attention_forward: _opened(functional.multi_head_attention_forward)}


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
    multiplied: Callable[[Tensor, Softmax, Tensor, Callable[[Tensor], Tensor]], None],
    again: bool = False,
) -> Tensor:
    r"""Return softmax(s q kᵀ + m) v, with the arguments of torch's `scaled_dot_product_attention`.

    $$z = s\, q k^\top + m, \qquad p = \operatorname{softmax}(z), \qquad y = p v, \qquad
      \bar z = p \odot (\bar p - \textstyle\sum \bar y \odot y)$$

    The product is scaled, not its operands: q √s would be rounded anew to the dtype of products. On the way back it is
    taken `again`, and rounds otherwise. `multiplied` is told of y and of the softmax, as Σ p ⊙ p̄ is Σ ȳ ⊙ y.

    Source: Dao, FlashAttention-2, 2023, algorithm 2. Raises ValueError for a mask and `is_causal` at once.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention takes attn_mask or is_causal, and not both")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = products = query @ key.mT * factor
    attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril() if is_causal else attn_mask
    if attn_mask is not None:
        scores = scores + attn_mask if attn_mask.dtype != torch.bool else scores.masked_fill(~attn_mask, -torch.inf)
    shares = torch._safe_softmax(scores, -1)  # 0 where nothing may be seen
    shares = shares * (1 + (query @ key.mT * factor - products)) if again else shares
    kept = functional.dropout(shares, dropout_p) if dropout_p else shares
    y, softmax = kept @ value, softmax_behind(shares)
    assert softmax is not None or not scores.requires_grad
    if softmax is not None:
        multiplied(y, softmax, kept, lambda p: p @ value)
    return y


def _sums(x: Tensor) -> Tensor:
    return x.sum(-1)


@dataclass(frozen=True, eq=False)
class _Product:
    """A product softmax(z) v, the softmax, and what sums over ȳ ⊙ y, to a number for each softmax.

    `shares` are p as they are multiplied, and `again` makes the product of others and of v; None where it is divided.
    """

    y: Tensor
    softmax: Softmax
    sums: Callable[[Tensor], Tensor] = _sums
    shares: Tensor | None = None
    again: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Lost:
    """What storing a product loses: zeros that are off by it as a `whole`.

    Or `apart` by that and its own sums alone, and `of_shares` by what the shares lose before.
    """

    whole: Tensor
    apart: Tensor | None = None
    of_shares: Tensor | None = None


class Attentions:
    """The products softmax(z) v of a run, and what storing one loses of its softmax's backward, until it `ends`."""

    def __init__(self) -> None:
        self._products: dict[Any, tuple[_Product, torch.dtype]] = {}  # by the node that made them; as they are stored
        self._hooks: list[Any] = []

    def ends(self) -> None:
        """Let go of what no reverse pass has met."""
        for hook in self._hooks:
            hook.remove()
        self._products, self._hooks = {}, []

    def multiplied(self, func: Any, args: Any, named: Any, y: Any, shadow: "Shadow") -> None:
        """Take note of a product, which is stored, if it is one of a softmax."""
        product = _product(func, args, named, y) if isinstance(y, Tensor) and y.requires_grad else None
        if product is not None:
            self.stored(product, shadow.dtype_of(y), shadow)

    def of(
        self, y: Tensor, softmax: Softmax, shares: Tensor, again: Callable[[Tensor], Tensor], dtype: torch.dtype,
        shadow: "Shadow",
    ) -> None:  # fmt: skip
        """Take note of a product with a softmax, that is stored in a dtype."""
        self.stored(_Product(y, softmax, shares=shares, again=again), dtype, shadow)

    def cast(self, x: Tensor, dtype: torch.dtype, shadow: "Shadow") -> None:
        """Take note of a cast: where it is of such a product as a whole, that is what is stored."""
        node: Any = x.grad_fn if self._products else None
        while node is not None and node not in self._products and node.name() in MOVED:
            node = node.next_functions[0][0]
        product, stored = self._products.get(node, (None, dtype))
        if product is not None and precision(dtype) < precision(stored):
            self.stored(product, dtype, shadow)

    def stored(self, product: _Product, dtype: torch.dtype, shadow: "Shadow") -> None:
        """Let the reverse pass, the first alone, take Σ ȳ ⊙ off from the sum over p ⊙ p̄: 0, as `off` is."""
        self._products[product.y.grad_fn] = product, dtype
        lost = shadow.lost_of_product(product.y, product.shares, product.again, dtype)
        if lost is None:
            return
        softmax, met, met_shares = product.softmax, list[Tensor](), list[Tensor]()

        def gradient(n: int, k: int, less: Less, grads: tuple[Any, ...], _: Any) -> tuple[Any, ...] | None:
            for hook in (*hooks[:own], hooks[n]):
                hook.remove()
            sums = None if not met or grads[k] is None else _off_by(product, lost, met[-1], met_shares)
            if sums is None or (taken := less(sums)).numel() != grads[k].numel():  # several share a softmax
                return None
            return (*grads[:k], grads[k] - taken.reshape(grads[k].shape), *grads[k + 1 :])

        hooks = [product.y.register_hook(met.append)]
        if lost.of_shares is not None and product.shares is not None:
            hooks.append(product.shares.register_hook(met_shares.append))
        own = len(hooks)
        for n, (node, k, less) in enumerate(softmax.at, own):
            hooks.append(node.register_hook(partial(gradient, n, k, less)))
        self._hooks += hooks


def _off_by(product: _Product, lost: Lost, met: Tensor, met_shares: Sequence[Tensor]) -> Tensor | None:
    """Return by how much the sum over ȳ ⊙ y is off, for each softmax: 0, as far as that may be."""
    rows = product.softmax.shape[:-1]
    together = lost.apart is not None and met_shares and _are_of_it_alone(product, met, met_shares[-1])
    sums = product.sums(met * (lost.apart if together and lost.apart is not None else lost.whole))
    if sums.numel() != rows.numel():
        return None
    if together and lost.of_shares is not None:
        sums = sums.reshape(-1) + (met_shares[-1] * lost.of_shares).sum(-1).reshape(-1)
    return sums.reshape(*rows, 1)


def _are_of_it_alone(product: _Product, met: Tensor, met_shares: Tensor) -> bool:
    """Say whether nothing else uses the shares: the sum over p ⊙ p̄ is that over ȳ ⊙ y then, as float64 rounds."""
    assert product.shares is not None
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        each, of_y = product.shares * met_shares, product.sums(met * product.y)
        off, size = (each.sum(-1).reshape(-1) - of_y.reshape(-1)).abs(), each.abs().sum(-1).reshape(-1)
        return bool((off <= size * ROUNDING).all())


def _product(func: Any, args: Any, named: Any, y: Tensor) -> _Product | None:
    """Return the product that a function makes of a softmax over the axis that is summed, None if it makes none."""
    if func is torch.einsum:
        return _by_einsum(y, *args)
    if func in QUOTIENTS:
        softmax = divided_by_its_sum(y)
        return None if softmax is None else _Product(y, softmax)
    if func is torch.baddbmm and (len(args) < 2 or named.get("beta") != 0):
        return None
    shares = args[func is torch.baddbmm] if args else named.get("input")
    softmax = softmax_behind(shares)
    if softmax is None or y.shape[:-1] != shares.shape[:-1]:
        return None
    p = int(func is torch.baddbmm)

    def again(x: Tensor) -> Tensor:
        made: Tensor = func(*args[:p], x, *args[p + 1 :], **{k: v for k, v in named.items() if v is not shares})
        return made

    return _Product(y, softmax, shares=shares, again=again if args else None)


def _by_einsum(y: Tensor, equation: Any = "", *operands: Any) -> _Product | None:
    """Return the product where one of two operands is a softmax whose other axes are all kept."""
    names, _, made = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    axes = names.split(",")
    if len(given) != 2 or len(axes) != 2 or not made:
        return None
    axes, made = [_named(its, x.ndim) for x, its in zip(given, axes, strict=True)], _named(made, y.ndim)
    sizes = dict(zip(made, y.shape, strict=True))
    for x, its in zip(given, axes, strict=True):
        softmax = softmax_behind(x) if its and its[-1] not in made else None
        if softmax is not None and [sizes.get(axis) for axis in its[:-1]] == [*x.shape[:-1]]:
            sums = partial(torch.einsum, f"{made}->{its[:-1]}")

            def again(p: Tensor, x: Tensor = x) -> Tensor:
                return torch.einsum(equation, *(p if other is x else other for other in given))

            return _Product(y, softmax, sums, x, again)
    return None


def _named(axes: str, count: int) -> str:
    """Return the names of so many axes, capital letters for those that dots stand for."""
    own = len(axes.replace("...", ""))
    return axes.replace("...", ascii_uppercase[max(0, 26 - (count - own)) :])
