"""A whole function with a backward of its own: an autograd.Function, a custom_vjp, or anything that torch can run."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.errors import InputError, first_line
from backprop_rules.rule import Gradients
from backprop_rules.subject.ambient import inexact, running
from backprop_rules.subject.backward import Refused
from backprop_rules.subject.between import Between
from backprop_rules.subject.detached import with_outputs_detached
from backprop_rules.subject.frameworks.of_jax import vjp_of_custom
from backprop_rules.subject.function import by_autograd, gradients_along, live_ones
from backprop_rules.subject.places import raised_at
from backprop_rules.subject.returned import by_keys

Function = Callable[..., Any]


def own_backward(function: Any, framework: str, count: int = 0) -> Function:
    """Return f(grad_y, *primals, **params): the own backward, called directly, so that nothing is repaired.

    `count` arguments are given, as in the example, and none of them is left to its default.
    """
    if framework == "jax":
        return vjp_of_custom(function)
    if framework != "torch":
        raise InputError(f"check_function takes functions of torch or JAX; for {framework} give the backward to check.")

    def backward(grad_y: Any, *primals: Tensor | None, **params: Any) -> Any:
        ys, leaves = _called(function, primals, params, grad_y)
        grads = _cotangents(function, ys, grad_y)
        if not is_autograd_function(function):
            pairs = [(y, g) for y, g in zip(ys, grads, strict=True) if y is not None and y.requires_grad]
            flat = gradients_along([(y, g) for y, g in pairs if g is not None], leaves)
            return _pytree.tree_unflatten(list(flat), _pytree.tree_structure(primals))
        node: Any = next((y.grad_fn for y in tensors_of(ys) if y.grad_fn is not None), None)
        if node is None:
            raise InputError(f"{_name(function)} returns a tensor that has no gradient: it does not use its arguments.")
        found = node.apply(*_as_the_engine_has_them(node, ys, grads, leaves))
        gradients = list(found) if isinstance(found, tuple | list) else [found]
        return tuple(gradients[: len(primals)])

    backward.__name__ = _name(function)
    own = _signature(function)
    taken = [p.replace(default=p.empty) if 0 < k <= count else p for k, p in enumerate(own.parameters.values())]
    backward.__signature__ = own.replace(parameters=taken)  # type: ignore[attr-defined]
    return backward


def _called(function: Any, primals: tuple[Any, ...], params: Any, like: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the outputs of a function, and the leaves; Refused where it raises."""
    try:
        return outputs_of(function, primals, params, like=like)
    except (InputError, NameError):  # which no values make right
        raise
    except Exception as error:  # of somebody's code
        raise Refused(type(error).__name__, f"{first_line(error)}{raised_at(error)}".strip()) from error


def without_what_is_marked(function: Any, forward: Any, example: Any, params: Any) -> tuple[Any, str]:
    """Return forward with those outputs detached that a Function marks as without a gradient, and a note of it."""
    if not callable(forward) or isinstance(forward, torch.nn.Module) or not isinstance(example, list | tuple):
        return forward, ""
    try:
        ys = tensors_of(_called(function, tuple(example), params, None)[0])
    except (InputError, NameError, Refused):  # which is told where it is asked for gradients
        return forward, ""
    places = [k for k, y in enumerate(ys) if inexact(y) and not y.requires_grad]
    if not places or len(places) == sum(map(inexact, ys)):
        return forward, ""
    which = " and ".join(f"output {k}" for k in places)
    note = f"{_name(function)} marks {which} as without a gradient, as if forward detached it: none is asked of it"
    return with_outputs_detached(forward, places), note


def _cotangents(function: Any, ys: Sequence[Tensor | None], grad_y: Any) -> tuple[Any, ...]:
    """Return a cotangent for each output of a function, None for what is None."""
    grads = tuple(_pytree.tree_leaves(grad_y))
    if len(grads) == len(tensors_of(ys)):
        there = iter(grads)
        grads = tuple(None if y is None else next(there) for y in ys)
    if len(grads) != len(ys) or any(y is None and g is not None for y, g in zip(ys, grads, strict=True)):
        several = f"{_name(function)} returns {len(tensors_of(ys))} tensors, and forward {len(grads)}"
        raise InputError(f"{several}: give a forward that returns as many.")
    return grads


def _as_the_engine_has_them(node: Any, ys: Sequence[Any], grads: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
    """Return the cotangents with what a Function gets of outputs that have none, as whole numbers: zeros, or None.

    Which of both, by its set_materialize_grads, autograd's engine alone knows: it is asked what it would pass.
    """
    own = [torch.zeros_like(y) if g is None and y is not None else g for g, y in zip(grads, ys, strict=True)]
    pairs = [(y, g) for y, g in zip(ys, grads, strict=True) if g is not None and y.requires_grad]
    if not pairs or all(g is not None for g in grads):
        return own
    passed: list[Any] = []

    def apply(*given: Any) -> tuple[None, ...]:
        passed.extend(given)
        return (None,) * len(node.needs_input_grad)

    node.apply = apply
    try:
        outs, along = zip(*pairs, strict=True)
        by_engine(outs, leaves, along, keep=True)
    finally:
        del node.apply
    return [g if g is None or one is not None else None for g, one in zip(own, passed, strict=True)]


def tensors_of(ys: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the outputs of a function without those that are None, as of an option that is not asked for."""
    return [y for y in ys if y is not None]


def outputs_of(
    function: Any, primals: tuple[Tensor | None, ...], params: Any, frozen: Collection[int] = (), like: Any = None
) -> tuple[tuple[Tensor | None, ...], list[Tensor | None]]:
    """Return the outputs of a function, None for one that is not there, and the leaves, of which some are `frozen`.

    Those of dicts are in the order of those that are in the same place of what is `like` it.
    """
    with torch.enable_grad(), running(None):
        given, structure = _pytree.tree_flatten(primals)  # there may be lists of tensors
        leaves = live_ones(given)
        for i in frozen:
            leaves[i] = given[i]
        if not is_autograd_function(function):
            own = _pytree.tree_unflatten(leaves, structure)
            found = _pytree.tree_leaves(by_keys(function(*own, **params), like))
            return tuple(y if isinstance(y, Tensor) else None for y in found), leaves
        # It may work in place.
        y = applied(function, [x.clone() if isinstance(x, Tensor) and x.requires_grad else x for x in leaves], params)
    ys = tuple(y) if isinstance(y, tuple | list) else (y,)
    if not all(isinstance(y, Tensor) or y is None for y in ys) or all(y is None for y in ys):
        kinds = ", ".join(type(y).__name__ for y in ys)
        raise InputError(f"{_name(function)} returns {kinds}: only functions that return tensors are checked.")
    return ys, leaves


def applied(function: Any, given: Sequence[Any], params: Any) -> Any:
    """Return what an autograd.Function makes of these arguments and params."""
    function, given = (function.function, function.among(given)) if isinstance(function, Between) else (function, given)
    names = list(_signature(function).parameters)[1 + len(given) :]
    return function.apply(*given, *(params[name] for name in names if name in params))


def applying(function: Any) -> Any:
    """Return what calls an autograd.Function by its forward's names; any other function itself."""
    if not is_autograd_function(function):
        return function

    def forward(*arguments: Any) -> Any:
        return function.apply(*arguments)

    forward.__name__ = _name(function)
    taken = list(_signature(function).parameters.values())[1:]
    forward.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return forward


def by_engine(y: Any, leaves: Sequence[Any], grad_y: Any, keep: bool = False) -> Gradients:
    """Return the gradients that autograd's engine finds; it may be asked again if it is to `keep` what was saved."""
    return by_autograd(y, leaves, grad_y, allow_unused=True, retain_graph=keep)


def has_its_own_backward(function: Any) -> bool:
    """Say whether it is no backward itself, but a function that has one: an autograd.Function or a custom_vjp."""
    return is_autograd_function(function) or type(function).__name__ in ("custom_vjp", "custom_jvp")


def is_autograd_function(function: Any) -> bool:
    """Say whether it is an autograd.Function, with or without numbers beside its arrays."""
    function = function.function if isinstance(function, Between) else function
    return isinstance(function, type) and issubclass(function, torch.autograd.Function)


def _signature(function: Any) -> inspect.Signature:
    """Return the signature of its backward: the cotangent, and what its forward takes beside ctx."""
    try:
        own = inspect.signature(function.forward if is_autograd_function(function) else function)
    except (TypeError, ValueError) as error:
        raise InputError(f"{_name(function)} has no signature to be called by: {error}. Wrap it in a lambda.") from None
    kind = inspect.Parameter
    taken = [p.replace(annotation=kind.empty) for p in own.parameters.values()]
    if is_autograd_function(function) and _takes_ctx(function):
        del taken[0]  # whatever its name
    if any(p.name == "grad_y" for p in taken):
        raise InputError(
            f"{_name(function)} takes a parameter called grad_y, as a backward does. check_function asks a function "
            "that has its own backward, whose cotangent this name is: hold a backward by check(backward, forward=...), "
            "or call the parameter otherwise."
        )
    first = kind.POSITIONAL_ONLY if taken and taken[0].kind == kind.POSITIONAL_ONLY else kind.POSITIONAL_OR_KEYWORD
    return inspect.Signature([kind("grad_y", first), *taken])


def _takes_ctx(function: Any) -> bool:
    """Say whether forward takes a ctx: it does not where setup_context is written apart."""
    return function.setup_context is torch.autograd.Function.setup_context


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "function"))
