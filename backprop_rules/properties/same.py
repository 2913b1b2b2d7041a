"""Two tensors that should be the same: the same bits, or numbers that are no further apart than roundings allow."""

from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.properties.finding import Finding, Kind, found, unequal
from backprop_rules.rule import Gradients
from backprop_rules.strategies.of_rules import widened


def given(call: Call, gradients: Gradients) -> Iterator[tuple[int, Tensor]]:
    """Yield the position and the value of the gradient of each primal that is there."""
    for i in call.given:
        gradient = gradients[i]
        assert gradient is not None
        yield i, gradient


def same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether two gradients are equal in shape, dtype and every bit, NaN and the sign of zero included."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.resolve_neg() for x in (a, b))
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[a.element_size()]
    return torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def differs(
    call: Call,
    kind: Kind,
    leaf: int | None,
    wanted: Tensor | None,
    got: Tensor | None,
    where: Tensor | bool = True,
    at: Call | None = None,
    detail: str = "",
) -> Iterator[Finding]:
    """Yield that two tensors do not hold the same numbers where asked: zeros are equal, and NaN is NaN.

    Off the grid they may be as far apart as two evaluations of that gradient `at` a call may be.
    """
    assert wanted is not None and got is not None
    if wanted.shape != got.shape:
        yield found(kind, call, leaf, expected=tuple(wanted.shape), got=tuple(got.shape), detail=detail)
        return
    if torch.equal(wanted, got):
        return
    wrong = ~((wanted == got) | (wanted.isnan() & got.isnan())) & torch.as_tensor(where, device=got.device)
    if call.tier == "bounded" and leaf is not None and bool(wrong.any()):
        wrong = wrong & ~_near(wanted, got, at or call, leaf)
    if bool(wrong.any()):
        yield unequal(kind, widened(call), leaf, wanted, got, wrong, native=True, detail=detail)


def _near(wanted: Tensor, got: Tensor, at: Call, leaf: int) -> Tensor:
    """Return where two gradients are within the roundings of two evaluations."""
    radius = bounds(at, evaluations=2).gradients[leaf]
    assert radius is not None
    wide = torch.complex128 if got.is_complex() else torch.float64
    near = (wanted.to(wide) - got.to(wide)).abs() <= radius
    # One order of a sum may overflow where another just does not.
    smaller = torch.minimum(wanted.abs(), got.abs()).double()
    overflows = (wanted.isinf() | got.isinf()) & (smaller + radius > torch.finfo(got.dtype).max)
    return near | overflows | radius.isinf()


def same_gradients(call: Call, got: Gradients, kind: Kind, wanted: Gradients | None = None) -> Iterator[Finding]:
    """Yield that a gradient has not the same bits."""
    for i in call.given:
        a, b = (call.gradients if wanted is None else wanted)[i], got[i]
        if not same_bits(a, b):
            apart = list(differs(call, kind, i, a, b))
            yield from apart or [found(kind, call, i, detail=": zeros of another sign")]
            return
