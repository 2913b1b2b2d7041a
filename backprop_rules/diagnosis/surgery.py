"""The mistake, in the line of forward that it was made in: forward is differentiated again with one step changed.

What comes out as the backward's own gradients do, at every point, is the mistake; of two, two steps are changed.
A derivative that is dropped, doubled, or of the wrong sign is a factor c on what comes back through a step:

    got = right + (c - 1) through,    for one c, or one size, at all points.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, islice, pairwise
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import Edit, edits_of, is_trivial, negated, without
from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.diagnosis.tape import Change, Effort, Spent, Step, Tape
from backprop_rules.evidence.evidence import Evidence, Pair
from backprop_rules.strategies.points import Points
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import all_finite
from backprop_rules.subject.backward import Misfit, Raised
from backprop_rules.subject.function import NoPoint
from backprop_rules.subject.subject import Subject

POINTS, OF_A_SIZE = 8, 3  # at which an explanation must hold, and of these, of one size
ELEMENTS = 2000  # of a point
DIGITS = 2.0**-34  # to which it must: far more than chance gives, and fewer than a backward in float64 has
STEPS = 3000  # that may be run, forward and backward: about as long as the check itself takes
FIRST = 4  # first edits of two that are followed up, where they mend some of the gradients
TRIED = 12  # pairs that fit at one point, and are tried at the others

# What is plainer than all that has the same effect.
PLAIN = ("constant", "branch", "sign", "sum for mean", "mean for sum", "factor", "unchanged")

Key = tuple[int, str, int]  # the step's number, the words, and the place among the edits of these words


@dataclass(frozen=True, eq=False)
class Named:
    """What was done to which step, in one word and in words."""

    what: str
    step: Step
    words: str

    @property
    def sentence(self) -> str:
        """The words, with the step in its place."""
        return self.words.replace("{}", self.step.place)


def mistake_of(explanations: Sequence[tuple[Named, ...]]) -> Mistake | None:
    """Return the explanations as one mistake in words; None of none."""
    if not explanations:
        return None
    names = dict.fromkeys(" and ".join(dict.fromkeys(named.what for named in one)) for one in explanations)
    words = list(dict.fromkeys(" and ".join(named.sentence for named in one) for one in explanations))
    if len(words) > 2:  # along a chain of steps
        words = [words[-1], f"anywhere back to {explanations[0][0].step.place}"]
    return Mistake(" or ".join(names), ", or ".join(words))


class _At:
    """A tape at a point, as vectors: what is wrong, and what each edit changes; kept, as several questions ask it."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        pairs = zip(tape.got, tape.right, strict=True)
        self.scales = [max(float(a.abs().max()), float(b.abs().max())) or 1.0 for a, b in pairs]
        self.wrong = self.vector(tape.got) - self.vector(tape.right)
        ends = [0]
        for g in tape.right:
            ends.append(ends[-1] + g.numel() * (2 if g.is_complex() else 1))
        self._blocks = [slice(a, b) for a, b in pairwise(ends)]
        self.bad = self.touched(self.wrong)
        self._offs: dict[Key, Tensor | None] = {}
        self._edits: dict[Key, Edit] | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether some gradient is."""
        return bool(self.bad)

    def touched(self, off: Tensor) -> frozenset[int]:
        """Return which gradients are changed."""
        return frozenset(k for k, b in enumerate(self._blocks) if bool((off[b].abs() > DIGITS).any()))

    def reached(self, edit: Edit) -> frozenset[int]:
        """Return which gradients come back through the way on which an edit is made."""
        by = edit.by if len(edit.step.live) > 1 else None
        off = self.off(next(key for way, key in _ways(edit.step) if way.by == by))
        return frozenset() if off is None else self.touched(off)

    def vector(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return gradients as one vector of real numbers, each of the order of 1."""
        flat = [g.reshape(-1) / s for g, s in zip(gradients, self.scales, strict=True)]
        return torch.cat([torch.view_as_real(f).reshape(-1) if f.is_complex() else f for f in flat])

    @property
    def edits(self) -> dict[Key, Edit]:
        """What can be done to the steps."""
        if self._edits is None:
            self._edits = {}
            for step in self.tape.steps:
                counted: Counter[str] = Counter()
                for edit in (*_dropped(step), *edits_of(step, self.tape.steps)):
                    self._edits[step.number, edit.words, counted[edit.words]] = edit
                    counted[edit.words] += 1
        return self._edits

    def off(self, *keys: Key) -> Tensor | None:
        """Return by how much the gradients change where these edits are made; None where they cannot be made."""
        if len(keys) == 1 and keys[0] in self._offs:
            return self._offs[keys[0]]
        changes = {key[0]: self.edits[key].change for key in keys if key in self.edits}
        found = self.changed(changes) if len(changes) == len(keys) else None
        if len(keys) == 1:
            self._offs[keys[0]] = found
        return found

    def changed(self, changes: dict[int, Change]) -> Tensor | None:
        """Return by how much the gradients change with the steps."""
        found = self.tape.changed(changes)
        return None if found is None or not all_finite(*found) else self.vector(found) - self.vector(self.tape.right)

    def explains(self, off: Tensor | None) -> bool:
        """Say whether a change is what is wrong."""
        return off is not None and bool(((off - self.wrong).abs() <= DIGITS).all())


def in_its_line(subject: Subject, pair: Pair) -> list[tuple[Named, ...]]:
    """Return the explanations that hold at every point: one thing done to one step, or two; none where none does."""
    every = list(islice(_places(subject, pair, Effort(STEPS)), POINTS))
    # A loop that runs over a size has other steps elsewhere.
    places = [at for at in every if len(at.tape.steps) == len(every[0].tape.steps)]
    places.sort(key=lambda at: (not at.is_wrong, len(at.wrong)))
    if sum(at.is_wrong for at in places) < 2:
        return []
    try:
        return _plainest(list(_single(places))) or _pair(places)
    except Spent:
        return []


def _places(subject: Subject, pair: Pair, effort: Effort) -> Iterator[_At]:
    """Yield points of ordinary values, few of each size: by its size a factor is told from a number."""
    count: Counter[Any] = Counter()
    for point in Points(subject, 0, 1):
        key = tuple(getattr(x, "shape", None) for x in point.leaves)
        usual = point.ordinary and not point.empty and point.relaid is None and point.size <= ELEMENTS
        if not usual or count[key] >= OF_A_SIZE:
            continue
        count[key] += 1
        try:
            evidence = Evidence(subject, point, pair)
            user, floats = evidence.user, subject.floats
            fits = all(isinstance(user[k], Tensor) and user[k].shape == point.leaves[k].shape for k in floats)
            if fits and all_finite(*(user[k] for k in floats)):
                yield _At(Tape(evidence, effort))
        except (Raised, Misfit, NoPoint, RuntimeError):
            continue


def _dropped(step: Step) -> Iterator[Edit]:
    """Yield the edits that are a factor of 0 or -1: they may be one of two."""
    several = len(step.live) > 1
    for j in step.live if several else ():
        yield Edit(
            step, "branch", f"as if argument {j + 1} of {{}} were a constant: its share is missing", without((j,)), j
        )
        yield Edit(step, "sign", f"the sign of the derivative of {{}} by its argument {j + 1} is wrong", negated(j), j)
    yield Edit(step, "constant", "as if {} were a constant: its derivative is missing", without(step.live))
    yield Edit(step, "sign", "the sign of the derivative of {} is wrong", negated(None))


def _single(places: Sequence[_At]) -> Iterator[tuple[Named, ...]]:
    """Yield what explains what is wrong at every point, and is done to one step."""
    first, wrong = places[0], [at.wrong for at in places]
    ways = [way for step in first.tape.steps for way in _ways(step)]
    factors = [_by_factor(places, way, key, wrong, []) for way, key in ways]
    if any(factors):
        yield from ((named,) for named in factors if named is not None)
        return  # plainer than all else
    for key, edit in first.edits.items():
        if edit.local and first.reached(edit) != first.bad:
            continue  # it changes another gradient, or not all that are wrong
        if first.explains(first.off(key)) and _hold(places, key):
            yield (Named(edit.what, edit.step, edit.words),)


def _ways(step: Step) -> Iterator[tuple[Edit, Key]]:
    """Yield the ways back through a step, by each argument and by all: the edits that make a constant of it."""
    return ((edit, (step.number, edit.words, 0)) for edit in _dropped(step) if edit.what != "sign")


def _hold(places: Sequence[_At], *keys: Key) -> bool:
    """Say whether the edits explain what is wrong at every point where they can be made, at two or more."""
    made = [(at, off) for at in places if (off := at.off(*keys)) is not None]
    return sum(at.is_wrong for at, _ in made) > 1 and all(at.explains(off) for at, off in made)


def _by_factor(
    places: Sequence[_At], through: Edit, key: Key, wrong: Sequence[Tensor], others: Sequence[Key]
) -> Named | None:
    """Return the factor that explains what is wrong beside other edits, None where there is none."""
    factors: list[float] = []
    used: list[_At] = []
    for at, rest in zip(places, wrong, strict=True):
        before = torch.zeros_like(rest) if not others else at.off(*others)
        dropped = at.off(*others, key)
        if before is None or dropped is None:
            return None
        way = before - dropped
        if not float(way.abs().max()) > DIGITS:
            if bool((rest.abs() > DIGITS).any()):
                return None
            continue
        c = float(way @ rest) / float(way @ way)
        if not bool(((c * way - rest).abs() <= DIGITS).all()):
            return None
        factors.append(c + 1)
        used.append(at)
    if factors and all(abs(c) <= DIGITS for c in factors):
        return Named(through.what, through.step, through.words)
    told = _told(factors, used)
    by = "" if through.by is None else f" by its argument {through.by + 1}"
    return None if told is None else Named(told[0], through.step, told[1].replace("{by}", by))


def _told(factors: Sequence[float], places: Sequence[_At]) -> tuple[str, str] | None:
    """Return what a factor is, by its value at every point: a number, or a size; None for one that is 1, or nothing."""
    if not factors or all(abs(c - 1) <= DIGITS for c in factors):
        return None
    if all(abs(c + 1) <= DIGITS for c in factors):
        return "sign", "the sign of the derivative of {}{by} is wrong"
    c = factors[0]
    if max(factors) - min(factors) <= DIGITS * abs(c):
        value = Fraction(c).limit_denominator(64)
        if abs(float(value) - c) <= DIGITS * abs(c):
            return "factor", f"the derivative of {{}}{{by}} is {value} times what it should be"
    for name, sizes in _sizes(places):
        for words, power in (("{n}", 1), ("1 / {n}", -1), ("the root of {n}", 0.5), ("1 / the root of {n}", -0.5)):
            if all(abs(c - n**power) <= DIGITS * abs(c) for c, n in zip(factors, sizes, strict=True)):
                what = "sum for mean" if power == 1 else "mean for sum" if power == -1 else "factor"
                return what, f"the derivative of {{}}{{by}} is off by the factor {words.format(n=name)}"
    return None


def _sizes(places: Sequence[_At]) -> Iterator[tuple[str, list[int]]]:
    """Yield the sizes that a factor may be, by name: of axes, and of their products."""
    names = places[0].tape.names
    axes = [
        (f"the size of axis {d} of {names[k]}", [at.tape.right[k].shape[d] for at in places])
        for k, g in enumerate(places[0].tape.right)
        for d in range(g.ndim)
    ]
    yield from axes
    for k, name in enumerate(names):
        yield f"the number of elements of {name}", [at.tape.right[k].numel() for at in places]
    for (a, m), (b, n) in combinations(axes, 2):
        yield f"{a} times {b}", [x * y for x, y in zip(m, n, strict=True)]


def _pair(places: Sequence[_At]) -> list[tuple[Named, ...]]:
    """Return two things done to two steps that explain what is wrong together, at every point."""
    first = places[0]
    local = [key for key, edit in first.edits.items() if not edit.local or first.reached(edit) <= first.bad]
    offs = {key: off for key in local if (off := first.off(key)) is not None and float(off.abs().max()) > DIGITS}
    if not offs:
        return []
    keys = sorted(offs, key=lambda key: _plain(first.edits[key]))
    every = torch.stack([offs[key] for key in keys])
    left = first.wrong - every  # what each leaves to explain
    for a, b in islice(_apart(keys, every, left), TRIED):
        if _hold(places, a, b):
            return [tuple(Named(first.edits[k].what, first.edits[k].step, first.edits[k].words) for k in (a, b))]
    for a in _mending(first, keys, left)[:FIRST]:
        found = _beside(places, a, keys)
        if found is not None:
            return [(Named(first.edits[a].what, first.edits[a].step, first.edits[a].words), found)]
    return []


def _apart(keys: Sequence[Key], every: Tensor, left: Tensor) -> Iterator[tuple[Key, Key]]:
    """Yield the pairs whose changes add up to what is wrong, as those of two steps do that lie on no way together."""
    # Along one direction first: of all pairs few are near each other there.
    direction = torch.randn(every.shape[1], dtype=every.dtype, generator=numbers_from(0))
    near = (left @ direction)[:, None] - (every @ direction)[None]
    for i, j in torch.nonzero(near.abs() <= DIGITS * float(direction.abs().sum())).tolist():
        if j > i and keys[i][0] != keys[j][0] and bool(((every[j] - left[i]).abs() <= DIGITS).all()):
            yield keys[i], keys[j]


def _mending(at: _At, keys: Sequence[Key], left: Tensor) -> list[Key]:
    """Return the edits that mend one of the gradients altogether, those of the most first."""
    counts = [len(at.bad - at.touched(rest)) for rest in left]
    order = sorted((k for k in range(len(keys)) if counts[k]), key=lambda k: -counts[k])
    return [keys[k] for k in order]


def _beside(places: Sequence[_At], a: Key, keys: Sequence[Key]) -> Named | None:
    """Return what else was done, beside one edit."""
    befores = [at.off(a) for at in places]
    rests = [at.wrong if before is None else at.wrong - before for at, before in zip(places, befores, strict=True)]
    if any(before is None for before in befores):
        return None
    ways = [way for step in places[0].tape.steps if step.number != a[0] for way in _ways(step)]
    named = [_by_factor(places, way, key, rests, [a]) for way, key in ways]
    if found := _plainest([(one,) for one in named if one is not None]):
        return found[-1][0]
    for key in keys:
        if key[0] != a[0] and all(at.explains(at.off(a, key)) for at in places):
            edit = places[0].edits[key]
            return Named(edit.what, edit.step, edit.words)
    return None


def _plainest(found: Sequence[tuple[Named, ...]]) -> list[tuple[Named, ...]]:
    """Return the plainest explanations: of a chain that is a constant, the last step of it."""
    for what in PLAIN:
        same = [one for one in found if one[0].what == what]
        if what in ("sum for mean", "mean for sum"):
            same = [one for one in same if one[0].step.name in ("mean", "sum", "var")] or same
        if same:
            last = max(same, key=lambda one: (not is_trivial(one[0].step), one[0].step.number))
            return [last] if what in ("constant", "branch") else [*same]
    return [*found]


def _plain(edit: Edit) -> tuple[int, bool, int]:
    """Return in which order edits are tried as one of two: the plainest first, and of a chain the last step."""
    place = PLAIN.index(edit.what) if edit.what in PLAIN else len(PLAIN)
    return place, is_trivial(edit.step), -edit.step.number
