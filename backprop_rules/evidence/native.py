"""The evidence of a point in other dtypes than two precisions to compare: as a program calls the backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence, filled
from backprop_rules.strategies.values import cast_like, in_dtypes
from backprop_rules.subject.ambient import Ambient, inexact
from backprop_rules.subject.function import Cotangents, Gradients, Outputs


@dataclass(frozen=True, eq=False)
class Native(Evidence):
    """The backward's gradients and torch's in these dtypes, on a device; NoPoint where forward does not take them.

    On meta, where there are no numbers, torch's gradients have the form of the leaves, and forward is enough.
    """

    dtypes: Sequence[torch.dtype | None] = ()
    device: str = "cpu"

    @cached_property
    def _torchs(self) -> tuple[Gradients, tuple[Sequence[Any], Cotangents]]:
        leaves = [x.to(self.device) if isinstance(x, Tensor) else x for x in in_dtypes(self.point.leaves, self.dtypes)]
        given = tuple(x.detach() if isinstance(x, Tensor) else x for x in leaves)

        def grads(y: Outputs) -> Cotangents:
            return tuple(map(cast_like, self.point.grads, y))

        if self.device == "meta":
            return tuple(x if inexact(x) else None for x in given), (given, grads(self.function.y(given, None)))
        run, own = self.function.run(given, grads, None)
        return filled(run.gradients, given), (given, own)

    @property
    def gradients_here(self) -> Gradients:
        """Torch's gradients, in these dtypes as well."""
        return self._torchs[0]

    @property
    def given(self) -> tuple[Sequence[Any], Cotangents]:
        """The primals in these dtypes, and the cotangents in those of the outputs."""
        return self._torchs[1]

    @property
    def y(self) -> None:
        """The call makes the outputs."""

    @property
    def ambient(self) -> Ambient | None:
        """No precision: it is called as it is."""
        return None

    def asked(
        self,
        leaves: Sequence[Any],
        grads: Cotangents,
        dtype: torch.dtype | None = None,
        remembers: bool = False,
        y: Outputs | None = None,
        **how: Any,
    ) -> tuple[Any, ...]:
        """Return what the backward returns for these very tensors."""
        return self.subject.backward(self.function, tuple(grads), y, tuple(leaves), None, whole=True, **how)
