"""Mistakes that `explain` teaches, and that surgery on forward tells: what a backward that makes one would return."""

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank import BANK
from backprop_rules.diagnosis.mistake import Case, Known


def _masked_by_the_cotangent(c: Case) -> Tensor | None:
    alone = len(c.call.given) == 1 or c.call.rule.name == "clamp_tensor"  # of two operands either passes it
    if c.primal or not alone or not c.call.rule.conventions or c.g.is_complex() or c.y.shape != c.x.shape:
        return None
    passes = (c.right == c.g) | (c.right == 0)  # a mask passes the cotangent of some elements alone
    return c.g.clamp(min=0) if bool(passes.all()) else None


def _not_conjugated(c: Case) -> Tensor | None:
    found = c.gradient(c.g.conj())
    return found.conj().resolve_conj() if found is not None and c.x.is_complex() else None


def _layer_norm_without(c: Case, *terms: str) -> Tensor | None:
    """The gradient of a layer norm without the terms that its mean, or its variance, brings."""
    if c.primal or c.call.rule.name != "layer_norm" or not c.x.numel():
        return None
    weight, eps = c.call.primals[1], c.call.params.get("eps", 1e-5)
    centred = c.x - c.x.mean(-1, keepdim=True)
    scale = torch.rsqrt(c.x.var(-1, correction=0, keepdim=True) + eps)
    normal, g = centred * scale, c.g if weight is None else c.g * weight
    by_mean = 0 if "mean" in terms else g.mean(-1, keepdim=True)
    by_variance = 0 if "variance" in terms else normal * (normal * g).mean(-1, keepdim=True)
    return scale * (g - by_mean - by_variance)


def _over_every_axis(c: Case) -> Tensor | None:
    of_softmax = {"softmax": c.y * (c.g - (c.g * c.y).sum()), "log_softmax": c.g - c.y.exp() * c.g.sum()}
    return of_softmax.get(c.call.rule.name)


def _not_unsqueezed(c: Case) -> Tensor | None:
    ones = c.gradient(torch.ones_like(c.g)) if 0 < c.g.ndim < c.x.ndim and c.g.numel() > 1 else None
    return None if ones is None else ones * c.g.expand(c.x.shape)


def _not_divided(c: Case) -> Tensor | None:
    return c.right * (c.x.numel() // c.y.numel()) if c.y.numel() else None


def _other_order(c: Case) -> Tensor | None:
    for other in (
        other for k in c.others if (other := c.call.primals[k]) is not None and min(other.ndim, c.g.ndim) > 1
    ):
        for one, two in ((c.g, other), (c.g, other.mH), (other, c.g), (other.mH, c.g)):
            if one.shape[-1] == two.shape[-2] and torch.equal(one @ two, c.right):
                return two @ one
    return None


def _unlowered(c: Case) -> Tensor | None:
    return c.right * c.x if c.y.shape == c.x.shape and not c.x.is_complex() else None


# Their words are in words.toml.
PREDICTED = {
    "sign": lambda c: -c.right,
    "factor 2": lambda c: c.right * 2,
    "factor 1/2": lambda c: c.right * 0.5,
    "masked by the cotangent": _masked_by_the_cotangent,
    "cotangent ignored": lambda c: c.gradient(torch.ones_like(c.g)),
    "missing conjugate": _not_conjugated,
    "statistics held constant": lambda c: _layer_norm_without(c, "mean", "variance"),
    "mean held constant": lambda c: _layer_norm_without(c, "mean"),
    "variance held constant": lambda c: _layer_norm_without(c, "variance"),
    "sum over every axis": _over_every_axis,
    "not unsqueezed": _not_unsqueezed,
    "not divided by n": _not_divided,
    "factors in the wrong order": _other_order,
    "exponent not lowered": _unlowered,
}
TAUGHT = (*(Known(name, "", predict=predict) for name, predict in PREDICTED.items()), *BANK)
