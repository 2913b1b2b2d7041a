"""A whole function with a backward of its own: an autograd.Function, a custom_vjp, or anything that torch can run."""

import inspect
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.errors import InputError
from backprop_rules.properties import effort
from backprop_rules.properties.finding import Finding, Kind, found, unequal
from backprop_rules.properties.form import same_numbers
from backprop_rules.rule import Gradients
from backprop_rules.strategies.of_rules import widened
from backprop_rules.subject.frameworks.of_jax import vjp_of_custom

Function = Callable[..., Any]
Question = Callable[[Call], Iterator[Finding]]


def own_backward(function: Any, framework: str) -> Function:
    """Return f(grad_y, *primals, **params): the own backward, called directly, so that nothing is repaired."""
    if framework == "jax":
        return vjp_of_custom(function)
    if framework != "torch":
        raise InputError(f"check_function takes functions of torch or JAX; for {framework} give the backward to check.")

    def backward(grad_y: Tensor, *primals: Tensor | None, **params: Any) -> Any:
        y, leaves = _run(function, primals, params)
        if y.grad_fn is None:
            raise InputError(f"{_name(function)} returns a tensor that has no gradient: it does not use its arguments.")
        if not _is_autograd_function(function):
            return _by_engine(y, leaves, grad_y)
        found = y.grad_fn.apply(grad_y)  # type: ignore[attr-defined]
        gradients = list(found) if isinstance(found, tuple | list) else [found]
        return tuple(gradients[: len(primals)])

    backward.__name__ = _name(function)
    backward.__signature__ = _signature(function)  # type: ignore[attr-defined]
    return backward


def of_the_function(function: Any) -> tuple[Question, ...]:
    """Return what is asked of the function beside its backward."""
    asked = [computes_the_function, gives_the_same_through_autograd]
    if _is_autograd_function(function):
        asked += [keeps_forwards_apart, leaves_what_it_saved_alone, does_without_the_gradients_not_asked_for]
    return tuple(partial(holds, function) for holds in asked)


def computes_the_function(function: Any, call: Call) -> Iterator[Finding]:
    """The output of its forward is the function, but for rounding."""
    from backprop_rules.evidence.allowance.bounds import bounds

    y, _ = _run(function, call.primals, call.params)
    if y.shape != call.y.shape or y.dtype != call.y.dtype:
        expected, got = ((tuple(t.shape), t.dtype) for t in (call.y, y))
        yield found(Kind.FUNCTION, call, expected=expected, got=got)
        return
    radius = bounds(call, evaluations=2).y.to(y.device)
    wide = torch.complex128 if y.is_complex() else torch.float64
    apart = (y.detach().to(wide) - call.y.to(wide)).abs() > radius
    if bool(apart.any()):
        yield unequal(Kind.FUNCTION, widened(call), None, call.y, y, apart)


def gives_the_same_through_autograd(function: Any, call: Call) -> Iterator[Finding]:
    """The gradients through autograd are the same bits as those of its own backward."""
    y, leaves = _run(function, call.primals, call.params)
    try:
        through = _by_engine(y, leaves, call.grad_y)
    except RuntimeError as error:
        yield found(Kind.ENGINE, call, detail=f": {str(error).splitlines()[0]}")
        return
    for i in call.given:
        direct, engine = call.gradients[i], through[i]
        if engine is not None and not same_numbers(direct, engine):
            yield _apart(Kind.ENGINE, call, i, direct, engine)


def _apart(kind: Kind, call: Call, i: int, wanted: Tensor | None, got: Tensor | None) -> Finding:
    expected, found_ = (None if t is None else t.tolist() for t in (wanted, got))
    return found(kind, call, i, expected=expected, got=found_)


def leaves_what_it_saved_alone(function: Any, call: Call) -> Iterator[Finding]:
    """A second backward of one forward gives the same, and none writes into y."""
    y, leaves = _run(function, call.primals, call.params)
    before = y.detach().clone()
    first: Gradients = tuple(None for _ in call.primals)
    second = first
    try:
        once_more = _by_engine(y, leaves, call.grad_y, keep=True)
        first = tuple(None if g is None else g.clone() for g in once_more)  # which the second may write into
        second = _by_engine(y, leaves, call.grad_y, keep=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            return  # a backward that frees what it saved can be called once
    if not same_numbers(before, y.detach()):
        yield unequal(Kind.SAVED, widened(call), None, before, y.detach(), before != y.detach())
        return
    for i in call.given:
        once, twice = first[i], second[i]
        if once is not None and twice is not None and not same_numbers(once, twice):
            yield unequal(Kind.SAVED, widened(call), i, once, twice, once != twice)


def keeps_forwards_apart(function: Any, call: Call) -> Iterator[Finding]:
    """Another forward, between a forward and its backward, changes nothing."""
    y, leaves = _run(function, call.primals, call.params)
    others = tuple(x / 2 if x is not None and (x.is_floating_point() or x.is_complex()) else x for x in call.primals)
    _run(function, others, call.params)
    got = _by_engine(y, leaves, call.grad_y)
    for i in call.given:
        if got[i] is not None and not same_numbers(call.gradients[i], got[i]):
            yield _apart(Kind.FORWARDS, call, i, call.gradients[i], got[i])
            return


def does_without_the_gradients_not_asked_for(function: Any, call: Call) -> Iterator[Finding]:
    """Each gradient is the same whichever of the other primals require one."""
    several = [set(some) for n in range(1, len(call.given)) for some in combinations(call.given, n)]
    for frozen in several[: effort.ALONE]:
        y, leaves = _run(function, call.primals, call.params, frozen)
        if not y.requires_grad:
            continue
        alone = _by_engine(y, leaves, call.grad_y)
        for i in call.given:
            if i not in frozen and call.gradients[i] is not None and not same_numbers(call.gradients[i], alone[i]):
                yield _apart(Kind.ALONE, call, i, call.gradients[i], alone[i])


def _run(
    function: Any, primals: tuple[Tensor | None, ...], params: Any, frozen: Collection[int] = ()
) -> tuple[Tensor, list[Tensor | None]]:
    live = [
        x is not None and (x.is_floating_point() or x.is_complex()) and i not in frozen for i, x in enumerate(primals)
    ]
    with torch.enable_grad():
        leaves = [
            x.detach().requires_grad_() if x is not None and own else x for x, own in zip(primals, live, strict=True)
        ]
        if not _is_autograd_function(function):
            return function(*leaves, **params), leaves
        names = list(_signature(function).parameters)[1 + len(leaves) :]
        extra = [params[name] for name in names if name in params]
        y = function.apply(*leaves, *extra)
    if not isinstance(y, Tensor):
        raise InputError(f"{_name(function)} returns a {type(y).__name__}, not a tensor: check one output at a time.")
    return y, leaves


def _by_engine(y: Tensor, leaves: list[Tensor | None], grad_y: Tensor, keep: bool = False) -> Gradients:
    asked = [x for x in leaves if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(y, asked, grad_y, allow_unused=True, retain_graph=keep))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in leaves)


def has_its_own_backward(function: Any) -> bool:
    """Say whether it is no backward itself, but a function that has one: an autograd.Function or a custom_vjp."""
    return _is_autograd_function(function) or type(function).__name__ in ("custom_vjp", "custom_jvp")


def _is_autograd_function(function: Any) -> bool:
    return isinstance(function, type) and issubclass(function, torch.autograd.Function)


def _signature(function: Any) -> inspect.Signature:
    """Return the signature of its backward: the cotangent, and what its forward takes beside ctx."""
    try:
        own = inspect.signature(function.forward if _is_autograd_function(function) else function)
    except (TypeError, ValueError) as error:
        raise InputError(f"{_name(function)} has no signature to be called by: {error}. Wrap it in a lambda.") from None
    kind = inspect.Parameter
    taken = [p.replace(annotation=kind.empty) for p in own.parameters.values()]
    if _is_autograd_function(function) and _takes_ctx(function):
        del taken[0]  # whatever its name
    first = kind.POSITIONAL_ONLY if taken and taken[0].kind == kind.POSITIONAL_ONLY else kind.POSITIONAL_OR_KEYWORD
    return inspect.Signature([kind("grad_y", first), *taken])


def _takes_ctx(function: Any) -> bool:
    """Say whether forward takes a ctx: it does not where setup_context is written apart."""
    return function.setup_context is torch.autograd.Function.setup_context


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "function"))
