"""What a forward reads beside its primals: sizes that belong to such constants are no free sizes."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from backprop_rules.subject.ambient import running, tensors_in
from backprop_rules.subject.function import Function, NoPoint, cloned, live_ones


@dataclass(frozen=True)
class Constants:
    """What is known of a forward's constants: the sizes that they fix, and how much is read.

    `largest` has the largest number of each array of whole ones, which may be lengths or indices; `checked` says
    whether all operations that are given such ones check them. `cut_off` are the leaves from which no derivative comes,
    as forward detaches them, and `kept` those of these that keep the example's numbers: masks, classes, shares.
    `padding` has the rows of leaves that an embedding gives no gradient to, as torch says it: (leaf, row).

    Some operations of torch read and write past the end of what is too short, such as running statistics of a norm, or
    labels beyond the classes: there an axis of another size is no error, but memory that is somebody else's.
    """

    sizes: frozenset[int] = frozenset()
    largest: frozenset[int] = frozenset()
    read: int = 0  # elements, of constants and all else, in one run
    held: int = 0  # elements of constants
    checked: bool = False
    cut_off: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()
    padding: frozenset[tuple[int, int]] = frozenset()

    def allow(self, before: int, after: int) -> bool:
        """Say whether a size may be changed: it is no constant's, and what points into it still does."""
        if before == after:
            return True
        if before in self.sizes:
            return False
        return all(before < most or after >= min(before, most + 1) for most in self.largest)


NONE = Constants()

# What is given whole numbers and reads no memory that is not its own, whatever these are: it compares, counts, moves,
# or looks up with a check of bounds.
CHECKED = frozenset((
    "lt", "le", "gt", "ge", "eq", "ne", "add", "radd", "sub", "rsub", "mul", "rmul", "neg", "invert", "and",
    "or", "bool", "clamp", "minimum", "maximum", "max", "min", "amax", "amin", "sum", "cumsum", "diff",
    "unique", "where", "isin", "getitem", "index_select", "gather", "take", "take_along_dim", "embedding",
    "one_hot", "scatter", "scatter_add", "index_add", "cross_entropy", "nll_loss", "masked_fill", "view",
    "reshape", "flatten", "unsqueeze", "squeeze", "expand", "repeat", "t", "to", "long", "int", "float",
    "double", "clone", "detach", "type", "tolist", "item", "index", "len", "size", "dim", "numel", "div",
    "truediv", "floordiv", "rtruediv", "arange", "zeros_like", "ones_like", "split", "chunk", "unbind", "iter",
    "stack", "cat", "sort", "argsort", "flip", "logical_and", "logical_or", "logical_not", "any", "all", "get",
    "T", "mT", "pow", "sqrt",
))  # fmt: skip


class _Watching(TorchFunctionMode):
    def __init__(self, leaves: Sequence[Any]) -> None:
        super().__init__()
        self._places = {id(x): k for k, x in enumerate(leaves) if isinstance(x, Tensor)}
        self.known = set(self._places)
        self.padding: set[tuple[int, int]] = set()
        self.found: dict[int, Tensor] = {}
        self._kept: list[Any] = []
        self.read = 0
        self.checked = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        for x in tensors_in((args, named)):
            self.read += x.numel()
            self.checked = self.checked and (not _is_whole(x) or func.__name__.strip("_") in CHECKED)
            if id(x) not in self.known:
                self.found[id(x)] = x
        if func is embedding and named.get("padding_idx") is not None and id(args[1]) in self._places:
            self.padding.add((self._places[id(args[1])], named["padding_idx"]))
        result = func(*args, **named)
        self._kept.append(result)  # so that no other tensor comes to have the same id
        self.known |= {id(y) for y in tensors_in(result)}
        return result


def constants_of(function: Function, leaves: Sequence[Any]) -> Constants:
    """Return what a run of the forward reads beside the leaves; nothing where it raises."""
    leaves = live_ones(cloned(leaves)) if function.differentiates else cloned(leaves)
    with running(None), torch.set_grad_enabled(function.differentiates), _Watching(leaves) as watching:
        try:
            function.outputs(leaves, nullcontext())
        except NoPoint:  # it is refused in words elsewhere
            return Constants()
    found = list(watching.found.values())
    whole = [*(x for x in found if _is_whole(x)), *(x for x in leaves if _is_whole(x))]
    sizes = {n for x in found if x.dim() == 1 or _is_whole(x) for n in x.shape if n > 1}
    held = sum(x.numel() for x in found)
    largest, padding = frozenset(map(_largest, whole)) - {-1}, frozenset(watching.padding)
    return Constants(frozenset(sizes), largest, watching.read, held, watching.checked, padding=padding)


def _is_whole(x: Any) -> bool:
    return isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()) and x.dtype != torch.bool


def _largest(x: Tensor) -> int:
    return int(x.max()) if x.numel() and x.device.type != "meta" else -1
