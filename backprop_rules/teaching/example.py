"""Points of small numbers, made from what a rule declares: one to explain it by, and others to show its mistakes."""

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.domain import (
    BATCH,
    Axes,
    Axis,
    Bound,
    Choice,
    Exponent,
    Factor,
    Index,
    Param,
    Whole,
    axes_of,
    kinds_of,
    moved_into,
)
from backprop_rules.rule import Rule

SIZES = (2, 3, 4)  # of the axes of the example in turn: different ones, so that nothing fits by accident
NUMBERS = (2.0, -1.0, 0.5, 3.0, -2.0, 1.0, -0.5, 4.0)
COTANGENTS = (3.0, 1.0, -2.0, 5.0, -1.0, 4.0)
STANDING = (0.0, -1.0, 1.0)  # of which several primals have the same, as at a kink
BATCHES: tuple[tuple[int, ...], ...] = ((), (2,), (2, 2))
SIDES = (1, 2)
TURNS = 3  # of the numbers, so that others come first
TRIED = 512  # points, for one at which every primal has a gradient

F64 = torch.float64


def example(rule: Rule) -> Call:
    """Return a point of small numbers of the rule's domain, with different sizes on different axes."""
    named, turned = (
        _axes(rule),
        sum(2 if isinstance(p, Axes) else isinstance(p, Axis) for p in rule.domain.params.values()),
    )
    axes = list(dict.fromkeys(name for names in named for name in names if name != BATCH))
    batch = (SIZES[1],) if turned < 2 else SIZES[:turned]
    if axes:  # a batch where a primal without one meets all of it, so that its gradient is a sum
        batch = SIZES[:1] if {BATCH in names for names in named} == {True, False} else ()
    rest = SIZES[len(batch) :] if len(axes) <= len(SIZES) - len(batch) else itertools.cycle(SIZES[:2])
    sizes = dict(zip(axes, rest if len(axes) > 1 or batch else SIZES[1:], strict=False))
    params = {name: kinds[0] for name, kinds in zip(rule.domain.params, _kinds(rule, F64), strict=True)}
    shapes = [_shape(names, batch, sizes) for names in named]
    turns = itertools.product(*(range(1 if BATCH not in names else len(NUMBERS)) for names in named))
    points = (
        _called(rule, [_values(rule, k, shapes[k], params, turn) for k, turn in enumerate(some)], params)
        for some in turns
    )
    first = next(points)
    # One at which what is a choice between the primals, as a clamp is, is made for each somewhere.
    tried = itertools.islice(itertools.chain([first], points), TRIED)
    return next((call for call in tried if all(g is None or g.any() for g in call.gradients)), first)


def told(call: Call) -> dict[str, Any]:
    """Return the params that are not what they are if they are left out."""
    own = inspect.signature(call.rule.backward).parameters
    return {name: value for name, value in call.params.items() if value != own[name].default}


def small(rule: Rule, dtype: torch.dtype = F64) -> Iterator[Call]:
    """Yield small points, the smallest first: of several shapes and params, with other numbers in front."""
    named = _axes(rule)
    axes = sorted({name for names in named for name in names} - {BATCH})
    shapes = [
        [_shape(names, batch, dict(zip(axes, sides, strict=True))) for names, batch in zip(named, batches, strict=True)]
        for sides in itertools.product(SIDES, repeat=len(axes))
        for batches in itertools.product(*(BATCHES if BATCH in names else BATCHES[:1] for names in named))
    ]
    for those in sorted(shapes, key=lambda those: (sum(map(math.prod, those)), sum(map(len, those)))):
        for params, turn in itertools.product(_apart(rule, _params(rule, dtype)), range(TURNS)):
            yield from _fitting(
                rule, [_values(rule, k, s, params, turn, dtype) for k, s in enumerate(those)], params, turn
            )


def standing(rule: Rule) -> Iterator[Call]:
    """Yield points of one element a primal, or none if it may be left out, of which several are equal."""
    choices: list[list[Tensor | None]] = []
    for k, names in enumerate(_axes(rule)):
        name, shape = rule.primals[k], _shape(names, (), dict.fromkeys(names, 1))
        moving = [torch.full(shape, value, dtype=F64) for value in STANDING]
        choices.append([_values(rule, k, shape, {})] if name in rule.domain.indices else [*moving])
        choices[-1] += [None] if name in rule.optional else []
    for params, primals in itertools.product(_params(rule, F64), itertools.product(*choices)):
        yield from _fitting(rule, primals, params, turn=1)  # with a cotangent of 1


def _axes(rule: Rule) -> list[tuple[str, ...]]:
    return [tuple(name.rstrip("?") for name in names) for names in axes_of(rule.domain.shapes)]


def _shape(names: Sequence[str], batch: Sequence[int], sizes: Mapping[str, int]) -> list[int]:
    return [n for name in names for n in (batch if name == BATCH else [sizes[name]])]


def _params(rule: Rule, dtype: torch.dtype) -> list[dict[str, Any]]:
    return [dict(zip(rule.domain.params, values, strict=True)) for values in itertools.product(*_kinds(rule, dtype))]


def _apart(rule: Rule, some: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the params of which no two bounds are one."""
    for params in some:
        bounds = [params[name] for name, param in rule.domain.params.items() if isinstance(param, Bound)]
        if len({*bounds}) == len(bounds):
            yield params


def _kinds(rule: Rule, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Return values of each param, the first of which is not what it does if it is left out; different ones of axes."""
    axes, bounds = itertools.count(1), itertools.count()

    defaults = {name: p.default for name, p in inspect.signature(rule.backward).parameters.items()}

    def kinds(name: str, param: Param) -> tuple[Any, ...]:
        match param:
            case Axis():
                return (-next(axes),)
            case Axes():
                return (-1, None)
            case Bound():
                return tuple(dict.fromkeys((float(next(bounds)), None, 0.0)))
            case Choice(options):
                return tuple(sorted(options, key=lambda option: option != defaults.get(name)))
            case Exponent():
                return (3, *kinds_of(param))
            case Factor():
                return (2, 1 + 2j) if dtype.is_complex else (2,)
            case Whole():
                return (0, *kinds_of(param))
            case _:
                return kinds_of(param)

    return [kinds(name, param) for name, param in rule.domain.params.items()]


def _values(
    rule: Rule, k: int, shape: Sequence[int], params: dict[str, Any], turn: int = 0, dtype: torch.dtype = F64
) -> Tensor:
    holds = rule.domain.indices.get(rule.primals[k])
    if holds is not None:
        counted = torch.arange(math.prod(shape)).reshape(tuple(shape)) % 2 * (turn != 1)
        return counted if isinstance(holds, Index) else counted == turn % 2
    low, high = rule.domain.interval(rule.primals[k], params)
    turned = _turned(NUMBERS, k + turn)
    inside = [v for v in turned if low < v < high] or moved_into(
        (low, high), torch.tensor(turned).double().abs()
    ).tolist()
    real = _numbers(shape, inside)
    return torch.complex(real, _numbers(shape, _turned(inside, 1))) if dtype.is_complex else real


def _turned(values: Sequence[float], by: int) -> list[float]:
    by %= len(values)
    return [*values[by:], *values[:by]]


def _numbers(shape: Sequence[int], values: Sequence[float]) -> Tensor:
    numbers = list(itertools.islice(itertools.cycle(values), math.prod(shape)))
    return torch.tensor(numbers, dtype=F64).reshape(tuple(shape))


def _called(rule: Rule, primals: Sequence[Tensor | None], params: dict[str, Any], turn: int = 0) -> Call:
    blank = Call(rule, tuple(primals), params, torch.empty(0))
    return replace(blank, grad_y=_numbers(blank.y.shape, _turned(COTANGENTS, turn)).to(blank.y.dtype))


def _fitting(rule: Rule, primals: Sequence[Tensor | None], params: dict[str, Any], turn: int = 0) -> Iterator[Call]:
    """Yield the point, if the rule takes it."""
    if rule.domain.accepts(*primals, **params):
        try:
            yield _called(rule, primals, params, turn)
        except (RuntimeError, IndexError, ValueError):  # as torch refuses shapes and indices
            return
