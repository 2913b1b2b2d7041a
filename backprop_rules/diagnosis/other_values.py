"""Derivatives that people take at another value, with another factor, under another condition, or of another kind."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank import BY_RESULT
from backprop_rules.diagnosis.edits import COPIES, MATRICES, SCANS, SUMS, Edit, Made, pulled, summed, told_of
from backprop_rules.diagnosis.tape import Shares, Step, Tape
from backprop_rules.layout import reaches

OTHERS = 8  # tensors of the same shape that are tried in the place of another


def other_values(step: Step, tape: Tape) -> Iterator[Edit]:
    """Yield derivatives of a step that are not taken where, or of what, they should be."""
    for p in step.live:
        for key, what, words, share in (*_of_one(step, p, tape), *_products(step, p), *_multiplied(step, p, tape)):
            yield told_of(step, (p,), key, what, words, {p: share})
    for key, what, words, other in _indices(step):
        yield told_of(step, step.live, key, what, words, {p: partial(pulled, other, p) for p in step.live})
    for key, what, words, other in _conditions(step, tape):
        chosen: Shares = {(step.number, p): partial(pulled, other, p) for p in step.live}
        told = tape.conditions.get(step.number, step)
        yield Edit(told, what, words, chosen, (step.number, step.live, key))
    if step.name == "where" and len(step.live) > 1:
        words = "as if both sides of {} passed the cotangent everywhere"
        shares = {p: partial(summed, step.args[p]) for p in step.live}
        yield told_of(step, step.live, ("both",), "mask", words, shares)


def _of_one(step: Step, p: int, tape: Tape) -> Iterator[Made]:
    x, y = step.args[p], step.result
    tensors = [k for k, a in enumerate(step.args) if isinstance(a, Tensor)]
    if len(tensors) == 1 and x.shape == y.shape and step.name not in (*SCANS, *SUMS, "softmax", "log_softmax", "neg"):
        for source, value, told in alike(x, step, tape):
            words = f"the derivative of {{}} is taken at {told} in the place of its argument"
            yield ("at", source), "other value", words, partial(pulled, step.at(p, value), p)
        for key, slope, told in _slopes(step, x, y, tape):
            words = f"{told} is taken for the derivative of {{}}"
            yield key, "other value", words, partial(_sloped, slope)
    elif len(tensors) > 1 and step.name not in (*SUMS, *COPIES, "cat", "stack"):
        for other in (k for k in tensors if k != p and step.args[k].is_floating_point()):
            for source, what, value, words in _beside(step, other, tape):
                yield ("beside", other, source), what, words, partial(pulled, step.at(other, value), p)


def _sloped(slope: Tensor, g: Tensor) -> Tensor:
    return g * slope.conj()


def _slopes(step: Step, x: Tensor, y: Tensor, tape: Tape) -> Iterator[tuple[Any, Tensor, str]]:
    yield ("value",), y, "its value"
    yield ("square",), y * y, "the square of its value"
    yield ("1 minus",), 1 - y, "1 minus its value"
    yield ("argument",), x, "its argument"
    if not x.is_complex():
        yield ("relu",), (x > 0).to(y), "the slope of relu"
    own = BY_RESULT.get(step.name)
    for name, formula in BY_RESULT.items() if own is not None else ():
        if formula is not own:
            yield ("of", name), formula(y), f"the derivative of {name}"
    if own is not None:
        for source, value, told in ((step.sources.get(step.live[0]), x, "its argument"), *alike(y, step, tape)):
            yield ("by", source), own(value), f"the rule that wants its result, with {told} in the place of that,"


def _beside(step: Step, k: int, tape: Tape) -> Iterator[tuple[Any, str, Tensor, str]]:
    """Yield what may be taken for argument k: values of the same shape, and itself moved, turned, mirrored."""
    value = step.args[k]
    own = f"argument {k + 1} of {{}}"
    for source, found, told in alike(value, step, tape):
        yield source, "other value", found, f"with {told} in the place of {own}"
    if step.name in MATRICES:
        return
    for axis in (d for d in range(-value.ndim, 0) if value.shape[d] > 1):
        for by in (1, -1):
            yield ("rolled", axis, by), "index", value.roll(by, axis), f"{own} is read one place off along axis {axis}"
        if value.shape[axis] % 2 == 0 and value.shape[axis] > 2:
            halves = value.roll(value.shape[axis] // 2, axis)
            yield ("halves", axis), "order", halves, f"the halves of axis {axis} of {own} are exchanged"
        yield ("flipped", axis), "index", value.flip(axis), f"{own} is reversed along axis {axis}"
        if axis < -1:
            flipped = value.flip([*range(axis, 0)])
            yield ("flipped", axis, "on"), "index", flipped, f"{own} is reversed along the axes from {axis} on"
    for a, b in combinations(range(-value.ndim, 0), 2):
        turned = value.transpose(a, b)
        if turned.shape == value.shape or reaches(turned, step.result):
            yield ("transposed", a, b), "axis", turned, f"axes {a} and {b} of {own} are exchanged"


def _products(step: Step, p: int) -> Iterator[Made]:
    """Yield other orders and transposes of the factors of a product of matrices."""
    if step.name not in MATRICES or any(not isinstance(a, Tensor) or a.ndim < 2 for a in step.args[:2]):
        return
    other = step.args[1 - p]
    first = p == 0
    told, order = "the other factor of {} is not transposed", "the factors stand in another order at {}"
    yield ("as it is",), "transposed", told, lambda g: g @ other if first else other @ g
    yield ("order, transposed",), "order", order, lambda g: other.mT @ g if first else g @ other.mT
    yield ("order",), "order", order, lambda g: other @ g if first else g @ other


def _multiplied(step: Step, p: int, tape: Tape) -> Iterator[Made]:
    """Yield what comes back, times a primal that is at hand: a factor too many."""
    x = step.args[p]
    for n, leaf in tape.leaves.items():
        if leaf.ndim and reaches(leaf, x) and step.sources.get(p) != n:
            words = f"what comes back through {{}} is multiplied by {tape.names[n]} once more"
            yield ("times", n), "factor", words, partial(_times, step, p, leaf)


def _times(step: Step, p: int, value: Tensor, g: Tensor) -> Tensor:
    return step.pulled(g)[p] * value


def _conditions(step: Step, tape: Tape) -> Iterator[tuple[Any, str, str, Step]]:
    """Yield a choice under the opposite condition, and under one that compares another value."""
    if step.name != "where" or not isinstance(step.args[0], Tensor):
        return
    made = tape.conditions.get(step.number)
    told = "the condition of {}" if made is None else "{}"
    yield ("opposite",), "side", f"as if {told} were the opposite", step.at(0, ~step.args[0])
    if made is None:
        return
    for p, x in enumerate(made.args):
        for source, value, words in alike(x, made, tape) if isinstance(x, Tensor) else ():
            other = made.at(p, value)
            told = f"as if {{}} compared {words} in the place of its argument {p + 1}"
            yield ("compared", p, source), "other value", told, step.at(0, other.function(other.args))


def _indices(step: Step) -> Iterator[tuple[Any, str, str, Step]]:
    """Yield what is read one place off."""
    for p, x in enumerate(step.args):
        if isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.numel():
            size = step.args[step.live[0]].shape[step.axes[0] if step.axes else 0]
            for by in (1, -1):
                words = "as if the index at {} were off by one"
                yield ("index", p, by), "index", words, step.at(p, (x + by) % size)


def alike(x: Tensor, step: Step, tape: Tape) -> Iterator[tuple[Any, Tensor, str]]:
    """Yield other values of the same shape that are at hand: the step's own result, its arguments, those of others.

    Of matrices their transposes, too.
    """
    if not x.is_floating_point():
        return
    found: list[tuple[Any, Tensor, str]] = [(step.number, step.result, "its result")]
    for other in (step, *(s for s in tape.steps if s is not step)):
        of = "its argument {}" if other is step else f"argument {{}} of {other.told}"
        if other is not step:
            found.append((other.number, other.result, other.told))
        for p, a in enumerate(other.args):
            if isinstance(a, Tensor):
                source = other.sources.get(p, (other.number, p))
                told = tape.names.get(source, "") if isinstance(source, int) else ""
                found.append((source, a, told or of.format(p + 1)))
    matrices = [(source, a, told) for source, a, told in found if a.ndim > 1 and step.name in MATRICES]
    found += [((source, "mT"), a.mT, f"the transpose of {told}") for source, a, told in matrices]
    own = next((step.sources.get(p, (step.number, p)) for p, a in enumerate(step.args) if a is x), None)
    seen = {own}
    for source, value, told in found:
        if source not in seen and value.shape == x.shape and value.is_floating_point() and not torch.equal(value, x):
            seen.add(source)
            yield source, value, told
        if len(seen) > OTHERS:
            return
