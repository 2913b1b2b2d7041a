"""Equal numbers among which one is chosen: of such a tie each way to break it gives a derivative, and all are right.

A key for each number says how: of equal numbers the one with the larger key counts as the larger. What is computed then
is the function's gradient beside numbers that are moved a little, as exact as any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from backprop_rules.evidence.allowance.by_storage import ByStorage, place_of
from backprop_rules.subject.ambient import F64, inexact

aten = torch.ops.aten

# Windows of these overlap: an equal number may win in one and lose in the next.
OF_WINDOWS = {
    aten.cummax, aten.cummin, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d,
}  # fmt: skip
CHOOSING = {
    *OF_WINDOWS, aten.sort, aten.topk, aten.kthvalue, aten.median, aten.nanmedian, aten.max, aten.min, aten.amax,
    aten.amin, aten.argmax, aten.argmin, aten.aminmax,
}  # fmt: skip
# Of what is equal these choose one, and those share.
SHARED = {torch.max: torch.amax, Tensor.max: torch.amax, torch.min: torch.amin, Tensor.min: torch.amin}


@dataclass(frozen=True, eq=False)
class Choice:
    """Numbers among which was chosen, and which of them compete: a number for each group, None where groups overlap."""

    numbers: Tensor
    groups: Tensor | None


class Ties(TorchDispatchMode):
    """While it is entered, break ties by these keys, one for each choice of a run, in their order.

    Where there is no key it is as torch has it. Numbers with equal keys stay equal: they share, where what is chosen is
    an extreme. Of `whole` numbers ties are broken if so asked. A run leaves here its `leaves`, and its `choices`.
    """

    def __init__(self, keys: Sequence[Tensor] = (), whole: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keys, self._whole, self._sharing = keys, whole, _Sharing()
        self.leaves: Sequence[Any] = ()
        self.choices: list[Choice] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> "Ties":
        self.choices, self._extremes = [], ByStorage()
        self._sharing.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._sharing.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation; put what is chosen by ranks in the place of indices, and of masks of extremes."""
        named, packet = kwargs or {}, func.overloadpacket
        result = func(*args, **named)
        if packet in CHOOSING and not func._schema.is_mutable and (self._whole or inexact(args[0])) and args[0].numel():
            with torch._C._DisableTorchDispatch():
                self._choose(func, args, named, result)
        elif packet == aten.eq and self._extremes and torch._C._current_graph_task_id() >= 0:  # in a reverse pass
            with torch._C._DisableTorchDispatch():
                self._mask(args, result)
        return result

    def _choose(self, func: Any, args: Any, named: Any, result: Any) -> None:
        x, names = args[0], {argument.name: argument.default_value for argument in func._schema.arguments}
        dim: Any = {**names, **dict(zip(names, args, strict=False)), **named}.get("dim")
        own = func.overloadpacket in OF_WINDOWS
        key = self._keys[len(self.choices)] if len(self.choices) < len(self._keys) else None
        self.choices.append(Choice(x, None if own else _groups(x, dim)))
        if key is None or key.shape != x.shape or bool(x.isnan().any()):
            return
        by = ranks(x, key)
        chosen = _parts(func(by, *args[1:], **named))
        if func.overloadpacket == aten.topk and x.ndim:  # whose numbers come out in any order
            here, there = result[0].argsort(dim), chosen[0].argsort(dim)
            chosen = tuple(torch.empty_like(c).scatter_(dim, here, c.gather(dim, there)) for c in chosen)
        for y, other in zip(_parts(result), chosen, strict=True):
            if not inexact(other):
                y.copy_(other)
            elif inexact(y):
                self._extremes[y] = place_of(x), by, other

    def _mask(self, args: Any, mask: Tensor) -> None:
        a, b = args
        for x, y in ((a, b), (b, a)) if isinstance(b, Tensor) else ():
            place, by, extreme = self._extremes.get(y, (None, None, None))
            if by is not None and place == place_of(x) and extreme.numel() == y.numel():
                mask.copy_(by == extreme.reshape(y.shape))


class _Sharing(TorchFunctionMode):
    """Let the values of the largest along a dimension be those of `amax`, whose gradient can be shared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        made = func(*args, **named)
        if func not in SHARED or not isinstance(made, torch.return_types.max | torch.return_types.min):
            return made
        return type(made)((SHARED[func](*args, **named), made.indices))


def _parts(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _groups(x: Tensor, dim: Any) -> Tensor:
    """Return which numbers compete: those that differ in no other than these dimensions; all, of none."""
    dims = [d % max(1, x.ndim) for d in ([dim] if isinstance(dim, int) else dim or range(x.ndim))]
    kept = torch.Size(1 if k in dims else n for k, n in enumerate(x.shape))
    return torch.arange(kept.numel(), device=x.device).reshape(kept).expand(x.shape)


def in_order(*by: Tensor) -> Tensor:
    """Return the order of elements by the first of these, of equal ones by the second, and so on."""
    order = torch.arange(by[0].numel(), device=by[0].device)
    for x in reversed(by):
        order = order[x.reshape(-1)[order].argsort(stable=True)]
    return order


def steps(order: Tensor, *of: Tensor) -> Tensor:
    """Return a number for each element in an order, larger by one where it is another than the one before."""
    found = torch.zeros_like(order)
    for ordered in (x.reshape(-1)[order] for x in of):
        found[1:] |= ordered[1:] != ordered[:-1]
    return found.cumsum(0)


def ranks(x: Tensor, key: Tensor) -> Tensor:
    """Return numbers in the order of these, by their keys where they are equal."""
    order = in_order(x, key)
    found = torch.empty(x.numel(), dtype=x.dtype if inexact(x) else F64, device=x.device)
    found[order] = steps(order, x, key).to(found)
    return found.reshape(x.shape)
