"""The likely mistake: what the bank predicts, matched with what was returned at several failing points."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from backprop_rules.call import BackwardRaised, Call
from backprop_rules.diagnosis.bank import BANK, params_ignored
from backprop_rules.diagnosis.mistake import Case, Family, Known, Mistake, applies
from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import in_float64, of_ordinary_size
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.same import same_bits

# What the kind of a finding tells of the mistake by itself.
TOLD = {
    Kind.DERIVATIVE: Mistake(
        "hidden dependence",
        "the function hides a dependence from autograd, or the backward of an autograd.Function in it is wrong, or a "
        "hook changes a gradient. What is hidden on purpose is a constant where forward=function is given as well",
    ),
    Kind.WRITES: Mistake("works in place", "it works in place on an argument that others still need: clone first"),
    Kind.DIRTY: Mistake(
        "not marked", "what forward writes to is not told autograd: clone it first, or ctx.mark_dirty it"
    ),
    Kind.DTYPE: Mistake("dtype", "the dtype is that of another operand, or a default, not that of the primal"),
    Kind.DEVICE: Mistake("device", "it is made on another device than its primal"),
    Kind.NONE: Mistake("no gradient", "no gradient is returned for a primal that has one"),
    Kind.NO_TENSOR: Mistake(
        "no tensor", "what is returned has no dense numbers, as a Python number or a sparse tensor"
    ),
    Kind.RANDOM: Mistake(
        "drawn again", "random numbers are drawn in the backward: save the mask that the forward drew"
    ),
    Kind.FORGETFUL: Mistake(
        "stale state",
        "something is kept between calls: a buffer that is not zeroed, or what the last call saved",
    ),
    Kind.OVERWRITTEN: Mistake("result overwritten", "the result lies in a buffer that the next call uses again"),
    Kind.REPLAYED: Mistake(
        "result kept", "a result is kept, and found again by what does not tell all numbers: a pointer, a shape, a few"
    ),
    Kind.ORDER: Mistake(
        "sums in an order that changes",
        "sums are taken in an order that changes from call to call, as a set's or that of atomic additions; "
        "deterministic=False allows it",
    ),
    Kind.LATER: Mistake("counts its calls", "something is counted, or grows, from call to call"),
    Kind.THREADS: Mistake("shared scratch", "two calls at once use the same buffer: make it for each call"),
    Kind.UNWRITTEN: Mistake(
        "memory never written", "an empty tensor is not filled everywhere: make it of zeros, or write all of it"
    ),
    Kind.OUTSIDE: Mistake("out of bounds", "an index runs past the end: mask the last block"),
    Kind.READS_OUTSIDE: Mistake("out of bounds", "an index runs past the end: mask the last block"),
    Kind.HUGE: Mistake("an index of 32 bits", "a size or an offset is kept in 32 bits: keep it in 64"),
    Kind.VARIES: Mistake(
        "order of sums", "a sum is taken in parts whose sizes follow the batch, the padding or the threads: fix them"
    ),
    Kind.UNDEFINED: Mistake(
        "undefined cotangent", "a cotangent that is not there is None, where grads are not materialised: it means zeros"
    ),
    Kind.ALONE: Mistake(
        "under another's condition",
        "what one gradient needs is computed, or saved, only where another primal requires a gradient",
    ),
    Kind.FORWARDS: Mistake(
        "saved outside of ctx", "what forward leaves for backward lies in one place for all calls: save it in ctx"
    ),
    Kind.STRIDES: Mistake("read as if contiguous", "an argument's memory is read as if it were contiguous"),
    Kind.NOT_SAVED: Mistake("not saved", "a value is read that was not saved for backward"),
    Kind.RAISES: Mistake("raises", "some inputs of its domain are not handled"),
    Kind.NARROWER: Mistake("low-precision detour", "a step is computed in a narrower dtype than the arguments have"),
    Kind.NARROW_SUMS: Mistake(
        "narrow sums",
        "sums are rounded at every step to the primals' narrow dtype, not kept in float32 and rounded once; where that "
        "is meant, accumulate says so, as in accumulate='float16'",
    ),
    Kind.SUMS: Mistake("narrow sums", "sums are kept in a narrower dtype than the one asked for with accumulate"),
    Kind.INACCURATE: Mistake(
        "cancellation",
        "digits are lost to cancellation or underflow: two nearly equal numbers are subtracted, or a product vanishes",
    ),
    Kind.FARTHER: Mistake(
        "not rounding",
        "a factor near 1, a constant of few digits, or a function that is approximated: no sum rounds as far",
    ),
    Kind.NAN_PASSED: Mistake(
        "NaN falls through",
        "NaN compares false with everything: a chain of comparisons lets it fall through to the cotangent",
    ),
    Kind.NAN_CHOICE: Mistake(
        "not finite",
        "0 / 0 or 0 × inf where the function has no derivative, and torch chooses a number",
    ),
    Kind.LIMIT: Mistake("guarded", "a guard, or 0 × inf, where the derivative is infinite"),
    Kind.SWALLOWS: Mistake("not finite", "infinity is replaced: an overflow upstream no longer shows"),
    Kind.SUBGRADIENT: Mistake(
        "ties shared wrongly", "tied operands get more, or less, than the whole cotangent together"
    ),
}
OVERFLOW = Mistake("overflow", "a step on the way overflows where torch's form of the same does not")
NOT_FINITE = Mistake(
    "not finite",
    "NaN or infinity where the derivative is finite: 0 × inf, 0 / 0, an overflow, or memory never written",
)

# What a prediction of the bank may explain.
OF_VALUES = (Kind.VALUE, Kind.SHAPE, Kind.CHOICE, Kind.SUBGRADIENT)

# Failing points to match: the first ones found are large and varied, the last ones small.
FIRST, LAST = 40, 4
ENOUGH = 6  # points, below which two explanations may fit by chance

Points = Callable[[], Sequence[Call]]


def diagnosed(finding: Finding, points: Sequence[Call], others: Points) -> Mistake | None:
    """Return the mistake that explains the finding at every point where it was made; None if none does.

    Others are points where the backward may be right too. They are asked for where several mistakes explain the
    failing points, or where these are few, and one may fit by chance.
    """
    first = points[:ENOUGH]
    if finding.kind is Kind.VALUE and any(map(_forgetful, first)):
        return TOLD[Kind.FORGETFUL if any(_forgetful(call, seed=0) for call in first) else Kind.RANDOM]
    by_values = _matched(finding, points, others) if finding.kind in OF_VALUES else None
    if by_values is not None:
        return by_values
    if finding.kind is Kind.VALUE and isinstance(finding.got, float) and math.isnan(finding.got):
        return NOT_FINITE
    return TOLD.get(finding.kind)


def _forgetful(call: Call, seed: int | None = None) -> bool:
    """Say whether the backward answers otherwise when it is asked the same again, from the same random seed if any."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            if seed is not None:
                torch.manual_seed(seed)
            try:
                found.append(call.backward(call.grad_y, call.y, *call.primals))
            except BackwardRaised:
                return False
    return not all(same_bits(a, b) for a, b in zip(*found, strict=True))


@dataclass(frozen=True)
class _Seen:
    """What was returned at a point, and the case in float64 in which the right gradient is formed."""

    case: Case
    got: Tensor
    unit: float
    subnormal: bool

    def is_near(self, predicted: Tensor) -> bool:
        """Say whether it is the prediction, but for rounding in proportion to the largest element."""
        if predicted.shape != self.got.shape:
            return False
        # Where the one overflows the other may, or may not: the order of the factors is not known.
        finite = predicted.isfinite() & self.got.isfinite()
        if not finite.any():
            return not predicted.numel()  # of infinities and NaN nothing is explained
        size = predicted[finite].abs().max()
        return bool(((predicted - self.got)[finite].abs() <= size * self.unit).all())

    @property
    def is_right(self) -> bool:
        """Whether it is the right gradient."""
        return self.is_near(self.case.right)

    @property
    def astray(self) -> Tensor:
        """A mask of the elements that are NaN or infinite where the right ones are finite."""
        return ~self.got.isfinite() & self.case.right.isfinite()

    def fits(self, known: Known) -> bool | None:
        """Say whether it is what the mistake gives; None where that is none, or cannot be made."""
        predicted = applies(known, self.case)
        return None if predicted is None else self.is_near(predicted)


def _seen(call: Call, primal: int) -> _Seen | None:
    try:
        got, case = call.gradients[primal], Case(replace(in_float64(call), rule=call.rule), primal)
        if not isinstance(got, Tensor) or call.grad_y.is_meta:
            return None
        wide = got.to(case.right.dtype)
    except (BackwardRaised, InputError, AssertionError, RuntimeError, IndexError):
        return None
    computed = (got.dtype, call.grad_y.dtype, *(v for v in call.params.values() if isinstance(v, torch.dtype)))
    unit = 2.0 ** (2 - min(map(precision, computed))) * max(1, call.grad_y.numel())
    sizes = got[got.isfinite() & (got != 0)].abs()
    subnormal = bool(sizes.numel() and sizes.max() < torch.finfo(got.dtype).smallest_normal)
    return _Seen(case, wide, unit, subnormal)


def _matched(finding: Finding, points: Sequence[Call], others: Points) -> Mistake | None:
    leaf = finding.leaf
    if leaf is None or not points:
        return None
    picked = [*points[:FIRST], *points[-LAST:]] if len(points) > FIRST + LAST else points
    seen = [s for call in picked if (s := _seen(call, leaf)) is not None]
    # Where this gradient is right another one is wrong, or the next call.
    seen = [s for s in seen if not s.is_right] or seen
    # Infinities and NaN are explained by many a mistake, subnormal numbers, of few digits, by none.
    seen = [s for s in seen if (s.got.isfinite().any() or not s.got.numel()) and not s.subnormal]
    if not seen:
        return None

    @cache
    def answers() -> list[_Seen]:
        """Return what was returned at others, where nothing overflows or vanishes on the way to a prediction."""
        found = [(call, _seen(call, leaf)) for call in others()]
        return [s for call, s in found if s is not None and of_ordinary_size(call)]

    at_ties = [known for known in BANK if known.family is Family.TIES]
    if finding.kind is Kind.CHOICE:
        return _named(at_ties, seen, answers)
    if finding.kind is Kind.SUBGRADIENT:
        return _named(dict.fromkeys((*at_ties, *BANK)), seen, answers)
    scaled, count = _by_factor(seen)
    plain = [known for known in scaled if known.name in ("zero", "sign", "factor 2", "factor 1/2")]
    return (
        _named([*plain, *BANK], seen, answers)
        or next((known for known in scaled if known.family is Family.FACTOR), None)
        or count
        or _named(params_ignored(seen[0].case), seen, answers)
        or _by_nan(seen)
        or next(iter(scaled), None)
    )


def _named(bank: Iterable[Known], seen: Sequence[_Seen], answers: Callable[[], list[_Seen]]) -> Mistake | None:
    """Return the mistake that explains every point; of several, where they are not told apart, the names and words."""
    found, many = [known for known in bank if _explains(known, seen)], len(seen) >= ENOUGH
    if len(found) > 1 or (found and not many):
        # What none of them explains, and is wrong, has another reason.
        telling = [s for s in answers() if s.is_right or any(map(s.fits, found))]
        left = [known for known in found if all(s.fits(known) is not False for s in telling)]
        # What is made in some branch alone is right elsewhere: of many points that are wrong, these decide.
        # What two mistakes predict alike at every point is the same: the bank's first is the plainer one.
        found = (left or found)[:1] if many else _distinct(left, [*seen, *telling])
    if not found:
        return None
    names, words = dict.fromkeys(known.name for known in found), dict.fromkeys(known.words for known in found)
    return Mistake(" or ".join(names), " or ".join(words), found[0].family)


def _explains(known: Known, seen: Sequence[_Seen]) -> bool:
    """Say whether the mistake predicts what was returned at every point, and something else than the right one."""
    told_apart = False
    for s in seen:
        predicted = applies(known, s.case)
        if predicted is None or not s.is_near(predicted):
            return False
        told_apart = told_apart or not s.is_right or bool((s.astray & ~predicted.isfinite()).any())
    return told_apart


def _distinct(found: Sequence[Known], seen: Sequence[_Seen]) -> list[Known]:
    """Return the first, and those that predict something else than it at one of the points."""

    def alike(known: Known, s: _Seen) -> bool:
        first, other = applies(found[0], s.case), applies(known, s.case)
        if first is None or other is None:
            return first is other
        return first.shape == other.shape and torch.equal(first, other)

    return [known for k, known in enumerate(found) if k == 0 or not all(alike(known, s) for s in seen)]


def _by_factor(seen: Sequence[_Seen]) -> tuple[list[Known], Mistake | None]:
    """Return the factor that is a constant, if there is one, and the one that is a number of elements."""
    seen = [s for s in seen if _says_something(s)]
    ratios = [ratio for s in seen if (ratio := _ratio(s)) is not None]
    if not seen or len(ratios) < len(seen):
        return [], None
    return _by_constant(seen, ratios), _by_count(seen, ratios)


def _says_something(s: _Seen) -> bool:
    """Say whether there is a number to divide by, or one that should not be there."""
    right = s.case.right
    if not right.numel() or not s.got.isfinite().all() or not right.isfinite().all():
        return False
    return right.shape != s.got.shape or bool(((right != 0) | (s.got != 0)).any())


def _ratio(s: _Seen) -> float | None:
    """Return the number by which the right gradient was multiplied, None if there is no such number."""
    right = s.case.right
    if right.shape != s.got.shape or not (right != 0).any():
        return None
    k = int(right.abs().argmax())
    ratio = float((s.got.reshape(-1)[k] / right.reshape(-1)[k]).real)
    return ratio if math.isfinite(ratio) and s.is_near(right * ratio) else None


def _by_constant(seen: Sequence[_Seen], ratios: Sequence[float]) -> list[Known]:
    # One point, or elements that are all alike, fix no constant.
    if sum(bool((s.case.right != s.case.right.reshape(-1)[0]).any()) for s in seen) < 2:
        return []
    factor, *others = {Fraction(ratio).limit_denominator(64) for ratio in ratios}
    if others or any(abs(float(factor) - r) > abs(r) * s.unit for r, s in zip(ratios, seen, strict=True)):
        return _by_digits(seen, ratios)
    if factor == 1:  # nothing but rounding, or less than that
        return []
    names = {"0": "zero", "-1": "sign"}
    name, words = names.get(str(factor), f"factor {factor}"), f"exactly {factor} × the right one"
    return [Known(name, words, Family.FACTOR, predict=lambda case: case.right * float(factor))]


def _by_digits(seen: Sequence[_Seen], ratios: Sequence[float]) -> list[Known]:
    """The factor of which as many digits are told as all points have alike; none where it differs, or is 1."""
    middle, unit = (min(ratios) + max(ratios)) / 2, max(s.unit for s in seen)
    if max(abs(r - middle) for r in ratios) > abs(middle) * unit or abs(middle - 1) <= unit:
        return []
    digits = math.floor(-math.log10(unit))
    words = f"{middle:.{digits}g} × the right one" if digits > 1 else f"roughly {middle:.2g} × the right one"
    return [Known("factor", words, Family.DIGITS, predict=lambda case: case.right * middle)]


def _by_count(seen: Sequence[_Seen], ratios: Sequence[float]) -> Mistake | None:
    """A factor that is a number of elements, or its inverse: a sum in the place of a mean, or the other way."""
    counted = [_counts(s.case) for s in seen]
    for what in counted[0]:
        numbers = [counts.get(what, 0) for counts in counted]
        if not all(numbers) or len(set(numbers)) < 2:
            continue
        those = list(zip(ratios, numbers, seen, strict=True))
        if all(abs(r * n - 1) <= s.unit for r, n, s in those):
            return Mistake("mean instead of sum", f"divided by {what}: a mean in the place of a sum, or divided twice")
        if all(abs(r - n) <= n * s.unit for r, n, s in those):
            words = f"multiplied by {what}: a sum in the place of a mean, or a division missing"
            return Mistake("sum instead of mean", words)
    return None


def _counts(c: Case) -> dict[str, int]:
    """Return the numbers of elements that may be such a factor."""
    found = {
        "the number of elements of y": c.y.numel(),
        "the number of elements that each sum has": c.x.numel() // max(1, c.y.numel()),
    }
    for name, x in zip(c.call.rule.primals, c.call.primals, strict=True):
        for d, size in enumerate(() if x is None else x.shape[:3]):
            found[f"the size of axis {d} of {name}"] = size
    return found


def _by_nan(seen: Sequence[_Seen]) -> Mistake | None:
    """NaN or infinity where the right gradient is finite, and nothing else wrong."""
    for s in seen:
        if s.got.shape != s.case.right.shape:
            return None
        rest = torch.where(s.astray, s.case.right, s.got)
        if not s.astray.any() or not replace(s, got=rest).is_right:
            return None
    return NOT_FINITE
