"""How far the roundings of a right implementation take a sum of a gradient's elements: by one more reverse pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from backprop_rules.evidence.allowance.operation import plus
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.units import NARROW, half_an_ulp, stored_by, unit
from backprop_rules.evidence.at_size import Run
from backprop_rules.evidence.recorded import MATRICES, PRODUCTS, Line, Made, Recorded, Step, detached, parts_of
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.function import NoPoint


@dataclass(frozen=True)
class Reach:
    """How far roundings take a sum: at worst, those that have a direction; and the squares of those that have none."""

    worst: float = 0.0
    squares: float = 0.0

    def beside(self, other: "Reach") -> "Reach":
        """Return how far both take it."""
        return Reach(self.worst + other.worst, self.squares + other.squares)


class Alike:
    """The numbers of one tensor that round alike: those with equal digits, whatever their sign and exponent."""

    def __init__(self, x: Tensor, dtype: torch.dtype) -> None:
        mantissa, _ = torch.frexp(x)
        self._pushed = half_an_ulp(x, dtype) * mantissa.sign()
        found, self._which = torch.unique(mantissa.abs().reshape(-1), return_inverse=True)
        self._count = found.numel()
        self._known = stored_by(x, dtype)

    def bias(self, sensitivity: Tensor) -> float:
        """Return |sum(s (rounded x - x))|: numbers that lie close together, or below the smallest, round one way."""
        return abs(float((sensitivity * self._known).sum()))

    def squares(self, sensitivity: Tensor) -> float:
        """Return sum((s half an ulp)^2), the sensitivities of those that round alike added before."""
        pushed = (sensitivity * self._pushed).reshape(-1)
        sums = torch.zeros(self._count, dtype=pushed.dtype, device=pushed.device)
        return float(sums.index_add_(0, self._which, pushed).square().sum())


class Sensitivities:
    """The operations of a run, forward and backward, and how far their roundings take a sum of a gradient's elements.

    `by_line` keeps errors apart that are of different lines. Raises NotImplementedError where torch has no second
    derivative, or an operation has no formula.
    """

    def __init__(self, run: Run, declared: Precision, either: bool = False, by_line: bool = False) -> None:
        self._declared, mode = declared, Recorded(declared, either, by_line)
        self._together_off: dict[tuple[int, ...], Tensor | None] = {}
        self._alike: dict[tuple[int, torch.dtype], Alike] = {}
        self._stored: dict[int, Tensor] = {}
        self._rounded: dict[tuple[int, int], bool] = {}
        try:
            _, self._gradients = run(mode, True)
        except NoPoint as error:
            raise NotImplementedError(str(error)) from error
        self._casts = [(y, dtype) for y, dtype in mode.casts if y.requires_grad]
        self._made = mode.results()

    def lines(self, leaf: int, index: tuple[int, ...]) -> dict[Line, float]:
        """Return by how much the roundings of each line of the reference may move one element of a gradient."""
        gradient = self._gradients[leaf]
        if gradient is None or not gradient.requires_grad:
            return {}
        asked = [one.edge for one in self._made]
        found = torch.autograd.grad(gradient[index], asked, retain_graph=True, allow_unused=True)
        moved: dict[Line, float] = {}
        for k, (one, g) in enumerate(zip(self._made, found, strict=True)):
            line = one.step.line
            if g is None or line is None:
                continue
            stored = None if one.value is None else half_an_ulp(one.value, one.step.own)
            most = plus(self._error_together((k,)), stored)
            moved[line] = moved.get(line, 0.0) + (0.0 if most is None else float((g.abs() * most).sum()))
        for step, through, x in self._operands(_by_step(self._made, found)):
            if step.line is not None and self._declared.operands is not None:
                lost = half_an_ulp(x.detach(), self._declared.operands)
                moved[step.line] = moved.get(step.line, 0.0) + float((through.abs() * lost).sum())
        return moved

    def reach(self, leaf: int, coefficients: Tensor, truth: Tensor, dtype: torch.dtype) -> Reach:
        """Return how far roundings take <coefficients, gradient>."""
        if dtype in NARROW:
            found = self._together(truth, dtype, coefficients)
        else:
            found = Reach(float((coefficients.abs() * truth.abs()).sum()) * unit(dtype).u)
        gradient = self._gradients[leaf]
        if gradient is None or not gradient.requires_grad:
            return found
        asked = [*(one.edge for one in self._made), *(get_gradient_edge(y) for y, _ in self._casts)]
        pushed = torch.autograd.grad(gradient, asked, coefficients, retain_graph=True, allow_unused=True)
        by_step = _by_step(self._made, pushed)
        found = found.beside(Reach(self._worst(pushed)))
        for one, g in zip(self._made, pushed, strict=False):
            if g is not None and one.value is not None and one.error is not None:
                found = found.beside(self._together(one.value, one.step.own, g))
        for (y, narrow), g in zip(self._casts, pushed[len(self._made) :], strict=True):
            found = found if g is None else found.beside(self._together(y, narrow, g))
        return found.beside(self._of_operands(by_step))

    def _together(self, x: Tensor, dtype: torch.dtype, sensitivity: Tensor) -> Reach:
        """Return what rounding numbers to a narrow dtype does."""
        key = id(x), dtype
        if key not in self._alike:
            self._alike[key] = Alike(x.detach(), dtype)
        return Reach(self._alike[key].bias(sensitivity), self._alike[key].squares(sensitivity))

    def _worst(self, pushed: Sequence[Tensor | None]) -> float:
        """Return sum(|g| error) over the results of all operations: of those with one g, the sums of a sum, at once."""
        alike: dict[Any, list[int]] = {}
        for k, g in enumerate(pushed[: len(self._made)]):
            if g is not None:
                alike.setdefault((g.data_ptr(), g.shape, g.stride()), []).append(k)
        sums = []
        for those in alike.values():
            g, error = pushed[those[0]], self._error_together(tuple(those))
            if g is not None and error is not None:
                sums.append(torch.linalg.vector_norm(g * error, 1).cpu())
        return float(torch.stack(sums).sum()) if sums else 0.0

    def _error_together(self, made: tuple[int, ...]) -> Tensor | None:
        """Return the sum of what the results of these operations are off by."""
        if made not in self._together_off:
            total: Tensor | None = None
            for one in map(self._made.__getitem__, made):
                if one.why is not None:
                    raise one.why
                total = plus(total, one.error)
            self._together_off[made] = total
        return self._together_off[made]

    def _of_operands(self, by_step: dict[int, list[Tensor | None]]) -> Reach:
        """Return what the rounding of the operands of products does, each of which is rounded once."""
        narrow = self._declared.operands
        if narrow is None:
            return Reach()
        together: dict[int, tuple[Tensor, Tensor]] = {}
        for _, through, x in self._operands(by_step):
            whole = self._flat(x)
            _, sums = together.setdefault(id(whole), (whole, torch.zeros_like(whole)))
            sums.as_strided(x.shape, x.stride(), x.storage_offset()).add_(through)
        each = (self._together(values, narrow, sums) for values, sums in together.values())
        return reduce(Reach.beside, each, Reach())

    def _flat(self, x: Tensor) -> Tensor:
        """Return all that is stored where an operand lies."""
        storage = x.untyped_storage()
        if id(storage) not in self._stored:
            whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(storage)
            self._stored[id(storage)] = whole
        return self._stored[id(storage)]

    def _operands(self, by_step: dict[int, list[Tensor | None]]) -> Iterator[tuple[Step, Tensor, Tensor]]:
        """Yield the operands of products that are rounded, and the sensitivity to each through its product."""
        narrow = self._declared.operands
        for step in {id(one.step): one.step for one in self._made}.values():
            gradients = by_step.get(id(step), [])
            if step.func.overloadpacket not in PRODUCTS or not any(g is not None for g in gradients):
                continue
            for k, x in enumerate(step.args):
                if narrow is not None and inexact(x) and x.ndim and self._is_rounded(step, k, x, narrow):
                    yield step, _through_an_operand(step, k, gradients), x

    def _is_rounded(self, step: Step, k: int, x: Tensor, narrow: torch.dtype) -> bool:
        key = id(step), k
        if key not in self._rounded:
            self._rounded[key] = not bool((x.to(narrow).to(x.dtype) == x).all())
        return self._rounded[key]


def _by_step(made: Sequence[Made], found: Sequence[Any]) -> dict[int, list[Tensor | None]]:
    by_step: dict[int, list[Tensor | None]] = {}
    for one, g in zip(made, found, strict=False):
        by_step.setdefault(id(one.step), [None] * one.step.result)[one.part] = g
    return by_step


def _through_an_operand(step: Step, k: int, gradients: list[Tensor | None]) -> Tensor:
    """Return the sensitivity to an operand, as far as it goes through this operation."""
    packet, g = step.func.overloadpacket, gradients[0]
    if packet in MATRICES and g is not None and not step.named and k >= len(step.args) - 2:
        *_, a, b = step.args
        through: Tensor = g @ b.detach().mT if k == len(step.args) - 2 else a.detach().mT @ g
        return through
    args = list(detached(step.args))
    with torch.enable_grad():
        args[k].requires_grad_()
        made = parts_of(step.func(*args, **step.named))
        outs, along = zip(*((y, g) for y, g in zip(made, gradients, strict=True) if g is not None), strict=True)
        found = torch.autograd.grad(outs, [args[k]], along, allow_unused=True)[0]
    return torch.zeros_like(args[k]) if found is None else found
