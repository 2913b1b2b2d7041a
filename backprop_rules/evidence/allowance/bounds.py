"""How far rounding may take the forward and the gradients of a point, by running error analysis."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.domain import precision
from backprop_rules.errors import OwnError, RoundingUnknown
from backprop_rules.evidence.allowance import RunningError, Sums, accumulated_in, as_computed, no_narrower_than
from backprop_rules.evidence.allowance.handed_out import NothingHandedOut
from backprop_rules.evidence.allowance.units import component, computed_in
from backprop_rules.evidence.enclosure import as_real
from backprop_rules.evidence.oracles.oracle import Silent, widest
from backprop_rules.evidence.proof import certified
from backprop_rules.rule import Gradients, Rule
from backprop_rules.strategies.values import recast
from backprop_rules.subject.function import NoAnswer


@dataclass(frozen=True, eq=False)
class Bounds:
    """A radius for y, and one for each gradient, in float64 and of its shape; complex elements have one modulus."""

    y: Tensor
    gradients: tuple[Tensor | None, ...]


@lru_cache(maxsize=2)
def attainable(call: Call, evaluations: int = 1) -> Bounds:
    """Return how far a right rule may be from the exact values: those of the catalogue's rule, in this dtype.

    With two evaluations, how far it may be from what another order of the same operations gives.
    """
    rules = call.rule.references
    for rule in rules:
        try:
            found, ambiguous = _followed(rule, call, evaluations, _as_asked(call))
            if ambiguous and evaluations == 1 and len(rules) > 1:
                found = _joined(found, attainable(call, 2), torch.add)
            return found
        except (NotImplementedError, NoAnswer) as error:
            if rule is rules[-1]:
                raise RoundingUnknown(
                    f"{rule}: how far it may round is not known: {error}. Write it with other operations of torch, or "
                    f"ask for a formula for this one."
                ) from error
    raise AssertionError("a rule has a reference")


@lru_cache(maxsize=2)
def bounds(call: Call, evaluations: int = 1, sums: Sums | None = None) -> Bounds:
    """Return the same for a rule that may be less accurate, as others of its references are.

    Sums may be kept in torch's own dtype and in the one asked for, whichever is narrower, if `sums` does not say.
    """
    found, asked, rules = attainable(call, evaluations), call.rule.roundings.accumulate, call.rule.references
    if sums is None and asked is not None:
        sums = partial(no_narrower_than, asked)
    others = rules[1:] if sums is None else rules
    if not others:
        return found
    ordinary = of_ordinary_size(call)
    larger = partial(_larger, ordinary)
    for rule in others:
        try:
            # Its comparisons as they came out: what a choice changes is no rounding ...
            other, ambiguous = _followed(rule, call, evaluations, sums or as_computed, decided=True)
        except OwnError:
            raise
        except Exception:  # an operation that cannot be followed, or a backward that raises
            if not ordinary and rule is rules[1]:
                # Nobody knows what overflowed or vanished on its way.
                gone = (None if g is None else torch.full_like(g, torch.inf) for g in found.gradients)
                found = Bounds(found.y, tuple(gone))
            continue
        if ambiguous:
            # ... unless the accurate rule, with its roundings in another order, may choose otherwise too.
            either = _joined(attainable(call, 1), attainable(call, 2), torch.add)
            found = _joined(found, either, larger)
        found = _joined(found, other, larger)
    return found


def _joined(one: Bounds, other: Bounds, combine: Callable[[Tensor, Tensor], Tensor]) -> Bounds:
    """Return bounds of which each gradient's is combined from both, where both have one of the same shape."""
    pairs = zip(one.gradients, other.gradients, strict=True)
    joined = [a if a is None or b is None or a.shape != b.shape else combine(a, b) for a, b in pairs]
    return Bounds(one.y, tuple(joined))


def _larger(ordinary: bool, radius: Tensor, other: Tensor) -> Tensor:
    """Return the larger radius; one that is infinite among numbers of ordinary size, by no overflow, excuses none."""
    return torch.where(other.isfinite(), torch.maximum(radius, other), radius if ordinary else other)


def cannot_round_as_far(call: Call, primal: int, outside: Tensor) -> bool:
    """Say whether the operations of somebody else's backward are known, and how far they round there has a bound.

    It has none where digits cancel that a divisor is made of.
    """
    if len(call.rule.references) == 1:
        return True
    try:
        own = _followed(call.rule.references[1], call, 1, seen=True)[0].gradients[primal]
    except OwnError:
        raise
    except Exception:  # an operation without a formula, or a backward that raises
        return False
    return own is None or own.shape != outside.shape or bool(own[outside.to(own.device)].isfinite().all())


def of_ordinary_size(call: Call) -> bool:
    """Say whether the product of any four elements, or of their inverses, stays in their dtype's range.

    A term of a gradient is the cotangent times a first derivative: of products, quotients and roots that takes the
    cotangent, y and no more than two primals, or one twice. Where these stay in range, nothing but a roundabout way
    overflows; elsewhere a right formula may, by the order of its factors.
    """
    for x in (*call.tensors, call.grad_y, call.y):
        size = as_real(x).abs()
        size, limit = size[size != 0], torch.finfo(x.dtype).max ** 0.25
        if not ((size < limit) & (size > 1 / limit)).all():  # nor is NaN
            return False
    return True


def _as_asked(call: Call) -> Sums:
    asked = call.rule.roundings.accumulate
    return as_computed if asked is None else partial(accumulated_in, asked)


def sums_in_their_own_dtype(call: Call) -> Bounds | None:
    """Return the bounds of a rule that keeps its sums in the narrowest dtype there is; None if torch does too."""
    own = min((x.dtype for x in (*call.tensors, call.grad_y)), key=lambda dtype: precision(component(dtype)))
    return None if computed_in(own) == own else bounds(call, sums=partial(no_narrower_than, own))


def sums_as_asked(call: Call) -> Bounds:
    """Return the bounds of a rule that keeps its sums in the dtype asked for, and no narrower one."""
    return bounds(call, sums=_as_asked(call))


def _followed(
    rule: Rule, call: Call, evaluations: int, sums: Sums = as_computed, decided: bool = False, seen: bool = False
) -> tuple[Bounds, bool]:
    """Return the bounds of a rule, and whether a comparison in it might come out otherwise.

    With `seen`, NotImplementedError where a gradient may be made by more than the operations that are seen.
    """
    through = partial(_through, rule, call, evaluations, sums, decided, seen)
    try:
        return through(None)
    except NotImplementedError:
        if len(call.rule.references) == 1:
            raise  # a rule of the catalogue shows that its forward rounds no more than it may
    try:
        away = certified.reach(certified.certify(call).y, call.y)
    except Silent:
        raise NotImplementedError("neither the forward's rounding nor its exact value is known") from None
    return through(away)


def _through(
    rule: Rule, call: Call, evaluations: int, sums: Sums, decided: bool, seen: bool, away: Tensor | None
) -> tuple[Bounds, bool]:
    """Follow the forward, unless it is known how far y is away from the exact one, and the backward with its sums."""
    errors = RunningError(evaluations, call.rule.roundings.flushes, decided)
    own = [x.dtype for x in (*call.tensors, call.grad_y)]
    asked = [value for value in call.params.values() if isinstance(value, torch.dtype)]
    least, references = min(map(precision, [*own, *asked])), call.rule.references
    if len(references) == 1:
        errors.least_bits = least
    known = None if away is None else errors.settled(call.y, away)  # whose own operations are not to be followed
    with torch.no_grad(), errors:
        if away is None:
            y = rule.forward(*call.primals, **call.params)
        else:
            errors.keep(y := call.y.clone(), known)
        errors.sums = sums
        if rule is not references[0]:
            # The reference for somebody else's backward is right whatever it computes in, and so is the forward.
            errors.least_bits = least
        with NothingHandedOut() if seen else nullcontext():
            gradients = rule.gradients(call.grad_y, y, *call.primals, **call.params)
    given = {x.untyped_storage().data_ptr() for x in (*call.tensors, call.grad_y, y)}
    for g in gradients:
        if g is None:
            continue
        unseen = seen and errors.is_filled_unseen(g)
        if unseen or (not errors.made(g) and g.untyped_storage().data_ptr() not in given):
            raise NotImplementedError("a gradient is made by something else than operations of torch")
    radii = Bounds(errors.radius(y), tuple(None if g is None else errors.radius(g) for g in gradients))
    return radii, errors.ambiguous


# What gives gradients that torch can differentiate, from a point, the cotangent, y and the primals.
First = Callable[[Call, Tensor, Tensor, tuple[Tensor | None, ...]], Sequence[Tensor | None]]


def gradients_of(rule: Rule, call: Call, grad_y: Tensor, y: Tensor, primals: tuple[Tensor | None, ...]) -> Gradients:
    """Return the rule's own gradients."""
    return rule.gradients(grad_y, y, *primals, **call.params)


def torchs_gradients(call: Call, grad_y: Tensor, y: Tensor, primals: tuple[Tensor | None, ...]) -> Gradients:
    """Return those of torch's reverse mode."""
    leaves = [x for i in call.given if (x := primals[i]) is not None]
    return call.per_gradient(torch.autograd.grad(y, leaves, grad_y, create_graph=True, materialize_grads=True))


def second_gradients(call: Call, tangents: Sequence[Tensor], first: First) -> list[Tensor]:
    """Return the gradients of <gradients, tangents> by the cotangent and by each primal, by torch's reverse mode."""
    grad_y, *leaves = variables = [x.detach().requires_grad_() for x in (call.grad_y, *call.tensors)]
    primals = call.placed(leaves)
    gradients = first(call, grad_y, call.forward(*primals), primals)
    pairs = zip((gradients[i] for i in call.given), tangents, strict=True)
    live = [(g, t) for g, t in pairs if g is not None and g.requires_grad]
    if not live:
        return [torch.zeros_like(v) for v in variables]
    some, along = zip(*live, strict=True)
    return list(torch.autograd.grad(some, variables, along, materialize_grads=True))


def second_bounds(call: Call, tangents: Sequence[Tensor]) -> list[Tensor]:
    """Return how far rounding may take the second gradients of the catalogue's rule.

    Raises NotImplementedError where it is not known.
    """
    with RunningError() as errors:
        found = second_gradients(call, tangents, partial(gradients_of, call.rule.reference))
        return [errors.radius(gradient) for gradient in found]


def in_float64(call: Call) -> Call:
    """Return the point at the same values in float64 or complex128, laid out alike, for the catalogue's rule.

    In its own dtypes, if forward takes no others.
    """
    if call.rule.domain.own_dtypes:
        return replace(call, rule=call.rule.reference)

    params = {name: widest(value) for name, value in call.params.items()}
    given = (call.grad_y, *call.tensors)
    grad_y, *tensors = (recast(x, torch.complex128 if x.is_complex() else torch.float64) for x in given)
    return replace(call, rule=call.rule.reference, primals=call.placed(tensors), params=params, grad_y=grad_y)
