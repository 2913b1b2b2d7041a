"""Somebody's backward, and how it is called: with the cotangents, with y or without, with how many primals."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.errors import InputError, OwnError, first_line
from backprop_rules.subject.addresses import Addresses
from backprop_rules.subject.ambient import SEED, Ambient, inexact, running
from backprop_rules.subject.denormals import as_found
from backprop_rules.subject.frameworks.bridge import Bridge, each
from backprop_rules.subject.frameworks.carried import bridge_of, carried
from backprop_rules.subject.function import Cotangents, Function, NoAnswer, Outputs
from backprop_rules.subject.memory import ASKS_FOR_DETERMINISM, poisoned
from backprop_rules.subject.places import raised_at
from backprop_rules.subject.returned import Returned

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
EMPTY = inspect.Parameter.empty


class Raised(NoAnswer):
    """The backward raised an exception: the name of its type and the first line of its text."""

    def __str__(self) -> str:
        return ": ".join(filter(None, self.args))


class Refused(Raised):
    """A function's own forward raised, and not its backward: so it says where it is defined."""


class Misfit(NoAnswer):
    """The backward returned what is no gradients of the primals."""


class Miscounted(Misfit):
    """The backward returned another number of gradients than there are primals."""


class Signature:
    """Which arguments a backward takes: how many primals, y or not, and which params."""

    def __init__(
        self,
        function: Callable[..., Any],
        primals: Sequence[str],
        params: Mapping[str, Any],
        least: int,
        y_is_a_primal: bool = False,
    ) -> None:
        try:
            signature = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise InputError(f"{function!r} cannot be a backward: {error}. Give a function of Python.") from error
        self.rest = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature)
        self.names = {p.name for p in signature}
        positional = [p for p in signature if p.kind in POSITIONAL and p.name not in params]
        names = [p.name for p in positional]
        # With as many arguments as there are primals, y is one of these, and where forward has an argument y itself.
        asked = "y" in names[1:] and "y" not in primals and len(names) > 1 + least and not y_is_a_primal
        self.y_at = names.index("y") if asked else None
        own = [p for k, p in enumerate(positional) if k not in (0, self.y_at)]
        many = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature)
        if names[:1] == ["ctx"]:
            raise InputError(
                f"{named(function)} takes ctx first, as the backward of an autograd.Function does: it is checked with "
                f"its Function, as in check_function(MyFunction, ...). A backward is called as f(grad_y, *primals)."
            )
        if not positional and not many:
            raise InputError(f"{named(function)} takes no cotangent: a backward is called as f(grad_y, *primals).")
        required = [p for p in own if p.default is EMPTY]
        if len(required) > len(primals) or (len(own) < len(primals) and not many and not own):
            raise InputError(
                f"{named(function)} takes {len(own)} primals ({', '.join(p.name for p in own) or 'none'}), but there "
                f"are {len(primals)}: {', '.join(primals)}. A backward is called as f(grad_y, *primals, **params): "
                "what is no array goes into params, by the name that it has there."
            )
        count = len(primals) if many else min(len(own), len(primals))
        self.primals = tuple(primals[:count])
        self.may_be_left_out = frozenset(primals) if many else frozenset(
            name for name, p in zip(primals, own, strict=False) if p.default is not EMPTY
        )  # fmt: skip

    def takes(self, param: str) -> bool:
        """Say whether the function has a param of that name."""
        return self.rest or param in self.names

    def arguments(self, grad_y: Any, y: Any, primals: Sequence[Any]) -> tuple[Any, ...]:
        """Return the positional arguments in order, y among them where it is asked for."""
        found = [grad_y, *primals[: len(self.primals)]]
        if self.y_at is not None:
            found.insert(self.y_at, y)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Backward:
    """A backward as it is called: `function(grad_y, *primals, **params)` gives a gradient for each of the primals."""

    function: Callable[..., Any]
    signature: Signature
    framework: str
    returned: Returned  # what forward returns: so grad_y is one tensor, or several in the same structure
    addresses: Addresses | None = None  # in which dtypes it may take some, None where it may in all

    def __call__(
        self,
        forward: Function,
        grads: Cotangents,
        y: Outputs | None,
        leaves: Sequence[Any],
        ambient: Ambient | None,
        seed: int = SEED,
        whole: bool = False,
        fill: float | None = math.nan,
    ) -> tuple[Any, ...]:
        """Return what is returned for each leaf, None where nothing is; Raised if it raises, Misfit if it does not fit.

        `y` is computed where it is asked for and not given. With `whole`, JAX compiles the backward in one piece.
        Memory that is handed out to it is NaN, or `fill`, until it is written to.
        """
        with running(ambient, seed) as inside, torch.no_grad():
            if y is None and self.signature.y_at is not None:
                y = forward.outputs(leaves, inside)
            primals = forward.arguments(leaves)
            grad_y = self.returned.of(grads)
            out = None if y is None else self.returned.of(y)
            over = self.in_one_piece if whole else carried(self.function, self.framework)
            try:
                with poisoned(fill), inside:
                    found = self.called(over, grad_y, out, primals, forward.params)
            except (InputError, OwnError, Misfit):
                raise
            except (Exception, SystemExit) as error:
                if self.addresses is not None and self.addresses.may_be_taken_after_all():
                    return self(forward, grads, y, leaves, ambient, seed, whole, fill)
                if fill is not None and ASKS_FOR_DETERMINISM in str(error).lower():  # who makes warnings errors
                    return self(forward, grads, y, leaves, ambient, seed, whole, None)
                if isinstance(error, Refused):
                    raise
                raise Raised(type(error).__name__, f"{first_line(error)}{raised_at(error)}".strip()) from error
        return _for_each(found, primals)

    def called(
        self, function: Callable[..., Any], grad_y: Any, y: Any, primals: Sequence[Any], params: Mapping[str, Any]
    ) -> Any:
        """Call a function that takes what this backward takes, with the processor in the mode in which it was found."""
        some = {name: value for name, value in params.items() if self.signature.takes(name)}
        own = partial(each, _conjugate) if self.bridge.conjugates else _as_it_is
        with as_found(), self.addresses.around(primals) if self.addresses else nullcontext():
            found = own(function(*self.signature.arguments(own(grad_y), y, primals), **some))
        return in_order(found, self.signature.primals)

    @property
    def bridge(self) -> Bridge:
        """What its framework's arrays are to the checker."""
        return bridge_of(self.framework)

    @cached_property
    def in_one_piece(self) -> Callable[..., Any]:
        """The backward on torch tensors; JAX's is compiled as a whole, once for each shape."""
        return carried(self.function, self.framework, whole=True)


def flat(own: Backward, forward: Function, names: Sequence[str]) -> Backward:
    """Return a backward that takes lists of tensors as one of their leaves, which have these names."""

    def backward(grad_y: Any, y: Any, *leaves: Any, **params: Any) -> Any:
        primals = forward.arguments(leaves)
        some = {name: value for name, value in params.items() if own.signature.takes(name)}
        found = own.function(*own.signature.arguments(grad_y, y, primals), **some)
        return _for_each(in_order(found, own.signature.primals), primals)

    kind = inspect.Parameter
    backward.__name__ = named(own.function)
    taken = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("grad_y", "y", *names)]
    backward.__signature__ = inspect.Signature([*taken, kind("_", kind.VAR_KEYWORD)])  # type: ignore[attr-defined]
    return replace(own, function=backward, signature=Signature(backward, names, {}, len(names), False))


def _conjugate(x: Any) -> Any:
    return torch.conj_physical(x) if isinstance(x, Tensor) and x.is_complex() else x


def _as_it_is(x: Any) -> Any:
    return x


def in_order(found: Any, names: Sequence[str]) -> Any:
    """Return gradients that were given by name in the order of the primals, None of what is not there."""
    if not isinstance(found, Mapping):
        return found
    strange = [str(name) for name in found if name not in names]
    if strange:
        given = ", ".join(map(str, found))
        raise Misfit(
            f"gradients are given by the names {given}, and the primals are {', '.join(names)}: there is no "
            f"{' and no '.join(strange)}"
        )
    return [found.get(name) for name in names]


def in_their_places(gradients: list[Any], live: Sequence[int], count: int) -> list[Any]:
    """Return a gradient for each of so many primals, of gradients of all of them, or of those alone that can have one.

    Another number of gradients is returned as it is.
    """
    while len(gradients) > count and gradients[-1] is None:
        gradients = gradients[:-1]  # of an optional primal that was not given
    if len(gradients) == count or len(gradients) != len(live):
        return gradients
    placed: list[Any] = [None] * count
    for k, gradient in zip(live, gradients, strict=True):
        placed[k] = gradient
    return placed


def _for_each(found: Any, primals: Sequence[Any]) -> tuple[Any, ...]:
    """Return a gradient for each leaf: of all primals, or of those alone that can have one."""
    if inspect.isgenerator(found):
        raise Misfit("the backward is a generator: return a tuple of gradients, and yield nothing")
    gradients = list(found) if isinstance(found, tuple | list) else [found]
    if len(primals) == 1 and isinstance(primals[0], tuple | list):
        nested = len(gradients) == 1 and isinstance(gradients[0], tuple | list)
        gradients = gradients if nested else [gradients]
    if len(gradients) != len(primals):
        live = [k for k, x in enumerate(primals) if any(map(inexact, _pytree.tree_leaves(x)))]
        gradients = in_their_places(gradients, live, len(primals))
    if len(gradients) != len(primals):
        raise Miscounted(f"the backward returns {len(gradients)} gradients for {len(primals)} primals")
    gradients = [_detached(g) for g in gradients]
    flat: list[Any] = []
    for gradient, x in zip(gradients, primals, strict=True):
        if isinstance(x, Tensor) or x is None:
            flat.append(gradient)
            continue
        count = len(_pytree.tree_leaves(x))
        own = [None] * count if gradient is None else gradient
        several = _pytree.tree_leaves(own)
        if len(several) != count:
            raise Misfit(f"the backward returns {len(several)} gradients for a list of {count} primals")
        flat += several
    return tuple(flat)


def _detached(gradient: Any) -> Any:
    if isinstance(gradient, tuple | list):
        return [_detached(g) for g in gradient]
    if not isinstance(gradient, Tensor):
        return gradient
    if gradient._is_zerotensor():  # torch's own mark of zeros that have no memory
        return torch.zeros(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    return gradient.detach() if gradient.requires_grad else gradient


def named(function: Any) -> str:
    """Return the name of a function, for messages."""
    return str(getattr(function, "__name__", repr(function)))
