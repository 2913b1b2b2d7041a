"""The mistake, in the line of forward that it was made in: forward is differentiated again with one step changed.

What comes out as the backward's own gradients do, at every point, is the mistake; of two, two steps are changed.
A derivative that is dropped, doubled, or of the wrong sign is a factor c on what comes back through a step:

    got = right + (c - 1) through,    for one c, or one size, at all points.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from backprop_rules.catalogue import CATALOGUE
from backprop_rules.diagnosis.edited import DIGITS, EFFORT, Edited, Edits, Effects, factors
from backprop_rules.diagnosis.edits import DROPPED, MATRICES, SCALES, SIGN, WAY, Edit, Key, is_trivial
from backprop_rules.diagnosis.factor import factor_in_words, of_a_size, roughly_in_words
from backprop_rules.diagnosis.in_backward import told_in_backward
from backprop_rules.diagnosis.mistake import Family, Mistake
from backprop_rules.diagnosis.other_numbers import COUNT, Search
from backprop_rules.diagnosis.several import EXCHANGED
from backprop_rules.diagnosis.tape import Rows, Share, Shares, Step, taped
from backprop_rules.diagnosis.wanted import Factor
from backprop_rules.domain import Axes, Axis
from backprop_rules.evidence.evidence import Evidence, Pair, in_precision
from backprop_rules.formula import of_reals, plain
from backprop_rules.strategies.of_rules import call_at, of_the_rule
from backprop_rules.strategies.point import Point
from backprop_rules.strategies.points import Points
from backprop_rules.subject.ambient import F64, all_finite
from backprop_rules.subject.function import NoAnswer
from backprop_rules.subject.subject import Subject

POINTS, OF_A_SIZE = 8, 3  # at which an explanation must hold, and of these, of one size
DRAWN, OF_A_RULE = 240, 16  # points of a rule, most of them small, until at so many with the same steps it is wrong
ELEMENTS = 2000  # of a point
TRIED = 24  # that fit along the directions, and are held against every gradient at every point
TOLD = 12  # that hold
PAIRS = 120_000  # that are tried: about as long as the check itself takes

# What is plainer than all that has the same effect.
OF_SIZES = ("sum for mean", "mean for sum")
# The catalogue's rules by torch's names, and those of which nothing is told: what they are called with may be another
# function, or they only add and move.
RULES = {"truediv": "div", "mm": "matmul", "bmm": "matmul"}
UNTOLD = ("add", "sub", "concatenate", "gather", "index_select", "transpose", "where", "cross_entropy", "clamp")
OF_A_DERIVATIVE = (
    "constant", "unchanged", "factor", "sign", "sum for mean", "mean for sum", "branch", "other value", "transposed",
    "conjugate", "missing conjugate", "cotangent ignored", "not summed",
)  # fmt: skip
PLAIN = ("constant", "branch", "sign", "sum for mean", "mean for sum", "factor", "unchanged")


@dataclass(frozen=True)
class Guess:
    """Edits by their keys, and whether the last of them comes with a factor that is not known."""

    keys: tuple[Key, ...]
    scaled: bool = False


def seen_in(places: Sequence[Edited], explanations: Sequence[tuple[Edit, ...]]) -> tuple[int, str]:
    """Return which explanation the first wrong line of the backward is of, and that line; nothing if none is seen."""
    shares = [{at: share for edit in one for at, share in edit.shares.items()} for one in explanations]
    return told_in_backward(places[0], shares) if places else (0, "")


def mistake_of(explanations: Sequence[tuple[Edit, ...]], made: str = "") -> Mistake | None:
    """Return the explanations as one mistake in words, the first of which is that of a line of the backward."""
    if not explanations:
        return None
    names = dict.fromkeys(" and ".join(dict.fromkeys(named.name for named in one)) for one in explanations)
    sized = all(named.what in OF_SIZES for one in explanations for named in one)
    words = list(dict.fromkeys(" and ".join(named.sentence for named in one) for one in explanations))
    if len(words) > 2:  # along a chain of steps, most often
        lines = sorted({n for one in explanations[1:] for named in one for n in named.lines})
        others = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}"
        words = [words[0], f"what has the same effect: {len(words) - 1} other explanations, in {others}"]
    family = Family.SIZE if sized else Family.OTHER
    return Mistake(" or ".join(names), ", or ".join(words), family, made, _instead(explanations[0]))


def _instead(explanation: Sequence[Edit]) -> str:
    """Return the catalogue's formulas for the functions whose own derivative was another."""
    steps = [s for named in explanation if named.what in OF_A_DERIVATIVE for s in named.steps if named.shares]
    return "; ".join(dict.fromkeys(formula for step in steps if (formula := _formula(step))))


def _formula(step: Step) -> str:
    """Return the catalogue's formula for what a step was called with; nothing where it has none for that."""
    name = "pow_tensor" if step.whole == "pow" and 1 in step.live else RULES.get(step.whole, step.whole)
    if name not in CATALOGUE or name in UNTOLD:
        return ""
    # Other arguments than tensors may make another function of it, but for axes; of a part they are the part's own.
    axes = any(isinstance(param, Axis | Axes) for param in CATALOGUE[name].domain.params.values())
    if not (step.part or axes or name == "pow" or all(isinstance(x, Tensor | None) for x in step.args)):
        return ""
    formula = plain(CATALOGUE[name].formula)
    is_complex = any(isinstance(x, Tensor) and x.is_complex() for x in step.args)
    return f"{name}: {formula if is_complex else of_reals(formula)}"


def places_of(subject: Subject, pair: Pair, failing: Sequence[Point] = ()) -> list[Edited]:
    """Return the points at which an explanation must hold, the most telling first; of a rule also some that failed."""
    # A loop that runs over a size has other steps elsewhere, as has a rule with an option.
    alike: dict[Any, list[Edited]] = defaultdict(list)
    for at in islice(_places(subject, pair, failing), POINTS if subject.right is None else None):
        same = alike[tuple((step.name, step.live) for step in at.tape.steps)]
        same.append(at)
        if sum(one.is_wrong for one in same) == OF_A_RULE:
            break
    some = max(alike.values(), key=lambda those: sum(at.is_wrong for at in those), default=[])
    return sorted(some, key=_telling)


def is_one_call(places: Sequence[Edited]) -> bool:
    """Say whether forward is one expression that torch differentiates as a whole."""
    return len({(step.line, step.text) for at in places[:1] for step in at.tape.steps}) == 1


def in_its_line(places: Sequence[Edited]) -> list[tuple[Edit, ...]]:
    """Return the explanations that hold at every point: one thing done to one step, or two; none where none does."""
    if sum(at.is_wrong for at in places) < 2 or len(places[0].edits) > EFFORT or not places[0].tape.steps:
        return []
    at = places[0]
    return explained(places, chain(of_one_step(at), (_with_factors(at), _pairs(at)), _of_other_forwards(at)))


def explained(
    places: Sequence[Edited], stages: Iterable[Iterable[Guess]], tried: int = TRIED
) -> list[tuple[Edit, ...]]:
    """Return the plainest explanations that hold at every point, of the first guesses of which some do."""
    for guesses in stages:
        held = (named for guess in islice(guesses, tried) if (named := _named(places, guess)))
        found = {frozenset(named.sentence for named in one): one for one in reversed(list(islice(held, TOLD)))}
        if found:
            return plainest([*reversed(found.values())])
    return []


def _telling(at: Edited) -> tuple[int, int, int]:
    """Return what sorts points: first where the most is wrong and the sizes are not alike, and of these small ones."""
    sizes = [n for g in at.right for n in set(g.shape)]
    alike = sum(n == 1 for n in sizes) + sum(len(g.shape) - len(set(g.shape)) for g in at.right)
    return -len(at.bad), alike, len(at.wrong)


def _places(subject: Subject, pair: Pair, failing: Sequence[Point]) -> Iterator[Edited]:
    """Yield points of ordinary values, few of each size: by its size a factor is told from a number."""
    count: Counter[Any] = Counter()
    of_a_rule = chain(failing, of_the_rule(subject.right, subject.dtypes, DRAWN))
    for point in chain(failing, Points(subject, 0, 1)) if subject.right is None else of_a_rule:
        key = tuple((x.shape, x.is_complex()) if isinstance(x, Tensor) else None for x in point.leaves)
        usual = point.ordinary and not point.empty and point.relaid is None and point.size <= ELEMENTS
        if not usual or count[key] >= OF_A_SIZE:
            continue
        count[key] += 1
        try:
            evidence = Evidence(subject, point, pair)
            user, floats = evidence.user, [k for k in subject.floats if isinstance(evidence.user[k], Tensor)]
            if not all(user[k].shape == point.leaves[k].shape for k in floats):
                continue
            got = [user[k].to(point.leaves[k].dtype) for k in floats]
            truth = [evidence.run.gradients[k] for k in floats]
            if not all_finite(*got):
                continue
            tape = taped(evidence.function, point.leaves, point.grads, floats, subject.names)
            at = Edited(evidence, Edits(tape), got)
        except (NoAnswer, RuntimeError, KeyError):
            continue
        right = [torch.zeros_like(g) if t is None else t for t, g in zip(truth, got, strict=True)]
        if at.is_right(right) and at.is_right(_by_the_rule(subject, point, floats) or right):
            yield at


def _by_the_rule(subject: Subject, point: Point, floats: Sequence[int]) -> list[Tensor] | None:
    """Return the rule's own gradients: torch's may be others at a kink, or keep no digit. None without another rule."""
    if subject.right is None or subject.right is subject.rule:
        return None
    found = call_at(subject.right, point, in_precision(point, F64)).gradients
    return [g for k in floats if (g := found[k]) is not None]


def of_one_step(at: Edited, effort: int = EFFORT, runs: int | None = None) -> Iterator[list[Guess]]:
    """Yield what may explain what is wrong and is done to one step: factors, then edits, then other forwards.

    Of these there are so many runs, all if it is None; so many steps are taken again for another number.
    """
    seen = at.seen_along_directions()
    ways = [(edit, c) for edit, c, _ in seen if edit.key[-1] == WAY and math.isfinite(c)]
    yield [Guess((edit.key,), True) for edit, _ in sorted(ways, key=lambda one: likely(*one))]
    yield [Guess((edit.key,)) for edit, _, it_fits in seen if it_fits and edit.key[-1] not in (WAY, SIGN)]
    left_out = [key for key in islice(at.forwards, runs) if at.explains(at.gradients((key,)))]
    yield [Guess((key,)) for key in chain(left_out, at.clipped())]
    yield [Guess((key,)) for key in Search(at, effort).found()]


def _with_factors(at: Edited) -> list[Guess]:
    """Return the edits of one step that may explain what is wrong with a factor."""
    seen = at.seen_along_directions()
    some = (edit for edit, c, it_fits in seen if math.isfinite(c) and not it_fits)
    return [Guess((edit.key,), True) for edit in some if edit.key[-1] not in (WAY, SIGN)]


def likely(way: Edit, c: float) -> tuple[bool, bool, bool, int]:
    """Return what sorts the steps of a chain that one factor would explain: the likelier first, and of these the last.

    A step that only moves numbers is the least likely; a factor comes from one that has a number, or sums.
    """
    step = way.step
    has_a_number = step.name in SCALES and len(step.live) == 1 and abs(c) > DIGITS
    of_a_sum = step.name in ("mean", "sum", "var", "std") or (step.name in MATRICES and abs(c) > DIGITS)
    return is_trivial(step), not has_a_number, not of_a_sum, -step.number


def _of_other_forwards(at: Edited) -> Iterator[list[Guess]]:
    """Yield what may explain what is wrong beside an eps that is left out or elsewhere, or another count."""
    for key, (edit, _) in at.forwards.items():
        if edit.what in ("eps", COUNT) and at.gradients((key,)) is not None:
            other = at.under(key)
            for some in chain(of_one_step(other), (_with_factors(other),)):
                yield [replace(one, keys=(key, *one.keys)) for one in some]


def _pairs(at: Edited) -> Iterator[Guess]:
    """Yield what two steps explain together, the plainest first: two edits, or an edit and a factor."""
    every = at.effects
    way = [edit.key[-1] == WAY for edit in every.edits]
    is_off = at.seen.abs() > at.reach
    size = every.change.abs() > at.reach
    moves = size.any(1) & ~size[:, ~is_off].any(1)  # gradients that are right stay so
    moving = moves.tolist()
    rows = [k for k, edit in enumerate(every.edits) if moving[k] and not way[k]]
    rows = sorted(rows, key=lambda k: _plain(every.edits[k]))[: PAIRS // len(every.edits)]
    some = every[rows]
    found: list[tuple[Any, Guess]] = []
    if some.edits:
        cotangents, changes = at.cotangents_beside(some.edits)
        own: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for k, edit in enumerate(every.edits):
            if moving[k] or way[k]:
                own[edit.numbers if len(edit.numbers) == 1 else ()].append(k)
        for numbers, these in own.items():
            alone = every[these]
            beside = _beside(at, alone, len(some.edits), numbers, cotangents, changes)
            found += _fitting(at, some, alone, beside)
    found.sort(key=lambda one: one[0])
    yield from (guess for _, guess in found)


def _beside(at: Edited, own: Effects, rows: int, numbers: tuple[int, ...], cotangents: Rows, changes: Rows) -> Effects:
    """Return what edits of one step make of the gradients beside each of the others, along the second axis."""
    edited, right = (x[:, None].expand(-1, rows, -1).clone() for x in (own.edited, own.right))
    for n in numbers:  # those of several steps are taken as if the others changed nothing for them
        if n not in changes:
            continue
        met = (changes[n].reshape(rows, -1) != 0).any(1)
        if bool(met.any()):
            found = at.along(own.edits, {n: cotangents[n][met]})
            if len(found.edits) == len(own.edits):
                edited[:, met], right[:, met] = found.edited, found.right
    return Effects(own.edits, edited, right)


def _fitting(at: Edited, some: Effects, alone: Effects, beside: Effects) -> Iterator[tuple[Any, Guess]]:
    """Yield the pairs of some edits and those of a step that are seen to explain what is wrong, and how plain."""
    both = some.change + beside.change
    for i, k in torch.nonzero(((both - at.seen).abs() <= at.reach).all(-1)).tolist():
        edit, other = beside.edits[i], some.edits[k]
        if edit.key[-1] != WAY and edit.shares.keys().isdisjoint(other.shares):
            yield _rank(edit, other), Guess((other.key, edit.key))
    ways = [i for i, edit in enumerate(beside.edits) if edit.key[-1] == WAY]
    scales = factors(beside.edited[ways], (at.seen - some.change) + beside.right[ways], at.reach)
    for i, k in torch.nonzero(_are_some(scales)).tolist():
        edit, other = beside.edits[ways[i]], some.edits[k]
        if edit.shares.keys().isdisjoint(other.shares):
            yield _rank(edit, other), Guess((other.key, edit.key), True)
    # A factor on the way of a step whose cotangents the other edit sees: without it all, and as it is, tell the rest.
    without = [k for k, edit in enumerate(some.edits) if edit.key[-1] == DROPPED]
    change = alone.change[:, None]
    scales = factors(both[:, without] - change, at.seen - change, at.reach)
    for i, k in torch.nonzero(_are_some(scales)).tolist():
        edit, other = beside.edits[i], some.edits[without[k]]
        if edit.key[-1] != WAY and edit.shares.keys().isdisjoint(other.shares):
            yield _rank(edit, other), Guess((edit.key, (*other.key[:2], WAY)), True)


def _are_some(scales: Tensor) -> Tensor:
    """Say which factors there are, and change something."""
    return scales.isfinite() & ((scales - 1).abs() > DIGITS)


def _rank(edit: Edit, other: Edit) -> tuple[Any, Any]:
    """Return how plain two edits are: as the less plain of them."""
    return max(_plain(edit), _plain(other)), min(_plain(edit), _plain(other))


def _named(places: Sequence[Edited], guess: Guess) -> tuple[Edit, ...] | None:
    """Return a guess in words if it holds at every point where it can be made, at two or more; None otherwise."""
    scales: list[Factor] = []
    used: list[Edited] = []
    wrong = 0
    for at in places:
        found = at.gradients(guess.keys)
        if found is None:
            continue
        if not guess.scaled:
            if not at.explains(found):
                return None
            wrong += at.is_wrong
            continue
        none = at.gradients((*guess.keys[:-1], (*guess.keys[-1][:2], DROPPED)))
        if none is None:
            return None
        through = found - none
        moves = float(through.abs().max()) > DIGITS
        c = at.wanted.factor(through, none) if moves else None
        if c is not None:
            scales.append(c)
            used.append(at)
            wrong += at.is_wrong
        elif moves or not at.explains(none):
            return None
    if wrong < min(2, len(places)):
        return None
    first = places[0]
    plain = tuple(first.edit(key) for key in (guess.keys[:-1] if guess.scaled else guess.keys))
    if not guess.scaled:
        return plain
    told = _scaled(first, guess.keys[-1], scales, used)
    return None if told is None else (*plain, told)


def _scaled(at: Edited, key: Key, scales: Sequence[Factor], places: Sequence[Edited]) -> Edit | None:
    """Return an edit that comes with a factor: of the right way, one that is 0 is none at all."""
    edit = at.edit(key)
    numbers = [one.c for one in scales]
    if key[-1] == WAY and scales and all(abs(c) <= DIGITS or abs(c) <= off for c, off, _ in scales):
        return at.edit((*key[:2], DROPPED))
    if at.off is not None:
        told = roughly_in_words(scales[0], places, edit.steps)
    else:
        told = factor_in_words(numbers, places, edit.steps)
    if told is None:
        return None
    what, words, size = told
    shares = _times(numbers[0], edit.shares) if places[0] is at else {}
    by_size = of_a_size(numbers, places, edit.steps)
    if key[-1] == WAY:
        number = "" if told == by_size else size
        return replace(edit, what=what, words=words.replace("{way}", edit.words), shares=shares, number=number)
    # A size that comes with something else is most often another step's, and something else done wrong.
    return None if by_size else replace(edit, words=f"{edit.words}, times {size}", shares=shares)


def _times(c: float, shares: Shares) -> Shares:
    def times(share: Share) -> Share:
        return lambda g: c * share(g)

    return {at: times(share) for at, share in shares.items()}


def plainest(found: Sequence[tuple[Edit, ...]]) -> list[tuple[Edit, ...]]:
    """Return the plainest explanations: of a chain that is a constant, the last step of it."""
    if len(found[0]) > 1:
        whole = [one for one in found if all(n.what == "constant" and not is_trivial(n.step) for n in one)]
        return [max(whole, key=lambda one: sum(n.step.number for n in one))] if whole else [*found]
    constant, branch = (_last([one for one in found if one[0].what == what]) for what in ("constant", "branch"))
    if constant is not None and not is_trivial(constant[0].step):
        return [constant]
    if constant is not None or branch is not None:
        return [one for one in (branch, constant) if one is not None]
    for what in PLAIN:
        same = [one for one in found if one[0].what == what]
        if what in OF_SIZES:
            same = [one for one in same if one[0].step.name in ("mean", "sum", "var")] or same
        if same:
            return [*same]
    # What exchanges two gradients is told where nothing else is as they are.
    return [one for one in found if one[0].words != EXCHANGED] or [*found]


def _last(found: Sequence[tuple[Edit, ...]]) -> tuple[Edit, ...] | None:
    """Return the last of a chain of steps, of those that do more than move numbers if there are some."""
    return max(found, key=lambda one: (not is_trivial(one[0].step), one[0].step.number), default=None)


def _plain(edit: Edit) -> tuple[int, bool, int]:
    """Return in which order edits are tried as one of two: the plainest first, and of a chain the last step."""
    place = PLAIN.index(edit.what) if edit.what in PLAIN else len(PLAIN)
    return place, is_trivial(edit.step), -edit.step.number
