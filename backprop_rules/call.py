"""A point: a rule with the primals, params and cotangent at which it is held against the oracles."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from backprop_rules import layout
from backprop_rules.domain import (
    BATCH,
    Axes,
    Axis,
    Bound,
    Choice,
    Dtype,
    Exponent,
    Factor,
    Flag,
    Index,
    Label,
    Param,
    Positive,
    Whole,
    axes_of,
    dtype_name,
)
from backprop_rules.errors import InputError, OwnError, first_line, unknown
from backprop_rules.rule import Gradients, Rule, find

T = TypeVar("T")

# The only numbers that tangents and second cotangents need: -1, 0 and 1 in an order without symmetry.
PROBE = torch.tensor([1.0, -1, -1, 0, 1, 1, -1, 0, 0, 1, -1], dtype=torch.float64).repeat(100)


class BackwardRaised(Exception):
    """The rule's backward raised an exception: the name of its type and the first line of its text."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a rule's backward.

    `spacing` is the distance between neighbouring values of the exact tier's grid, on which nothing
    rounds; 0 in the bounded tier, where values are any and roundings are bounded.
    """

    rule: Rule
    primals: tuple[Tensor | None, ...]
    params: Mapping[str, Any]
    grad_y: Tensor
    spacing: float = 0.0

    @property
    def tier(self) -> str:
        """The tier of evidence: exact or bounded."""
        return "exact" if self.spacing else "bounded"

    @cached_property
    def y(self) -> Tensor:
        """The output of the forward."""
        with torch.no_grad():
            return self.rule.forward(*self.primals, **self.params)

    @cached_property
    def gradients(self) -> Gradients:
        """What the rule's backward returns, one gradient per primal."""
        with torch.no_grad():
            return self.backward(self.grad_y, self.y, *self.primals)

    def backward(self, grad_y: Tensor, y: Tensor, *primals: Tensor | None) -> Gradients:
        """Return the rule's gradients at other tensors and the same params; BackwardRaised if it raises."""
        try:
            return self.rule.gradients(grad_y, y, *primals, **self.params)
        except OwnError:
            raise
        except (Exception, SystemExit) as error:
            raise BackwardRaised(type(error).__name__, first_line(error)) from error

    def forward(self, *primals: Tensor | None) -> Tensor:
        """Return the rule's forward at other primals and the same params."""
        return self.rule.forward(*primals, **self.params)

    @cached_property
    def given(self) -> tuple[int, ...]:
        """The positions of the primals that have a gradient and are there; an optional one may be None."""
        return tuple(i for i in self.rule.differentiable if self.primals[i] is not None)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The primals that have a gradient and are there."""
        return tuple(x for x in map(self.primals.__getitem__, self.given) if x is not None)

    def placed(self, tensors: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
        """Return the primals with these tensors in the place of `tensors`."""
        others = iter(tensors)
        return tuple(next(others) if i in self.given else x for i, x in enumerate(self.primals))

    def per_gradient(self, values: Iterable[T]) -> tuple[T | None, ...]:
        """Return one value for each primal that has a gradient and is there, in its place, None for the others."""
        others = iter(values)
        return tuple(next(others) if i in self.given else None for i in range(len(self.primals)))

    def only(self, outputs: Tensor | bool) -> "Call":
        """Return the point whose cotangent is zero at all other outputs; a VJP is linear in it."""
        if outputs is True or bool(torch.as_tensor(outputs).all()):
            return self
        return replace(self, grad_y=torch.where(torch.as_tensor(outputs), self.grad_y, 0))

    def __str__(self) -> str:
        lines = [f"{name} = {layout.code(x)}" for name, x in zip(self.rule.primals, self.primals, strict=True)]
        lines += [f"{name} = {value!r}" for name, value in self.params.items()]
        lines.append(f"grad_y = {layout.code(self.grad_y)}")
        return "\n".join(layout.with_imports(lines))


def probe(like: Tensor, start: int = 0) -> Tensor:
    """Return a tensor of that shape, dtype and device that holds -1, 0 and 1 in a fixed order without symmetry."""
    last = start + like.numel()
    numbers = PROBE if last <= len(PROBE) else PROBE.repeat(last // len(PROBE) + 1)
    return numbers[start:last].reshape(like.shape).to(like, copy=True)


def vjp(rule: str | Rule, grad_y: Tensor, *primals: Tensor | None, **params: Any) -> Gradients:
    r"""Return the gradients of a rule of the catalogue: the map $\bar y \mapsto \bar y J$ at these primals.

    `grad_y` has the shape, dtype and device of the forward's output; the result has one gradient
    per primal, each of its primal's shape, dtype and device, and None for one that is None. Raises
    InputError for an unknown rule or param, for a primal that is no floating-point or complex
    tensor, for shapes that do not fit, and for a cotangent of another shape, dtype or device.

    As in torch, a gradient may share memory with the cotangent or with another gradient: clone it
    before you write into it.
    """
    made = call(rule, grad_y, *primals, **params)
    try:
        return made.gradients
    except BackwardRaised as error:
        raise InputError(f"{made.rule}: its backward raises {': '.join(error.args)}.") from error


def call(rule: str | Rule, grad_y: Tensor, *primals: Tensor | None, **params: Any) -> Call:
    """Return the checked point: see `vjp` for what is refused."""
    if not isinstance(rule, str | Rule):
        raise InputError(f"a rule is given by its name, as in vjp('matmul', ...); got {rule!r}.")
    rule = find(rule) if isinstance(rule, str) else rule
    for name in set(params) & set(rule.primals):
        raise InputError(f"{rule}: primal {name} is given by position, after grad_y: {', '.join(rule.primals)}.")
    primals += (None,) * (len(rule.primals) - len(primals))
    _check_primals(rule, primals)
    _check_params(rule, params)
    _check_kinds(rule, primals, params)
    made = Call(rule, primals, params, grad_y)
    if not rule.domain.accepts(*primals, **params):
        needed = rule.domain.requires[0] if rule.domain.requires else ""
        raise InputError(f"{rule}: it needs {needed}; got {_shapes(rule, primals)}, params {params or 'none'}.")
    try:
        y = made.y
    except (Exception, SystemExit) as error:  # whatever torch makes of it
        raise InputError(
            f"{rule}: the primals do not fit together: {_shapes(rule, primals)}"
            f"{''.join(f', {name}={value!r}' for name, value in params.items())}. "
            f"They must match '{rule.domain.shapes}'. torch says: {first_line(error) or type(error).__name__}"
        ) from None
    if not _matches(rule, primals):
        raise InputError(
            f"{rule}: the primals do not match '{rule.domain.shapes}': {_shapes(rule, primals)}. torch's forward takes "
            f"them, the rule does not: bring them to one of these shapes first."
        )
    if y.dtype not in rule.domain.dtypes:
        raise InputError(f"{rule}: these primals make y of dtype {y.dtype}, which has no gradient here.")
    _check_cotangent(rule, grad_y, y)
    return made


def _matches(rule: Rule, primals: tuple[Tensor | None, ...]) -> bool:
    """Say whether the primals have the axes of the domain's shapes, with some of the optional ones left out."""
    named = axes_of(rule.domain.shapes)
    optional = sorted({name for names in named for name in names if name.endswith("?")})
    choices = itertools.product((False, True), repeat=len(optional))
    return any(
        _fit(named, primals, {n for n, out in zip(optional, left_out, strict=True) if out}) for left_out in choices
    )


def _fit(named: tuple[tuple[str, ...], ...], primals: tuple[Tensor | None, ...], missing: set[str]) -> bool:
    sizes: dict[str, int] = {}
    for names, x in zip(named, primals, strict=True):
        core = [name.rstrip("?") for name in names if name != BATCH and name not in missing]
        batched = BATCH in names and not missing & set(names)
        if x is None:
            continue
        if x.ndim < len(core) or (x.ndim > len(core) and not batched):
            return False
        for name, size in zip(core, x.shape[x.ndim - len(core) :], strict=True):
            if sizes.setdefault(name, size) != size:
                return False
    return True


def _shapes(rule: Rule, primals: tuple[Tensor | None, ...]) -> str:
    given = [(name, x) for name, x in zip(rule.primals, primals, strict=False) if x is not None]
    return ", ".join(f"{name} has shape {tuple(x.shape)}" for name, x in given)


def _check_primals(rule: Rule, primals: tuple[Tensor | None, ...]) -> None:
    names = rule.primals
    if len(primals) > len(names):
        raise InputError(f"{rule}: it takes {len(names)} primals, {', '.join(names)}; got {len(primals)}.")
    for name, x in zip(names, primals, strict=True):
        if x is None:
            if name not in rule.optional:
                raise InputError(f"{rule}: primal {name} is missing; it takes {', '.join(names)}.")
        elif not isinstance(x, Tensor):
            raise InputError(
                f"{rule}: primal {name} must be a torch tensor; got {type(x).__name__} {x!r}. "
                f"Use torch.as_tensor({name})."
            )
        elif name in rule.domain.indices:
            _check_indices(rule, name, x)
        elif x.dtype not in rule.domain.dtypes:
            accepted = ", ".join(map(dtype_name, rule.domain.dtypes))
            raise InputError(
                f"{rule}: primal {name} has dtype {x.dtype}, which has no gradient here; it takes {accepted}. "
                f"Convert it, as in {name}.to({rule.domain.dtypes[0]})."
            )


def _check_indices(rule: Rule, name: str, x: Tensor) -> None:
    """Refuse a primal without a gradient that is not the mask, or not the indices, that it must be."""
    holds = rule.domain.indices[name]
    wanted = torch.int64 if isinstance(holds, Index) else torch.bool
    if x.dtype != wanted:
        what = "indices" if isinstance(holds, Index) else "a mask"
        raise InputError(
            f"{rule}: primal {name} holds {what}, of dtype {wanted}; got {x.dtype}. "
            f"Convert it, as in {name}.to({wanted})."
        )


def _check_kinds(rule: Rule, primals: tuple[Tensor | None, ...], params: Mapping[str, Any]) -> None:
    named = [(name, x) for name, x in zip(rule.primals, primals, strict=True) if x is not None]
    given = [(name, x) for name, x in named if name not in rule.domain.indices]
    for name, x in named:
        if x.layout is not torch.strided or x.is_nested:
            raise InputError(f"{rule}: primal {name} must be a dense tensor; got {x.layout}. Use {name}.to_dense().")
    for name, x in given:
        if x.dtype != given[0][1].dtype and not rule.domain.promotes:
            raise InputError(
                f"{rule}: primal {name} has dtype {x.dtype}, but {given[0][0]} has dtype {given[0][1].dtype}; "
                f"it takes primals of one dtype. Convert one, as in {name}.to({given[0][0]}.dtype)."
            )
    for name, value in params.items():
        if isinstance(value, torch.dtype) and value.is_complex != given[0][1].is_complex():
            raise InputError(
                f"{rule}: param {name} is {value}, but {given[0][0]} has dtype {given[0][1].dtype}; "
                "both must be real or both complex."
            )
        if isinstance(value, torch.dtype) and value not in rule.domain.dtypes:
            raise InputError(f"{rule}: param {name} is {value}, which has no gradient here.")


def _check_params(rule: Rule, params: Mapping[str, Any]) -> None:
    for name, value in params.items():
        if name not in rule.domain.params:
            raise unknown(f"param of {rule} named", name, rule.domain.params)
        fits, wanted = _fits(rule.domain.params[name], value)
        if not fits:
            raise InputError(f"{rule}: param {name} must be {wanted}; got {value!r} ({type(value).__name__}).")
    for name in rule.required_params - set(params):
        raise InputError(f"{rule}: param {name} is missing; it must be {_fits(rule.domain.params[name], None)[1]}.")


def _fits(param: Param, value: object) -> tuple[bool, str]:
    """Say whether the value is one for the param, and what such a value is."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    match param:
        case Flag():
            return isinstance(value, bool), "True or False"
        case Choice(options):
            return any(value == option for option in options), f"one of {', '.join(map(repr, options))}"
        case Positive():
            return isinstance(value, int | float) and number and value > 0, "a positive number"
        case Label() | Axis():
            return whole, "an int"
        case Exponent():
            return number, "a real number"
        case Axes():
            several = isinstance(value, tuple) and len(value) > 0 and all(type(axis) is int for axis in value)
            return value is None or whole or several, "None, an int, or a non-empty tuple of ints"
        case Whole():
            return isinstance(value, int) and whole and value >= 0, "an int from 0"
        case Factor():
            return number or isinstance(value, complex), "a number"
        case Bound():
            return value is None or number, "None or a real number"
        case Dtype():
            return value is None or isinstance(value, torch.dtype), "None or a torch.dtype"


def _check_cotangent(rule: Rule, grad_y: Tensor, y: Tensor) -> None:
    if not isinstance(grad_y, Tensor):
        got_type = type(grad_y).__name__
        raise InputError(f"{rule}: the cotangent grad_y must be a torch tensor; got {got_type} {grad_y!r}.")
    for what, got, wanted in (
        ("shape", tuple(grad_y.shape), tuple(y.shape)),
        ("dtype", grad_y.dtype, y.dtype),
        ("device", grad_y.device, y.device),
    ):
        if got != wanted:
            raise InputError(
                f"{rule}: the cotangent grad_y has {what} {got}, but y has {what} {wanted}; "
                f"a cotangent has the {what} of y, so make it with torch.ones_like(y) or alike."
            )
