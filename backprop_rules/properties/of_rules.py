"""The properties that every rule must have: each a function of a point that raises WrongGradient where it fails."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance import Narrower
from backprop_rules.evidence.allowance.bounds import (
    bounds,
    gradients_of,
    second_bounds,
    second_gradients,
    torchs_gradients,
)
from backprop_rules.evidence.enclosure import as_real
from backprop_rules.evidence.oracles import ForwardMode, ReverseMode
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified, directional
from backprop_rules.evidence.verdict import Verdict, contradiction, judge
from backprop_rules.point import BackwardRaised, Point, probe
from backprop_rules.properties.objection import OraclesDisagree, WrongGradient
from backprop_rules.rule import Gradients

Property = Callable[[Point], None]


def given(point: Point, gradients: Gradients) -> Iterator[tuple[int, Tensor]]:
    """Yield the position and the value of the gradient of each primal that is there."""
    for i in point.given:
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


def expect_equal(
    point: Point,
    problem: str,
    primal: int | None,
    wanted: Tensor | None,
    got: Tensor | None,
    where: Tensor | bool = True,
    at: Point | None = None,
) -> None:
    """Raise WrongGradient unless both tensors hold the same numbers where asked: zeros are equal, and NaN is NaN.

    In the bounded tier they may be as far apart as two evaluations of that gradient `at` a point may be.
    """
    assert wanted is not None and got is not None
    if wanted.shape != got.shape:
        raise WrongGradient(point, problem, primal, expected=tuple(wanted.shape), got=tuple(got.shape))
    if torch.equal(wanted, got):
        return
    wrong = ~((wanted == got) | (wanted.isnan() & got.isnan())) & torch.as_tensor(where, device=got.device)
    if point.tier == "bounded" and primal is not None and wrong.any():
        radius = bounds(at or point, evaluations=2).gradients[primal]
        assert radius is not None
        wide = torch.complex128 if got.is_complex() else torch.float64
        near = (wanted.to(wide) - got.to(wide)).abs() <= radius
        # One order of a sum may overflow where another just does not.
        smaller = torch.minimum(wanted.abs(), got.abs()).double()
        overflows = (wanted.isinf() | got.isinf()) & (smaller + radius > torch.finfo(got.dtype).max)
        wrong = wrong & ~(near | overflows | radius.isinf())
    if wrong.any():
        raise WrongGradient.unequal(point, problem, primal, wanted, got, wrong)


def returns_the_shape_dtype_and_device_of_each_primal(point: Point) -> None:
    """The engine would repair a gradient of another shape or dtype, so the backward is asked directly."""
    gradients = point.gradients
    names = point.rule.primals
    if len(gradients) != len(names):
        raise WrongGradient(point, f"returned {len(gradients)} gradients for the {len(names)} primals {names}")
    for i, (x, gradient) in enumerate(zip(point.primals, gradients, strict=True)):
        if i not in point.given or gradient is None:
            if i in point.given or gradient is not None:
                have = "None" if gradient is None else "a tensor"
                reason = "was not given" if x is None else "has no gradient"
                needed = "a tensor" if i in point.given else f"None, as the primal {reason}"
                raise WrongGradient(point, f"is {have}", i, expected=needed, got=have)
            continue
        assert x is not None
        if not isinstance(gradient, Tensor):
            raise WrongGradient(point, "is no tensor", i, expected="a tensor", got=repr(gradient))
        facts: tuple[tuple[str, object, object], ...] = (
            ("shape", tuple(gradient.shape), tuple(x.shape)),
            ("dtype", gradient.dtype, x.dtype),
            ("device", gradient.device, x.device),
        )
        for what, found, wanted in facts:
            if found != wanted:
                raise WrongGradient(point, f"has the wrong {what}", i, expected=wanted, got=found)


def computes_its_definition(point: Point) -> None:
    """A right gradient of the wrong function is wrong: y must equal the definition, but for its rounding."""
    if point.tier == "bounded":
        _lies_around_its_definition(point)
        return
    primals = [
        x if x is None else _rational(x) if i in point.given else x.cpu().numpy() for i, x in enumerate(point.primals)
    ]
    try:
        defined = np.asarray(certified.defined(point.rule)(*primals, **point.params), dtype=object)
        values = [complex(v) if point.y.is_complex() else float(v) for v in defined.flat]
    except ZeroDivisionError:
        defined, values = np.empty(point.y.shape), [math.nan] * point.y.numel()
    except Exception as error:
        raise WrongGradient(
            point, f"has a definition that raises {type(error).__name__}", where=f": {error}"
        ) from error
    wanted = torch.tensor(values, dtype=torch.complex128 if point.y.is_complex() else torch.float64)
    got = point.y.cpu().to(wanted.dtype)
    expect_equal(point, "comes with a forward that is not its definition", None, wanted.reshape(defined.shape), got)


def _lies_around_its_definition(point: Point) -> None:
    try:
        balls = certified.certify(point).y
    except Silent:
        return
    except InputError:
        raise
    except Exception as error:
        raise WrongGradient(
            point, f"has a definition that raises {type(error).__name__}", where=f": {error}"
        ) from error
    if len(balls) != point.y.numel() * (2 if point.y.is_complex() else 1):
        raise WrongGradient(point, "comes with a forward of another size than its definition", got=point.y.numel())
    enclosure = certified.enclosure(balls, bounds(point).y, point.y)
    outside = enclosure.outside(point.y)
    if outside is not None:
        verdict = Verdict("certified", 0, point, point.y, enclosure, outside)
        raise WrongGradient.outside(verdict, ("certified",), "comes with a forward that is not its definition", None)


def _rational(x: Tensor) -> Any:
    exact = [v if isinstance(v, complex) else Fraction(v) for v in x.cpu().flatten().tolist()]
    array = np.empty(len(exact), dtype=object)
    array[:] = exact
    return array.reshape(x.shape)


def agrees_with_every_oracle(point: Point) -> None:
    """Every gradient lies in the enclosure of every oracle, for the outputs that the oracle speaks for."""
    verdicts = judge(point)
    wrong = [verdict for verdict in verdicts if verdict.disagrees and not verdict.witness]
    apart = contradiction(verdicts) if wrong else None
    if apart:
        raise OraclesDisagree.between(*apart)
    for first in wrong[:1]:
        raise WrongGradient.outside(first, tuple(v.oracle for v in wrong if v.primal == first.primal))


def is_linear_in_the_cotangent(point: Point) -> None:
    """backward(g + h) = backward(g) + backward(h), bit for bit, since the grid leaves room for the sum.

    Where sums round, backward(-g) = -backward(g): rounding to nearest knows no sign.
    """
    if point.tier == "bounded":
        opposite = point.backward(-point.grad_y, point.y, *point.primals)
        for i, gradient in given(point, point.gradients):
            expect_equal(point, "does not change sign with the cotangent", i, -gradient, opposite[i])
        return
    other = probe(point.grad_y) * point.spacing
    sums = point.backward(point.grad_y + other, point.y, *point.primals)
    others = point.backward(other, point.y, *point.primals)
    for i, gradient in given(point, point.gradients):
        of_other = others[i]
        assert of_other is not None
        expect_equal(point, "is not linear in the cotangent", i, gradient + of_other, sums[i])


def is_the_adjoint_of_forward_mode(point: Point) -> None:
    """<grad_y, J t> = sum over the primals of <gradient, t>, both sums formed exactly in float64."""
    if point.tier == "bounded":
        _changes_as_the_forward_does(point)
        return
    if not any(x.numel() for x in point.tensors):
        return  # J has no columns, and torch's J t may be 0/0, as for the mean of nothing.
    spoken = point.only(ForwardMode().speaks_for(point))
    tangents = [probe(x, start) * point.spacing for start, x in enumerate(spoken.tensors)]
    with forward_ad.dual_level():
        # torch cannot write a tangent beside a primal whose elements share memory.
        pairs = zip(spoken.tensors, tangents, strict=True)
        duals = [forward_ad.make_dual(x.detach().contiguous(), tangent) for x, tangent in pairs]
        pushed = forward_ad.unpack_dual(spoken.forward(*spoken.placed(duals))).tangent
    if pushed is None:  # y does not depend on the primals
        pushed = torch.zeros_like(spoken.y)
    wanted = _inner(spoken.grad_y, pushed)
    got = math.fsum(
        _inner(gradient, t) for (_, gradient), t in zip(given(spoken, spoken.gradients), tangents, strict=True)
    )
    if got != wanted:
        raise WrongGradient(spoken, "is not the adjoint of the forward-mode derivative", expected=wanted, got=got)


def _changes_as_the_forward_does(point: Point) -> None:
    """The certified derivative, in which the gradients lie, changes the forward along a direction as it does change.

    Where it does not, one of the two oracles is wrong.
    """
    along = directional.directions(point)
    try:
        differences = directional.derivative_along(point, along)
        truth = certified.inner([balls for balls in certified.certify(point).gradients if balls is not None], along)
    except Silent:
        return
    if not differences.is_finite() or not truth.is_finite():
        return
    if not differences.overlaps(truth):
        raise OraclesDisagree(
            point,
            "cannot be judged, as two oracles contradict each other",
            expected=f"{truth} along {[t.tolist() for t in along]} by the certified derivative",
            got=f"{differences} by differences of the forward",
        )


def _inner(a: Tensor, b: Tensor) -> float:
    if a.is_complex() != b.is_complex():
        a, b = a.real, b.real
    return float((as_real(a) * as_real(b)).sum())


def reads_only_what_it_saves(point: Point) -> None:
    """With NaN in y and the primals that it does not save, the result has the same bits."""

    def poisoned(name: str, x: Tensor | None) -> Tensor | None:
        if x is None or name in point.rule.saves:
            return x
        return torch.full_like(x, math.nan) if name not in point.rule.domain.indices else torch.zeros_like(x)

    y = poisoned("y", point.y)
    assert y is not None
    again = point.backward(
        point.grad_y, y, *(poisoned(name, x) for name, x in zip(point.rule.primals, point.primals, strict=True))
    )
    _expect_same_bits(point, again, f"reads more than it declares to save ({', '.join(point.rule.saves) or 'nothing'})")


def writes_to_none_of_its_arguments(point: Point) -> None:
    """Neither the cotangent nor y nor a primal has another value, or was written to, after the call."""
    names = ("grad_y", "y", *point.rule.primals)
    grad_y, y, primals = (
        point.grad_y.clone(),
        point.y.clone(),
        [None if x is None else x.clone() for x in point.primals],
    )
    arguments = (grad_y, y, *primals)
    before = [None if x is None else (x.clone(), x._version) for x in arguments]
    point.backward(grad_y, y, *primals)
    for name, x, old in zip(names, arguments, before, strict=True):
        if x is not None and old is not None and (x._version != old[1] or not same_bits(x, old[0])):
            raise WrongGradient(point, f"writes to its argument {name}", expected=old[0].tolist(), got=x.tolist())


def gives_the_same_bits_twice(point: Point) -> None:
    """A call in between, with another cotangent, changes neither the next result nor the last."""
    first = point.gradients
    kept = tuple(None if gradient is None else gradient.clone() for gradient in first)
    point.backward(probe(point.grad_y), point.y, *point.primals)
    _expect_same_bits(point, first, "has its result overwritten by the next call", kept)
    again = point.backward(point.grad_y, point.y, *point.primals)
    _expect_same_bits(point, again, "does not give the same bits twice", kept)


def gives_the_same_whatever_the_strides(point: Point) -> None:
    """Contiguous copies of the same values give the same numbers."""

    def contiguous(x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    primals = [None if x is None else contiguous(x) for x in point.primals]
    again = point.backward(contiguous(point.grad_y), contiguous(point.y), *primals)
    for i, gradient in given(point, point.gradients):
        expect_equal(point, "depends on the strides of its arguments", i, again[i], gradient)


def is_batched_by_vmap_as_by_a_loop(point: Point) -> None:
    """vmap over two points at once gives the two results that a loop gives."""
    turned = [None if x is None else x.flip(tuple(range(x.ndim))) for x in point.primals]
    primals = [
        None if x is None or r is None else torch.stack([x, r]) for x, r in zip(point.primals, turned, strict=True)
    ]
    axes = [None if x is None else 0 for x in primals]
    grads = torch.stack([point.grad_y, _flipped_sign(point)])
    second = replace(point, primals=tuple(turned), grad_y=grads[1])
    with torch.no_grad():
        ys = torch.stack([point.y, second.y])

        def backward(grad_y: Tensor, y: Tensor, *some: Tensor | None) -> tuple[Tensor, ...]:
            return tuple(gradient for _, gradient in given(point, point.backward(grad_y, y, *some)))

        batched = torch.func.vmap(backward, in_dims=(0, 0, *axes))(grads, ys, *primals)
    for i, both in zip(point.given, batched, strict=True):
        for k, one in enumerate((point, second)):
            expect_equal(point, "is not batched by vmap as by a loop", i, one.gradients[i], both[k], at=one)


def _flipped_sign(point: Point) -> Tensor:
    """Return another cotangent, as large as the point's: each element kept, turned or left out."""
    return probe(point.grad_y) * (point.spacing or point.grad_y.abs())


def has_the_right_second_derivative(point: Point) -> None:
    """Differentiated by torch, the backward gives what torch's own double backward gives, bit for bit on the grid.

    Off the grid it gives the second derivative of the definition, but for rounding.
    """
    if point.tier == "bounded":
        _has_the_certified_second_derivative(point)
        return
    outputs = ReverseMode().speaks_for(point)
    spoken = point.only(outputs)
    tangents = [probe(x, k) * point.spacing for k, x in enumerate(point.tensors)]
    try:
        theirs = second_gradients(spoken, tangents, torchs_gradients)
    except RuntimeError:
        return  # torch's own backward raises, as for some shapes of clamp's bounds: no witness here
    ours = second_gradients(spoken, tangents, partial(gradients_of, point.rule))
    for problem, got, wanted in zip(_second_problems(point), ours, theirs, strict=True):
        expect_equal(spoken, problem, None, wanted, got, outputs if got is ours[0] else True)


def _second_problems(point: Point) -> list[str]:
    names = ["the cotangent", *(point.rule.primals[i] for i in point.given)]
    return [f"has the wrong second derivative with respect to {name}" for name in names]


def _has_the_certified_second_derivative(point: Point) -> None:
    if any(x.is_complex() for x in (point.grad_y, *point.tensors)):
        return
    tangents = [probe(x, k) for k, x in enumerate(point.tensors)]
    try:
        pushed, slopes = certified.second_order(point, tangents)
        radii = second_bounds(point, tangents)
    except (Silent, NotImplementedError):
        return  # a kink, or an operation of torch's double backward whose rounding is not known
    found = second_gradients(point, tangents, partial(gradients_of, point.rule))
    for problem, balls, radius, got in zip(_second_problems(point), [pushed, *slopes], radii, found, strict=True):
        enclosure = certified.enclosure(balls, radius, got)
        outside = enclosure.outside(got)
        if outside is not None:
            verdict = Verdict("certified", 0, point, got, enclosure, outside)
            raise WrongGradient.outside(verdict, ("certified",), problem, None)


def lets_nan_and_inf_reach_only_what_they_influence(point: Point) -> None:
    """A NaN or infinity in one element of the cotangent reaches the gradients that it influences, and no other.

    An element is influenced if, by the definition, that output was made from it: 0 times NaN is NaN, and rightly so.
    """
    count = point.grad_y.numel()
    if not count:
        return
    try:
        influenced = certified.reached(point, count // 2)
    except Silent:
        return
    element = torch.zeros(count, dtype=torch.bool, device=point.grad_y.device)
    element[count // 2] = True
    element = element.reshape(point.grad_y.shape)
    unit = element.to(point.grad_y.dtype)
    comes_in = [g != 0 for _, g in given(point, point.backward(unit, point.y, *point.primals))]
    for special in (math.nan, math.inf):
        grad_y = torch.where(element, special, point.grad_y)
        poisoned = replace(point, grad_y=grad_y)
        reached = given(point, point.backward(grad_y, point.y, *point.primals))
        for (i, got), (_, before), must in zip(reached, given(point, point.gradients), comes_in, strict=True):
            may = influenced[i]
            assert may is not None
            said = before.isfinite()  # what is not finite without the poison says nothing
            if (~may.to(got.device) & ~got.isfinite() & said).any():
                radius = bounds(point, evaluations=2).gradients[i]
                assert radius is not None
                said = said & radius.isfinite()  # nor what overflows in another order of a sum
            _expect_reach(poisoned, i, torch.where(said, got, 0), may.to(got.device), must & said)


def _expect_reach(poisoned: Point, i: int, got: Tensor, may: Tensor, must: Tensor) -> None:
    astray, swallowed = ~may & ~got.isfinite(), must & got.isfinite()
    if astray.any():
        problem = "lets NaN or infinity of grad_y reach what that element of grad_y does not influence"
        raise WrongGradient.unequal(poisoned, problem, i, torch.zeros_like(got), got, astray)
    if swallowed.any():
        problem = "swallows NaN or infinity of grad_y where that element of grad_y comes in"
        raise WrongGradient.unequal(poisoned, problem, i, torch.full_like(got, math.nan), got, swallowed)


def _expect_same_bits(point: Point, got: Gradients, problem: str, wanted: Gradients | None = None) -> None:
    wanted = point.gradients if wanted is None else wanted
    for i in point.given:
        a, b = wanted[i], got[i]
        if not same_bits(a, b):
            expect_equal(point, problem, i, a, b)
            raise WrongGradient(point, f"{problem}: zeros of another sign", i)


# What can be asked of a point, in the order in which it is asked: what makes the later questions meaningless first.
PROPERTIES: tuple[Property, ...] = (
    writes_to_none_of_its_arguments,
    returns_the_shape_dtype_and_device_of_each_primal,
    computes_its_definition,
    agrees_with_every_oracle,
    is_linear_in_the_cotangent,
    is_the_adjoint_of_forward_mode,
    reads_only_what_it_saves,
    gives_the_same_bits_twice,
    gives_the_same_whatever_the_strides,
    is_batched_by_vmap_as_by_a_loop,
    has_the_right_second_derivative,
    lets_nan_and_inf_reach_only_what_they_influence,
)

# A wrong value is plainer than what else it makes wrong.
PLAINEST = PROPERTIES[:4]


def check(point: Point, properties: tuple[Property, ...] = PROPERTIES) -> None:
    """Raise WrongGradient for the first of the properties that fails; tensors without values show shapes alone."""
    for holds in properties:
        if point.on_meta and holds is not returns_the_shape_dtype_and_device_of_each_primal:
            continue
        try:
            holds(point)
        except Narrower as error:
            raise WrongGradient(point, f"computes in {error}, which is narrower than its arguments") from error
        except BackwardRaised as error:
            name, text = error.args
            raise WrongGradient(point, f"backward raises {name}", where=f": {text}") from error
