"""What a user hands in as gradients and outputs, beside what holds them; what does not fit is refused in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.domain import REAL, precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.at_size import AtSize, Held, Question
from backprop_rules.layout import reaches
from backprop_rules.report.agreement import WrongGradients
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, in_order, in_their_places
from backprop_rules.subject.between import Between


def of_each_output(what: str, given: Any) -> list[Any]:
    """Return what is given for each of forward's outputs: InputError for a dict, whose order may be another."""
    found = _pytree.tree_flatten(given, is_leaf=lambda x: x is None or isinstance(x, Mapping))[0]
    if any(isinstance(one, Mapping) for one in found):
        raise InputError(f"{what} holds a dict: give a tuple, in the order in which forward returns the values.")
    return found


def matched(
    got: Any, names: Sequence[str], own: Sequence[str], question: Question, held: AtSize
) -> list[Tensor | None]:
    """Return a gradient for each primal; None for one without, where forward has none either."""
    leaves, arguments = question.leaves, question.function.arguments(question.leaves)
    alone = isinstance(got, Mapping) and len(arguments) == 1 and isinstance(arguments[0], Mapping)
    by_its_keys = alone and not set(got) <= set(own)
    try:
        if isinstance(question.function.call, Between):
            got = question.function.call.without_values(got, len(arguments))
        got = _like(got, arguments[0]) if by_its_keys else _like(in_order(got, own), arguments)
    except Misfit as error:
        raise InputError(f"{error}.") from error
    several = _pytree.tree_flatten(got, is_leaf=lambda x: x is None)[0]
    if all(h is None for h in held.gradients):
        raise InputError("no primal has a gradient by forward: something cuts it off, such as detach, data or no_grad.")
    floats = [k for k, x in enumerate(leaves) if inexact(x)]
    if len(several) < len(names):
        several = in_their_places(several, floats, len(names))
    if len(several) != len(names):
        raise InputError(
            f"{len(several)} gradients were given, and there are {len(names)} primals: {', '.join(names)}. "
            f"Give one for each, None for what has no gradient."
        )
    for name, h, g in zip(names, held.gradients, several, strict=True):
        if h is None and isinstance(g, Tensor) and inexact(g) and bool((g != 0).any()):
            raise WrongGradients(
                f"The gradient of {name} is wrong: by forward it has none, as of what is detached, and one was given "
                f"that is not 0."
            )
        if h is not None:
            _narrower(name, fitting(name, g, h), h)
    pairs = zip(held.gradients, several, strict=True)
    return [None if h is None else g.detach() if isinstance(g, Tensor) else g for h, g in pairs]


def _like(found: Any, primals: Any) -> Any:
    """Return gradients of dictionaries in the order of these."""
    if isinstance(found, Mapping) and isinstance(primals, Mapping):
        pairs = zip(in_order(found, list(primals)), primals.values(), strict=True)
        return [_like(one, x) for one, x in pairs]
    several = isinstance(found, tuple | list) and isinstance(primals, tuple | list) and len(found) == len(primals)
    return [_like(one, x) for one, x in zip(found, primals, strict=True)] if several else found


def _narrower(name: str, got: Tensor, held: Held) -> None:
    if precision(got.dtype) < precision(held.dtype):
        raise InputError(
            f"the gradient of {name} has dtype {got.dtype}, and its primal {held.dtype}, which has more digits. If "
            f"that is meant, cast the primal."
        )


def fitting(name: str, got: Any, held: Held) -> Tensor:
    """Return a gradient of the right shape, with numbers to compare."""
    if got is None:  # which is zeros
        if bool((held.truth != 0).any()):
            raise WrongGradients(
                f"The gradient of {name} is wrong: None was given, and by forward it has one. If it is meant to have "
                f"none, cut it off in forward, by {name}.detach()."
            )
        got = torch.zeros_like(held.truth, dtype=held.dtype)
    if not isinstance(got, Tensor):
        raise InputError(f"the gradient of {name} is {type(got).__name__}; give a tensor of its shape.")
    if got.shape != held.truth.shape:
        what, summed = "output" if name == "y" else f"gradient of {name}", reaches(held.truth, got)
        likely = " It is likely not summed over the axes along which the primal was broadcast." * summed
        raise WrongGradients(
            f"The {what} has the shape {tuple(got.shape)}, and the right one {tuple(held.truth.shape)}.{likely}"
        )
    if got.dtype not in REAL:
        what = "output y" if name == "y" else f"gradient of {name}"
        eight = inexact(got) and got.itemsize == 1
        hint = ": give it by .float(), which changes no number" if eight else f", and the right one {held.dtype}"
        raise InputError(f"the {what} has dtype {got.dtype}{hint}.")
    if got.layout != torch.strided or got.is_meta:
        raise InputError(f"the gradient of {name} has no dense numbers to compare: give it by to_dense(), on a device.")
    return got.detach()


def matched_outputs(y: Any, held: AtSize) -> list[Tensor]:
    """Return an output for each of forward's that are no whole numbers."""
    if y is None:
        return []
    several = [out for out in of_each_output("y", y) if not isinstance(out, Tensor) or inexact(out)]
    if any(one.truth.is_complex() for one in held.computed):
        raise InputError(
            "y: outputs are held as real numbers, and one of these is complex. Let forward return torch.view_as_real "
            "of it, and give y and grad_y so."
        )
    if len(several) != len(held.y):
        raise InputError(f"{len(several)} outputs were given, and forward returns {len(held.y)}.")
    return [fitting("y", out, h) for out, h in zip(several, held.y, strict=True)]
