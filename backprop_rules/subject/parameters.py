"""A module as a function of its parameters too, which stand behind its arguments."""

import inspect
import keyword
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from backprop_rules.errors import InputError, unknown
from backprop_rules.subject.ambient import tensors_in
from backprop_rules.subject.as_rule import names_of
from backprop_rules.subject.backward import POSITIONAL
from backprop_rules.subject.function import NoPoint, function_of, ones
from backprop_rules.subject.recomputed import recomputed_by

_ONE_AT_A_TIME = threading.RLock()
STATEFUL = (torch.jit.ScriptModule, torch.nn.DataParallel)  # of which no parameter can be put in another's place


@dataclass(frozen=True, eq=False)
class OfParameters:
    """A module that is called with its arguments, by their `names`, and parameters, by its own name for each."""

    module: torch.nn.Module
    names: tuple[str, ...]
    parameters: Mapping[str, str]

    def __call__(self, *arguments: Any, **params: Any) -> Any:
        """Call the module; its own parameters are in their places again afterwards, and buffers are what they were."""
        first, own = len(self.names), {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        own.update(zip(self.parameters.values(), arguments[first:], strict=True))
        with _ONE_AT_A_TIME, recomputed_by(partial(_with, self.module, own)):
            return torch.func.functional_call(self.module, own, arguments[:first], params)

    @property
    def __name__(self) -> str:
        return type(self.module).__name__

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        own = [inspect.Parameter(name, kind) for name in (*self.names, *self.parameters)]
        return inspect.Signature([*own, inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)])

    def of(self, module: torch.nn.Module) -> "OfParameters | None":
        """Return the same of another module; None where it has not all of these parameters, of the same shapes."""
        module = getattr(module, "_orig_mod", module)
        own, others = (dict(m.named_parameters()) for m in (self.module, module))
        if any(name not in others or others[name].shape != own[name].shape for name in self.parameters.values()):
            return None
        return OfParameters(module, self.names, self.parameters)


def _with(module: torch.nn.Module, own: Mapping[str, Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is called with these parameters and buffers of the module."""
    places = {f"module.{name}": x for name, x in own.items()}

    def again(*arguments: Any, **named: Any) -> Any:
        with _ONE_AT_A_TIME:
            return torch.func.functional_call(_Around(module), places, (function, *arguments), named)

    return again


class _Around(torch.nn.Module):
    """What calls functions that use the parameters of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)


@contextmanager
def left_as_it_is(module: Any) -> Iterator[None]:
    """Leave a module's buffers as they were, and what its layers keep beside: a normalised weight, or a cache."""
    module = module.module if isinstance(module, OfParameters) else module
    if not isinstance(module, torch.nn.Module):
        yield
        return
    layers = [] if isinstance(module, torch.jit.ScriptModule) else list(module.modules())
    owned = [own for one in layers for own in (vars(one), one._parameters, one._buffers, one._modules)]
    kept = [dict(own) for own in owned]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers() if not is_lazy(buffer)]
    try:
        yield
    finally:
        for own, before in zip(owned, kept, strict=True):
            for name in own.keys() - before.keys():
                del own[name]
            own.update(before)
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)


def with_its_parameters(
    module: torch.nn.Module, example: Sequence[Any], params: Mapping[str, Any]
) -> tuple[OfParameters, tuple[Any, ...]] | None:
    """Return a module as a function of its parameters that require a gradient, and its call.

    None if it has none, and no buffers, or if its backward reads them: then they are in their places no longer.
    """
    module = getattr(module, "_orig_mod", module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad and (is_lazy(p) or p.numel())}
    if not trained and next(module.buffers(), None) is None:
        return None
    if any(map(is_lazy, trained.values())) or isinstance(module, STATEFUL):
        return None
    found, call = _called(module, example, [(_as_argument(name), name) for name in trained])
    return None if _reads_them_backward(found, call, params) else (found, call)


def with_those_given(module: torch.nn.Module, primals: Sequence[Any]) -> "OfParameters | torch.nn.Module":
    """Return a module as a function of those of its own parameters that stand behind its arguments, if any do.

    InputError where one stands there twice.
    """
    module = getattr(module, "_orig_mod", module)
    own = {id(p): name for name, p in module.named_parameters()}
    first = next((k for k, x in enumerate(primals) if id(x) in own), len(primals))
    given = [own.get(id(x)) for x in primals[first:]]
    if not given or None in given:
        return module
    twice = next((name for k, name in enumerate(given) if name in given[:k]), None)
    if twice is not None:
        raise InputError(
            f"{twice}, a parameter of {type(module).__name__}, stands twice among the primals: give it once."
        )
    return _called(module, primals[:first], [(_as_argument(name), name) for name in given if name])[0]


def with_those_named_by(
    backward: Callable[..., Any], module: torch.nn.Module, example: Sequence[Any], params: Collection[str]
) -> tuple[Any, tuple[Any, ...]]:
    """Return a module as a function of the parameters that a backward names after the example's arguments.

    They are called with underscores for dots; one that is called so itself goes first. InputError for one that is none.
    """
    module, example = getattr(module, "_orig_mod", module), tuple(example)
    try:
        signed = [p for p in inspect.signature(backward).parameters.values() if p.kind in POSITIONAL]
    except (TypeError, ValueError):
        return module, example
    own = [name for name, _ in module.named_parameters()]
    known = {_as_argument(name): name for name in own} | {name: name for name in own if "." not in name}
    behind = [p for p in signed[1:] if p.name != "y"][len(example) :]
    arguments = names_of(module.forward, len(example))
    others = {*arguments, *params, "y"}
    strange = [p.name for p in behind if p.default is p.empty and p.name not in {*known, *others}]
    if strange and known:
        raise unknown("parameter of the module", strange[0], known)
    those = [p.name for p in signed[1:] if len(signed) > 1 + len(example) and p.name not in arguments]
    named = [(name, known[name]) for name in those if name in known]
    return _called(module, example, named) if named else (module, example)


def _as_argument(name: str) -> str:
    """Return a parameter's name with underscores for what is in no name, and one before a number, as of 0.weight."""
    name = re.sub(r"\W", "_", name)
    name = name if name.isidentifier() else f"_{name}"
    return name + "_" * keyword.iskeyword(name)


def _called(
    module: torch.nn.Module, example: Sequence[Any], named: Iterable[tuple[str, str]]
) -> tuple[OfParameters, tuple[Any, ...]]:
    names = names_of(module.forward, len(example))
    parameters: dict[str, str] = {}
    for name, its in named:
        others = {*names, *parameters, "y", "grad_y", "_"}  # a.b and a_b are two
        parameters[next(one for n in count() if (one := name + "_" * n) not in others)] = its
    own: dict[str, Tensor] = dict(module.named_parameters())
    values = [own[name].detach().clone() for name in parameters.values()]  # forward may write to them
    return OfParameters(module, names, parameters), (*example, *values)


def _reads_them_backward(function: OfParameters, call: Sequence[Any], params: Mapping[str, Any]) -> bool:
    """Say whether the backward calls torch with the module's parameters, as somebody's Function may.

    There they are the module's own again, and not those that forward was called with.
    """
    leaves, structure = _pytree.tree_flatten(tuple(call))
    own: dict[str, Tensor] = dict(function.module.named_parameters())
    reading = _Reading(own[name] for name in function.parameters.values())

    def cotangents(ys: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        reading.seen = False  # from here on it is the backward that reads
        return ones(ys)

    try:
        with reading:
            function_of(function, structure, params).run(leaves, cotangents, None)
    except NoPoint:
        return False
    return reading.seen


class _Reading(TorchDispatchMode):
    """Whether torch is called with some parameters while it is entered."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = {id(p) for p in parameters}
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or any(id(x) in self._own for x in tensors_in((args, kwargs or {})))
        return func(*args, **(kwargs or {}))
