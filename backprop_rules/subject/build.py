"""From what a user hands in to a subject: a backward, a function or module, and one call of it."""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from traceback import walk_tb
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.domain import COMPLEX, REAL
from backprop_rules.errors import InputError
from backprop_rules.rule import Rule
from backprop_rules.subject.addresses import Addresses
from backprop_rules.subject.ambient import F64, SEED, inexact, running
from backprop_rules.subject.as_rule import against_a_function, arguments_of, names_of
from backprop_rules.subject.backward import Backward, Misfit, Raised, Signature, flat, named
from backprop_rules.subject.between import written_among
from backprop_rules.subject.constants import Constants, constants_of
from backprop_rules.subject.frameworks.of_numpy import NUMPY
from backprop_rules.subject.function import Function, NoPoint, cloned, function_of, kind_of, live_ones
from backprop_rules.subject.parameters import OfParameters
from backprop_rules.subject.returned import returned
from backprop_rules.subject.subject import HEAVY, Subject

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def subject_of(
    backward: Callable[..., Any],
    forward: Callable[..., Any] | None,
    definition: Callable[..., Any] | None,
    example: Sequence[Any],
    params: Mapping[str, Any],
    framework: str,
) -> Subject:
    """Return the subject of a backward for any function: one of torch, or a definition in NumPy notation."""
    given = forward or definition
    assert given is not None
    leaves, structure = _pytree.tree_flatten(tuple(example))
    names = leaf_names(given, example)
    _checked(named(backward), names, leaves)
    made = function_of(forward or NUMPY.followed(given), structure, params)
    made, y = _tried(named(backward), made, leaves, forward is None)
    arguments = argument_names(given, example)
    signature = Signature(backward, arguments, params, len(example), "y" in arguments_of(_signed(given), len(example)))
    constants = replace(constants_of(made, leaves), cut_off=_cut_off(named(backward), made, leaves))
    dtypes = tuple(dict.fromkeys(x.dtype for x in leaves if inexact(x)))
    own = _own(Backward(backward, signature, framework, returned(y)), made, leaves, y, dtypes)
    rule, why = _as_rule(own, made, definition, names, leaves, params, constants)
    return Subject(
        named(backward).strip("<>"),
        made,
        own,
        tuple(x.detach() if isinstance(x, Tensor) else x for x in leaves),
        names,
        rule,
        why,
        _described(given, names, params),
        dtypes,
        constants,
    )


def _signed(given: Any) -> Any:
    return given.forward if isinstance(given, torch.nn.Module) else given


def leaf_names(given: Any, example: Sequence[Any]) -> tuple[str, ...]:
    """Return a name for each leaf of an example: those of the function's arguments."""
    found: list[str] = []
    for name, x in zip(argument_names(given, example), example, strict=True):
        if _pytree.tree_structure(x).is_leaf():
            found.append(name)
        else:
            paths = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(x)[0]]
            found += [f"{name}{path if isinstance(x, Mapping) else f'[{k}]'}" for k, path in enumerate(paths)]
    return tuple(found)


def argument_names(given: Any, example: Sequence[Any]) -> tuple[str, ...]:
    """Return a name for each argument of the call: a list of tensors is one."""
    return names_of(_signed(given), len(example))


def _checked(name: str, names: Sequence[str], leaves: Sequence[Any]) -> None:
    for primal, x in zip(names, leaves, strict=True):
        if not isinstance(x, Tensor):
            raise InputError(
                f"{name}: {primal} of the example is {x!r} ({type(x).__name__}); an example holds the arrays that "
                f"forward takes, and numbers, names and None beside them, or lists of these, but not in one list with "
                f"arrays. What is neither goes into params, as in params={{'dim': 1}}, or is fixed, as in "
                f"lambda x, w: f(x, {x!r}, w)."
            )
        if x.layout != torch.strided:
            raise InputError(
                f"{name}: {primal} of the example has the layout {x.layout}, and gradients of dense tensors are "
                f"checked: give {primal}.to_dense()."
            )
        if x.device.type not in ("cpu", "cuda"):
            raise InputError(
                f"{name}: {primal} of the example is on {x.device}, where torch has no float64 to compare with: give "
                f"{primal}.cpu(), and check the kernel on its device with assert_close against the result."
            )
        if x.dtype not in (*REAL, *COMPLEX, *INTEGERS, torch.complex32):
            raise InputError(f"{name}: {primal} of the example has dtype {x.dtype}, of which there is no gradient.")
    if not any(map(inexact, leaves)):
        raise InputError(f"{name}: the example has no floating-point or complex array, and so no gradient.")


def _tried(name: str, made: Function, leaves: Sequence[Any], defined: bool) -> tuple[Function, Any]:
    """Return the function, with a graph if it runs with one alone, and what it returns for the example.

    InputError where that is no tensor of numbers.
    """
    try:
        y = _called(made, leaves)
    except (Exception, SystemExit) as error:
        if "does not require grad" in str(error) and not made.differentiates:  # it asks autograd itself
            return _tried(name, replace(made, differentiates=True), leaves, defined)
        told = f"{name}: the {'definition' if defined else 'forward'} raises {type(error).__name__} for the example"
        by_name = f", and {', '.join(made.params)} by name" if made.params else ""
        among = ", a module's parameters among them" * isinstance(made.call, OfParameters)
        hint = f"It is called with the example's {len(leaves)} arrays as torch tensors{among}{by_name}."
        if _is_of_arrays(made.call, error):
            hint += " But a function of JAX or NumPy arrays is a definition, with np, as in definition=np.exp."
        if defined:
            hint = "It is followed as torch would compute it: write it with other functions, or give forward= in torch."
        raise InputError(f"{told}: {error}. {hint}") from error
    if not any(map(inexact, _pytree.tree_leaves(y))):
        got = f"{kind_of(y)}, which has no gradient" if isinstance(y, Tensor) else kind_of(y)
        array = "; a function of NumPy arrays is a definition, as in definition=np.exp" * isinstance(y, np.ndarray)
        raise InputError(
            f"{name}: the forward returns {got}. It must return floating-point or complex tensors, by themselves or in "
            f"tuples, lists and dicts{array}."
        )
    for eight in (y.dtype for y in _pytree.tree_leaves(y) if inexact(y) and y.dtype.itemsize == 1):
        raise InputError(
            f"{name}: the forward returns a tensor of {eight}, with which torch cannot compute: let it return this "
            f"output by .float(), which changes no number."
        )
    return made, y


def _is_of_arrays(call: Any, error: BaseException) -> bool:
    """Say whether NumPy or JAX raised it: it is theirs, or a TypeError of theirs, or in code that names them."""
    found = [error, call]
    for frame, _ in walk_tb(error.__traceback__ if isinstance(error, TypeError) else None):
        known = {**frame.f_globals, **frame.f_locals}
        own = sys.modules.get(frame.f_globals["__name__"])
        if _root(own) != "backprop_rules":
            found += [own, *(known.get(name) for name in frame.f_code.co_names)]
    return any(_root(one) in ("numpy", "jax") for one in found)


def _root(x: Any) -> str:
    """Return the name of the library that a module, a function, or an object of some class is of."""
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None) or type(x).__module__
    return str(name).partition(".")[0]


def _called(made: Function, leaves: Sequence[Any]) -> Any:
    with running(None), torch.set_grad_enabled(made.differentiates):
        return made.raw(live_ones(cloned(leaves)) if made.differentiates else cloned(leaves))


def _own(own: Backward, made: Function, leaves: Sequence[Any], y: Any, dtypes: Collection[torch.dtype]) -> Backward:
    """Return a backward that is called in other dtypes than the example's where it takes no addresses, if in torch."""
    if own.framework != "torch":
        return own
    return replace(own, addresses=Addresses(dtypes, partial(_at_the_example, own, made, leaves, y)))


def _at_the_example(own: Backward, made: Function, leaves: Sequence[Any], y: Any) -> tuple[Any, ...]:
    """Return the gradients of a backward at the example, in its own dtypes; none where it raises."""
    numbers = torch.Generator().manual_seed(SEED)
    ys = [x.detach() for x in _pytree.tree_leaves(y) if isinstance(x, Tensor)]
    grads = tuple(torch.randn(x.shape, generator=numbers).to(x) if inexact(x) else None for x in ys)
    try:
        return own(made, grads, tuple(ys), cloned(leaves), None)
    except (Raised, Misfit, InputError):
        return ()


def _as_rule(
    own: Backward,
    made: Function,
    definition: Callable[..., Any] | None,
    names: tuple[str, ...],
    leaves: Sequence[Any],
    params: Mapping[str, Any],
    constants: Constants,
) -> tuple[Rule | None, str]:
    if constants.held > HEAVY:
        return None, "forward has too large constants"
    if made.differentiates:
        return None, "forward asks autograd for a gradient itself"
    if not own.returned.single and _is_somebodys(made, leaves):
        return None, "it returns several tensors, and its derivative is somebody's autograd.Function"
    if {"y", "grad_y"} & set(names):
        return None, "a primal is called as the output or the cotangent is"
    if any(inexact(x) and x.dtype not in REAL + COMPLEX for x in leaves):
        return None, "there is no ball arithmetic in its dtype"

    def forward(*primals: Any, **named_params: Any) -> Any:
        # In float64 constants of other dtypes are cast as they are for the witnesses.
        wide = {x.dtype for x in primals if inexact(x)} <= {F64, torch.complex128}
        with made.ambient(F64) if wide else nullcontext():
            return made.at(named_params).raw(primals)

    if len(leaves) != made.structure.num_nodes - 1:  # there are lists of tensors: of a rule each has a name
        names = tuple(re.sub(r"\W+", "_", name).strip("_") for name in names)
        if len(set(names)) < len(names):
            return None, "an argument is called as what is in a list"
        own, definition = flat(own, made, names), definition and _of_leaves(definition, made)
    try:
        return against_a_function(own, forward, definition, names, leaves, params, constants.cut_off), ""
    except InputError as error:
        return None, str(error)


def _of_leaves(definition: Callable[..., Any], made: Function) -> Callable[..., Any]:
    """Return a definition as a function of the leaves of an example."""
    return lambda *leaves, **params: definition(*made.arguments(leaves), **params)


def _is_somebodys(made: Function, leaves: Sequence[Any]) -> bool:
    """Say whether an autograd.Function is in forward: of which outputs there are gradients it says alone."""
    with suppress(NoPoint):
        ones = partial(map, lambda y: torch.ones_like(y) if inexact(y) else None)
        return made.run(cloned(leaves), lambda ys: tuple(ones(ys)), None, looks=True)[0].custom
    return False


def _cut_off(name: str, made: Function, leaves: Sequence[Any]) -> frozenset[int]:
    """Return the positions of the primals from which no derivative reaches y, as of those that forward detaches.

    InputError where there is none from which one does.
    """
    try:
        found = made.cut_off(leaves)
    except NoPoint as error:
        if error.__cause__ is not None and _asked_for_an_array(error.__cause__):
            hint = "A function of NumPy arrays is a definition, as in definition=np.exp."
            raise InputError(f"{name}: {error}. {hint}") from error
        return frozenset()
    if all(k in found for k, x in enumerate(leaves) if inexact(x)) and _moves(made, leaves):
        raise InputError(
            f"{name}: forward has no gradient by any primal: something cuts it off, such as detach, data or no_grad."
        )
    return found


def _asked_for_an_array(error: BaseException) -> bool:
    """Say whether an error was raised where NumPy asks a tensor for its numbers."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code is not Tensor.__array__.__code__:
        step = step.tb_next
    return step is not None


def _moves(made: Function, leaves: Sequence[Any]) -> bool:
    """Say whether y is another one where the primals are, by as much as is lost in no digits of it."""
    moved = [x * (1 + 2.0**-20) + 2.0**-20 if inexact(x) else x for x in leaves]
    try:
        pairs = zip(made.y(leaves, F64), made.y(moved, F64), strict=True)
        return any(inexact(a) and not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
    except (NoPoint, ValueError):
        return False


def _described(function: Any, names: Sequence[str], params: Mapping[str, Any]) -> str:
    arguments = ", ".join([*written_among(function, names), *(f"{name}={value!r}" for name, value in params.items())])
    name = type(function).__name__ if isinstance(function, torch.nn.Module) else named(function)
    # As TeX, in which an underscore lowers what follows it.
    return f"y = {'forward' if name == '<lambda>' else name}({arguments})".replace("_", r"\_")
