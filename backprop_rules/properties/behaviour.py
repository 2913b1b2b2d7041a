"""How a rule's backward behaves: what it returns, writes, reads and keeps; linear, batched; NaN and infinity."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_rules.call import Call, probe
from backprop_rules.evidence.allowance.bounds import bounds
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.properties.finding import Finding, Kind, found, unequal
from backprop_rules.properties.form import first_written, has_the_form_of_its_primal, remembered
from backprop_rules.properties.same import differs, given, same_gradients
from backprop_rules.strategies.of_rules import widened
from backprop_rules.subject.function import cloned


def writes_to_none_of_its_arguments(call: Call) -> Iterator[Finding]:
    """Neither the cotangent nor y nor a primal has another value, or was written to, after the call."""
    grad_y, y, *primals = given = cloned((call.grad_y, call.y, *call.primals))
    before = remembered(given)
    call.backward(grad_y, y, *primals)
    written = first_written(("grad_y", "y", *call.rule.primals), given, before)
    if written is not None:
        yield found(Kind.WRITES, call, detail=f" {written}")


def returns_the_shape_dtype_and_device_of_each_primal(call: Call) -> Iterator[Finding]:
    """The engine would repair a gradient of another shape or dtype, so the backward is asked directly."""
    gradients, names, truth = call.gradients, call.rule.primals, call.per_gradient(call.tensors)
    if len(gradients) != len(names):
        words = f": {len(gradients)} for the {len(names)} primals {', '.join(names)}"
        yield found(Kind.COUNT, call, detail=words)
        return
    dtypes = [None if x is None else x.dtype for x in truth]
    for finding in has_the_form_of_its_primal(widened(call), gradients, truth, dtypes, strict=True):
        yield replace(finding, native=True)


def is_linear_in_the_cotangent(call: Call) -> Iterator[Finding]:
    """backward(g + h) = backward(g) + backward(h), bit for bit, since the grid leaves room for the sum.

    Where sums round, backward(-g) = -backward(g): rounding to nearest knows no sign.
    """
    if call.tier == "bounded":
        opposite = call.backward(-call.grad_y, call.y, *call.primals)
        for i, gradient in given(call, call.gradients):
            yield from differs(call, Kind.SIGN, i, -gradient, opposite[i])
        return
    other = probe(call.grad_y) * call.spacing
    sums = call.backward(call.grad_y + other, call.y, *call.primals)
    others = call.backward(other, call.y, *call.primals)
    for i, gradient in given(call, call.gradients):
        of_other = others[i]
        assert of_other is not None
        yield from differs(call, Kind.LINEAR, i, gradient + of_other, sums[i])


def reads_only_what_it_saves(call: Call) -> Iterator[Finding]:
    """With NaN in y and the primals that it does not save, the result has the same bits."""

    def poisoned(name: str, x: Tensor | None) -> Tensor | None:
        if x is None or name in call.rule.saves:
            return x
        return torch.full_like(x, math.nan) if name not in call.rule.domain.indices else torch.zeros_like(x)

    y = poisoned("y", call.y)
    assert y is not None
    primals = (poisoned(name, x) for name, x in zip(call.rule.primals, call.primals, strict=True))
    for finding in same_gradients(call, call.backward(call.grad_y, y, *primals), Kind.NOT_SAVED):
        yield replace(finding, detail=f" ({', '.join(call.rule.saves) or 'nothing'}){finding.detail}")


def gives_the_same_bits_twice(call: Call) -> Iterator[Finding]:
    """A call in between, with another cotangent, changes neither the next result nor the last."""
    first = call.gradients
    kept = tuple(None if gradient is None else gradient.clone() for gradient in first)
    call.backward(probe(call.grad_y), call.y, *call.primals)
    overwritten = list(same_gradients(call, first, Kind.OVERWRITTEN, kept))
    yield from overwritten
    if not overwritten:
        again = call.backward(call.grad_y, call.y, *call.primals)
        yield from same_gradients(call, again, Kind.FORGETFUL, kept)


def gives_the_same_whatever_the_strides(call: Call) -> Iterator[Finding]:
    """Contiguous copies of the same values give the same numbers; those of a cotangent with stride 0 as well."""
    yield from _as_contiguous(call)
    if call.grad_y.numel() > 1:
        one = call.grad_y.reshape(-1)[0].contiguous()
        yield from _as_contiguous(replace(call, grad_y=one.expand(call.grad_y.shape)))


def _as_contiguous(call: Call) -> Iterator[Finding]:
    def contiguous(x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    primals = [None if x is None else contiguous(x) for x in call.primals]
    again = call.backward(contiguous(call.grad_y), contiguous(call.y), *primals)
    for i, gradient in given(call, call.gradients):
        yield from differs(call, Kind.STRIDES, i, again[i], gradient)


def is_batched_by_vmap_as_by_a_loop(call: Call) -> Iterator[Finding]:
    """vmap over two calls at once gives the two results that a loop gives."""
    turned = [None if x is None else x.flip(tuple(range(x.ndim))) for x in call.primals]
    primals = [
        None if x is None or r is None else torch.stack([x, r]) for x, r in zip(call.primals, turned, strict=True)
    ]
    axes = [None if x is None else 0 for x in primals]
    # Another cotangent, as large: each element kept, turned or left out.
    grads = torch.stack([call.grad_y, probe(call.grad_y) * (call.spacing or call.grad_y.abs())])
    second = replace(call, primals=tuple(turned), grad_y=grads[1])
    with torch.no_grad():
        ys = torch.stack([call.y, second.y])

        def backward(grad_y: Tensor, y: Tensor, *some: Tensor | None) -> tuple[Tensor, ...]:
            return tuple(gradient for _, gradient in given(call, call.backward(grad_y, y, *some)))

        batched = torch.func.vmap(backward, in_dims=(0, 0, *axes))(grads, ys, *primals)
    for i, both in zip(call.given, batched, strict=True):
        for k, one in enumerate((call, second)):
            yield from differs(call, Kind.BATCHED, i, one.gradients[i], both[k], at=one)


def lets_nan_and_inf_reach_only_what_they_influence(call: Call) -> Iterator[Finding]:
    """A NaN or infinity in one element of the cotangent reaches the gradients that it influences, and no other.

    An element is influenced if, by the definition, that output was made from it: 0 times NaN is NaN, and rightly so.
    """
    count = call.grad_y.numel()
    if not count:
        return
    try:
        influenced = certified.reached(call, count // 2)
    except Silent:
        return
    element = torch.zeros(count, dtype=torch.bool, device=call.grad_y.device)
    element[count // 2] = True
    element = element.reshape(call.grad_y.shape)
    comes_in = [g != 0 for _, g in given(call, call.backward(element.to(call.grad_y.dtype), call.y, *call.primals))]
    for special in (math.nan, math.inf):
        poisoned = replace(call, grad_y=torch.where(element, special, call.grad_y))
        reached = given(call, call.backward(poisoned.grad_y, call.y, *call.primals))
        for (i, got), (_, before), must in zip(reached, given(call, call.gradients), comes_in, strict=True):
            may = influenced[i]
            assert may is not None
            yield from _reach(call, poisoned, i, got, before, may.to(got.device), must)


def _reach(
    call: Call, poisoned: Call, i: int, got: Tensor, before: Tensor, may: Tensor, must: Tensor
) -> Iterator[Finding]:
    """Yield that what is not finite is where it may not be, or is not where it must be."""
    # What is not finite without the poison says nothing.
    finite, said = got.isfinite(), before.isfinite()
    if bool((~may & ~finite & said).any()):
        radius = bounds(call, evaluations=2).gradients[i]
        assert radius is not None
        said = said & radius.isfinite()  # nor does what overflows in another order of a sum
    astray, swallowed = ~may & ~finite & said, must & finite & said
    if bool(astray.any()):
        yield unequal(Kind.REACHES, widened(poisoned), i, torch.zeros_like(got), got, astray, native=True)
    elif bool(swallowed.any()):
        wanted = torch.full_like(got, math.nan)
        yield unequal(Kind.SWALLOWS, widened(poisoned), i, wanted, got, swallowed, native=True)
