"""Running error analysis: beside every operation of torch, how far its result may be from any other evaluation.

For each tensor a radius is kept such that the exact value of the same formula, and the value that any
floating-point evaluation of it gives in any order of its sums, lies within the radius of the computed one.
If an operation's inputs may vary so that its exact result r varies by v, and one evaluation is off by at
most g |r|, then two evaluations and the exact result lie within v + 2 g (|r| + v) of one another.
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.2 and 3.1: g is the unit
roundoff u for one operation, and k u / (1 - k u) for an inner product of length k.)
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from backprop_rules.grid import precision

aten = torch.ops.aten


class RunningError(TorchDispatchMode):
    """While it is entered, keep a radius beside every tensor that torch computes on the CPU.

    Raises NotImplementedError at an operation whose rounding it does not know.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._radii: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()

    def radius(self, x: object) -> Tensor:
        """Return the radius of a tensor, in float64; 0 for what did not come from an operation."""
        if not isinstance(x, Tensor):
            return torch.zeros((), dtype=torch.float64)
        known = self._radii.get(x)
        return torch.zeros(x.shape, dtype=torch.float64) if known is None else known

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the operation and its radius."""
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if result.is_complex() or result.dtype in (torch.float16, torch.bfloat16):
            raise NotImplementedError(f"no formula for the rounding of {func} in {result.dtype}")
        if packet in MOVES and result.dtype == args[0].dtype:
            radius = func(self.radius(args[0]), *args[1:], **(kwargs or {}))
        elif packet in FORMULAS:
            radius = FORMULAS[packet](self.radius, result, *args, **(kwargs or {}))
        elif packet in EXACT:
            radius = torch.zeros(result.shape, dtype=torch.float64)
        else:
            raise NotImplementedError(f"no formula for the rounding of {func}")
        self._radii[result] = radius
        return result


Radius = Callable[[object], Tensor]

# Operations that place values elsewhere, and treat the radius alike.
MOVES = {aten.t, aten.transpose, aten.permute, aten.view, aten._unsafe_view, aten.expand, aten.unsqueeze,
         aten.squeeze, aten.detach, aten.clone, aten.alias}  # fmt: skip
# Operations that make a tensor of known values.
EXACT = {aten.lift_fresh, aten.ones_like, aten.zeros_like, aten.full, aten.scalar_tensor}


def _double(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def _up(radius: Tensor) -> Tensor:
    """Return a radius made larger than the rounding of its own computation in float64.

    It takes fewer than 2^10 operations on numbers that are not negative, each with an error of 2^-53.
    """
    return radius * (1 + 2.0**-43)


def _rounded(result: Tensor, varies: Tensor, magnitude: Tensor, length: int = 1) -> Tensor:
    """Return the radius of a result of that many roundings, whose exact value varies by `varies`."""
    unit = length * 2.0 ** -precision(result.dtype)
    if unit >= 1:
        raise NotImplementedError(f"a sum of {length} terms has no bound in {result.dtype}")
    # Below the smallest normal number a result may be rounded to a multiple of the smallest one, or to zero.
    underflow = length * torch.finfo(result.dtype).smallest_normal
    return _up(varies + 2 * (unit / (1 - unit) * (magnitude + varies) + underflow))


def _scalar(x: Any, like: Tensor) -> Tensor:
    """Return an operand as torch uses it: a Python number is rounded to the tensor's dtype first."""
    return _double(x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=like.dtype))


def _sum_of_two(radius: Radius, result: Tensor, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    if alpha != 1:
        raise NotImplementedError("no formula for the rounding of a scaled sum")
    return _rounded(result, radius(a) + radius(b), _double(result).abs())


def _product(radius: Radius, result: Tensor, a: Any, b: Any) -> Tensor:
    size_a, size_b = _scalar(a, result).abs(), _scalar(b, result).abs()
    varies = (size_a + radius(a)) * (size_b + radius(b)) - size_a * size_b
    # The subtraction above rounds in proportion to the product, not to the difference.
    return _rounded(result, varies + size_a * size_b * 2.0**-51, size_a * size_b)


def _power(radius: Radius, result: Tensor, a: Tensor, exponent: float) -> Tensor:
    if exponent != 2:
        raise NotImplementedError(f"no formula for the rounding of a power of {exponent}")
    return _product(radius, result, a, a)


def _matrix_product(radius: Radius, result: Tensor, a: Tensor, b: Tensor) -> Tensor:
    size_a, size_b = _double(a).abs(), _double(b).abs()
    size = size_a @ size_b
    varies = radius(a) @ size_b + size_a @ radius(b) + radius(a) @ radius(b)
    return _rounded(result, varies, size, a.shape[-1])


def _sum(radius: Radius, result: Tensor, a: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    if result.dtype != a.dtype:
        raise NotImplementedError("no formula for the rounding of a sum in another dtype")
    count = a.numel() // max(1, result.numel())
    size, varies = (x.sum(dim, keepdim) for x in (_double(a).abs(), radius(a)))
    return _rounded(result, varies, size, max(1, count - 1))


def _ambiguous(radius: Radius, result: Tensor, a: Any, b: Any) -> Tensor:
    """Return 1 where the operands are closer than their radii, so that either branch may be taken."""
    close = (_scalar(a, a) - _scalar(b, a)).abs() <= _up(radius(a) + radius(b))
    # Operands that are known exactly compare exactly.
    return (close & (radius(a) + radius(b) > 0)).double()


def _either_ambiguous(radius: Radius, result: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(radius(a), radius(b))


def _where(radius: Radius, result: Tensor, condition: Tensor, a: Any, b: Any) -> Tensor:
    chosen = torch.where(condition, radius(a), radius(b))
    either = (_double(a) - _double(b)).abs() + radius(a) + radius(b)
    return torch.where(radius(condition) > 0, _up(either), chosen)


def _one_lipschitz(radius: Radius, result: Tensor, a: Tensor, *others: Any, **named: Any) -> Tensor:
    if any(isinstance(other, Tensor) for other in (*others, *named.values())):
        raise NotImplementedError("no formula for the rounding of a clamp with tensor bounds")
    return radius(a)


def _cast(radius: Radius, result: Tensor, a: Tensor, **_: Any) -> Tensor:
    wider = (a.dtype, result.dtype) == (torch.float32, torch.float64) or a.dtype in (torch.bool, result.dtype)
    return radius(a) if wider else _rounded(result, radius(a), _double(a).abs())


FORMULAS: dict[Any, Callable[..., Tensor]] = {
    aten.add: _sum_of_two, aten.sub: _sum_of_two, aten.mul: _product, aten.pow: _power, aten.mm: _matrix_product,
    aten.sum: _sum, aten.ge: _ambiguous, aten.le: _ambiguous, aten.gt: _ambiguous, aten.lt: _ambiguous,
    aten.bitwise_and: _either_ambiguous, aten.where: _where, aten.clamp: _one_lipschitz, aten.neg: _one_lipschitz,
    aten.relu: _one_lipschitz, aten._to_copy: _cast,
}  # fmt: skip
