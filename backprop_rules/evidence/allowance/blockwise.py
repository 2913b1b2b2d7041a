"""Radii that are computed block by block, in the processor's cache, where an operation is separate along some axes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.allowance.blocks import BLOCK, blocks, cut_in, part_of, separate
from backprop_rules.evidence.allowance.by_storage import ByStorage
from backprop_rules.evidence.allowance.mode import RunningError
from backprop_rules.subject.ambient import F64

aten = torch.ops.aten


class Blockwise(RunningError):
    """While it is entered, keep a radius beside every tensor: of large ones block by block."""

    _in_a_block = False

    def _of_torchs_kernel(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the radius of an operation's result, all at once."""
        return super()._radius_of(func, result, args, named)

    def _is_one(self, func: Any, args: Any) -> bool:
        """Say whether a result is one, whatever its size: what is chosen on the way is known of the whole alone."""
        return self.choices.concern(args)

    def _blockwise(self, func: Any, result: Any, args: Any, named: Any) -> Any:
        """Return the same, block by block where the result is large, and made so."""
        first = result[0] if isinstance(result, tuple) else result
        large = isinstance(first, Tensor) and first.numel() > BLOCK and not named
        axes = separate(func, first, args) if large and not self._is_one(func, args) else 0
        if not axes:
            return self._of_torchs_kernel(func, result, args, named)
        if func.overloadpacket == aten.native_layer_norm_backward:
            return self._rows_and_sums(func, result, args, axes)
        return self._in_blocks(func, result, args, axes)

    def _rows_and_sums(self, func: Any, result: Any, args: Any, axes: int) -> Any:
        """Return the radii of a gradient that is separate in its rows, and of those that are sums over them."""
        *given, mask = args
        rows = self._in_blocks(func, (result[0], None, None), (*given, [mask[0], False, False]), axes)
        return [rows[0], *self._sums_of_columns(func, result[1:], (*given, [False, *mask[1:]]))]

    def _sums_of_columns(self, func: Any, results: Any, args: Any) -> list[Any]:
        """Return the radii of a layer norm's gradients that are sums over its rows, some columns at a time."""
        grad, a, shape, mean, rstd, _, _, mask = args
        if len(shape) > 1:
            return list(self._of_torchs_kernel(func, (None, *results), args, {})[1:])
        self._in_a_block, step = True, max(1, BLOCK // mean.numel())
        found: list[list[Any]] = [[], []]
        known = [self._radius(x) for x in (grad, a, mean, rstd)]
        for k in range(0, a.shape[-1], step):
            columns = (..., slice(k, k + step))
            here = [None if y is None else y[columns] for y in results]
            part = (grad[columns], a[columns], [a[columns].shape[-1]], mean, rstd)
            radii = [None if radius is None else radius[columns] for radius in known[:2]]
            with self._knowing(part, (*radii, None, *known[2:])):
                made = self._of_torchs_kernel(func, (None, *here), (*part, None, None, mask), {})
            for y, radius, parts in zip(here, made[1:], found, strict=True):
                parts.append(torch.zeros_like(y) if radius is None and y is not None else radius)
        self._in_a_block = False
        return [
            None if parts[0] is None else self.settled(y, torch.cat(parts))
            for y, parts in zip(results, found, strict=True)
        ]

    def _in_blocks(self, func: Any, result: Any, args: Any, axes: int) -> Any:
        several = isinstance(result, tuple)
        results = result if several else (result,)
        shape = results[0].shape
        found = [None if y is None else torch.empty(y.shape, dtype=F64, device=y.device) for y in results]
        off = [False] * len(results)
        radii = [self._radius(x) for x in args]
        self._in_a_block, cut = True, cut_in(func, args)
        for block in blocks(shape, axes):
            parts, known = (
                [part_of(x, shape, block, axes) if k in cut else x for k, x in enumerate(those)]
                for those in (args, radii)
            )
            here = tuple(part_of(y, shape, block, axes) for y in results)
            with self._knowing(parts, known):
                made = self._of_torchs_kernel(func, here if several else here[0], tuple(parts), {})
            several_made = (made or [None] * len(results)) if several else (made,)
            for k, (whole, radius) in enumerate(zip(found, several_made, strict=True)):
                if whole is not None:
                    part = part_of(whole, shape, block, axes)
                    part.zero_() if radius is None else part.copy_(radius)
                    off[k] = off[k] or radius is not None
        self._in_a_block = False
        found = [whole if any_off else None for whole, any_off in zip(found, off, strict=True)]
        return found if several else found[0]

    @contextmanager
    def _knowing(self, parts: Sequence[Any], radii: Sequence[Tensor | None]) -> Iterator[None]:
        """Until the end of the block, know the radii of these parts of tensors alone."""
        before, self._radii = self._radii, ByStorage()
        for part, radius in zip(parts, radii, strict=True):
            if radius is not None:
                self.keep(part, radius)
        try:
            yield
        finally:
            self._radii = before
