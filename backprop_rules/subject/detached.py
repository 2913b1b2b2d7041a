"""A Function without some gradients: of primals that forward detaches too, or of outputs that it marks itself."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import Any

from torch import Tensor
from torch.utils import _pytree

from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.function import NoPoint, function_of


def detached_by(forward: Callable[..., Any], example: Sequence[Any], params: Mapping[str, Any]) -> frozenset[int]:
    """Return the places of the arrays of an example from which no derivative reaches y."""
    leaves, structure = _pytree.tree_flatten(tuple(example))
    if len(leaves) != len(example):
        return frozenset()
    try:
        return function_of(forward, structure, params).cut_off(leaves)
    except NoPoint:
        return frozenset()


def that_detaches(function: Any, places: Collection[int]) -> Any:
    """Return an autograd.Function that is applied with these arguments detached."""

    def apply(*given: Any) -> Any:
        return function.apply(*(x.detach() if k in places and inexact(x) else x for k, x in enumerate(given)))

    return type(function)(function.__name__, (function,), {"apply": staticmethod(apply)})


def with_outputs_detached(forward: Callable[..., Any], places: Collection[int]) -> Callable[..., Any]:
    """Return a function whose outputs in these places, of all tensors that it returns, are detached."""

    @wraps(forward)
    def without(*arguments: Any, **params: Any) -> Any:
        leaves, structure = _pytree.tree_flatten(forward(*arguments, **params))
        tensors = [k for k, y in enumerate(leaves) if isinstance(y, Tensor)]
        for k in places:
            leaves[tensors[k]] = leaves[tensors[k]].detach()
        return _pytree.tree_unflatten(leaves, structure)

    return without
