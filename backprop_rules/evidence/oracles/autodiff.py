"""Torch's automatic differentiation of the forward, in reverse and in forward mode: two witnesses, not the truth."""

from collections.abc import Callable

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.enclosure import Enclosure, as_real
from backprop_rules.evidence.oracles.oracle import Silent, at_kinks, by_primal, directions
from backprop_rules.rule import Convention, Gradients, installed


def _followed(call: Call, versions: Callable[[Convention], str | None]) -> Tensor | bool:
    """Return a mask of y's shape: every output but those on a kink where the installed torch chooses otherwise."""
    others = [convention for convention in call.rule.conventions if not installed(versions(convention))]
    return ~at_kinks(call, others) if others else True


class ReverseMode:
    """What `torch.autograd.grad` returns."""

    name = "reverse mode"

    def speaks_for(self, call: Call) -> Tensor | bool:
        """Every output where this mode of torch makes the rule's choice."""
        return _followed(call, lambda convention: convention.torch)

    def enclosures(self, call: Call) -> tuple[Enclosure | None, ...]:
        """Return torch's gradients, as enclosures of no width."""
        return tuple(None if gradient is None else Enclosure.exactly(gradient) for gradient in self.gradients(call))

    def gradients(self, call: Call) -> Gradients:
        """Return torch's gradients."""
        leaves = [x.detach().requires_grad_() for x in call.tensors]
        y = call.forward(*call.placed(leaves))
        try:
            return call.per_gradient(torch.autograd.grad(y, leaves, call.grad_y))
        except RuntimeError as error:
            raise Silent(f"torch's backward raises: {error}") from error


class ForwardMode:
    """The inner product of the cotangent with each column of the Jacobian, as `torch.func.jvp` returns it."""

    name = "forward mode"

    def speaks_for(self, call: Call) -> Tensor | bool:
        """Every output where this mode of torch makes the rule's choice."""
        return _followed(call, lambda convention: convention.torch_forward)

    def enclosures(self, call: Call) -> tuple[Enclosure | None, ...]:
        """Return the inner products, summed in float64, as enclosures of no width."""
        # torch cannot write a tangent beside a primal whose elements share memory.
        primals = tuple(x.detach().contiguous() for x in call.tensors)

        def forward(*tensors: Tensor) -> Tensor:
            return call.forward(*call.placed(tensors))

        def column(*tangents: Tensor) -> Tensor:
            derivative: Tensor = torch.func.jvp(forward, primals, tangents)[1]
            return derivative

        # Tangents on the grid keep the columns exact where the forward divides, as a mean does.
        tangents = [(move * call.spacing).to(x) for move, x in zip(directions(call), primals, strict=True)]
        if not len(tangents[0]):
            products = torch.zeros(0, dtype=torch.float64)
        else:
            columns = as_real(torch.func.vmap(column)(*tangents))
            products = columns.reshape(len(columns), -1) @ as_real(call.grad_y).reshape(-1) / call.spacing
        return by_primal(call, products, products)
