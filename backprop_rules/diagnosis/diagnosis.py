"""The likely mistake: what the bank predicts, matched with what was returned at several failing points."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.bank import BANK
from backprop_rules.diagnosis.bank.case import Case
from backprop_rules.diagnosis.bank.known import Family, Known, applies
from backprop_rules.diagnosis.bank.params import params_ignored
from backprop_rules.domain import precision
from backprop_rules.errors import InputError
from backprop_rules.evidence.allowance.bounds import in_float64, of_ordinary_size
from backprop_rules.point import BackwardRaised, Point
from backprop_rules.properties.finding import Finding, Kind
from backprop_rules.properties.same import same_bits


@dataclass(frozen=True)
class Mistake:
    """What a backward does otherwise than the right one: a name, and words."""

    name: str
    words: str


# What the kind of a finding tells of the mistake by itself.
TOLD = {
    Kind.WRITES: Mistake("works in place", "it works in place on an argument that others still need: clone first"),
    Kind.DTYPE: Mistake("dtype", "the dtype is that of another operand, or a default, not that of the primal"),
    Kind.DEVICE: Mistake("device", "it is made on another device than its primal"),
    Kind.NONE: Mistake("no gradient", "no gradient is returned for a primal that has one"),
    Kind.NO_TENSOR: Mistake("no tensor", "a number or another object is returned in the place of a tensor"),
    Kind.RANDOM: Mistake(
        "drawn again", "random numbers are drawn in the backward: save the mask that the forward drew"
    ),
    Kind.FORGETFUL: Mistake(
        "stale state",
        "something is kept between calls: a buffer that is not zeroed, or what the last call saved",
    ),
    Kind.OVERWRITTEN: Mistake("result overwritten", "the result lies in a buffer that the next call uses again"),
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
    Kind.NAN_PASSED: Mistake(
        "NaN falls through",
        "NaN compares false with everything: a chain of comparisons lets it fall through to the cotangent",
    ),
    Kind.NAN_CHOICE: Mistake(
        "not finite",
        "0 / 0 or 0 × inf where the function has no derivative, and torch chooses a number",
    ),
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
AT_TIES = (Kind.CHOICE, Kind.SUBGRADIENT)

Points = Callable[[], Sequence[Point]]


def diagnosed(finding: Finding, points: Sequence[Point], others: Points) -> Mistake | None:
    """Return the mistake that explains the finding at every point where it was made; None if none does.

    Others are points where the backward may be right too. They are asked for where several mistakes explain the
    failing points, or where these are few, and one may fit by chance.
    """
    first = points[:ENOUGH]
    if finding.kind is Kind.VALUE and any(map(_forgetful, first)):
        return TOLD[Kind.FORGETFUL if any(_forgetful(point, seed=0) for point in first) else Kind.RANDOM]
    by_values = _matched(finding, points, others) if finding.kind in OF_VALUES else None
    if by_values is not None:
        return by_values
    if finding.kind is Kind.VALUE and isinstance(finding.got, float) and math.isnan(finding.got):
        return NOT_FINITE
    return TOLD.get(finding.kind)


def _forgetful(point: Point, seed: int | None = None) -> bool:
    """Say whether the backward answers otherwise when it is asked the same again, from the same random seed if any."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            if seed is not None:
                torch.manual_seed(seed)
            try:
                found.append(point.backward(point.grad_y, point.y, *point.primals))
            except BackwardRaised:
                return False
    once, twice = found
    return not all(same_bits(a, b) for a, b in zip(once, twice, strict=True))


@dataclass(frozen=True)
class _Seen:
    """What was returned at a point, and the case in float64 in which the right gradient is formed."""

    case: Case
    got: Tensor
    unit: float
    subnormal: bool


# Failing points to match: the first ones found are large and varied, the last ones small.
FIRST, LAST = 40, 4
ENOUGH = 6  # points, below which two explanations may fit by chance


def _matched(finding: Finding, points: Sequence[Point], others: Points) -> Mistake | None:
    if finding.leaf is None or not points:
        return None
    picked = [*points[:FIRST], *points[-LAST:]] if len(points) > FIRST + LAST else points
    seen = [s for point in picked if (s := _seen(point, finding.leaf)) is not None]
    # Where this gradient is right another one is wrong, or the next call.
    seen = [s for s in seen if not _near(s, s.case.right)] or seen
    # Infinities and NaN are explained by many a mistake, subnormal numbers, of few digits, by none.
    seen = [s for s in seen if (s.got.isfinite().any() or not s.got.numel()) and not s.subnormal]
    if not seen:
        return None
    answers = cache(partial(_answers, others, finding.leaf))
    if finding.kind not in AT_TIES:
        found = _named(BANK, seen, answers) or _by_constant(seen) or _by_count(seen)
        found = found or _named(params_ignored(seen[0].case), seen, answers) or _by_nan(seen)
    else:
        at_ties = [known for known in BANK if known.family is Family.TIES]
        elsewhere = [known for known in BANK if known.family is not Family.TIES]
        found = _named(at_ties if finding.kind is Kind.CHOICE else [*at_ties, *elsewhere], seen, answers)
    if not found:
        return None
    return Mistake(*(" or ".join(dict.fromkeys(parts)) for parts in zip(*found, strict=True)))


def _seen(point: Point, primal: int) -> _Seen | None:
    try:
        got = point.gradients[primal]
        wide = in_float64(point)
        case = Case(replace(wide, rule=point.rule), primal)
        if got is None or not isinstance(got, Tensor) or point.on_meta or case.right is None:
            return None
    except (BackwardRaised, InputError, AssertionError, RuntimeError, IndexError):
        return None
    computed = (got.dtype, point.grad_y.dtype, *(v for v in point.params.values() if isinstance(v, torch.dtype)))
    unit = 2.0 ** (2 - min(map(precision, computed))) * max(1, point.grad_y.numel())
    return _Seen(case, got.to(case.right.dtype), unit, _is_subnormal(got))


def _is_subnormal(x: Tensor) -> bool:
    sizes = x[x.isfinite() & (x != 0)].abs()
    return bool(sizes.numel() and sizes.max() < torch.finfo(x.dtype).smallest_normal)


def _answers(others: Points, primal: int) -> list[_Seen]:
    """Return what was returned at other points, where nothing overflows or vanishes on the way to a prediction."""
    answers = [(point, _seen(point, primal)) for point in others()]
    return [s for point, s in answers if s is not None and of_ordinary_size(point)]


def _named(bank: Sequence[Known], seen: Sequence[_Seen], answers: Callable[[], list[_Seen]]) -> list[tuple[str, str]]:
    """Return the name and words of the mistake that explains every point; of several, where they are not told apart."""
    found, many = [known for known in bank if _explains(known, seen)], len(seen) >= ENOUGH
    if len(found) > 1 or (found and not many):
        # What none of them explains, and is wrong, has another reason.
        telling = [s for s in answers() if _near(s, s.case.right) or any(_fits(known, s) for known in found)]
        left = [known for known in found if all(_fits(known, s) is not False for s in telling)]
        # What is made in some branch alone is right elsewhere: of many points that are wrong, these decide.
        # What two mistakes predict alike at every point is the same: the bank's first is the plainer one.
        found = (left or found)[:1] if many else _distinct(left, [*seen, *telling])
    return [(known.name, known.words) for known in found]


def _distinct(found: Sequence[Known], seen: Sequence[_Seen]) -> list[Known]:
    """Return the first, and those that predict something else than it at one of the points."""

    def alike(known: Known, s: _Seen) -> bool:
        first, other = applies(found[0], s.case), applies(known, s.case)
        if first is None or other is None:
            return (s.case.right if first is None else first) is (s.case.right if other is None else other)
        return first.shape == other.shape and torch.equal(first, other)

    return [known for k, known in enumerate(found) if k == 0 or not all(alike(known, s) for s in seen)]


def _fits(known: Known, s: _Seen) -> bool | None:
    """Say whether the mistake gives what was returned; None where it is none, or cannot be made."""
    predicted = applies(known, s.case)
    return None if predicted is None else _near(s, predicted)


def _explains(known: Known, seen: Sequence[_Seen]) -> bool:
    """Say whether the mistake predicts what was returned at every point, and something else than the right one."""
    told_apart = False
    for s in seen:
        predicted = applies(known, s.case)
        if predicted is None or not _near(s, predicted):
            return False
        told_apart = told_apart or not _near(s, s.case.right) or _astray(s, predicted)
    return told_apart


def _astray(s: _Seen, predicted: Tensor) -> bool:
    """Say whether what was returned is NaN or infinite as predicted, at an element where the right one is finite."""
    return bool((~s.got.isfinite() & ~predicted.isfinite() & s.case.right.isfinite()).any())


def _near(s: _Seen, predicted: Tensor) -> bool:
    """Say whether what was returned is the prediction, but for rounding in proportion to the largest element."""
    if predicted.shape != s.got.shape:
        return False
    # Where the one overflows the other may, or may not: the order of the factors is not known.
    finite = predicted.isfinite() & s.got.isfinite()
    if not finite.any():
        return not predicted.numel()  # of infinities and NaN nothing is explained
    size = predicted[finite].abs().max()
    return bool(((predicted - s.got)[finite].abs() <= size * s.unit).all())


def _ratio(s: _Seen) -> float | None:
    """Return the number by which the right gradient was multiplied, None if there is no such number."""
    right = s.case.right
    if right.shape != s.got.shape or right.is_complex() or not right.isfinite().all() or not s.got.isfinite().all():
        return None
    if not right.numel() or not (right != 0).any():
        return None
    k = int(right.abs().reshape(-1).argmax())
    ratio = float(s.got.reshape(-1)[k] / right.reshape(-1)[k])
    return ratio if math.isfinite(ratio) and _near(s, right * ratio) else None


def _says_something(s: _Seen) -> bool:
    """Say whether there is a number to divide by, or one that should not be there."""
    right = s.case.right
    if not right.numel() or not s.got.isfinite().all() or not right.isfinite().all():
        return False
    return right.shape != s.got.shape or bool(((right != 0) | (s.got != 0)).any())


def _by_constant(seen: Sequence[_Seen]) -> list[tuple[str, str]]:
    seen = [s for s in seen if _says_something(s)]
    ratios = [_ratio(s) for s in seen]
    # One point, or elements that are all alike, fix no constant.
    if any(r is None for r in ratios) or sum(len(s.got.unique()) > 1 for s in seen) < 2:
        return []
    simple = {Fraction(r).limit_denominator(64) for r in ratios if r is not None}
    if len(simple) != 1:
        return []
    (factor,) = simple
    if factor == 1:  # nothing but rounding, or less than that
        return []
    if any(abs(float(factor) - r) > abs(r) * s.unit for r, s in zip(ratios, seen, strict=True) if r is not None):
        return []
    return [(f"factor {factor}", f"exactly {factor} × the right one")]


def _by_count(seen: Sequence[_Seen]) -> list[tuple[str, str]]:
    """A factor that is a number of elements, or its inverse: a sum in the place of a mean, or the other way."""
    seen = [s for s in seen if _says_something(s)]
    if not seen:
        return []
    ratios = [_ratio(s) for s in seen]
    if any(r is None for r in ratios):
        return []
    for what, count in _counts(seen[0].case):
        numbers = [count(s.case) for s in seen]
        if any(n is None for n in numbers) or len({n for n in numbers if n is not None}) < 2:
            continue
        pairs = [(r, n, s) for r, n, s in zip(ratios, numbers, seen, strict=True) if r is not None and n]
        if len(pairs) == len(seen) and all(abs(r * n - 1) <= s.unit for r, n, s in pairs):
            return [("mean instead of sum", f"divided by {what}: a mean in the place of a sum, or divided twice")]
        if len(pairs) == len(seen) and all(abs(r - n) <= n * s.unit for r, n, s in pairs):
            return [
                ("sum instead of mean", f"multiplied by {what}: a sum in the place of a mean, or a division missing")
            ]
    return []


def _counts(case: Case) -> list[tuple[str, Callable[[Case], int | None]]]:
    names = case.point.rule.primals
    found: list[tuple[str, Callable[[Case], int | None]]] = [
        ("the number of elements of y", lambda c: c.y.numel()),
        ("the number of elements that each sum has", lambda c: c.x.numel() // max(1, c.y.numel())),
    ]
    for k, name in enumerate(names):
        for d in range(3):
            found.append((f"the size of axis {d} of {name}", _size(k, d)))
    return found


def _size(k: int, d: int) -> Callable[[Case], int | None]:
    def size(c: Case) -> int | None:
        x = c.point.primals[k]
        return None if x is None or x.ndim <= d else int(x.shape[d])

    return size


def _by_nan(seen: Sequence[_Seen]) -> list[tuple[str, str]]:
    """NaN or infinity where the right gradient is finite, and nothing else wrong."""
    for s in seen:
        if s.got.shape != s.case.right.shape:
            return []
        astray = ~s.got.isfinite() & s.case.right.isfinite()
        rest = torch.where(astray, s.case.right, s.got)
        if not astray.any() or not _near(replace(s, got=rest), s.case.right):
            return []
    return [(NOT_FINITE.name, NOT_FINITE.words)]
