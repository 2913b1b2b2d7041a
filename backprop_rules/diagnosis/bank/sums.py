"""Mistakes with axes, and with what is summed over them: paths that meet, broadcasting, statistics."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import (
    Declarations,
    all_axes_reversed,
    elementwise,
    equal,
    real_elementwise,
)

DECLARED = Declarations()


def _if_it_fits(turned: Tensor, right: Tensor) -> Tensor | None:
    return turned if turned.shape == right.shape else None


@DECLARED.mistake(
    "transposed", "the gradient is transposed: its last two axes are swapped", where=lambda c: c.right.ndim > 1
)
def _(c: Case) -> Tensor | None:
    return _if_it_fits(c.right.mT, c.right)


@DECLARED.mistake(
    "all axes reversed",
    "all axes are reversed, as .T does, where two should be swapped",
    where=lambda c: c.right.ndim > 2,
)
def _(c: Case) -> Tensor | None:
    return _if_it_fits(all_axes_reversed(c.right), c.right)


@DECLARED.mistake(
    "diagonal of the Jacobian",
    "only the diagonal of the Jacobian is used: other outputs are left out",
    where=elementwise,
)
def _(c: Case) -> Tensor | None:
    return None if c.jacobian is None else c.g * c.jacobian.diagonal().reshape(c.x.shape)


def _one_path(c: Case, last: bool) -> Tensor | None:
    """Of the outputs that an element came into, only one passes its cotangent on."""
    if c.jacobian is None or not c.jacobian.numel():
        return None
    slopes, cotangents = c.jacobian, c.g.reshape(-1, 1)
    if last:
        slopes, cotangents = slopes.flip(0), cotangents.flip(0)
    at = (slopes != 0).int().argmax(0, keepdim=True)
    return (slopes * cotangents).gather(0, at).reshape(c.x.shape)


DECLARED.mistake(
    "last path only",
    "cotangents overwrite each other instead of adding up: only the last output that an element came into counts",
)(partial(_one_path, last=True))
DECLARED.mistake("first path only", "cotangents do not add up: only the first output that an element came into counts")(
    partial(_one_path, last=False)
)


@DECLARED.mistake(
    "missing un-broadcast",
    "a sum over the axes along which this primal was broadcast is missing (un-broadcast)",
    where=lambda c: not elementwise(c),
)
def _unreduced(c: Case) -> Tensor | None:
    shapes = [x.shape for x in c.point.tensors]
    for core in ([c.y.shape], [(*c.y.shape[: max(0, c.y.ndim - 2)], *c.x.shape[-2:])], shapes):
        try:
            wide = c.x.expand(torch.broadcast_shapes(*core))
        except RuntimeError:
            continue
        found = c.gradient(primals=c.at(primal=wide)) if wide.shape != c.x.shape else None
        if found is not None:
            return found
    return None


@DECLARED.mistake(
    "summed over all axes",
    "it is summed over all axes, also over those of this primal",
    where=lambda c: c.right.ndim > 0,
)
def _(c: Case) -> Tensor | None:
    return c.right.sum()


@DECLARED.mistake(
    "first axis only",
    "the sum is taken over the first axis only, not over all batch axes",
    where=lambda c: not elementwise(c),
)
def _(c: Case) -> Tensor | None:
    wide = _unreduced(c)
    if wide is None or wide.ndim <= c.x.ndim + (c.x.shape != wide.shape[wide.ndim - c.x.ndim :]):
        return None
    return wide.sum(0)


@DECLARED.mistake(
    "mean instead of sum",
    "a mean is taken over the broadcast axes in the place of a sum",
    where=lambda c: not elementwise(c) and c.x.numel() > 0,
)
def _(c: Case) -> Tensor | None:
    wide = _unreduced(c)
    return None if wide is None else c.right / max(1, wide.numel() // c.x.numel())


def _layer_norm_without(c: Case, terms: Sequence[str]) -> Tensor | None:
    """The gradient of a layer norm without the terms that its mean, or its variance, brings."""
    if c.primal or not c.x.ndim or not c.x.numel():
        return None
    weight, bias = (*c.point.primals[1:], None, None)[:2]
    eps = c.point.params.get("eps", 1e-5)
    if not equal(torch.nn.functional.layer_norm(c.x, c.x.shape[-1:], weight, bias, eps), c.y):
        return None
    centred = c.x - c.x.mean(-1, keepdim=True)
    scale = torch.rsqrt(c.x.var(-1, correction=0, keepdim=True) + eps)
    normal, g = centred * scale, c.g if weight is None else c.g * weight
    by_mean = 0 if "mean" in terms else g.mean(-1, keepdim=True)
    by_variance = 0 if "variance" in terms else normal * (normal * g).mean(-1, keepdim=True)
    return scale * (g - by_mean - by_variance)


for what, words, terms in (
    ("statistics", "the mean and the variance are taken for constants", ("mean", "variance")),
    ("mean", "the mean is taken for a constant: its term is missing", ("mean",)),
    ("variance", "the variance is taken for a constant: its term is missing", ("variance",)),
):
    declare = DECLARED.mistake(f"{what} held constant", words, where=real_elementwise)
    declare(partial(_layer_norm_without, terms=terms))

# Functions along an axis, and their gradients with the sum over all axes in the place of that one.
ALONG: tuple[tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, Tensor], Tensor]], ...] = (
    (torch.softmax, lambda g, y: y * (g - (g * y).sum())),
    (torch.log_softmax, lambda g, y: g - y.exp() * g.sum()),
)


@DECLARED.mistake(
    "sum over every axis",
    "the sum inside of the gradient is taken over every axis, not along the given one",
    where=real_elementwise,
)
def _(c: Case) -> Tensor | None:
    for function, gradient in ALONG:
        if any(equal(function(c.x, dim), c.y) for dim in range(c.x.ndim)):
            return gradient(c.g, c.y)
    return None
