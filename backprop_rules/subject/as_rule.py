"""What is checked as a rule: what the proof, the allowance and the bank of mistakes ask of it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import COMPLEX, REAL, Choice, Domain, Mask
from backprop_rules.errors import InputError
from backprop_rules.rule import Gradients, Roundings, Rule, find
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import EMPTY, POSITIONAL, Backward, in_their_places, named
from backprop_rules.subject.function import by_autograd, live_ones
from backprop_rules.subject.returned import Joined

Function = Callable[..., Any]


def against_a_rule(
    own: Backward, right: Rule, params: Mapping[str, Any], example: Sequence[Tensor | None] | None = None
) -> Rule:
    """Return the subject of a backward for a rule of the catalogue: for arrays of as many axes as an example has.

    It takes the rule's primals, or without the optional ones, and the rule's params or some of them;
    a param that it does not take keeps its default.
    """
    kinds = dict(right.domain.params)
    for name in kinds:
        if name in params:
            kinds[name] = Choice((params[name],))
        elif not own.signature.takes(name):
            kinds[name] = Choice((_default(right, name, own.function),))
    strangers = sorted(set(params) - set(kinds))
    if strangers:
        raise InputError(f"{right}: it has no param {strangers[0]}; its params are {', '.join(kinds) or 'none'}.")
    domain = replace(right.domain, params=kinds, requires=_without(right, own.signature.primals))
    domain = domain if example is None else _of_as_many_axes(right, domain, example)
    torchs_own = _with_signature(_torchs_own(right.forward), right.primals, right.optional, right.domain)
    return _held(own, right, domain, replace(right, backward=torchs_own))


def against_a_function(
    own: Backward,
    forward: Function,
    definition: Function | None,
    names: tuple[str, ...],
    example: Sequence[Tensor],
    params: Mapping[str, Any],
    cut_off: frozenset[int],
) -> Rule:
    """Return the rule of a backward for any function of tensors; the numbers of several outputs are one row.

    No derivative reaches the primals that are `cut_off`, as forward detaches them.
    """
    name = f"{named(own.function).strip('<>')} (yours)"  # what it is called decides nothing: no rule has such a name
    domain = _domain_of(names, example, params)
    if not own.returned.single:
        forward, definition = Joined(forward, own.returned), definition and Joined(definition, own.returned)
    right = Rule(
        name,
        forward,
        definition,
        _with_signature(_torchs_own(forward), names, frozenset(), domain),
        domain,
        ("y", *names),
        "",
        "",
    )
    return _held(own, right, domain, cut_off=cut_off)


def _domain_of(names: Sequence[str], example: Sequence[Tensor], params: Mapping[str, Any]) -> Domain:
    inexact = [x.dtype for x in example if x.dtype in REAL + COMPLEX]
    axes = [" ".join(f"n{n}_{k}_{d}" for d, n in enumerate(x.shape)) for k, x in enumerate(example)]
    return Domain(
        shapes=", ".join(axes),
        params={key: Choice((value,)) for key, value in params.items()},
        dtypes=tuple(dict.fromkeys(inexact)),
        indices={name: Mask() for name, x in zip(names, example, strict=True) if x.dtype not in REAL + COMPLEX},
        degree=None,
        promotes=len(set(inexact)) > 1,
        own_dtypes=tuple(x.dtype for x in example) if len(set(inexact)) > 1 else (),
    )


def _torchs_own(forward: Function) -> Function:
    def backward(grad_y: Tensor, y: Tensor, *primals: Tensor | None, **params: Any) -> Gradients:
        with torch.enable_grad():
            leaves = live_ones(primals)
            y = forward(*leaves, **params)
            if not y.requires_grad:  # a step, or a constant
                return tuple(torch.zeros_like(x) if x is not None and inexact(x) else None for x in primals)
            return by_autograd(y, leaves, grad_y, materialize_grads=True)

    return backward


def _held(own: Backward, right: Rule, domain: Domain, *excuses: Rule, cut_off: frozenset[int] = frozenset()) -> Rule:
    """Return a backward as a rule that is held against the right one, and may round what its own operations do."""
    names = right.primals
    optional = right.optional & (own.signature.may_be_left_out | (set(names) - set(own.signature.primals)))

    def backward_of(function: Function) -> Function:
        def backward(grad_y: Tensor, y: Tensor, *primals: Tensor | None, **params: Any) -> Any:
            if isinstance(right.forward, Joined):
                grad_y, y = right.forward.apart((grad_y, y), primals, params)
            found = own.called(function, grad_y, y, primals, params)
            return _filled(_placed(found, primals, right), primals, cut_off)

        return _with_signature(backward, names, optional, domain)

    # Its own roundings are those of the operations of torch that it is made of.
    excuse = replace(right, domain=domain, backward=backward_of(own.bridge.followed(own.function)))
    roundings = Roundings(right, (excuse, *excuses), flushes=own.bridge.flushes)
    mine = backward_of(own.in_one_piece)
    return replace(right, backward=mine, domain=domain, saves=("y", *names), roundings=roundings)


def _placed(found: Any, primals: Sequence[Tensor | None], right: Rule) -> Any:
    """Return the gradients, None put in for the primals that have none if the function left those out."""
    several = isinstance(found, tuple | list)
    asked = [i for i in right.differentiable if primals[i] is not None]
    gradients = in_their_places(list(found) if several else [found], asked, len(primals))
    return tuple(gradients) if several or len(gradients) == len(primals) else found


def _filled(found: Any, primals: Sequence[Tensor | None], cut_off: frozenset[int]) -> Any:
    """Return zeros for None where no derivative reaches the primal: for autograd the two are the same."""
    if not cut_off or not isinstance(found, tuple) or len(found) != len(primals):
        return found
    return tuple(
        torch.zeros_like(x) if gradient is None and x is not None and k in cut_off else gradient
        for k, (gradient, x) in enumerate(zip(found, primals, strict=True))
    )


def _with_signature(function: Function, primals: Sequence[str], optional: frozenset[str], domain: Domain) -> Function:
    kind = inspect.Parameter
    plain = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("grad_y", "y")]
    own = [kind(name, kind.POSITIONAL_OR_KEYWORD, default=None if name in optional else EMPTY) for name in primals]
    params = [kind(name, kind.KEYWORD_ONLY) for name in domain.params]
    function.__signature__ = inspect.Signature([*plain, *own, *params])  # type: ignore[attr-defined]
    return function


def _without(right: Rule, taken: Sequence[str]) -> tuple[str, Callable[..., bool]] | None:
    """Return the rule's requirement, and that no primal is given which the backward does not take."""
    left = set(right.primals) - set(taken)
    if not left:
        return right.domain.requires
    if left - right.optional:
        raise InputError(
            f"{right}: the backward takes the primals {', '.join(taken) or 'none'}, but the rule has "
            f"{', '.join(right.primals)}. A backward is called as f(grad_y, *primals, **params)."
        )
    positions = [right.primals.index(name) for name in left]

    def accepts(*primals: Tensor | None, **params: Any) -> bool:
        return all(primals[i] is None for i in positions) and right.domain.accepts(*primals, **params)

    return f"no {' or '.join(sorted(left))}, which the backward does not take", accepts


def _of_as_many_axes(right: Rule, domain: Domain, example: Sequence[Tensor | None]) -> Domain:
    ranks = [None if x is None else x.ndim for x in example]
    if len(ranks) > len(right.primals):
        raise InputError(f"{right}: the example has {len(ranks)} arrays; its primals are {', '.join(right.primals)}.")

    def accepts(*primals: Tensor | None, **params: Any) -> bool:
        found = [None if x is None else x.ndim for x in primals]
        return found[: len(ranks)] == ranks and domain.accepts(*primals, **params)

    complex_ = any(x is not None and x.is_complex() for x in example)
    dtypes = tuple(d for d in domain.dtypes if d.is_complex == complex_) or domain.dtypes
    return replace(domain, dtypes=dtypes, requires=("arrays of as many axes as the example's", accepts))


def _default(right: Rule, param: str, backward: Function) -> Any:
    value = inspect.signature(right.backward).parameters[param].default
    if value is EMPTY:
        raise InputError(
            f"{right}: {named(backward)} has no param {param}, which the rule needs. Add it, as in "
            f"def {named(backward)}(grad_y, {', '.join(right.primals)}, *, {param})."
        )
    return value


def arguments_of(function: Function, count: int) -> list[str]:
    """Return the names of the function's first arguments, none where it does not tell them."""
    try:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind in POSITIONAL][:count]
    except (TypeError, ValueError):
        return []


def names_of(function: Function, count: int) -> tuple[str, ...]:
    """Return names for the primals: those of the function's arguments, where it has enough of them."""
    own = arguments_of(function, count)
    if len(own) < count or {"y", "grad_y"} & set(own):
        own = ["x"] if count == 1 else [f"x{k}" for k in range(1, count + 1)]
    return tuple(own)


def rule_named(name: str | Rule) -> Rule:
    """Return the rule of that name; InputError, with the nearest name, if there is none."""
    if not isinstance(name, str | Rule):
        raise InputError(f"rule is the name of a rule, as in rule='linear'; got {name!r}.")
    return name if isinstance(name, Rule) else find(name)
