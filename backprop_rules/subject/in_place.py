"""What is written into a tensor from operands of other dtypes: autograd casts each gradient to its operand's own."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

if TYPE_CHECKING:
    from backprop_rules.subject.ambient import Shadow


IN_PLACE = ("__setitem__", *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "mod")))


@cache
def in_place(func: Any) -> bool:
    """Say whether a function of torch writes into its first argument, by the name that torch gives such."""
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE


def written(call: Callable[[], Any], into: Tensor, operands: list[Tensor], shadow: "Shadow") -> Any:
    """Call what writes into a tensor, and have the gradients cast back to the dtypes of those operands."""
    if not torch.is_grad_enabled() or len({shadow.dtype_of(x) for x in operands}) < 2:
        return call()
    whole = into if into._base is None else into._base
    back: dict[Any, torch.dtype] = {
        tuple(get_gradient_edge(x)[:2]): shadow.dtype_of(x) for x in (whole, *operands) if x.requires_grad
    }
    made = call()
    node = whole.grad_fn
    if node is not None:
        to = [back.get(tuple(edge)) for edge in node.next_functions]

        def cast(gradients: tuple[Any, ...], _: Any) -> tuple[Any, ...]:
            pairs = zip(gradients, to, strict=True)
            return tuple(shadow.cast(g, own) if own and isinstance(g, Tensor) else g for g, own in pairs)

        node.register_hook(cast)
    return made
