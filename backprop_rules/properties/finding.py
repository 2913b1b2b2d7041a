"""What a question finds at a point: a kind, where, what was expected and what came. Words are made of it last."""

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from backprop_rules.call import Call
from backprop_rules.evidence.enclosure import Enclosure
from backprop_rules.strategies.of_rules import widened
from backprop_rules.strategies.point import Point


class Grade(Enum):
    """How grave a finding is: what it makes of the verdict."""

    NOTE = "note"
    CONVENTION = "convention"
    INACCURATE = "inaccurate"
    WRONG = "wrong"


class Rung(Enum):
    """How strong the evidence is."""

    WITNESSED = "witnessed"
    ALLOWED = "allowed"
    PROVED = "proved"


class Kind(Enum):
    """What is found, in words that follow 'the gradient of x', and how grave it is."""

    def __init__(self, words: str, grade: Grade) -> None:
        self.words, self.grade = words, grade

    VALUE = ("is wrong", Grade.WRONG)
    SHAPE = ("has the wrong shape", Grade.WRONG)
    DTYPE = ("has the wrong dtype", Grade.WRONG)
    DEVICE = ("has the wrong device", Grade.WRONG)
    NONE = ("is None", Grade.WRONG)
    UNASKED = ("is a tensor, though the primal has no gradient, or was not given", Grade.WRONG)
    NO_TENSOR = ("is no tensor", Grade.WRONG)
    RAISES = ("backward raises", Grade.WRONG)
    COUNT = ("backward returns another number of gradients", Grade.WRONG)
    WRITES = ("writes to its argument", Grade.WRONG)
    DIRTY = ("has a forward that writes to its argument", Grade.WRONG)
    FORGETFUL = ("does not give the same bits twice", Grade.WRONG)
    ORDER = ("does not give the same bits twice, though the same but for rounding", Grade.WRONG)
    RANDOM = ("is drawn again at each call", Grade.WRONG)
    REPLAYED = ("is that of an earlier call, with other numbers", Grade.WRONG)
    LATER = ("comes out otherwise at a later call, of the same numbers", Grade.WRONG)
    THREADS = ("comes out otherwise where another thread calls at the same time", Grade.WRONG)
    UNWRITTEN = ("is never written: what the allocator gave, poisoned with NaN, is still there", Grade.WRONG)
    OUTSIDE = ("writes outside of its arguments", Grade.WRONG)
    READS_OUTSIDE = ("reads outside of its arguments, where there is NaN", Grade.WRONG)
    VARIES = ("depends on what it must not, as was asked with invariance", Grade.WRONG)
    UNDEFINED = ("comes out otherwise where one output's cotangent alone is there", Grade.WRONG)
    FORWARDS = ("is that of another forward, which ran between its forward and its backward", Grade.WRONG)
    OVERWRITTEN = ("has its result overwritten by the next call", Grade.WRONG)
    STRIDES = ("depends on the strides", Grade.WRONG)
    NARROWER = ("computes in a dtype that is narrower than its arguments", Grade.WRONG)
    NOT_SAVED = ("reads more than it declares to save", Grade.WRONG)
    SHARED = ("shares memory with another, or with the cotangent", Grade.WRONG)
    FUNCTION = ("has a forward that computes another function", Grade.WRONG)
    ENGINE = ("comes out otherwise through autograd than from its own backward", Grade.WRONG)
    SAVED = ("writes into what it saved", Grade.WRONG)
    ALONE = ("comes out otherwise where some other primal requires no gradient", Grade.WRONG)
    SIGN = ("does not change sign with the cotangent", Grade.WRONG)
    LINEAR = ("is not linear in the cotangent", Grade.WRONG)
    ADJOINT = ("is not the adjoint of the forward-mode derivative", Grade.WRONG)
    BATCHED = ("is not batched by vmap as by a loop", Grade.WRONG)
    SECOND = ("has the wrong second derivative", Grade.WRONG)
    REACHES = ("lets NaN or infinity of grad_y reach what that element of it does not influence", Grade.WRONG)
    SWALLOWS = ("swallows NaN or infinity of grad_y where that element of it comes in", Grade.WRONG)
    DEFINITION = ("comes with a forward that is not its definition", Grade.WRONG)
    NO_DEFINITION = ("has a definition that raises", Grade.WRONG)
    HUGE = ("comes out in another form where offsets pass 2^31", Grade.WRONG)
    AT_SPECIAL = ("is wrong at a special value", Grade.WRONG)
    DERIVATIVE = ("is not the derivative of what the function computes", Grade.WRONG)
    ORACLES = ("cannot be judged, as two oracles contradict each other", Grade.WRONG)
    SUBGRADIENT = ("is no subgradient: not the mean of the gradients around the tie", Grade.WRONG)
    CHOICE = ("makes another choice at a kink", Grade.CONVENTION)
    NAN_CHOICE = ("makes another choice at a kink: NaN", Grade.CONVENTION)
    LIMIT = ("is no infinity where the derivative grows to one", Grade.CONVENTION)
    NAN_PASSED = ("passes the cotangent where the primal is NaN", Grade.CONVENTION)
    ANTISYMMETRIC = ("differs by an antisymmetric part, which no symmetric matrix sees", Grade.CONVENTION)
    INACCURATE = ("is the right function, but inaccurate", Grade.INACCURATE)
    FARTHER = ("is farther off than rounding goes", Grade.INACCURATE)
    NARROW_SUMS = (
        "is the right function, but inaccurate: its sums are kept in a dtype as narrow as the primals'",
        Grade.INACCURATE,
    )
    SUMS = ("is the right function, but inaccurate: its sums are not kept in the dtype asked for", Grade.INACCURATE)
    SIZES = ("raises, or returns another shape, at sizes or whole numbers that are unlike the example's", Grade.NOTE)
    NOTHING_KEPT = (
        "is another where a mask or a length keeps nothing, or a mask some, as none of the example's does",
        Grade.NOTE,
    )
    EMPTY = ("raises for empty arrays", Grade.NOTE)
    EMPTY_SHAPE = ("has another shape, of no element either, for empty arrays", Grade.NOTE)
    ONCE = ("raises at a second backward of one forward, as with retain_graph=True", Grade.NOTE)
    OVERFLOWS = (
        "loses its digits in float16 at numbers some hundred times as large, where torch's does not",
        Grade.NOTE,
    )
    DOMAIN = ("is not asked where its own forward raises", Grade.NOTE)
    RAISES_THERE = ("raises where forward is not finite", Grade.NOTE)
    DIGITS = ("has fewer digits in float64 than torch's", Grade.NOTE)
    BITS = ("is not right to the last bit where no sum rounds: another form, or something is left out", Grade.NOTE)
    TOO_LARGE = ("raises where offsets pass 2^31", Grade.NOTE)
    SPECIAL = ("answers NaN or infinity otherwise than torch", Grade.NOTE)
    SINGULAR = ("is not torch's, where forward has no derivative", Grade.NOTE)
    TORCH = ("is not torch's, and differences side with it", Grade.NOTE)


LATER = (
    Kind.SIGN,
    Kind.LINEAR,
    Kind.ADJOINT,
    Kind.BATCHED,
    Kind.SECOND,
    Kind.REACHES,
    Kind.SWALLOWS,
    Kind.RAISES,
)
GRADES = tuple(Grade)  # the gravest last


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found at a point: of which gradient, at which element, of how many, against what, on which rung."""

    kind: Kind
    point: Point
    leaf: int | None = None
    element: tuple[int, ...] | None = None
    expected: Any = None
    got: Any = None
    wrong: int = 0
    of: int = 0
    against: tuple[str, ...] = ()
    rung: Rung = Rung.WITNESSED
    detail: str = ""
    bits: float | None = None
    dtype: torch.dtype | None = None  # in which it shows, where that is not every dtype
    native: bool = False  # whether it shows in the point's own dtypes, which need not be one
    base: Point | None = None  # the point that it was asked at, where it shows at another
    again: Any = None  # the question to ask at a smaller point, where it is one of those that a rule is asked

    @property
    def where(self) -> str:
        """The element, and how many are wrong, in words."""
        at = f" at [{', '.join(map(str, self.element))}]" if self.element else ""
        return at + (f", {self.wrong} of {self.of} elements" if self.of else "")

    @property
    def is_not_finite(self) -> bool:
        """Whether a wrong value is NaN or infinite."""
        return self.kind is Kind.VALUE and isinstance(self.got, float) and not math.isfinite(self.got)

    def where_nothing_is_kept(self) -> "Finding":
        """Return it as a note: of a mask, or a length, that keeps nothing, as none of the example's."""
        return replace(self, kind=Kind.NOTHING_KEPT)

    @property
    def asked_at(self) -> Point:
        """The point that it was asked at."""
        return self.base or self.point

    @property
    def plain(self) -> bool:
        """Whether nothing plainer is to be expected of other points: what is not is often a wrong value as well."""
        return not self.native or self.kind not in LATER

    def is_like(self, other: "Finding") -> bool:
        """Say whether it is the same mistake: of the same kind, in the same gradient."""
        return self.kind is other.kind and self.leaf == other.leaf


def found(kind: Kind, call: Call, leaf: int | None = None, **more: object) -> Finding:
    """Return the finding at a call, in the dtypes of the call."""
    return Finding(kind, widened(call), leaf, native=True, **more)  # type: ignore[arg-type]


def unequal(
    kind: Kind, point: Point, leaf: int | None, expected: Tensor, got: Tensor, wrong: Tensor, **more: Any
) -> Finding:
    """Return the finding that two tensors differ, with the first element that does."""
    element = first(wrong)
    return Finding(
        kind,
        point,
        leaf,
        element,
        expected[element].item() if expected.shape == wrong.shape else tuple(expected.shape),
        got[element].item(),
        int(wrong.sum()),
        wrong.numel(),
        **more,
    )


def first(mask: Tensor) -> tuple[int, ...]:
    """Return the first element that is True."""
    return tuple(int(k) for k in torch.nonzero(mask.cpu())[0]) if bool(mask.any()) else (0,) * mask.ndim


def interval(held: Enclosure, element: tuple[int, ...], like: Tensor) -> object:
    """Return the number that an enclosure holds at an element, or its ends."""
    lo, hi = held.lo[element], held.hi[element]
    if like.is_complex():
        ends = complex(*lo.tolist()), complex(*hi.tolist())
        return ends[0] if ends[0] == ends[1] else ends
    one, other = float(lo), float(hi)
    return one if one == other else (one, other)


def outside(
    kind: Kind, point: Point, leaf: int | None, got: Tensor, held: Enclosure, mask: Tensor, **more: Any
) -> Finding:
    """Return the finding that a tensor lies outside of an enclosure, with the first element that does."""
    where = first(mask)
    ends, value = interval(held, where, got), got[where].item()
    return Finding(kind, point, leaf, where, ends, value, int(mask.sum()), mask.numel(), **more)
