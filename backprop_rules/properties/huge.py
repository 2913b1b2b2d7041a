"""Sizes whose offsets pass 2^31, where a 32-bit index wraps: on tensors that have shapes alone."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.errors import OwnError
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.form import has_the_form_of_its_primal
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import inexact
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoAnswer, NoPoint
from backprop_rules.subject.subject import Subject, shapes_of

REACH = 2**31  # elements: the first that a signed index of 32 bits does not reach


def reaches_past_32_bits(subject: Subject, point: Point) -> Iterator[Finding]:
    """Yield in what form gradients come out wrong where offsets pass 2^31; nothing of what reads its arguments."""
    small = [x.to("meta") if isinstance(x, Tensor) else x for x in point.leaves]
    try:
        effort = 2 * _asked(subject, point, small, math.inf)[1]
    except NoAnswer:
        return
    for leaves in _huge(small):
        there = replace(point, leaves=tuple(leaves), grads=tuple(None for _ in point.grads))
        try:
            got, _ = _asked(subject, point, leaves, effort)
        except (NoPoint, _Loops):
            continue
        except (Raised, Misfit) as error:
            yield Finding(Kind.TOO_LARGE, there, detail=f"{shapes_of(subject.names, leaves)}: {error}")
            return
        right = tuple(x if inexact(x) else None for x in leaves)
        dtypes = [x.dtype if inexact(x) else None for x in leaves]
        for found in has_the_form_of_its_primal(point, got, right, dtypes):
            yield replace(found, kind=Kind.HUGE, point=there)
        return


class _Loops(OwnError):
    """The code makes more calls the longer its arguments are: at such lengths it would run for years."""


class _Counted(TorchFunctionMode):
    """While it is entered, so many calls of torch's functions may be made, and what is made has shapes alone."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most, self.calls = most, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls > self.most:
            raise _Loops(f"{self.most} calls are not enough")
        return func(*args, **(kwargs or {}))


def _asked(subject: Subject, point: Point, leaves: list[Any], most: float) -> tuple[tuple[Any, ...], int]:
    """Return the gradients, and how many calls of torch's functions that took."""
    function = subject.function.at(point.params)
    with torch.device("meta"), _Counted(most) as counted:
        grads = tuple(torch.empty_like(y) if inexact(y) else None for y in function.y(leaves, None))
        return subject.backward(function, grads, None, tuple(leaves), None), counted.calls


def _huge(leaves: list[Any]) -> Iterator[list[Any]]:
    """Yield the leaves with all axes of one size made so long that the largest leaf has more than 2^31 elements."""
    largest = max((x for x in leaves if inexact(x)), key=Tensor.numel)
    for n in sorted(set(largest.shape), reverse=True):
        count = largest.shape.count(n)
        rest = max(largest.numel(), 1) // max(n, 1) ** count
        long = math.ceil((REACH / rest) ** (1 / count)) + 1
        yield [
            x.new_empty([long if size == n else size for size in x.shape]) if isinstance(x, Tensor) else x
            for x in leaves
        ]
