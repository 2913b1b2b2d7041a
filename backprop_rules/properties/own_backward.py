"""A whole function with a backward of its own: an autograd.Function, a custom_vjp, or anything that torch can run."""

import inspect
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.errors import InputError
from backprop_rules.point import Point
from backprop_rules.properties.finding import Kind
from backprop_rules.properties.form import same_bits
from backprop_rules.properties.objection import WrongGradient
from backprop_rules.rule import Gradients
from backprop_rules.subject.frameworks.carried import vjp_of_custom

Function = Callable[..., Any]


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


def of_the_function(function: Any) -> tuple[tuple[Kind, Callable[[Point], None]], ...]:
    """Return what is asked of the function beside its backward, each with what it finds if it does not hold."""
    asked = {Kind.FUNCTION: computes_the_function, Kind.ENGINE: gives_the_same_through_autograd}
    if _is_autograd_function(function):
        asked |= {Kind.SAVED: leaves_what_it_saved_alone, Kind.ALONE: does_without_the_gradients_not_asked_for}
    return tuple((kind, partial(holds, function)) for kind, holds in asked.items())


def computes_the_function(function: Any, point: Point) -> None:
    """The output of its forward is the function, but for rounding."""
    y, _ = _run(function, point.primals, point.params)
    if y.shape != point.y.shape or y.dtype != point.y.dtype:
        expected, got = ((tuple(t.shape), t.dtype) for t in (point.y, y))
        raise WrongGradient(point, "has a forward of another shape or dtype", expected=expected, got=got)
    from backprop_rules.evidence.allowance.bounds import bounds

    radius = bounds(point, evaluations=2).y.to(y.device)
    wide = torch.complex128 if y.is_complex() else torch.float64
    apart = (y.detach().to(wide) - point.y.to(wide)).abs() > radius
    if apart.any():
        raise WrongGradient.unequal(point, "has a forward that computes another function", None, point.y, y, apart)


def gives_the_same_through_autograd(function: Any, point: Point) -> None:
    """The gradients through autograd are the same bits as those of its own backward."""
    y, leaves = _run(function, point.primals, point.params)
    try:
        found = _by_engine(y, leaves, point.grad_y)
    except RuntimeError as error:
        raise WrongGradient(point, "raises through autograd", where=f": {str(error).splitlines()[0]}") from error
    for i in point.given:
        direct, engine = point.gradients[i], found[i]
        if engine is not None and not same_bits(direct, engine):
            expected, got = (None if t is None else t.tolist() for t in (direct, engine))
            kind = "comes out otherwise through autograd than from its own backward"
            raise WrongGradient(point, kind, i, expected=expected, got=got)


def leaves_what_it_saved_alone(function: Any, point: Point) -> None:
    """A second backward of one forward gives the same, and none writes into y."""
    y, leaves = _run(function, point.primals, point.params)
    before = y.detach().clone()
    first: Gradients = tuple(None for _ in point.primals)
    second = first
    try:
        found = _by_engine(y, leaves, point.grad_y, keep=True)
        first = tuple(None if g is None else g.clone() for g in found)  # which the second may write into
        second = _by_engine(y, leaves, point.grad_y, keep=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            return  # a backward that frees what it saved can be called once
    if not same_bits(before, y.detach()):
        kind = "writes into what it saved: the output of forward"
        raise WrongGradient.unequal(point, kind, None, before, y.detach(), before != y.detach())
    for i in point.given:
        once, twice = first[i], second[i]
        if once is not None and twice is not None and not same_bits(once, twice):
            kind = "writes into what it saved: a second backward gives another gradient"
            raise WrongGradient.unequal(point, kind, i, once, twice, once != twice)


def does_without_the_gradients_not_asked_for(function: Any, point: Point) -> None:
    """Each gradient is the same where no other primal requires one."""
    for i in point.given if len(point.given) > 1 else ():
        frozen = {k for k in point.given if k != i}
        y, leaves = _run(function, point.primals, point.params, frozen)
        if not y.requires_grad:
            continue
        alone, direct = _by_engine(y, leaves, point.grad_y)[i], point.gradients[i]
        if direct is not None and not same_bits(direct, alone):
            expected, got = (None if t is None else t.tolist() for t in (direct, alone))
            kind = "comes out otherwise where no other primal requires a gradient"
            raise WrongGradient(point, kind, i, expected=expected, got=got)


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
    return inspect.Signature([kind("grad_y", kind.POSITIONAL_OR_KEYWORD), *taken])


def _takes_ctx(function: Any) -> bool:
    """Say whether forward takes a ctx: it does not where setup_context is written apart."""
    return function.setup_context is torch.autograd.Function.setup_context


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "function"))
