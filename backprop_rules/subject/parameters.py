"""A module as a function of its parameters too, which stand behind its arguments."""

import inspect
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from backprop_rules.errors import unknown
from backprop_rules.subject.as_rule import names_of
from backprop_rules.subject.backward import POSITIONAL

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
        count, own = len(self.names), {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        own.update(zip(self.parameters.values(), arguments[count:], strict=True))
        with _ONE_AT_A_TIME:
            return torch.func.functional_call(self.module, own, arguments[:count], params)

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


def with_its_parameters(module: torch.nn.Module, example: Sequence[Any]) -> tuple[OfParameters, tuple[Any, ...]] | None:
    """Return a module as a function of its parameters that require a gradient, and its call; None if it has none."""
    module = getattr(module, "_orig_mod", module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad and (is_lazy(p) or p.numel())}
    if not trained or any(map(is_lazy, trained.values())) or isinstance(module, STATEFUL):
        return None
    return _called(module, example, {_as_argument(name): name for name in trained})


def with_those_given(module: torch.nn.Module, primals: Sequence[Any]) -> "OfParameters | torch.nn.Module":
    """Return a module as a function of those of its own parameters that stand behind its arguments, if any do."""
    module = getattr(module, "_orig_mod", module)
    own = {id(p): name for name, p in module.named_parameters()}
    count = next((k for k, x in enumerate(primals) if id(x) in own), len(primals))
    given = [own.get(id(x)) for x in primals[count:]]
    if not given or None in given:
        return module
    return _called(module, primals[:count], {_as_argument(name): name for name in given if name})[0]


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
    others = {*names_of(module.forward, len(example)), *params, "y"}
    strange = [p.name for p in behind if p.default is p.empty and p.name not in {*known, *others}]
    if strange and known:
        raise unknown("parameter of the module", strange[0], known)
    named = {p.name: known[p.name] for p in signed[1:] if p.name in known and len(signed) > 1 + len(example)}
    return _called(module, example, named) if named else (module, example)


def _as_argument(name: str) -> str:
    """Return a parameter's name with underscores for dots, and one before a number, as of 0.weight."""
    name = name.replace(".", "_")
    return name if name.isidentifier() else f"_{name}"


def _called(
    module: torch.nn.Module, example: Sequence[Any], parameters: Mapping[str, str]
) -> tuple[OfParameters, tuple[Any, ...]]:
    names = names_of(module.forward, len(example))
    parameters = {name + "_" * (name in {*names, "y", "grad_y"}): own for name, own in parameters.items()}
    own: dict[str, Tensor] = dict(module.named_parameters())
    values = [own[name].detach() for name in parameters.values()]
    return OfParameters(module, names, parameters), (*example, *values)
