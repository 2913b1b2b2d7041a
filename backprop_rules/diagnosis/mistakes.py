"""The bank of mistakes: what a backward returns that does one thing otherwise than the right one.

Each mistake predicts, at a point and for one primal, what it would return there; None where it is no mistake, or cannot
be made. A prediction is formed from the right rule alone, so that it serves twice: to name a mistake, by matching what
was returned over several points, and to plant it, in any rule.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backprop_rules.domain import kinds_of
from backprop_rules.evidence.oracles.oracle import Silent
from backprop_rules.evidence.proof import certified
from backprop_rules.point import Point

# More outputs than these would take too long to form a Jacobian of.
MANY = 300


@dataclass(frozen=True)
class Case:
    """A point, the position of a primal, and the right rule to ask for what a mistake would return."""

    point: Point
    primal: int

    @property
    def g(self) -> Tensor:
        """The cotangent."""
        return self.point.grad_y

    @cached_property
    def x(self) -> Tensor:
        """The primal."""
        x = self.point.primals[self.primal]
        assert x is not None
        return x

    @cached_property
    def y(self) -> Tensor:
        """The output."""
        return self.point.y

    @cached_property
    def right(self) -> Tensor:
        """The right gradient."""
        found = self.gradient()
        assert found is not None
        return found

    def gradient(
        self,
        grad_y: Tensor | None = None,
        primals: Sequence[Tensor | None] | None = None,
        params: dict[str, Any] | None = None,
        primal: int | None = None,
    ) -> Tensor | None:
        """Return what the right rule gives for other arguments, None where it takes none such."""
        rule, point = self.point.rule.reference, self.point
        own = point.primals if primals is None else tuple(primals)
        named = dict(point.params) if params is None else params
        try:
            with torch.no_grad():
                y = point.y if primals is None and params is None else rule.forward(*own, **named)
                found = rule.gradients(self.g if grad_y is None else grad_y, y, *own, **named)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None
        return found[self.primal if primal is None else primal]

    def at(self, *, primal: Tensor) -> list[Tensor | None]:
        """Return the primals with another one in the place of this."""
        return [*self.point.primals[: self.primal], primal, *self.point.primals[self.primal + 1 :]]

    @property
    def elementwise(self) -> bool:
        """Whether y has the shape of the primal."""
        return self.y.shape == self.x.shape

    @cached_property
    def at_kink(self) -> Tensor:
        """A mask of the elements whose gradient is a set of several numbers."""
        try:
            balls = certified.certify(self.point).gradients[self.primal] or []
        except Silent:
            balls = []
        wide = [certified.is_a_set(b, torch.float64) for b in balls]
        if len(wide) != self.x.numel():
            return torch.zeros_like(self.x, dtype=torch.bool)
        return torch.tensor(wide, device=self.x.device, dtype=torch.bool).reshape(self.x.shape)

    @cached_property
    def jacobian(self) -> Tensor | None:
        """The gradient of each output, real or holomorphic: a row for each, of the primal's elements."""
        count = self.y.numel()
        if count > MANY or not count:
            return None
        units = torch.eye(count, dtype=self.g.dtype, device=self.g.device).reshape(count, *self.g.shape)
        rows = [self.gradient(unit) for unit in units]
        if any(row is None for row in rows):
            return None
        return torch.stack([row.reshape(-1) for row in rows if row is not None])


Predict = Callable[[Case], Tensor | None]


@dataclass(frozen=True)
class Known:
    """A mistake of the bank: its name, what it is in words, and what a backward returns that makes it."""

    name: str
    words: str
    predict: Predict


def _times(factor: float) -> Predict:
    return lambda c: c.right * factor


def _cotangent_twice(c: Case) -> Tensor | None:
    return c.right * c.g if c.right.shape == c.g.shape else c.gradient(c.g * c.g)


def _first_element(c: Case) -> Tensor | None:
    return c.gradient(torch.full_like(c.g, c.g.reshape(-1)[0].item())) if c.g.numel() else None


def _transposed(c: Case) -> Tensor | None:
    square = c.right.ndim > 1 and c.right.shape[-1] == c.right.shape[-2]
    return c.right.mT if square else None


def _reversed(c: Case) -> Tensor | None:
    turned = _all_axes(c.right)
    return turned if c.right.ndim > 2 and turned.shape == c.right.shape else None


def _missing_conjugate(c: Case) -> Tensor | None:
    if not c.x.is_complex():
        return None
    found = c.gradient(c.g.conj())
    return None if found is None else found.conj().resolve_conj()


def _diagonal(c: Case) -> Tensor | None:
    if not c.elementwise or c.jacobian is None:
        return None
    return c.g * c.jacobian.diagonal().reshape(c.x.shape)


def _one_path(last: bool) -> Predict:
    """Of the outputs that an element came into, only one passes its cotangent on."""

    def predict(c: Case) -> Tensor | None:
        j = c.jacobian
        if j is None or not j.numel():
            return None
        order = j.flip(0) if last else j
        cotangents = c.g.reshape(-1, 1).flip(0) if last else c.g.reshape(-1, 1)
        at = (order != 0).int().argmax(0, keepdim=True)
        return (order * cotangents).gather(0, at).reshape(c.x.shape)

    return predict


def _unreduced(c: Case) -> Tensor | None:
    """The gradient before it is summed over the axes along which the primal was broadcast."""
    if c.elementwise:
        return None
    shapes = [x.shape for x in c.point.tensors]
    for core in ([c.y.shape], [(*c.y.shape[: max(0, c.y.ndim - 2)], *c.x.shape[-2:])], shapes):
        try:
            wide = c.x.expand(torch.broadcast_shapes(*core))
        except RuntimeError:
            continue
        found = c.gradient(primals=c.at(primal=wide)) if wide.shape != c.x.shape else None
        if found is not None:
            return found
    return None


def _first_axis_only(c: Case) -> Tensor | None:
    wide = _unreduced(c)
    if wide is None or wide.ndim <= c.x.ndim + (c.x.shape != wide.shape[wide.ndim - c.x.ndim :]):
        return None
    return wide.sum(0)


def _mean_for_sum(c: Case) -> Tensor | None:
    wide = _unreduced(c)
    return None if wide is None or not c.x.numel() else c.right / max(1, wide.numel() // c.x.numel())


def _masked_by_the_cotangent(c: Case) -> Tensor | None:
    return c.g.clamp(min=0) if _masks(c) and not c.g.is_complex() else None


class _Clamped(torch.autograd.Function):
    """Whatever was computed, with a cotangent that is clamped at zero on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        return grad_y.clamp(min=0), None


MASKS = {
    torch.relu, Tensor.relu, torch.nn.functional.relu, torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min,
}  # fmt: skip


class _Mistaken(TorchFunctionMode):
    """Gives every mask inside of a function the backward that clamps the cotangent."""

    used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in MASKS:
            return found
        self.used = True
        return _Clamped.apply(args[0], found.detach())  # type: ignore[no-untyped-call]


def _masked_inside(c: Case) -> Tensor | None:
    """The gradient of a network in which every activation passes on the positive part of its cotangent."""
    if any(x.is_complex() for x in (c.g, *c.point.tensors)):
        return None
    with torch.enable_grad(), _Mistaken() as mode:
        leaves = [x.detach().requires_grad_() for x in c.point.tensors]
        y = c.point.forward(*c.point.placed(leaves))
    if not mode.used or not y.requires_grad:
        return None
    found = torch.autograd.grad(y, leaves, c.g, materialize_grads=True)
    return found[c.point.given.index(c.primal)]


def _passed_on(c: Case) -> Tensor | None:
    return c.g.clone() if c.elementwise else None


def _masks(c: Case) -> bool:
    """Say whether the rule passes the cotangent of some elements and not of others."""
    if not c.elementwise or len(c.point.given) != 1 or not ((c.right == c.g) | (c.right == 0)).all():
        return False
    elsewhere = c.gradient(primals=c.at(primal=-c.x))
    return any(t is not None and bool(((t == c.g) & (c.g != 0)).any()) for t in (c.right, elsewhere))


def _at_ties(passes: bool) -> Predict:
    """At a kink the whole cotangent passes, or nothing; NaN is tied with nothing."""

    def predict(c: Case) -> Tensor | None:
        if not c.elementwise or c.x.is_complex():
            return None
        tied = c.at_kink & ~c.y.isnan()
        return torch.where(tied, c.g if passes else torch.zeros_like(c.g), c.right) if tied.any() else None

    return predict


# Functions whose derivative is written in terms of their output; the mistake is to evaluate it at the input.
BY_OUTPUT: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    (torch.sigmoid, lambda v: v * (1 - v)),
    (torch.tanh, lambda v: 1 - v * v),
    (torch.exp, lambda v: v),
    (torch.expm1, lambda v: v + 1),
    (torch.sqrt, lambda v: 1 / (2 * v)),
    (torch.rsqrt, lambda v: -(v**3) / 2),
    (torch.reciprocal, lambda v: -v * v),
)


def _input_for_output(c: Case) -> Tensor | None:
    if not c.elementwise or c.x.is_complex():
        return None
    same = (slope for function, slope in BY_OUTPUT if _equal(function(c.x), c.y))
    slope = next(same, None)
    return None if slope is None else c.g * slope(c.x)


def _output_for_input(c: Case) -> Tensor | None:
    return c.gradient(primals=c.at(primal=c.y)) if c.elementwise and c.y.dtype == c.x.dtype else None


def _other_primals(c: Case) -> Iterator[int]:
    return (k for k in c.point.given if k != c.primal)


def _gradient_of_another(last: bool) -> Predict:
    """The gradient of the first other primal, or of the last, of whatever shape."""

    def predict(c: Case) -> Tensor | None:
        others = list(_other_primals(c))
        return c.gradient(primal=others[-last]) if others else None

    return predict


def _operands_swapped(c: Case) -> Tensor | None:
    for k in _other_primals(c):
        other = c.point.primals[k]
        if other is not None and other.shape == c.x.shape and other.dtype == c.x.dtype:
            own = list(c.point.primals)
            own[k], own[c.primal] = own[c.primal], own[k]
            return c.gradient(primals=own)
    return None


def _other_operand(turned: Callable[[Tensor], Tensor]) -> Predict:
    """The right gradient for another operand that is turned, or is not turned where it should be."""

    def predict(c: Case) -> Tensor | None:
        for k in _other_primals(c):
            other = c.point.primals[k]
            if other is None or other.ndim < 2 or turned(other).shape != other.shape:
                continue
            found = c.gradient(
                primals=[turned(x) if j == k and x is not None else x for j, x in enumerate(c.point.primals)]
            )
            if found is not None and not torch.equal(found, c.right):
                return found
        return None

    return predict


def _all_axes(x: Tensor) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))))


def _reversed_operand(x: Tensor) -> Tensor:
    """What stands in the place of the transposed operand, transposed back: all axes reversed."""
    return _all_axes(x).mT if x.ndim > 2 else x


def _held_constant(mean: bool, variance: bool) -> Predict:
    """The gradient of a layer norm without the terms that its mean, or its variance, brings."""

    def predict(c: Case) -> Tensor | None:
        if not c.elementwise or c.primal or not c.x.ndim or not c.x.numel() or c.x.is_complex():
            return None
        weight, bias = (*c.point.primals[1:], None, None)[:2]
        eps = c.point.params.get("eps", 1e-5)
        try:
            y = torch.nn.functional.layer_norm(c.x, c.x.shape[-1:], weight, bias, eps)
        except RuntimeError:
            return None  # another function
        if not _equal(y, c.y):
            return None
        centred = c.x - c.x.mean(-1, keepdim=True)
        scale = torch.rsqrt(c.x.var(-1, correction=0, keepdim=True) + eps)
        normal, g = centred * scale, c.g if weight is None else c.g * weight
        by_mean = 0 if mean else g.mean(-1, keepdim=True)
        by_variance = 0 if variance else normal * (normal * g).mean(-1, keepdim=True)
        return scale * (g - by_mean - by_variance)

    return predict


# Functions along an axis, and their gradients with the sum over all axes in the place of that one.
ALONG: tuple[tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, Tensor], Tensor]], ...] = (
    (torch.softmax, lambda g, y: y * (g - (g * y).sum())),
    (torch.log_softmax, lambda g, y: g - y.exp() * g.sum()),
)


def _sum_over_every_axis(c: Case) -> Tensor | None:
    if not c.elementwise or c.x.is_complex():
        return None
    same = (f for function, f in ALONG for dim in range(c.x.ndim) if _equal(function(c.x, dim), c.y))
    gradient = next(same, None)
    return None if gradient is None else gradient(c.g, c.y)


def _equal(y: Tensor, other: Tensor) -> bool:
    """Say whether these are the same numbers, NaN at the same places."""
    return (
        y.shape == other.shape
        and torch.equal(y.isnan(), other.isnan())
        and torch.equal(y.nan_to_num(), other.nan_to_num())
    )


def _as_if_contiguous(c: Case) -> Tensor | None:
    g = c.g
    if g.is_contiguous() or g.device.type == "meta":
        return None
    strides = torch.empty(g.shape, device="meta").stride()
    last = g.storage_offset() + sum((n - 1) * s for n, s in zip(g.shape, strides, strict=True))
    if not g.numel() or last >= g.untyped_storage().nbytes() // g.element_size():
        return None
    return c.gradient(g.as_strided(g.shape, strides, g.storage_offset()))


def other_params(c: Case) -> Iterator[tuple[str, str, Tensor]]:
    """Yield what comes of each other value of each param."""
    kinds = c.point.rule.reference.domain.params
    for name, value in c.point.params.items():
        if name not in kinds or name in ("keepdim", "dtype"):
            continue
        for other in (*kinds_of(kinds[name]), 0, 1, "mean", "sum"):
            if type(other) is type(value) and other != value:
                found = c.gradient(params={**c.point.params, name: other})
                if found is not None and found.shape == c.x.shape:
                    yield f"{name} ignored", f"as if {name} were {other!r} whatever it is", found


def _summed_over_all(c: Case) -> Tensor | None:
    return c.right.sum() if c.right.ndim else None


BANK: tuple[Known, ...] = (
    Known("sign", "the sign is wrong: exactly -1 × the right one", _times(-1)),
    Known("factor 2", "exactly 2 × the right one", _times(2)),
    Known("factor 1/2", "exactly 1/2 × the right one: a factor 2 is missing", _times(0.5)),
    Known("zero", "it is zero everywhere", lambda c: torch.zeros_like(c.right)),
    Known(
        "masked by the cotangent",
        "the cotangent is clamped at zero where it should be masked by the input (the pre-activation)",
        _masked_by_the_cotangent,
    ),
    Known(
        "masked by the cotangent",
        "the cotangent is clamped at zero where it should be masked by the pre-activation, inside of the function",
        _masked_inside,
    ),
    Known(
        "passed on unchanged",
        "the cotangent is passed on unchanged: no mask and no factor is applied to it",
        _passed_on,
    ),
    Known(
        "cotangent ignored",
        "the cotangent is ignored: the result is that for a cotangent of ones",
        lambda c: c.gradient(torch.ones_like(c.g)),
    ),
    Known("cotangent squared", "the cotangent is applied twice", _cotangent_twice),
    Known("first element of the cotangent", "only the first element of the cotangent is read", _first_element),
    Known(
        "read as if contiguous",
        "the cotangent's memory is read as if it were contiguous: its strides are ignored",
        _as_if_contiguous,
    ),
    Known("transposed", "the gradient is transposed: its last two axes are swapped", _transposed),
    Known("all axes reversed", "all axes are reversed, as .T does, where two should be swapped", _reversed),
    Known(
        "missing conjugate", "a conjugate is missing: the gradient of x y is the cotangent times y*", _missing_conjugate
    ),
    Known(
        "diagonal of the Jacobian", "only the diagonal of the Jacobian is used: other outputs are left out", _diagonal
    ),
    Known(
        "last path only",
        "cotangents overwrite each other instead of adding up: only the last output that an element came into counts",
        _one_path(last=True),
    ),
    Known(
        "first path only",
        "cotangents do not add up: only the first output that an element came into counts",
        _one_path(last=False),
    ),
    Known(
        "missing un-broadcast",
        "a sum over the axes along which this primal was broadcast is missing (un-broadcast)",
        _unreduced,
    ),
    Known("summed over all axes", "it is summed over all axes, also over those of this primal", _summed_over_all),
    Known("first axis only", "the sum is taken over the first axis only, not over all batch axes", _first_axis_only),
    Known("mean instead of sum", "a mean is taken over the broadcast axes in the place of a sum", _mean_for_sum),
    Known(
        "strict at ties",
        "nothing passes at a tie: a strict comparison in the place of an inclusive one",
        _at_ties(False),
    ),
    Known(
        "inclusive at ties", "the whole cotangent passes at a tie, to everyone: an inclusive comparison", _at_ties(True)
    ),
    Known(
        "input in the place of the output",
        "the derivative in terms of the output is evaluated at the input (the pre-activation)",
        _input_for_output,
    ),
    Known(
        "output in the place of the input",
        "the derivative is evaluated at the output (the post-activation) in the place of the input",
        _output_for_input,
    ),
    *(
        Known(
            "gradients swapped",
            "it is the gradient of another primal: the gradients are returned in the wrong order",
            _gradient_of_another(last),
        )
        for last in (False, True)
    ),
    Known("operands swapped", "it is the gradient for the primals in another order", _operands_swapped),
    Known(
        "operand not transposed",
        "the other operand is not transposed, or it is where it should not be",
        _other_operand(lambda x: x.mT),
    ),
    Known(
        "operand reversed",
        "all axes of the other operand are reversed, as .T does, where two should be swapped",
        _other_operand(_reversed_operand),
    ),
    Known("statistics held constant", "the mean and the variance are taken for constants", _held_constant(True, True)),
    Known("mean held constant", "the mean is taken for a constant: its term is missing", _held_constant(True, False)),
    Known(
        "variance held constant",
        "the variance is taken for a constant: its term is missing",
        _held_constant(False, True),
    ),
    Known(
        "sum over every axis",
        "the sum inside of the gradient is taken over every axis, not along the given one",
        _sum_over_every_axis,
    ),
)


def applies(known: Known, case: Case) -> Tensor | None:
    """Return the mistake's prediction where it can be told from the right gradient, None elsewhere."""
    try:
        found = known.predict(case)
    except (RuntimeError, IndexError):  # shapes that the mistake cannot be made with
        return None
    if found is None or found.is_complex() != case.right.is_complex():
        return None
    if found.shape == case.right.shape and torch.equal(found, case.right):
        return None
    return found
