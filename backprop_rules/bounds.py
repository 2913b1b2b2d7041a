"""How far rounding may take the forward and the gradients of a point, by running error analysis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from backprop_rules.enclosure import as_real
from backprop_rules.errors import RoundingUnknown
from backprop_rules.grid import precision
from backprop_rules.oracles.oracle import widest
from backprop_rules.point import Point
from backprop_rules.rounding import RunningError
from backprop_rules.rule import Gradients, Rule


@dataclass(frozen=True, eq=False)
class Bounds:
    """A radius for y, and one for each gradient, in float64 and of its shape; complex elements have one modulus."""

    y: Tensor
    gradients: tuple[Tensor | None, ...]


@lru_cache(maxsize=2)
def attainable(point: Point, evaluations: int = 1) -> Bounds:
    """Return how far a right rule may be from the exact values: those of the catalogue's rule, in this dtype.

    With two evaluations, how far it may be from what another order of the same operations gives.
    """
    rules = point.rule.references
    for rule in rules:
        try:
            return _followed(rule, point, evaluations)
        except NotImplementedError as error:
            if rule is rules[-1]:
                raise RoundingUnknown(
                    f"{rule}: how far it may round is not known: {error}. Write it with other operations of torch, or "
                    f"ask for a formula for this one."
                ) from error
    raise AssertionError("a rule has a reference")


@lru_cache(maxsize=2)
def bounds(point: Point, evaluations: int = 1) -> Bounds:
    """Return the same for a rule that may be less accurate, as others of its references are."""
    found, ordinary = attainable(point, evaluations), of_ordinary_size(point)
    for rule in point.rule.references[1:]:
        try:
            other = _followed(rule, point, evaluations)
        except Exception:  # an operation that cannot be followed, or a backward that raises: no excuse
            continue
        pairs = zip(found.gradients, other.gradients, strict=True)
        found = Bounds(found.y, tuple(_wider(own, its, ordinary) for own, its in pairs))
    return found


def of_ordinary_size(point: Point) -> bool:
    """Say whether the product of any four elements, or of their inverses, stays in their dtype's range."""
    for x in (*point.tensors, point.grad_y, point.y):
        size = as_real(x).abs()
        size, limit = size[size != 0], torch.finfo(x.dtype).max ** 0.25
        if not ((size < limit) & (size > 1 / limit)).all():  # nor is NaN
            return False
    return True


def _followed(rule: Rule, point: Point, evaluations: int) -> Bounds:
    own = [x.dtype for x in (*point.tensors, point.grad_y)]
    asked = [value for value in point.params.values() if isinstance(value, torch.dtype)]
    with torch.no_grad(), RunningError(evaluations, min(map(precision, [*own, *asked])), point.rule.flushes) as errors:
        y = rule.forward(*point.primals, **point.params)
        gradients = rule.gradients(point.grad_y, y, *point.primals, **point.params)
    return Bounds(errors.radius(y), tuple(None if g is None else errors.radius(g) for g in gradients))


def _wider(radius: Tensor | None, other: Tensor | None, ordinary: bool) -> Tensor | None:
    """Return the larger radius; one that is infinite among numbers of ordinary size, by no overflow, excuses none."""
    if radius is None or other is None or other.shape != radius.shape:
        return radius
    return torch.where(other.isfinite(), torch.maximum(radius, other), radius if ordinary else other)


# What gives gradients that torch can differentiate, from a point, the cotangent, y and the primals.
First = Callable[[Point, Tensor, Tensor, tuple[Tensor | None, ...]], Sequence[Tensor | None]]


def gradients_of(rule: Rule, point: Point, grad_y: Tensor, y: Tensor, primals: tuple[Tensor | None, ...]) -> Gradients:
    """Return the rule's own gradients."""
    return rule.gradients(grad_y, y, *primals, **point.params)


def torchs_gradients(point: Point, grad_y: Tensor, y: Tensor, primals: tuple[Tensor | None, ...]) -> Gradients:
    """Return those of torch's reverse mode."""
    leaves = [x for i in point.given if (x := primals[i]) is not None]
    return point.per_gradient(torch.autograd.grad(y, leaves, grad_y, create_graph=True, materialize_grads=True))


def second_gradients(point: Point, tangents: Sequence[Tensor], first: First) -> list[Tensor]:
    """Return the gradients of <gradients, tangents> by the cotangent and by each primal, by torch's reverse mode."""
    grad_y, *leaves = variables = [x.detach().requires_grad_() for x in (point.grad_y, *point.tensors)]
    primals = point.placed(leaves)
    gradients = first(point, grad_y, point.forward(*primals), primals)
    pairs = zip((gradients[i] for i in point.given), tangents, strict=True)
    live = [(g, t) for g, t in pairs if g is not None and g.requires_grad]
    if not live:
        return [torch.zeros_like(v) for v in variables]
    some, along = zip(*live, strict=True)
    return list(torch.autograd.grad(some, variables, along, materialize_grads=True))


def second_bounds(point: Point, tangents: Sequence[Tensor]) -> list[Tensor]:
    """Return how far rounding may take the second gradients of the catalogue's rule.

    Raises NotImplementedError where it is not known.
    """
    with RunningError() as errors:
        found = second_gradients(point, tangents, partial(gradients_of, point.rule.reference))
        return [errors.radius(gradient) for gradient in found]


def in_float64(point: Point) -> Point:
    """Return the point at the same values in float64 or complex128, for the catalogue's rule."""

    def wide(x: Tensor) -> Tensor:
        return x.to(torch.complex128 if x.is_complex() else torch.float64)

    params = {name: widest(value) for name, value in point.params.items()}
    primals = point.placed(map(wide, point.tensors))
    return replace(point, rule=point.rule.reference, primals=primals, params=params, grad_y=wide(point.grad_y))
