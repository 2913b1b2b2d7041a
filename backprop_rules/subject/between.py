"""Functions of arrays alone, made of such as take numbers beside them: these stay what they are in the example."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from typing import Any

import torch

from backprop_rules.errors import InputError
from backprop_rules.subject.as_rule import arguments_of
from backprop_rules.subject.backward import EMPTY, POSITIONAL, Misfit
from backprop_rules.subject.function import as_written

# What an example may have beside arrays, at any place.
FIXED = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum)
Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Between:
    """A function that is called with arrays alone: `values` are put between them, by their places among all arguments.

    Of a backward, one of `left_out` are the places of values among its gradients, where it returns more than there are
    `arrays`: None.
    """

    function: Function
    values: Mapping[int, Any]
    left_out: tuple[Collection[int], ...] = ()
    arrays: int = 0

    def __call__(self, *arrays: Any, **params: Any) -> Any:
        """Call the function, and return what it returns of arrays."""
        found = self.function(*self.among(arrays), **params)
        return self.without_values(found, self.arrays) if self.left_out else found

    def among(self, arrays: Sequence[Any]) -> list[Any]:
        """Return all arguments in their places."""
        found = list(arrays)
        for k in sorted(self.values):
            found.insert(k, self.values[k])
        return found

    def without_values(self, gradients: Any, arrays: int) -> Any:
        """Return gradients without those of values; Misfit where there is one that is not None."""
        if isinstance(gradients, Mapping):
            return {name: g for name, g in gradients.items() if name not in self._names or g is not None}
        if not isinstance(gradients, tuple | list) or len(gradients) <= arrays:
            return gradients
        for places in self.left_out or (self.values,):
            if all(k >= len(gradients) or _is_nothing(gradients[k]) for k in places):
                return tuple(g for k, g in enumerate(gradients) if k not in places)
        which = ", ".join(map(repr, self.values.values())) or "which stands beside these"
        raise Misfit(f"{len(gradients)} gradients are returned, and not None for what is no array, {which}")

    @cached_property
    def _names(self) -> set[str]:
        own = arguments_of(self.function, 1 + max(self.values, default=-1))
        return {own[k] for k in self.values if k < len(own)}

    @cached_property
    def __name__(self) -> str:
        return str(getattr(self.function, "__name__", repr(self.function)))

    @cached_property
    def __code__(self) -> Any:
        return getattr(self.function, "__code__", None)

    @cached_property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.function)
        return own.replace(parameters=[p for p in own.parameters.values() if p.name not in self._names])


def written_among(function: Function, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a call as code: those that stay what they are stand in their places."""
    if not isinstance(function, Between):
        return list(arguments)
    return Between(function.function, {k: _written(value) for k, value in function.values.items()}).among(arguments)


def _written(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, Enum) else repr(value)


def fixed_in(example: Sequence[Any]) -> dict[int, Any]:
    """Return what is no array in an example that has some, by its place: NumPy's numbers are arrays."""
    found = {k: x for k, x in enumerate(example) if _is_a_value(x)}
    return found if len(found) < len(example) else {}


def _is_a_value(x: Any) -> bool:
    """Say whether it is a number or the like, or is made of such alone, as a kernel's size (3, 3) is."""
    if isinstance(x, tuple | list | dict):
        return all(map(_is_a_value, x.values() if isinstance(x, dict) else x))
    return isinstance(x, FIXED) and not hasattr(x, "shape")


def _is_nothing(gradient: Any) -> bool:
    """Say whether it is no gradient: None, or an empty list as that which it stands for."""
    return gradient is None or (isinstance(gradient, tuple | list | dict) and not gradient)


def of_arrays(function: Function | None, values: Mapping[int, Any]) -> Function | None:
    """Return a function, of torch or in NumPy notation, of the arrays of its example alone."""
    if isinstance(function, torch.nn.Module):
        place, value = next(iter(values.items()))
        raise InputError(
            f"{type(function).__name__}: argument {place} of the example is {value!r}; a module is called with arrays. "
            f"What is no array goes into params by its name, or fix it: lambda x, w: module(x, {value!r}, w)."
        )
    return None if function is None else Between(as_written(function), values)


def backward_of_arrays(backward: Function, forward: Function, values: Mapping[int, Any], count: int) -> Function:
    """Return a backward that is given the example's values where it takes them: by forward's names, or places."""
    try:
        signature = list(inspect.signature(backward).parameters.values())
    except (TypeError, ValueError):
        return backward
    names, arrays = arguments_of(forward, count), count - len(values)
    named = {names[k]: value for k, value in values.items() if k < len(names)}
    alone = {p.name: named[p.name] for p in signature if p.kind is p.KEYWORD_ONLY and p.name in named}
    backward = partial(backward, **alone) if alone else backward
    positional = [p for p in signature if p.kind in POSITIONAL]
    places = [k for k, p in enumerate(positional) if k and (p.name != "y" or "y" in names)]
    by_name = {k: named[positional[k].name] for k in places if positional[k].name in named}
    needed = sum(positional[k].default is EMPTY for k in places if k not in by_name)
    if by_name and needed <= arrays <= len(places) - len(by_name):
        left_out = frozenset(map(places.index, by_name)), frozenset(values)
        if max(by_name) > arrays + len(by_name):  # behind an option of its own, which is not given
            return Between(partial(backward, **{positional[k].name: by_name[k] for k in by_name}), {}, left_out, arrays)
        return Between(backward, by_name, left_out, arrays)
    many = any(p.kind is p.VAR_POSITIONAL for p in signature)
    places += range(len(positional), len(positional) + many * (count - len(places)))
    taken = many or sum(positional[k].default is EMPTY for k in places) > arrays
    at = {places[k]: value for k, value in values.items() if taken and k < len(places)}
    return Between(backward, at, (frozenset(values),), arrays)
