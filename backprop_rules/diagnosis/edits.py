"""What people do wrong to one step of a forward when they differentiate it: each as another result in its place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.tape import Change, Step

SCANS = ("cumsum", "cumprod", "logcumsumexp")
KINKED = ("where", "relu", "clamp", "clamp_min", "clamp_max", "masked_fill", "maximum", "minimum", "abs", "max", "min")
PRODUCTS = ("mul", "rmul", "matmul", "rmatmul", "mm", "bmm", "outer", "dot")
MATRICES = ("matmul", "rmatmul", "mm", "bmm")
COPIES = ("clone", "contiguous", "reshape", "view", "unsqueeze", "squeeze", "expand", "expand_as", "flatten")
SUMS = ("add", "radd", "sub", "rsub")
OTHERS = 8  # tensors of the same shape that are tried in the place of another

Turn = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Edit:
    """One thing done to one step: the change, and what it is called, in one word and in words around the step.

    `by` is the argument on the way to which it is done, None for all; what is not `local` changes values, too.
    """

    step: Step
    what: str
    words: str  # with {} in the place of the step
    change: Change
    by: int | None = None
    local: bool = True


class _Instead(torch.autograd.Function):
    """A value with another gradient: what a function makes of the cotangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gradient: Turn) -> Tensor:
        ctx.gradient, ctx.shape = gradient, x.shape
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        found = ctx.gradient(grads[0])
        if found.shape != ctx.shape:
            raise RuntimeError("another shape")
        return found, None, None


def _instead(x: Tensor, y: Tensor, gradient: Turn) -> Tensor:
    found: Tensor = _Instead.apply(x, y, gradient)  # type: ignore[no-untyped-call]
    return found


def without(positions: Sequence[int]) -> Change:
    """The arguments at these positions are taken for constants."""

    def change(step: Step, func: Any, args: Any, named: Any, y: Any) -> Any:
        return func(*(_detached(x) if j in positions else x for j, x in enumerate(args)), **named)

    return change


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def _by(j: int, path: Callable[[Any, Any, Any, Any], Tensor]) -> Change:
    """Argument j gets its gradient by another path; the other arguments theirs as it is."""

    def change(step: Step, func: Any, args: Any, named: Any, y: Any) -> Any:
        own = path(func, [x if k == j else _detached(x) for k, x in enumerate(args)], named, y)
        found = y.detach() + (own - own.detach())
        if len(step.live) > 1:
            others = func(*(_detached(x) if k == j else x for k, x in enumerate(args)), **named)
            found = found + (others - others.detach())
        return found

    return change


def unchanged(j: int) -> Change:
    """The cotangent passes to argument j as if the step were the identity."""
    return _by(j, lambda func, args, named, y: args[j] + torch.zeros_like(y))


def turned(j: int, turn: Turn) -> Change:
    """The cotangent is turned into something else on its way to argument j."""

    def path(func: Any, args: Any, named: Any, y: Any) -> Tensor:
        own: Tensor = func(*args, **named) * 1
        own.register_hook(turn)
        return own

    return _by(j, path)


def sloped(j: int, slope: Callable[[Any, Any], Tensor]) -> Change:
    """The derivative by argument j is another number, made of the arguments and the result."""
    return _by(j, lambda func, args, named, y: slope(args, y).detach() * args[j])


def instead(j: int, gradient: Callable[[Any, Tensor], Tensor]) -> Change:
    """The gradient of argument j is made of the arguments and the cotangent in another way."""
    return _by(j, lambda func, args, named, y: _instead(args[j], y.detach(), lambda g: gradient(args, g)))


def elsewhere(j: int, value: Tensor) -> Change:
    """The derivative by argument j is taken where that has another value."""

    def path(func: Any, args: Any, named: Any, y: Any) -> Tensor:
        with torch.enable_grad():
            there = value.detach().requires_grad_()
            (slope,) = torch.autograd.grad(func(*args[:j], there, *args[j + 1 :], **named).sum(), there)
        found: Tensor = slope.detach() * args[j]
        return found

    return _by(j, path)


def beside(j: int, other: int, value: Tensor) -> Change:
    """The gradient of argument j of a product is taken with another value in the place of the other one."""
    return _by(j, lambda func, args, named, y: func(*args[:other], value, *args[other + 1 :], **named))


def negated(j: int | None) -> Change:
    """The derivative by argument j, or by all, has the other sign."""
    if j is None:
        return lambda step, func, args, named, y: 2 * y.detach() - y
    return _by(j, lambda func, args, named, y: -func(*args, **named))


def the_other_side(j: int) -> Change:
    """The cotangent passes to argument j where it is blocked, and is blocked where it passes."""
    return _by(j, lambda func, args, named, y: args[j] - func(*args, **named))


def left_out(j: int) -> Change:
    """The step is left out altogether: what it makes of argument j is that itself."""
    return lambda step, func, args, named, y: args[j] + torch.zeros_like(y)


def inverted(step: Step, func: Any, args: Any, named: Any, y: Any) -> Any:
    """A choice is made the other way round, in the derivative alone."""
    other = func(~args[0], *args[1:], **named)
    return y.detach() + (other - other.detach())


def is_trivial(step: Step) -> bool:
    """Say whether a step only moves numbers, or adds one that is no primal's: of a chain the others are told of."""
    return step.name in (*COPIES, "getitem", "unflatten", "mT", "T") or (step.name in SUMS and len(step.live) == 1)


def edits_of(step: Step, steps: Sequence[Step]) -> Iterator[Edit]:
    """Yield what can be done to a step, but for what is a factor."""
    y, several = step.result, len(step.live) > 1
    for j in step.live:
        yield from (replace(edit, by=j) for edit in _on_the_way_to(step, j, steps))
    if step.name == "where" and several and isinstance(step.args[0], Tensor):
        yield Edit(step, "side", "as if the condition of {} were the opposite", inverted)
    if len(step.live) == 1 and step.name not in COPIES and _reaches(step.args[step.live[0]], y):
        what = "eps" if step.name in SUMS else "mask" if step.name in KINKED else "factor"
        yield Edit(step, what, "as if {} were left out of forward altogether", left_out(step.live[0]), local=False)


def _on_the_way_to(step: Step, j: int, steps: Sequence[Step]) -> Iterator[Edit]:
    """Yield what can be done to the cotangent or the derivative on the way to argument j."""
    y = step.result
    x = step.args[j]
    by = f", for its argument {j + 1}" if len(step.live) > 1 else ""
    if step.name not in (*SUMS, *COPIES) and _reaches(x, y):
        yield Edit(step, "unchanged", f"as if the cotangent passed {{}} unchanged{by}", unchanged(j))
    if step.name in KINKED and x.shape == y.shape:
        words = f"as if {{}} passed the cotangent where it blocks it, and blocked it where it passes{by}"
        yield Edit(step, "side", words, the_other_side(j))
    yield from _turns(step, j, by)
    yield from _scans(step, j)
    yield from _products(step, j, by)
    yield from _other_values(step, j, steps, by)


def _reaches(x: Tensor, y: Tensor) -> bool:
    try:
        return bool(torch.broadcast_shapes(x.shape, y.shape) == y.shape)
    except RuntimeError:
        return False


def _turns(step: Step, j: int, by: str) -> Iterator[Edit]:
    """Yield what is done to the cotangent on its way through the step."""
    y = step.result
    if step.name in COPIES or (step.name in SUMS and step.args[j].shape == y.shape and len(step.live) > 1):
        if y.is_complex():
            yield Edit(step, "conjugate", f"a conjugate is missing, or too many, at {{}}{by}", turned(j, _conjugate))
        return
    yield Edit(
        step,
        "cotangent ignored",
        f"the cotangent is left out where {{}} is differentiated{by}",
        turned(j, torch.ones_like),
    )
    yield Edit(
        step, "mask", f"the cotangent is clamped at 0 where it passes {{}}{by}", turned(j, lambda g: g.clamp(min=0))
    )
    if y.is_complex():
        yield Edit(step, "conjugate", f"a conjugate is missing, or too many, at {{}}{by}", turned(j, _conjugate))
    if y.ndim > 1 and y.shape[-1] == y.shape[-2] > 1:
        yield Edit(step, "transposed", f"the cotangent of {{}} is transposed{by}", turned(j, lambda g: g.mT))
    for axis in (d for d in range(-min(y.ndim, 3), 0) if y.shape[d] > 1):
        for turn, what, words in _along(axis):
            yield Edit(step, what, f"{words} where {{}} is differentiated{by}", turned(j, turn))


def _conjugate(g: Tensor) -> Tensor:
    return g.conj_physical()


def _along(axis: int) -> Iterator[tuple[Turn, str, str]]:
    yield lambda g: _only(g, axis, -1), "overwritten", f"only the last of axis {axis} counts"
    yield lambda g: _only(g, axis, 0), "not summed", f"only the first of axis {axis} counts"
    for by in (1, -1):
        yield partial(_rolled, by, axis), "index", f"the index along axis {axis} is off by one"
        yield partial(_shifted, by, axis), "index", f"the index along axis {axis} is off by one"
    yield lambda g: g.flip(axis), "index", f"axis {axis} is reversed"


def _only(g: Tensor, axis: int, k: int) -> Tensor:
    kept = torch.zeros_like(g)
    kept.select(axis, k).copy_(g.select(axis, k))
    return kept


def _rolled(by: int, axis: int, g: Tensor) -> Tensor:
    return g.roll(by, axis)


def _shifted(by: int, axis: int, g: Tensor) -> Tensor:
    moved = g.roll(by, axis)
    moved.select(axis, 0 if by > 0 else -1).zero_()
    return moved


def _scans(step: Step, j: int) -> Iterator[Edit]:
    if step.name not in SCANS:
        return
    yield Edit(
        step, "index", "as if {} left out the element itself: off by one", _by(j, lambda f, a, n, y: f(*a, **n) - a[j])
    )
    axis = step.args[1] if len(step.args) > 1 and isinstance(step.args[1], int) else step.named.get("dim", -1)
    yield Edit(
        step,
        "transposed",
        "the sum from the end is taken from the start at {}",
        instead(j, lambda a, g: g.cumsum(axis)),
    )


def _products(step: Step, j: int, by: str) -> Iterator[Edit]:
    """Yield other orders and transposes of the factors of a product of matrices."""
    if (
        step.name not in MATRICES
        or len(step.args) < 2
        or not all(isinstance(a, Tensor) and a.ndim > 1 for a in step.args[:2])
    ):
        return
    k = 1 - j
    ways: tuple[tuple[str, Callable[[Any, Tensor], Tensor]], ...] = (
        ("transposed", lambda a, g: g @ a[k] if j == 0 else a[k] @ g),
        ("order", lambda a, g: a[k].mT @ g if j == 0 else g @ a[k].mT),
        ("order", lambda a, g: a[k] @ g if j == 0 else g @ a[k]),
    )
    for what, gradient in ways:
        words = (
            "the other factor of {} is not transposed"
            if what == "transposed"
            else "the factors stand in another order at {}"
        )
        yield Edit(step, what, words + by, instead(j, gradient))


def _other_values(step: Step, j: int, steps: Sequence[Step], by: str) -> Iterator[Edit]:
    x, y = step.args[j], step.result
    tensors = [k for k, a in enumerate(step.args) if isinstance(a, Tensor)]
    if len(tensors) == 1 and x.shape == y.shape and step.name not in (*SCANS, *SUMS, "softmax", "log_softmax", "neg"):
        for value, told in _alike(x, step, steps):
            words = f"the derivative of {{}} is taken at {told} in the place of its argument"
            yield Edit(step, "other value", words, elsewhere(j, value))
        for slope, told in SLOPES:
            yield Edit(step, "other value", f"{told} is taken for the derivative of {{}}", sloped(j, slope))
    elif len(tensors) == 2 and step.name in PRODUCTS:
        (other,) = (k for k in tensors if k != j)
        for value, told in _alike(step.args[other], step, steps):
            words = f"with {told} in the place of the other factor of {{}}{by}"
            yield Edit(step, "other value", words, beside(j, other, value))


SLOPES: tuple[tuple[Callable[[Any, Tensor], Tensor], str], ...] = (
    (lambda a, y: y, "its value"),
    (lambda a, y: 1 - y, "1 minus its value"),
    (lambda a, y: a[0] if isinstance(a[0], Tensor) else a[1], "its argument"),
    (lambda a, y: (a[0] > 0).to(y) if isinstance(a[0], Tensor) else y, "the slope of relu"),
)


def _alike(x: Tensor, step: Step, steps: Sequence[Step]) -> Iterator[tuple[Tensor, str]]:
    """Yield other values of the same shape that are at hand: the step's own result, its arguments, those of others."""
    found: list[tuple[Tensor, str]] = [(step.result, "its result")]
    found += [(a, f"its argument {k + 1}") for k, a in enumerate(step.args) if isinstance(a, Tensor)]
    found += [(s.result, f"`{s.text}`") for s in steps if s is not step]
    found += [(a, f"an argument of `{s.text}`") for s in steps for a in s.args if isinstance(a, Tensor)]
    kept: list[Tensor] = [x]
    for value, told in found:
        if value.shape == x.shape and value.is_floating_point() and not any(torch.equal(value, k) for k in kept):
            kept.append(value)
            yield value, told
        if len(kept) > OTHERS:
            return
