"""Mistakes with a factor, and with the cotangent: ignored, applied twice, masked, or read as it does not lie."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import Declarations, Family, elementwise

DECLARED = Declarations()


@DECLARED.mistake("sign", "the sign is wrong: exactly -1 × the right one", family=Family.FACTOR)
def _(c: Case) -> Tensor | None:
    return -c.right


@DECLARED.mistake("factor 2", "exactly 2 × the right one", family=Family.FACTOR)
def _(c: Case) -> Tensor | None:
    return c.right * 2


@DECLARED.mistake("factor 1/2", "exactly 1/2 × the right one: a factor 2 is missing", family=Family.FACTOR)
def _(c: Case) -> Tensor | None:
    return c.right * 0.5


@DECLARED.mistake("zero", "it is zero everywhere", family=Family.FACTOR)
def _(c: Case) -> Tensor | None:
    return torch.zeros_like(c.right)


def _masks(c: Case) -> bool:
    """Say whether the rule passes the cotangent of some elements and not of others."""
    if not elementwise(c) or len(c.point.given) != 1 or not ((c.right == c.g) | (c.right == 0)).all():
        return False
    others = (-c.x, torch.ones_like(c.x))  # of a primal that is zero, the negative is no other
    elsewhere = [c.gradient(primals=c.at(primal=x)) for x in others]
    return any(t is not None and bool(((t == c.g) & (c.g != 0)).any()) for t in (c.right, *elsewhere))


@DECLARED.mistake(
    "masked by the cotangent",
    "the cotangent is clamped at zero where it should be masked by the input (the pre-activation)",
    where=lambda c: not c.g.is_complex() and _masks(c),
)
def _(c: Case) -> Tensor | None:
    return c.g.clamp(min=0)


class _Clamped(torch.autograd.Function):
    """Whatever was computed, with a cotangent that is clamped at zero on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        return grad_y.clamp(min=0), None


MASKS = {
    torch.relu, Tensor.relu, torch.nn.functional.relu, torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min,
}  # fmt: skip


class _Mistaken(TorchFunctionMode):
    """Gives every mask inside of a function the backward that clamps the cotangent."""

    used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in MASKS:
            return found
        self.used = True
        return _Clamped.apply(args[0], found.detach())  # type: ignore[no-untyped-call]


@DECLARED.mistake(
    "masked by the cotangent",
    "the cotangent is clamped at zero where it should be masked by the pre-activation, inside of the function",
    where=lambda c: not any(x.is_complex() for x in (c.g, *c.point.tensors)),
)
def _(c: Case) -> Tensor | None:
    with torch.enable_grad(), _Mistaken() as mode:
        leaves = [x.detach().requires_grad_() for x in c.point.tensors]
        y = c.point.forward(*c.point.placed(leaves))
    if not mode.used or not y.requires_grad:
        return None
    found = torch.autograd.grad(y, leaves, c.g, materialize_grads=True)
    return found[c.point.given.index(c.primal)]


@DECLARED.mistake(
    "passed on unchanged",
    "the cotangent is passed on unchanged: no mask and no factor is applied to it",
    where=elementwise,
)
def _(c: Case) -> Tensor | None:
    return c.g.clone()


@DECLARED.mistake("cotangent ignored", "the cotangent is ignored: the result is that for a cotangent of ones")
def _(c: Case) -> Tensor | None:
    return c.gradient(torch.ones_like(c.g))


@DECLARED.mistake("cotangent squared", "the cotangent is applied twice")
def _(c: Case) -> Tensor | None:
    return c.right * c.g if c.right.shape == c.g.shape else c.gradient(c.g * c.g)


@DECLARED.mistake(
    "first element of the cotangent",
    "only the first element of the cotangent is read",
    where=lambda c: c.g.numel() > 0,
)
def _(c: Case) -> Tensor | None:
    return c.gradient(torch.full_like(c.g, c.g.reshape(-1)[0].item()))


@DECLARED.mistake(
    "read as if contiguous",
    "the cotangent's memory is read as if it were contiguous: its strides are ignored",
    where=lambda c: not c.g.is_contiguous() and c.g.device.type != "meta",
)
def _(c: Case) -> Tensor | None:
    g = c.g
    strides = torch.empty(g.shape, device="meta").stride()
    last = g.storage_offset() + sum((n - 1) * s for n, s in zip(g.shape, strides, strict=True))
    if not g.numel() or last >= g.untyped_storage().nbytes() // g.element_size():
        return None
    return c.gradient(g.as_strided(g.shape, strides, g.storage_offset()))


@DECLARED.mistake(
    "missing conjugate",
    "a conjugate is missing: the gradient of x y is the cotangent times y*",
    where=lambda c: c.x.is_complex(),
)
def _(c: Case) -> Tensor | None:
    found = c.gradient(c.g.conj())
    return None if found is None else found.conj().resolve_conj()
