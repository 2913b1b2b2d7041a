"""The oracles: independent sources of enclosures, in the order in which they are listed.

Each has the name that reports use. `speaks_for` returns a mask of y's shape, or one bool for all: the outputs whose
derivative it knows; and `enclosures` the enclosure of each gradient at a point whose cotangent is zero elsewhere, or
raises Silent where the oracle itself fails. Torch's automatic differentiation of the forward, in reverse and in forward
mode, gives two witnesses, not the truth. Differences of the forward know nothing of torch's derivatives: in float64, on
the CPU, with steps on the grid, they are exact for the polynomials at hand. A stencil of offsets k h with integer
weights w and divisor d gives f'(x) = sum(w_k f(x + k h)) / (d h), exactly for polynomials up to its degree. The
cotangent comes in before the division, whose result is representable and hence exact.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.enclosure import Enclosure, as_real
from backprop_rules.evidence.oracles.oracle import Silent, at_kinks, by_primal, directions, widest
from backprop_rules.rule import Convention, Gradients, installed
from backprop_rules.strategies.grid import central, refinement, stencil


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


def _numerators(call: Call, first: int, last: int, step: float) -> Tensor:
    """Return, for each direction and each output, grad_y times the weighted sum of y, in one call of the forward."""
    params = {name: widest(value) for name, value in call.params.items()}
    offsets = [(k, w) for k, w in zip(range(first, last + 1), stencil(first, last)[0], strict=True) if w]
    moves = directions(call)
    count = len(moves[0])
    if not count:
        return torch.zeros(0, 1, dtype=torch.float64)
    moved = [
        torch.cat([x.detach().cpu() + k * step * move for k, _ in offsets])
        for x, move in zip(call.tensors, moves, strict=True)
    ]

    def forward(*tensors: Tensor) -> Tensor:
        return call.rule.forward(*call.placed(tensors), **params)

    y = as_real(torch.func.vmap(forward)(*moved)).reshape(len(offsets), count, -1)
    weights = torch.tensor([w for _, w in offsets], dtype=torch.float64)
    sums: Tensor = torch.tensordot(weights, y, 1)
    return sums * as_real(call.grad_y).reshape(1, -1)


class CentralDifferences:
    """The central difference with the narrowest stencil that is exact for the rule's power."""

    name = "central differences"

    def speaks_for(self, call: Call) -> Tensor | bool:
        """Every output but those on a kink."""
        return ~at_kinks(call, call.rule.conventions) if call.rule.conventions else True

    def enclosures(self, call: Call) -> tuple[Enclosure | None, ...]:
        """Return the differences, as enclosures of no width."""
        first, last = central(call.rule.domain.count("power", call.params))
        numerators = _numerators(call, first, last, call.spacing).sum(-1)
        values = numerators / (stencil(first, last)[1] * call.spacing)
        return by_primal(call, values, values)


class OneSidedDifferences:
    """The interval between the derivatives from the left and from the right, summed over the outputs.

    Each output may stand on a kink of its own, so the intervals are formed before the sum.
    """

    name = "one-sided differences"

    def speaks_for(self, call: Call) -> Tensor | bool:
        """Every output of a rule that has kinks; for the others the central differences say it all."""
        return bool(call.rule.conventions)

    def enclosures(self, call: Call) -> tuple[Enclosure | None, ...]:
        """Return the intervals; away from kinks they have no width."""
        power = call.rule.domain.count("power", call.params)
        step = call.spacing / refinement(power)
        left, right = _numerators(call, -power, 0, step), _numerators(call, 0, power, step)
        # Both stencils have one divisor: mirrored nodes have mirrored weights.
        divisor = stencil(0, power)[1] * step
        lo, hi = torch.minimum(left, right).sum(-1), torch.maximum(left, right).sum(-1)
        return by_primal(call, lo / divisor, hi / divisor)


Oracle = ReverseMode | ForwardMode | CentralDifferences | OneSidedDifferences
ORACLES: tuple[Oracle, ...] = (ReverseMode(), ForwardMode(), CentralDifferences(), OneSidedDifferences())
