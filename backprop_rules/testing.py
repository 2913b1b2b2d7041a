"""In the place of a tolerance: hold gradients, at a point of your own, to what a right implementation may round.

from backprop_rules.testing import assert_gradients
assert_gradients((dq, dk, dv), forward=reference, primals=(q, k, v), grad_y=g)
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

from backprop_rules.checking import leaving_alone
from backprop_rules.diagnosis.beside import hinted, of_other_cotangents, other_side
from backprop_rules.errors import InputError, unknown
from backprop_rules.evidence.allowance.precision import Precision, precision_named
from backprop_rules.evidence.at_size import AtSize, Held, Question, at_size
from backprop_rules.evidence.broken import with_ties_broken
from backprop_rules.evidence.exact_fill import exact_fill
from backprop_rules.evidence.flushed import all_inside, where_flushed
from backprop_rules.evidence.recorded import Line
from backprop_rules.evidence.sensitivity import most_of
from backprop_rules.evidence.systematic import Systematic, systematic
from backprop_rules.report.agreement import Agreement, WrongGradients, compared, kept, share_of, worst_of
from backprop_rules.report.matched import fitting, matched, matched_outputs, of_each_output
from backprop_rules.subject.ambient import F64, inexact, uncompiled
from backprop_rules.subject.between import Between, backward_of_arrays, fixed_in, of_arrays
from backprop_rules.subject.build import argument_names, leaf_names
from backprop_rules.subject.function import Cotangents, NoPoint, function_of
from backprop_rules.subject.memory import poisoned
from backprop_rules.subject.parameters import with_those_given

__all__ = [
    "Agreement",
    "Enclosed",
    "Enclosures",
    "ExactInputs",
    "WrongGradients",
    "assert_gradients",
    "enclose",
    "exact_inputs",
    "poisoned",
]

Answer = TypeVar("Answer")
PRECISIONS = ("float32", "tensorcore", "eager")
BLIND = ("fail", "allow")
ONES = object()  # in the place of cotangents: ones, as only their shapes count


@dataclass(frozen=True, eq=False)
class Enclosed(Held):
    """Where the gradient of one primal may lie, in float64: from `lo` to `hi`, `radius` around the `truth`.

    The truth is the gradient of the reference in float64, the radius how far a right implementation may be from it.
    """

    name: str

    @property
    def lo(self) -> Tensor:
        """The lower ends."""
        return self.truth - self.radius

    @property
    def hi(self) -> Tensor:
        """The upper ends."""
        return self.truth + self.radius

    def contains(self, got: Tensor) -> Tensor:
        """Return a mask of the elements that lie inside."""
        return super().contains(fitting(self.name, got, self))

    def ulps(self, got: Tensor) -> Tensor:
        """Return how far each element is from the truth, in units in the last place of got's dtype."""
        info = torch.finfo(fitting(self.name, got, self).dtype)
        exponent = torch.frexp(self.truth).exponent - 1
        ulp = torch.ldexp(torch.full_like(self.truth, info.eps), exponent).clamp_min(info.smallest_normal * info.eps)
        return (got.to(self.truth) - self.truth).abs() / ulp

    def slope(self, got: Tensor) -> float:
        """Return <truth, got> / <truth, truth>: 1 but for roundings, which have no direction."""
        got = fitting(self.name, got, self).to(self.truth)
        return float((got * self.truth).sum() / (self.truth * self.truth).sum())


@dataclass(frozen=True, eq=False)
class Enclosures(Sequence[Enclosed]):
    """The enclosures of the gradients at a point, by place or by name; of one primal its tensors, of several tuples."""

    every: tuple[Enclosed, ...]
    _asked: "_Asked"
    _held: AtSize

    def __repr__(self) -> str:
        shapes = ", ".join(f"{one.name} {tuple(one.truth.shape)}" for one in self.every)
        return f"<Enclosures of {shapes}; {self._asked.declared.name}>"

    def agreement(self, got: Any, y: Any = None, blind: str = "fail") -> Agreement:
        """Return what comes of gradients, and outputs, held to these enclosures, as `assert_gradients` asserts it."""
        if blind not in BLIND:
            raise unknown("answer to blindness", blind, BLIND)
        gradients = matched(got, self._asked.names, self._asked.arguments, self._asked.question, self._held)
        return _compared(self._asked, self._held, gradients, matched_outputs(y, self._held), blind == "allow")

    def __getitem__(self, which: Any) -> Any:
        if not isinstance(which, str):
            return self.every[which]
        names = [one.name for one in self.every]
        if which not in names:
            raise unknown("gradient", which, names)
        return self.every[names.index(which)]

    def __len__(self) -> int:
        return len(self.every)

    def __getattr__(self, name: str) -> Any:
        if name not in ("truth", "radius", "lo", "hi", "blind"):
            raise AttributeError(f"enclosures have truth, radius, lo, hi, blind, contains, ulps, slope; not {name}")
        return self._one_or_all([getattr(one, name) for one in self.every])

    def _one_or_all(self, found: list[Any]) -> Any:
        return found[0] if len(found) == 1 else tuple(found)

    def contains(self, got: Any) -> Any:
        """Return masks of the elements that lie inside."""
        return self._of_each("contains", got)

    def ulps(self, got: Any) -> Any:
        """Return how far the elements are from the truth, in units in the last place of got's dtype."""
        return self._of_each("ulps", got)

    def slope(self, got: Any) -> Any:
        """Return <truth, got> / <truth, truth> of each."""
        return self._of_each("slope", got)

    def _of_each(self, name: str, got: Any) -> Any:
        several = list(got) if isinstance(got, tuple | list) else [got]
        if len(several) != len(self.every):
            names = ", ".join(one.name for one in self.every)
            raise InputError(f"{len(several)} gradients were given, and there are {len(self.every)}: of {names}.")
        return self._one_or_all([getattr(one, name)(g) for one, g in zip(self.every, several, strict=True)])


def enclose(
    forward: Callable[..., Any],
    primals: Sequence[Any],
    *,
    grad_y: Any = None,
    params: Mapping[str, Any] | None = None,
    precision: str | None = None,
    also: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
) -> Enclosures:
    r"""Return where the gradients of a function may lie, as a right implementation rounds them.

    $\bar x = J^T \bar y$ in float64, and around each element what an implementation of the declared `precision` may
    round, in any order of its sums. Shapes: each enclosure has its primal's. Raises InputError where forward cannot be
    run in float64, or nothing is known of any gradient, for want of rounding formulas. Source: Higham, Accuracy and
    Stability of Numerical Algorithms (2002), chapter 3.
    """
    asked = _asked(forward, primals, grad_y, params, precision, also)
    held = _told(partial(at_size, asked.question, asked.declared), asked.question)
    found = [(name, h) for name, h in zip(asked.names, held.gradients, strict=True) if h is not None]
    return Enclosures(tuple(Enclosed(h.truth, h.radius, h.dtype, name) for name, h in found), asked, held)


def assert_gradients(
    got: Any,
    *,
    forward: Callable[..., Any],
    primals: Sequence[Any],
    grad_y: Any = None,
    params: Mapping[str, Any] | None = None,
    precision: str | None = None,
    y: Any = None,
    also: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
    blind: str = "fail",
) -> Agreement:
    r"""Raise WrongGradients unless gradients, and the outputs `y` if given, are those of `forward`, but for rounding.

    `got` has a gradient for each primal, None for one that has none. `precision` is what their implementation may
    round: "float32" (intermediates in float32), "tensorcore" (and operands of products in the inputs' dtype, which is
    taken for bfloat16 and float16), or "eager" (each intermediate in the dtype in which the reference stores it).
    `also` are other algebraic forms of the backward, (grad_y, *primals) -> gradients in torch, whose roundings count as
    well. `blind="allow"` lets gradients pass of which nothing was proved. Source: as of `enclose`.
    """
    __tracebackhide__ = True
    if blind not in BLIND:
        raise unknown("answer to blindness", blind, BLIND)
    asked = {"grad_y": grad_y, "params": params, "precision": precision, "also": also}
    agreement = enclose(forward, primals, **asked).agreement(got, y, blind)  # the enclosure is kept by no frame
    if not agreement.right:
        raise WrongGradients(agreement)
    return kept(agreement)


class ExactInputs(NamedTuple):
    """Primals and a cotangent at which nothing rounds, and which share of their numbers is not 0."""

    primals: tuple[Any, ...]
    grad_y: Any
    density: float


def exact_inputs(
    forward: Callable[..., Any],
    primals: Sequence[Any],
    *,
    params: Mapping[str, Any] | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> ExactInputs:
    """Return primals like these, and a cotangent, at which no implementation rounds anything, in any order of sums.

    Small whole numbers, as sparse as the sums ask for: no row is all zeros. `assert_gradients` holds what is computed
    there to the last bit. For functions that are polynomial in their primals: products of matrices, convolutions, sums,
    embeddings, masks; and for a softmax of a power of two of scores, which are 0 where queries and keys are orthogonal.
    Raises InputError, and names the operation, where something rounds whatever the inputs.
    """
    if not isinstance(seed, Integral):
        raise InputError(f"seed is a whole number; got {seed!r}.")
    asked = _asked(forward, primals, ONES, params, precision, ())
    found = _told(partial(exact_fill, asked.question, asked.declared, int(seed)), asked.question)
    if not found.why:
        grads = found.question.grads
        function = asked.question.function
        own = function.arguments(found.question.leaves)
        own = tuple(function.call.among(own)) if isinstance(function.call, Between) else own
        return ExactInputs(own, grads[0] if len(grads) == 1 else grads, found.density)
    raise InputError(
        f"something rounds whatever the inputs: {found.why}. Exact inputs are for functions that are polynomial in "
        f"their primals; give what is not, such as a softmax, by itself, and hold it to its enclosure."
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question as it was asked, with names for the primals and the declared precision."""

    question: Question
    names: tuple[str, ...]
    arguments: tuple[str, ...]
    declared: Precision


def _asked(
    forward: Any, primals: Any, grad_y: Any, params: Mapping[str, Any] | None, precision: str | None, also: Any
) -> _Asked:
    if not callable(forward):
        raise InputError(f"forward is the reference, a function of the primals; got {type(forward).__name__}.")
    if isinstance(primals, Tensor):
        primals = (primals,)
    if not isinstance(primals, Sequence) or not primals:
        got = f"a {type(primals).__name__}" if primals is not None and not isinstance(primals, Sequence) else "none"
        raise InputError(f"primals are the tensors that forward is called with, as in (q, k, v); got {got}.")
    if precision not in (None, *PRECISIONS):
        raise unknown("precision", str(precision), PRECISIONS)
    if isinstance(forward, torch.nn.Module):
        forward = with_those_given(forward, primals)
    count, values = len(primals), fixed_in(primals)
    if values:
        primals = tuple(x for k, x in enumerate(primals) if k not in values)
    leaves, structure = _pytree.tree_flatten(tuple(primals))
    floats = _floats(leaves)
    own = forward
    forward = of_arrays(forward, values) if values else forward
    function = function_of(forward, structure, params or {})
    narrowest = min((x.dtype for x in floats), key=lambda dtype: torch.finfo(dtype).bits)
    forms = tuple(also or ()) if also is None or isinstance(also, Sequence) else (also,)
    if not all(map(callable, forms)):
        raise InputError(
            f"also is another form of the backward, a function (grad_y, *primals), or several; got {also!r}."
        )
    if values:
        forms = tuple(backward_of_arrays(form, own, values, count) for form in forms)
    own, grads = tuple(x.detach() for x in leaves), _cotangents(grad_y, function, leaves)
    question = Question(function, own, grads, forms, partly=True)
    names = leaf_names(forward, primals), argument_names(forward, primals)
    return _Asked(question, *names, precision_named(precision, narrowest))


def _floats(leaves: Sequence[Any]) -> list[Tensor]:
    """Return the leaves that have a gradient; InputError for what is no real tensor with numbers, or if none has."""
    for k, x in enumerate(leaves):
        if isinstance(x, Tensor) and x.is_meta:
            raise InputError(f"primal {k} is on meta, where it has no numbers: give it on a device that has.")
        if not isinstance(x, Tensor) or x.is_complex():
            what = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"{type(x).__name__} {x!r}"
            raise InputError(
                f"primal {k} is {what}; primals are real tensors, beside which numbers, names and None may stand, and "
                f"other arguments go into params."
            )
    floats = [x for x in leaves if inexact(x)]
    if not floats:
        raise InputError("no primal is of a floating-point dtype: there is no gradient.")
    return floats


def _cotangents(grad_y: Any, function: Any, leaves: Sequence[Any]) -> Cotangents:
    """Return the cotangents: 1 of a number if none is given, or ones of whatever forward returns."""
    if grad_y is not None and grad_y is not ONES:
        given = of_each_output("grad_y", grad_y)
        for g in given:
            if g is not None and not inexact(g):
                raise InputError(f"grad_y is a tensor of the output's shape, or a tuple of them; got {g!r}.")
        if all(g is None for g in given):
            raise InputError("grad_y is None for every output: there is no gradient.")
        return tuple(g.detach() if isinstance(g, Tensor) else g for g in given)
    with leaving_alone(function.module):
        there = [x.detach() for x in leaves]
        try:
            return _ones(function.y(there, None), grad_y)
        except NoPoint as error:
            # It may ask autograd itself; and a device may lack an operation in the leaves' own dtypes.
            for other, dtype in ((replace(function, differentiates=True), None), (function, F64)):
                with suppress(NoPoint):
                    return _ones(other.y(there, dtype), grad_y)
            raise InputError(f"{error}.") from error


def _ones(y: Sequence[Tensor], grad_y: Any) -> Cotangents:
    if grad_y is not ONES and (len(y) != 1 or y[0].numel() != 1):
        shapes = ", ".join(str(tuple(out.shape)) for out in y)
        raise InputError(f"grad_y is missing: forward returns {shapes}, and only of one number it is 1 by itself.")
    return tuple(map(torch.ones_like, y))


def _told(job: Callable[[], Answer], question: Question) -> Answer:
    """Return an answer; InputError, in words, where forward or an operation of it does not allow one."""
    with leaving_alone(question.function.module), uncompiled():
        try:
            return job()
        except NoPoint as error:
            hint = "; the reference must run in float64 at these primals" * str(error).startswith("forward raises")
            raise InputError(f"{error}{hint}.") from error
        except NotImplementedError as error:
            raise InputError(
                f"how far an implementation may round is not known: {error}. Write the reference with other operations "
                f"of torch, or hold the backward to it by backprop_rules.check, which needs no formula."
            ) from error


def _compared(
    asked: _Asked, held: AtSize, got: Sequence[Tensor | None], outputs: Sequence[Tensor], allows_blind: bool
) -> Agreement:
    with leaving_alone(asked.question.function.module), uncompiled():
        if not all_inside(held, got, outputs):
            question, held = with_ties_broken(asked.question, asked.declared, held, got, outputs)
            asked = replace(asked, question=question)
            held = where_flushed(question, asked.declared, held, got, outputs)
        holds = [None if h is None or g is None else _of(h, g) for h, g in zip(held.gradients, got, strict=True)]
        own = [_of(h, out) for h, out in zip(held.y if outputs else (), outputs, strict=True)]
        hint = cache(partial(hinted, asked.question, asked.declared, (*holds, *own), got, outputs))
        # What more roundings explain is no mistake, though one of as little may fit as well.
        explained = cache(lambda: "" if hint() else _explained(asked, holds, got))
        pairs = enumerate(zip(got, asked.question.leaves, strict=True))
        beside = partial(other_side, asked.question, asked.names, holds, got)
        found = [compared(k, asked.names, holds, g, explained, x, beside) for k, (g, x) in pairs if g is not None]
        names = [f"y[{k}]" if len(outputs) > 1 else "y" for k in range(len(outputs))]
        made = [compared(k, names, own, out) for k, out in enumerate(outputs)]
        nothing = Systematic(None, 0)
        right = all(one.right for one in (*found, *made))
        sums = systematic(asked.question, asked.declared, held, got) if right else nothing
        found = [replace(one, blind=sums.blind.get(asked.names.index(one.name), one.blind)) for one in found]
        shapes = tuple(tuple(x.shape) for x in asked.question.leaves)
        lines = () if right else _lines(asked, holds, got)  # the last, as its graph is kept
        told = (asked.declared.name, sums, asked.names, shapes, allows_blind, lines)
        return Agreement(tuple(found), tuple(made), *told, held.said, "" if right else hint())


def _explained(asked: _Asked, holds: Sequence[Held | None], got: Sequence[Tensor | None]) -> str:
    """Return which step of the reference was differentiated otherwise, where that explains all gradients."""
    from backprop_rules.diagnosis.at_size import likely_at_size  # of what is wrong alone, and long to import

    found = of_other_cotangents(asked.question, asked.declared, holds, got)
    found = found or likely_at_size(asked.question, asked.names, holds, got)
    return "" if found is None else found.words


def _of(held: Held, got: Tensor) -> Held:
    """Return what holds a result of its own dtype, to which a right implementation may round it."""
    return held if got.dtype == held.dtype else held.stored_in(got.dtype)


def _lines(asked: _Asked, holds: Sequence[Held | None], got: Sequence[Tensor | None]) -> tuple[tuple[Line, float], ...]:
    """Return the lines of the reference that give most of the allowance of the worst element, with their shares."""
    for k, (h, g) in enumerate(zip(holds, got, strict=True)):
        if h is None or g is None or bool(h.contains(g).all()):
            continue
        worst = worst_of(share_of(h, g))
        return most_of(asked.question, asked.declared, k, worst) if bool(h.radius[worst]) else ()
    return ()
