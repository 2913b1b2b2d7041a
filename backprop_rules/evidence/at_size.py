"""Gradients at a point of the user's own, of any size: the truth, and how far an implementation may be from it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backprop_rules.domain import precision
from backprop_rules.errors import InputError, OwnError, first_line
from backprop_rules.evidence.allowance.blocks import blocks
from backprop_rules.evidence.allowance.declared import Declared, Rounds
from backprop_rules.evidence.allowance.operation import UNDERFLOWS
from backprop_rules.evidence.allowance.precision import Precision
from backprop_rules.evidence.allowance.units import component, lost_in, positive, wide
from backprop_rules.evidence.reservations import NONE, Reservations
from backprop_rules.evidence.ties import Ties
from backprop_rules.subject.ambient import F32, F64, Ambient, at, inexact, real, running
from backprop_rules.subject.backward import in_their_places
from backprop_rules.subject.function import (
    Cotangents,
    Function,
    Gradients,
    NoPoint,
    Outputs,
    gradients_along,
    somebodys_function,
    steps_to,
)
from backprop_rules.subject.kept import Keeps

# Of a point: the mode that looks on, and the gradients with the graph that made them, if one is asked for.
Run = Callable[[Declared, bool], tuple[Outputs, Gradients]]


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of the truth in float64, and how far an implementation may be from it, element by element."""

    truth: Tensor
    radius: Tensor
    dtype: torch.dtype

    def part(self, block: tuple[slice, ...]) -> "Held":
        """Return what holds a block of it."""
        return Held(self.truth[block], self.radius[block], self.dtype) if block else self

    @property
    def parts(self) -> Iterator[tuple[slice, ...]]:
        """The blocks by which it is gone through: in the processor's cache."""
        return blocks(self.truth.shape, self.truth.ndim)

    @cached_property
    def said(self) -> Tensor:
        """A mask of the elements of which it says something: truth and radius are finite."""
        return self.truth.isfinite() & self.radius.isfinite()

    def contains(self, got: Tensor) -> Tensor:
        """Return a mask of the elements of a tensor of this shape that lie inside.

        Where the truth is NaN anything does, where the radius is infinite what is finite; and where the truth reaches
        the end of the dtype, infinity of its sign.
        """
        got = got.to(self.truth)
        inside = ((got - self.truth).abs() <= self.radius) & got.isfinite() | (got == self.truth) | self.truth.isnan()
        most = torch.finfo(self.dtype).max
        overflows = got.isinf() & (got.sign() == self.truth.sign()) & (self.truth.abs() + self.radius >= most)
        return inside | (overflows & self.radius.isfinite())

    def off_inside(self, got: Tensor) -> Tensor | None:
        """Return how far off elements are, where all are finite and lie inside, None elsewhere: quicker than a mask."""
        off = torch.sub(got.to(self.truth), self.truth).abs_()
        finite = math.isfinite(off.sum().item() + self.radius.sum().item())
        return off if finite and (not off.numel() or (off - self.radius).amax().item() <= 0) else None

    def joined(self, other: "Held") -> "Held":
        """Return what holds this and the same in another algebraic form."""
        apart = (self.truth - other.truth).abs()
        return Held(self.truth, torch.maximum(self.radius, other.radius + apart), self.dtype)

    def stored_in(self, dtype: torch.dtype) -> "Held":
        """Return what holds the same in another dtype, to which it is rounded once more."""
        parts = [*self.parts]
        if parts == [()]:
            return Held(self.truth, self._radius_in(dtype), dtype)
        radius = torch.empty_like(self.truth)
        for block in parts:
            radius[block] = self.part(block)._radius_in(dtype)
        return Held(self.truth, radius, dtype)

    def _radius_in(self, dtype: torch.dtype) -> Tensor:
        lost = lost_in(dtype, self.truth.abs().add_(self.radius))
        if positive(self.radius) and math.isfinite(float(self.truth.sum())):
            return lost.add_(self.radius)
        exact = (self.truth.to(dtype).to(self.truth) - self.truth).abs()
        known = (self.radius == 0) & exact.isfinite()  # what overflows is seen by the truth's size
        radius = self.radius + torch.where(known, exact, lost)
        return torch.where(self.truth.isinf(), 0.0, radius)

    @cached_property
    def open(self) -> int:
        """How many elements there are of which the worst case says nothing."""
        if math.isfinite(float(self.radius.sum())):
            return 0
        return int((self.radius.isinf() & self.truth.isfinite()).count_nonzero())

    @cached_property
    def blind(self) -> float:
        """The share of elements whose enclosure holds 0, of those whose is not {0}: 0 would have passed as well."""
        total = reaching = 0
        for block in self.parts:
            size, radius = self.truth[block].abs(), self.radius[block]
            if positive(size) and positive(size - radius):
                total += size.numel()
                continue
            known, unseen = (size != 0) | ~(radius <= UNDERFLOWS), (size <= radius) | size.isnan()
            total += int(known.count_nonzero())
            reaching += int((known & unseen).count_nonzero())
        return reaching / total if total else 0.0


@dataclass(frozen=True, eq=False)
class AtSize:
    """What holds the outputs and the gradients of one call; None for what has no gradient.

    `roundings` is how many roundings in a row a number may come through, sums in full length; `either` says whether a
    choice on the way, such as a mask of what is positive, may come out either way in a right implementation; `narrowed`
    whether something is rounded to a narrower dtype on the way.
    """

    computed: tuple[Held, ...]  # the outputs before they are stored
    gradients: tuple[Held | None, ...]
    roundings: int = 0
    either: bool = False
    said: Reservations = NONE
    narrowed: bool = False

    @cached_property
    def y(self) -> tuple[Held, ...]:
        """What holds the outputs, each rounded once to its dtype."""
        return tuple(one.stored_in(one.dtype) for one in self.computed)

    def joined(self, other: "AtSize") -> "AtSize":
        """Return what holds this and the same in another algebraic form."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        gradients = tuple(a if a is None or b is None else a.joined(b) for a, b in pairs)
        roundings, either = max(self.roundings, other.roundings), self.either or other.either
        said, narrowed = self.said.beside(other.said), self.narrowed or other.narrowed
        return AtSize(self.computed, gradients, roundings, either, said, narrowed)


@dataclass(frozen=True, eq=False)
class Question(Keeps):
    """A function at a point: its leaves and cotangents in their own dtypes, and other algebraic forms of its backward.

    A form takes the cotangent (of several outputs a tuple), then the arguments. `ties` is how ties are broken in the
    function, None in torch's own way; `partly` says that an operation without a formula leaves open what is made of it,
    and no more. What is `kept` is the same for all gradients that are held to it.
    """

    function: Function
    leaves: tuple[Any, ...]
    grads: Cotangents
    also: tuple[Callable[..., Any], ...] = ()
    ties: Ties | None = None
    partly: bool = False

    @property
    def runs(self) -> list[Run]:
        """The runs that give the gradients in float64: torch's of the function, and the other forms."""
        return [partial(run_at_size, self), *(partial(run_form, self, form) for form in self.also)]


def rounds(question: Question, declared: Precision) -> str:
    """Return the first operation of a function and its reverse mode that may round, "" where none does."""
    mode = Declared(declared, only_exact=True)
    try:
        y, gradients = run_at_size(question, mode, False)
    except Rounds as error:
        return str(error)
    results = [(out, mode.dtype_of(out)) for out in y if inexact(out)]
    results += [(g, x.dtype) for g, x in zip(gradients, question.leaves, strict=True) if g is not None]
    exact = all(mode.holds_exactly(x, dtype) for x, dtype in results)
    return "" if exact else "a result, where it is stored in its dtype"


def at_size(question: Question, declared: Precision, flushes: bool = False) -> AtSize:
    """Return what holds the outputs and gradients of a question, in every algebraic form; `flushes` as of Declared.

    Raises NoPoint where forward or a backward raises, NotImplementedError at an operation without a formula, and
    InputError where another form is another function.
    """
    modes = [Declared(declared, flushes=flushes, partly=question.partly) for _ in question.runs]
    found = [_held_by(run, question, mode) for run, mode in zip(question.runs, modes, strict=True)]
    for form, other in zip(question.also, found[1:], strict=True):
        _same(form, found[0], other, declared)
    whole = reduce(AtSize.joined, found)
    if whole.said.unknown and not any(h is not None and bool(h.said.any()) for h in whole.gradients):
        raise NotImplementedError(whole.said.unknown)
    return whole


def _held_by(run: Run, question: Question, mode: Declared) -> AtSize:
    y, gradients = run(mode, False)
    pairs = zip(gradients, question.leaves, strict=True)
    outputs = tuple(Held(wide(out.detach()), mode.radius(out), mode.dtype_of(out)) for out in y if inexact(out))
    found = tuple(None if g is None else held(mode, g, x.dtype) for g, x in pairs)
    said = Reservations(mode.overflow, mode.vanished, mode.custom, mode.choices.taken, mode.drawn, mode.unknown)
    return AtSize(outputs, found, mode.roundings, mode.ambiguous, said, mode.narrowed)


def held(mode: Declared, x: Tensor, dtype: torch.dtype) -> Held:
    """Return what holds a result, which is rounded once to its dtype; of complex numbers their parts along a last axis.

    Each part is no farther off than the number.
    """
    radius, of_parts = mode.radius(x), component(dtype)
    radius = torch.stack([radius] * 2, -1) if x.is_complex() else radius
    return Held(real(x).detach(), radius, of_parts).stored_in(of_parts)


def _same(form: Any, one: AtSize, other: AtSize, declared: Precision) -> None:
    """Raise InputError where another form is another function: in float64 their roundings are as many times smaller."""
    kept = min((declared.kept or F32, F32), key=precision)
    smaller = 2.0 ** (precision(kept) - precision(F64))
    for a, b in zip(one.gradients, other.gradients, strict=True):
        if a is not None and b is None:
            raise InputError(f"also: {getattr(form, '__name__', form)} gives None where the reference has a gradient.")
        if a is None or b is None:
            continue
        apart = (a.truth - b.truth).abs()
        off = apart > (a.radius + b.radius) * smaller
        if bool(off.any()):
            at = tuple(torch.nonzero(off)[0].tolist())
            name = getattr(form, "__name__", repr(form))
            raise InputError(
                f"also: {name} is another function than the reference: in float64 a gradient is "
                f"{float(b.truth[at]):.17g} at {list(at)}, where the reference's is {float(a.truth[at]):.17g}. "
                f"It is to compute the same, (grad_y, *primals) -> gradients, in another way."
            )


def widened(mode: Declared, tensors: Sequence[Any], live: bool) -> list[Any]:
    """Return the tensors in float64, of which the mode knows in which dtype they were given.

    Live, so that what is made of cotangents alone is in the graph as well.
    """
    wide = [x.detach().to(at(F64, x), copy=True).requires_grad_(live) if inexact(x) else x for x in tensors]
    for x, own in zip(wide, tensors, strict=True):
        if inexact(x):
            mode.given(x, own.dtype)
    return wide


@contextmanager
def _inside(mode: Declared) -> Iterator[AbstractContextManager[Any]]:
    """Until the end of the block a mode looks on; yield what the user's code is run within."""
    ambient = Ambient(F64, shadow=mode)
    try:
        with sdpa_kernel(SDPBackend.MATH), running(ambient) as within, torch.enable_grad(), mode:
            yield within
    finally:
        ambient.attentions.ends()


def run_at_size(question: Question, mode: Declared, create_graph: bool) -> tuple[Outputs, Gradients]:
    """Return the outputs and torch's gradients in float64, while a mode looks on at every operation."""
    live, cotangents = widened(mode, question.leaves, True), widened(mode, question.grads, create_graph)
    if question.ties is not None:
        question.ties.leaves = live
    with _inside(mode) as within, question.ties or nullcontext():
        try:
            y = question.function.outputs(live, within)
        except NoPoint as error:
            if isinstance(error.__cause__, NotImplementedError):  # of the mode: an operation without a formula
                raise error.__cause__ from error
            raise
        if len(y) != len(question.grads):
            raise NoPoint(f"forward returns {len(y)} tensors, and {len(question.grads)} cotangents were given")
        for out, g in zip(y, question.grads, strict=True):
            if g is not None and g.shape != out.shape:
                raise NoPoint(f"grad_y has the shape {tuple(g.shape)}, and the output {tuple(out.shape)}")
        pairs = [(out, g) for out, g in zip(y, cotangents, strict=True) if g is not None and out.requires_grad]
        mode.custom = mode.custom or somebodys_function(steps_to(out.grad_fn for out, _ in pairs))
        try:
            return y, gradients_along(pairs, live, create_graph)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            raise NoPoint(f"torch's backward raises {type(error).__name__}: {first_line(error)}") from error


def run_form(question: Question, form: Any, mode: Declared, create_graph: bool) -> tuple[Outputs, Gradients]:
    """Return the gradients that another form of the backward gives in float64, while a mode looks on."""
    live, cotangents = (widened(mode, those, create_graph) for those in (question.leaves, question.grads))
    grad_y = cotangents[0] if len(cotangents) == 1 else tuple(cotangents)
    with _inside(mode) as within:
        try:
            with within:
                found = form(grad_y, *question.function.arguments(live), **question.function.params)
        except (OwnError, NotImplementedError):
            raise
        except Exception as error:
            raise NoPoint(f"also raises {type(error).__name__}: {error}") from error
    gradients = list(found) if isinstance(found, tuple | list) else [found]
    floats = [k for k, x in enumerate(live) if inexact(x)]
    gradients = in_their_places(gradients, floats, len(live))
    if len(gradients) != len(live):
        raise InputError(f"also returns {len(gradients)} gradients, and there are {len(live)} primals.")
    for g, x in zip(gradients, live, strict=True):
        if g is not None and (not inexact(g) or g.shape != x.shape):
            what = f"a tensor of shape {tuple(g.shape)}" if isinstance(g, Tensor) else type(g).__name__
            raise InputError(f"also returns {what} for a primal of shape {tuple(x.shape)}.")
    return (), tuple(gradients)
