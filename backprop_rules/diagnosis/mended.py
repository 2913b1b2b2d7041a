"""The smallest change of one step of somebody's backward that makes its gradients right, in words.

A step's result v that is v' instead moves the gradients, to first order, by the sensitivity to v times v' - v: a change
is tried where that is what is missing, along every direction, and told where the backward is right at every point when
it is run with it. It is one of these, for a number c that is the same everywhere, or, of the first, a size:

    c v        c v w        c v / w        v + c w        c times the same step of another argument, or another one

In a loop one round's change meets the next one's: only what depends on one round is asked for then, or, where that is
right, on two: there is nothing to change in the first of these.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.changes import (
    Change,
    Form,
    Make,
    Source,
    alone,
    forms,
    of_rounds,
    product,
    sources,
    with_another_tensor,
)
from backprop_rules.diagnosis.edited import DIGITS, Edited
from backprop_rules.diagnosis.factor import of_a_size
from backprop_rules.diagnosis.followed import Followed, Site, in_words, is_readable
from backprop_rules.diagnosis.mistake import Mistake
from backprop_rules.diagnosis.tape import UNMADE, Rows, Step
from backprop_rules.layout import reaches
from backprop_rules.subject.backward import Misfit, Raised

STEPS = 400  # of a backward, at sites: more take longer than the check else
PLACES = 4  # at which a change must make the backward right
TRIED = 24  # changes that are put in
EFFORT = 6_000  # steps that are taken again to see on which rounds of a loop gradients depend
# Numbers that a factor may be a fraction of.
CONSTANTS = {
    "": 1.0, "π": math.pi, "ln 2": math.log(2), "ln 10": math.log(10), "√2": 2**0.5, "√π": math.pi**0.5,
    "√(2π)": (2 * math.pi) ** 0.5,
}  # fmt: skip
# Why a change cannot be made: its shapes do not fit, or its function does not take it.
UNFIT = (*UNMADE, AttributeError)


def mended(places: Sequence[Edited]) -> Mistake | None:
    """Return the plainest change with which the backward is right at every point, None if none is seen."""
    try:
        return _mended([*map(Followed, places[:PLACES])])
    except (Raised, Misfit, *UNFIT):
        return None


def _mended(calls: Sequence[Followed]) -> Mistake | None:
    if any(sum(map(len, call.by_site.values())) > STEPS for call in calls):
        return None
    wrong = [call for call in calls if bool((call.missing.abs() > DIGITS).any())]
    if len(wrong) < 2:
        return None
    for seen in (_at_once(wrong[0]), _in_a_round(wrong[0])):
        some = sorted(seen, key=lambda one: one.rank)[:TRIED]
        told = [words for one in some if (words := one.told(wrong, calls)) is not None]
        if told:
            return _mistake_of(told)
    return None


def _mistake_of(told: Sequence[tuple[str, str]]) -> Mistake:
    name, words = told[0]
    more = len(dict.fromkeys(told)) - 1
    beside = f", or what has the same effect: {more} other change{'s' * (more > 1)}" if more else ""
    return Mistake(name, f"{words}{beside}")


@dataclass(frozen=True, eq=False)
class _Seen:
    """A change that gives what is missing at a point, at a site, with a number."""

    change: Change
    site: Site
    step: Step
    c: float

    @property
    def rank(self) -> int:
        """How plain it is: without a number, with a plain one, or with any."""
        alone = self.c == 1 or (self.change.rank == 0 and self.c == -1)
        return self.change.rank + (0 if alone else 2 if _plain(self.c) else 4)

    def told(self, wrong: Sequence[Followed], calls: Sequence[Followed]) -> tuple[str, str] | None:
        """Return a name and words if the backward is right with it everywhere; also with a number that is a size."""
        step, change, c = self.step, self.change, self.c
        if all(self._mends(call, c) for call in calls):
            return self._in_words()
        if change.rank:
            return None
        others = [_At(call, self.site, *call.at_once).number(_itself) for call in wrong]
        numbers = [x for x in others if x is not None]
        differ = len(numbers) == len(calls) and max(numbers) - min(numbers) > DIGITS * abs(numbers[0])
        if not (differ and all(map(self._mends, calls, numbers))):
            return None
        size = of_a_size(numbers, [call.at for call in wrong], ())
        return None if size is None else (size[0], f"{in_words(step)} is to be {size[2]} times as large")

    def _mends(self, call: Followed, c: float) -> bool:
        try:
            found = call.with_another(self.site, partial(self.change.make, c, call))
        except UNFIT:
            return False
        right = call.at.vector(call.at.right)
        return found.shape == right.shape and bool(((found - right).abs() <= DIGITS).all())

    def _in_words(self) -> tuple[str, str]:
        c, told = self.c, in_words(self.step)
        number = _plain(c) or f"{c:.6g}"
        if self.change.rank:
            words = self.change.words.replace("{step}", told)
            times = "" if c == 1 else ", of the other sign" if c == -1 else f", times {number}"
            return self.change.name, words + times
        if c == 0:
            return "term too many", f"{told} is to be left out, as if it were 0"
        if c == -1:
            return "sign", f"{told} is of the wrong sign"
        return f"factor {_plain(1 / c) or f'{1 / c:.6g}'}", f"{told} is to be {number} times as large"


class _At:
    """A site at a point: what is missing along some directions, and the sensitivities of these sums to its results."""

    def __init__(self, call: Followed, site: Site, wanted: Tensor, along: Rows) -> None:
        self.call, self.site, self.wanted = call, site, wanted
        every = call.by_site.get(site, [])
        self.rounds = [(k, step, along[step.number]) for k, step in enumerate(every) if step.number in along]
        self.step = every[0] if every else None

    @cached_property
    def own(self) -> Tensor:
        """The sums with the results as they are."""
        return self._sums([step.result for _, step, _ in self.rounds])

    def _sums(self, made: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(self.wanted)
        for (_, step, s), x in zip(self.rounds, made, strict=True):
            if x.shape != step.result.shape:
                raise RuntimeError("of another shape")
            total += (s.reshape(len(s), -1) @ x.reshape(-1).to(s.dtype)).real
        return total

    def number(self, make: Make) -> float | None:
        """Return the c for which c times what is made gives what is missing; None if there is none."""
        if not self.rounds:
            return None
        try:
            made = self._sums([make(self.call, step, k) for k, step, _ in self.rounds])
        except UNFIT:
            return None
        return _number(made.tolist(), (self.wanted + self.own).tolist())

    def beside(self, at_hand: Sequence[Source]) -> tuple[list[Source], list[tuple[Tensor, Tensor]]]:
        """Return those of some tensors that fit, and by round their numbers, one a row, beside which of them there are.

        In a round that has none of them the step stays as it is.
        """
        rows: dict[Source, list[Tensor | None]] = {source: [] for source in at_hand}
        for k, step, _ in self.rounds:
            for source in [*rows]:
                w = source.at(self.call, k, step.result)
                if w is None:
                    rows[source].append(None)
                elif reaches(w, step.result):
                    rows[source].append(w.expand(step.result.shape).reshape(-1))
                else:
                    del rows[source]
        found = []
        for n, (_, step, _) in enumerate(self.rounds):
            none = torch.zeros(step.result.numel(), dtype=step.result.dtype)
            some = [none if ws[n] is None else ws[n] for ws in rows.values()]
            there = torch.tensor([ws[n] is not None for ws in rows.values()])
            found.append((torch.stack([w for w in some if w is not None]) if some else none[None], there))
        return [*rows], found

    def with_others(self, form: Form, beside: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """Return for each tensor beside this site the number with which a form gives what is missing, NaN if none."""
        made: Tensor | float = 0.0
        wanted: Tensor | float = self.wanted
        for (_, step, s), (numbers, there) in zip(self.rounds, beside, strict=True):
            try:
                a, b = form.parts(step)
                to_a = (s * a).expand(len(s), *step.result.shape).reshape(len(s), -1)
                own = (s * (step.result - b)).reshape(len(s), -1).sum(-1).real
            except UNFIT:
                return []
            made = made + (form.factor(numbers).to(to_a.dtype) @ to_a.mT).real * there[:, None].double()
            wanted = wanted + own * there[:, None].double()
        assert isinstance(made, Tensor)
        return _numbers(made, wanted) if isinstance(wanted, Tensor) else []

    def products(self, fitting: Sequence[Source], numbers: Tensor) -> Iterator[tuple[Source, Source]]:
        """Yield pairs of tensors whose product is what is missing from a gradient."""
        ((_, step, s),) = self.rounds
        w = numbers.to(step.result.dtype)
        found = torch.stack([(w * u) @ w.mT for u in s.reshape(len(s), -1)]).real
        wanted = self.wanted[:, None, None]
        pairs = ((found - wanted).abs() <= DIGITS * (found.abs() + wanted.abs())).all(0).triu(1)
        for i, j in torch.nonzero(pairs).tolist():
            if not (fitting[i].mask or fitting[j].mask):
                yield fitting[i], fitting[j]


def _at_once(call: Followed) -> Iterator[_Seen]:
    """Yield the changes that give what is missing, to first order, along every direction."""
    at_hand = sources(call)
    for site in call.by_site:
        yield from _of_a_site(_At(call, site, *call.at_once), at_hand)


def _in_a_round(call: Followed) -> Iterator[_Seen]:
    """Yield the changes in loops that give what is missing where it depends on the fewest rounds."""
    at_hand = [other for source in sources(call) for other in of_rounds(call, source)]
    left = EFFORT
    for site, steps in reversed(call.by_site.items()):  # the way back is the last loop
        if len(steps) < 2 or not is_readable(steps[0].result):
            continue
        left -= len(steps) * len(call.steps)
        if left < 0:
            return
        try:
            count, off = call.of_rounds(site), call.missing.abs() > DIGITS
        except UNFIT:  # a function that does not take what is not known
            continue
        least = next((n for n in (1, 2) if bool(off[count == n].any())), None)
        if least:
            yield from _of_a_site(_At(call, site, *call.sensitivities(count == least)), at_hand)


def _of_a_site(at: _At, at_hand: Sequence[Source]) -> Iterator[_Seen]:
    step = at.step
    if not at.rounds or step is None:
        return
    some = [source for source in at_hand if source.site != at.site]
    c = at.number(_itself)
    if c is not None:
        yield _Seen(Change(0, "factor", "", partial(_c_times, _itself)), at.site, step, c)
    fitting, beside = at.beside(some)
    for form in forms(step) if fitting else ():
        for source, c in zip(fitting, at.with_others(form, beside), strict=False):
            if c == 1 or (c and math.isfinite(c) and _plain(c) and not source.mask):
                yield _Seen(with_another_tensor(form, source), at.site, step, c)
    for rank, name, words, make in alone(at.call, step, some):
        c = at.number(make)
        if c:
            yield _Seen(Change(rank, name, words, partial(_c_times, make)), at.site, step, c)
    if not step.line:
        for one, two in at.products(fitting, beside[0][0]):
            yield _Seen(product(one, two), at.site, step, 1.0)


def _itself(call: Followed, step: Step, k: int) -> Tensor:
    return step.result


def _c_times(make: Make, c: float, call: Followed, step: Step, k: int) -> Tensor:
    return c * make(call, step, k)


def _number(made: Sequence[float], wanted: Sequence[float]) -> float | None:
    """Return the c for which c made is what is wanted along every direction, None if there is none."""
    squares = sum(x * x for x in made)
    if not squares or not math.isfinite(squares):
        return None
    c = sum(x * y for x, y in zip(made, wanted, strict=True)) / squares
    size = max(1.0, abs(c))
    c = round(c) if abs(c - round(c)) <= DIGITS * size else c
    near = (abs(c * x - y) <= DIGITS * (abs(x) * size + abs(y)) for x, y in zip(made, wanted, strict=True))
    return float(c) if all(near) else None


def _numbers(made: Tensor, wanted: Tensor) -> list[float]:
    """Return the same for each row, NaN where there is none: of one row that takes ten times as long."""
    c = (made * wanted).sum(1) / (made * made).sum(1)
    size = c.abs().clamp_min(1.0)
    near = (c[:, None] * made - wanted).abs() <= DIGITS * (made.abs() * size[:, None] + wanted.abs())
    whole = c.round()
    c = torch.where((c - whole).abs() <= DIGITS * size, whole, c)
    return torch.where(near.all(1), c, math.nan).tolist()


def _plain(c: float) -> str:
    """Return a number as a fraction of a constant, "" where it is none."""
    for name, constant in CONSTANTS.items():
        for inverse in (False, True) if name else (False,):
            value = Fraction(c * constant if inverse else c / constant).limit_denominator(64)
            if value and abs(float(value) * (1 / constant if inverse else constant) - c) <= DIGITS * abs(c):
                return f"{value}" if not name else f"{value} / {name}" if inverse else f"{value} {name}"
    return ""
