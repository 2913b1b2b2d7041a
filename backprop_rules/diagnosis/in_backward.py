"""The line of somebody's backward in which a mistake was made: where the first number comes out that it explains.

Under the explanation every tensor of forward has another cotangent than the right one. The backward is run once more,
with every value that it computes kept; the first that is one of these, and is no right number, is where they part.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from backprop_rules.diagnosis.tape import UNMADE, Rows, Shares, Tape, name_of, place
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, Raised

TOLD = 2  # numbers that a value must have, to be recognised by them
MOST = 1 << 20  # numbers that are kept


class _Values(TorchFunctionMode):
    """While it is entered, every value that is computed in somebody's own line is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, int, str]] = []
        self._left = MOST

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for y in _pytree.tree_leaves(made):
            if isinstance(y, Tensor) and inexact(y) and TOLD <= y.numel() <= self._left:
                line, text = place(name_of(func))
                self._left -= y.numel() * bool(line)
                self.found += [(y.detach().clone(), line, text)] if line else []
        return made


def told_in_backward(evidence: Evidence, tape: Tape, shares: Shares, digits: float) -> str:
    """Return the line of the backward in which these shares come out, and what should; nothing if none is seen."""
    values = _Values()
    try:
        wrong, right = dict(_each(tape, shares)), dict(_each(tape, {}))
        with values:
            evidence.asked(evidence.point.leaves, evidence.point.grads, y=evidence.y)
    except (Raised, Misfit, *UNMADE):
        return ""
    results = [_sorted(step.result) for step in tape.steps] + [_sorted(x) for x in tape.leaves.values()]
    fine = [*results, *(_sorted(g[0]) for g in right.values())]
    astray = [(words, _sorted(g[0])) for words, g in wrong.items()]
    astray = [(words, g) for words, g in astray if not any(_alike(g, other, digits) for other in fine)]
    for value, line, text in values.found:
        numbers = _sorted(value)
        for words, g in astray:
            if _alike(numbers, g, digits):
                return f"`{text}` (backward, line {line}), where {words} should come out"
    return ""


def _each(tape: Tape, shares: Shares) -> Iterator[tuple[str, Tensor]]:
    """Yield the cotangent of each tensor, the last step's first, and the shares of the steps that have others."""
    found: Rows = tape.cotangents(shares, tape.outputs)
    for n in sorted(found, reverse=True):
        told = tape.steps[n].place if n >= 0 else tape.names[n]
        yield f"the gradient by {told}", found[n]
        if n >= 0 and len(tape.steps[n].sources) > 1:
            yield from _passed(tape, n, found[n], shares.get(n, {}))


def _passed(tape: Tape, n: int, g: Tensor, others: Mapping[int, Any]) -> Iterator[tuple[str, Tensor]]:
    step = tape.steps[n]
    for p, share in step.pulled(g).items():
        told = step.at_argument(p)
        yield f"the share of {told}", others[p](g) if p in others else share


def _sorted(x: Tensor) -> Tensor:
    """Return the numbers of a tensor in order, by which it is recognised in any layout."""
    flat = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return flat.detach().reshape(-1).double().sort().values


def _alike(a: Tensor, b: Tensor, digits: float) -> bool:
    if a.shape != b.shape or len(a) < TOLD or not bool(a.isfinite().all()):
        return False
    size = a.abs().amax()
    return bool(size > 0) and bool(((a - b).abs() <= digits * size).all())
