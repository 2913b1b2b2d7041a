"""The mode that sees to what `Exactly` does not see, or sees too late."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from backprop_rules.evidence.proof.translate.arguments import inexact, mapped, refusal, tensors, wide
from backprop_rules.evidence.proof.translate.mode import Exactly

aten = torch.ops.aten

OUTLETS = {
    Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.data_ptr, Tensor.__dlpack__, Tensor.new_tensor, torch.tensor,
}  # fmt: skip


class Outlets(TorchFunctionMode):
    """While it is entered, see to what `Exactly` does not see, or sees too late.

    That is what takes values out of a tensor past torch's operations, and what torch makes of others with a
    constant that it rounds.
    """

    def __init__(self, mode: Exactly) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        named = kwargs or {}
        held = any(self._mode.holds(x) for x in tensors([*args, *named.values()]))
        if held and func in OUTLETS:
            raise refusal(f"it takes values out of a tensor by {func.__name__}")
        if func is functional.rms_norm and named.get("eps", args[3] if len(args) > 3 else None) is None:
            raise refusal("without its eps rms_norm takes one that depends on the dtype")
        if held and func is functional.scaled_dot_product_attention:
            return self._mode.whole(aten.scaled_dot_product_attention.default, args, named)
        if held and not func.__name__.endswith("_"):  # nothing is written
            # Some operations mix no dtypes, and those of the constants need not be the primals'.
            args, named = mapped(self._widened, args), {name: mapped(self._widened, x) for name, x in named.items()}
        return func(*args, **named)

    def _widened(self, x: Tensor) -> Tensor:
        return x if self._mode.holds(x) or not inexact(x) else wide(x)
