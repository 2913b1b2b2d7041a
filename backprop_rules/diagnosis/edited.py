"""One point's tape under the knife: what each edit of a step changes in the gradients, seen along a few directions.

An edit changes a share by d; along a direction u of the primals the gradients change by the product of d with u's
tangent at the tensor that the share goes to. So no edit needs a way back of its own: one run forward along each
direction serves all of them, and pairs of edits besides.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, pairwise, starmap

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import Edit, Key, Turn, ways_of
from backprop_rules.diagnosis.left_out import left_out
from backprop_rules.diagnosis.other_numbers import NUMBER, Forward, corrected, with_another
from backprop_rules.diagnosis.other_values import other_values
from backprop_rules.diagnosis.several import ROUNDS, in_loops, other_sums, several, ways_to_primals
from backprop_rules.diagnosis.tape import JACOBIAN, UNMADE, Rows, Step, Tape, fitting
from backprop_rules.diagnosis.turned import CLIPPED, clipped, clippings, turned
from backprop_rules.diagnosis.wanted import Wanted, as_far
from backprop_rules.evidence.evidence import Evidence
from backprop_rules.strategies.values import numbers_from
from backprop_rules.subject.ambient import F64, all_finite, real

DIGITS = 2.0**-34  # to which an explanation must hold: more than chance gives, fewer than a backward in float64 has
LEAST = 2.0**-14  # of the largest gradient: what is smaller may be what is left of terms that cancel
EFFORT = 3000  # steps back for the loops of one point, or edits that are tried: it takes longer than the check else
KEPT = 1 << 16  # numbers of what is kept of a step for the next gradients
DIRECTIONS = 3  # of each gradient: one to see a change, one for a factor's size, one to check both


@dataclass(frozen=True, eq=False)
class Effects:
    """What comes back to the gradients on the ways of some edits, along each direction: as it is, and as it should.

    The first axis is that of the edits, the last that of the directions.
    """

    edits: Sequence[Edit]
    edited: Tensor
    right: Tensor

    @cached_property
    def change(self) -> Tensor:
        """By how much the gradients change."""
        return self.edited - self.right

    def __getitem__(self, some: Sequence[int]) -> "Effects":
        return Effects([self.edits[k] for k in some], self.edited[list(some)], self.right[list(some)])


class Edits:
    """All that can be done to the steps of a tape, whatever gradients it is held against."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._by_step: dict[int, dict[Key, Edit]] = {}
        self._back: dict[Key, Mapping[int, Tensor]] = {}

    @cached_property
    def cotangents(self) -> Rows:
        """The right ones, of every tensor."""
        return self.tape.changed({})

    @cached_property
    def every(self) -> dict[Key, Edit]:
        """All of them, by keys; first of all nothing, of which there are factors."""
        found = {key: edit for step in self.tape.steps for key, edit in self.of_step(step.number).items()}
        return {**found, **self.of_several_steps, **{edit.key: edit for edit in in_loops(self.tape, found)}}

    def of_step(self, n: int) -> dict[Key, Edit]:
        """Return those of one step."""
        if n not in self._by_step:
            step, tape = self.tape.steps[n], self.tape
            ways = (edit for way in ways_of(step) for edit in way.edits)
            families = (
                turned(step, n in tape.outputs),
                other_values(step, tape),
                other_sums(step, tape, self.cotangents),
            )
            self._by_step[n] = {edit.key: edit for edit in chain(ways, *map(_as_far_as_made, families))}
        return self._by_step[n]

    def back_turned(self, step: Step, turns: Mapping[Key, Turn], g: Tensor) -> Mapping[int, Tensor]:
        """Return what comes back through a step from cotangents that are turned, in each way: all at once.

        That of the right ones is the same for all gradients, and kept where it is small.
        """
        key = step.number, *turns
        if key in self._back and g is self.cotangents[step.number]:
            return self._back[key]
        rows = step.pulled(torch.cat([turn(g) for turn in turns.values()]))
        if g is self.cotangents.get(step.number) and sum(x.numel() for x in rows.values()) <= KEPT:
            self._back[key] = rows
        return rows

    @cached_property
    def of_several_steps(self) -> dict[Key, Edit]:
        """Those of which each concerns several."""
        ways = (edit for way in ways_to_primals(self.tape) for edit in way.edits)
        return {edit.key: edit for edit in chain(ways, several(self.tape, self.cotangents))}


class Edited:
    """A tape at a point, the gradients that somebody's backward gives there, and what edits would change in them.

    These are in float64, and right to as many digits, or `off` by as much as is allowed in another dtype.
    """

    def __init__(
        self,
        evidence: Evidence | None,
        edits: Edits,
        got: Sequence[Tensor],
        off: Sequence[Tensor] | None = None,
        share: float = 0.0,
        scales: Sequence[float] | None = None,
    ) -> None:
        self.evidence, self.tape, self.got, self.off, self._edits = evidence, edits.tape, got, off, edits
        self._under: dict[Key, Edited] = {}
        self.right = self.tape.gradients({})
        pairs = zip(got, self.right, strict=True)
        self._scales = scales or _scales([max(float(a.abs().max()), float(b.abs().max())) for a, b in pairs])
        ends = [0]
        for g in self.right:
            ends.append(ends[-1] + g.numel() * (2 if g.is_complex() else 1))
        self._blocks = [slice(a, b) for a, b in pairwise(ends)]
        self.target, right = self.vector(got), self.vector(self.right)
        within = torch.full_like(self.target, DIGITS) if off is None else self.vector(off)
        self.wanted = Wanted(self.target, right, within, share)
        self.wrong = self.target - right
        self._is_off = self.wrong.abs() > within
        self.bad = frozenset(k for k, b in enumerate(self._blocks) if bool(self._is_off[b].any()))

    @property
    def is_wrong(self) -> bool:
        """Whether some gradient is."""
        return bool(self.bad)

    def vector(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return gradients as one vector of real numbers, each of the order of 1."""
        return torch.cat([real(g / s).reshape(-1) for g, s in zip(gradients, self._scales, strict=True)])

    def parts(self, u: Tensor) -> list[Tensor]:
        """Return the gradients along which a vector's product with gradients is that with them: its transpose."""
        found = []
        for block, g, scale in zip(self._blocks, self.right, self._scales, strict=True):
            own = u[block] / scale
            found.append(torch.view_as_complex(own.reshape(*g.shape, 2)) if g.is_complex() else own.reshape(g.shape))
        return found

    @property
    def edits(self) -> dict[Key, Edit]:
        """All that can be done to the steps, by keys; first of all nothing, of which there are factors."""
        return self._edits.every

    def edit(self, key: Key) -> Edit:
        """Return an edit by its key; KeyError where there is none such."""
        if self._is_of_forward(key):
            return self._forward(key)[0]
        if not isinstance(key[0], int):
            return self._edits.of_several_steps[key]
        if key[-1][0] == CLIPPED:
            return clipped(self.tape.steps[key[0]], key[-1][1])
        return self.edits[key] if key[-1][0] in ROUNDS else self._edits.of_step(key[0])[key]

    @cached_property
    def forwards(self) -> dict[Key, Forward]:
        """Other forwards, by keys: without a step, with it in another place, over n - 1. Values change, too."""
        return {edit.key: (edit, tape) for edit, tape in chain(left_out(self.tape), corrected(self.tape))}

    def _is_of_forward(self, key: Key) -> bool:
        return key[-1][0] == NUMBER or key in self.forwards

    def _forward(self, key: Key) -> Forward:
        return with_another(self.tape, key) if key[-1][0] == NUMBER else self.forwards[key]

    def under(self, key: Key) -> "Edited":
        """Return the same of another forward; RuntimeError where there is none."""
        if key not in self._under:
            edits = Edits(self._forward(key)[1]())
            self._under[key] = Edited(self.evidence, edits, self.got, self.off, self.wanted.share, self._scales)
        return self._under[key]

    def gradients(self, keys: Sequence[Key]) -> Tensor | None:
        """Return the gradients under several edits, as a vector; None where they cannot be made."""
        try:
            if keys and self._is_of_forward(keys[0]):
                return self.under(keys[0]).gradients(keys[1:])
            edits = [self.edit(key) for key in keys]
            found = self.tape.gradients({at: share for edit in edits for at, share in edit.shares.items()})
        except UNMADE:
            return None
        return self.vector(found) if all_finite(*found) else None

    def is_right(self, gradients: Sequence[Tensor]) -> bool:
        """Say whether the steps give these gradients: whether they are all that there is."""
        return bool(((self.vector(gradients) - self.vector(self.right)).abs() <= DIGITS).all())

    def explains(self, gradients: Tensor | None) -> bool:
        """Say whether gradients are the backward's own."""
        return gradients is not None and self.wanted.is_explained_by(gradients)

    # Along directions.

    @cached_property
    def _directions(self) -> Rows:
        """Some for each gradient alone, of numbers of the order that makes every product with it one of 1."""
        own, rows = numbers_from(0), DIRECTIONS * len(self.right)
        found: Rows = {}
        for k, (n, x) in enumerate(self.tape.leaves.items()):
            some = torch.zeros(rows, *x.shape, dtype=x.dtype)
            part = slice(DIRECTIONS * k, DIRECTIONS * (k + 1))
            some[part] = torch.randn(some[part].shape, dtype=x.dtype, generator=own) / self._scales[k]
            found[n] = some
        if self.off is not None:  # where it is wrong, what is wrong is largest
            toward = self.parts(torch.where(self._is_off, self.wrong, 0.0))
            for k, (u, some) in enumerate(zip(toward, found.values(), strict=True)):
                some[DIRECTIONS * k] = u
        return found

    @cached_property
    def _tangents(self) -> dict[int, Tensor]:
        """The tangents as matrices, one row a direction."""
        return {n: _matrix(t) for n, t in self.tape.tangents(self._directions).items()}

    @property
    def _cotangents(self) -> Rows:
        return self._edits.cotangents

    @cached_property
    def seen(self) -> Tensor:
        """What is wrong, along each direction."""
        return self._seen(self.got)

    def _seen(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return by how much gradients differ from the right ones, along each direction."""
        pairs = zip(self._directions.values(), gradients, self.right, strict=True)
        return torch.stack([_matrix(u) @ real(a - b).reshape(-1) for u, a, b in pairs]).sum(0)

    @cached_property
    def reach(self) -> Tensor:
        """By how much what is seen along each direction may be off, where each element is as far off as it may be."""
        off = self.wanted.off if self.off is None else self.wanted.off + DIGITS  # sums in float64 round as well
        return self._reach_of(off).nan_to_num(math.inf)

    def _reach_of(self, off: Tensor) -> Tensor:
        blocks = zip(self._directions.values(), self._blocks, self._scales, strict=True)
        return torch.stack([_matrix(u).abs() @ (off[b] * s) for u, b, s in blocks]).sum(0)

    def seen_along_directions(self) -> list[tuple[Edit, float, bool]]:
        """Return each edit, the factor with which it agrees with what is seen, NaN if none does, and whether 1 does."""
        found = self.effects
        larger = (found.edited.abs() / found.right.abs().clamp_min(torch.finfo(F64).tiny)).amax(-1, keepdim=True)
        reach = as_far(self.reach, larger, self._reach_of(torch.full_like(self.target, self.wanted.share)))
        fits = ((found.change - self.seen).abs() <= reach).all(-1).tolist()
        scales = factors(found.edited, self.seen + found.right, self.reach).tolist()
        return list(zip(found.edits, scales, fits, strict=True))

    @cached_property
    def effects(self) -> Effects:
        """What each edit changes, but for those that cannot be made, or give what is not finite."""
        known = [edit for edit in self.edits.values() if self._cotangents.keys() >= {*edit.numbers}]
        loops = sum(edit.chained for edit in known) * len(self.tape.steps) <= EFFORT  # each is a whole way back
        some = [edit for edit in known if loops or not edit.chained]
        some = sorted(some, key=lambda edit: edit.numbers if len(edit.numbers) == 1 else ())  # step by step
        every = self.along(some, self._cotangents)
        every = Effects(every.edits, every.edited[:, 0], every.right[:, 0])
        fine = (every.edited.isfinite() & every.right.isfinite()).all(-1)
        return every[torch.nonzero(fine).flatten().tolist()]

    def along(self, edits: Sequence[Edit], cotangents: Rows) -> Effects:
        """Return what edits make of cotangents, one a row, along the second axis; without those not to be made."""
        turns: dict[int, dict[Key, Turn]] = defaultdict(dict)
        for edit in edits:
            if edit.turn is not None:
                turns[edit.step.number][edit.key[-1]] = edit.turn

        @cache
        def right(n: int, p: int) -> Tensor:
            return self._along(n, p, self.tape.steps[n].pulled(cotangents[n])[p])

        @cache
        def turned(n: int) -> Mapping[tuple[Key, int], Tensor]:
            rows = self._edits.back_turned(self.tape.steps[n], turns[n], cotangents[n])
            each = {p: self._along(n, p, x).unflatten(0, (len(turns[n]), -1)) for p, x in rows.items()}
            return {(key, p): x[k] for p, x in each.items() for k, key in enumerate(turns[n])}

        def changed(edit: Edit, n: int, p: int) -> Tensor:
            if edit.turn is not None:
                return turned(n)[edit.key[-1], p]
            return self._along(n, p, fitting(edit.shares[n, p](cotangents[n]), self.tape.steps[n].args[p]))

        found: list[tuple[Edit, Tensor, Tensor]] = []
        for edit in edits:
            with suppress(*UNMADE):
                if edit.chained:
                    change = self._seen(self.tape.gradients(edit.shares))[None]
                    found.append((edit, change, torch.zeros_like(change)))
                else:
                    made = _total(changed(edit, *at) for at in edit.shares)
                    found.append((edit, made, _total(starmap(right, edit.shares))))
        if not found:
            raise RuntimeError("none can be made")
        some, edited, rights = zip(*found, strict=True)
        return Effects(some, torch.stack(edited), torch.stack(rights))

    def _along(self, n: int, p: int, share: Tensor) -> Tensor:
        """Return what shares of an argument of a step, one a row, make of the gradients along each direction."""
        source = self.tape.steps[n].sources.get(p)
        if source not in self._tangents:
            return torch.zeros(len(share), DIRECTIONS * len(self.right), dtype=torch.float64)
        return _matrix(share) @ self._tangents[source].T

    def clipped(self) -> Iterator[Key]:
        """Yield the outputs whose cotangent was clipped, by the edits' keys: the bound is what would explain it."""
        for step in (self.tape.steps[n] for n in self.tape.outputs if n >= 0):
            g = self.tape.outputs[step.number][0]
            if g.is_complex() or g.numel() ** 2 > JACOBIAN or not self._cotangents[step.number].equal(g[None]):
                continue
            stays, signs, sizes = clippings(g)
            ones = [self._sum_along(step, rows) for rows in (stays, signs, g[None])]
            wanted = self.seen + ones[2] - ones[0]
            bounds = factors(ones[1], wanted, self.reach).tolist()
            for low, high, bound in zip(sizes[:-1].tolist(), sizes[1:].tolist(), bounds, strict=False):
                if low <= bound <= high:
                    yield step.number, step.live, (CLIPPED, round(bound, 9))

    def _sum_along(self, step: Step, g: Tensor) -> Tensor:
        return _total(self._along(step.number, p, share) for p, share in step.pulled(g).items())

    def cotangents_beside(self, edits: Sequence[Edit]) -> tuple[Rows, Rows]:
        """Return the cotangents of every tensor under each of some edits, one a row, and by how much they change."""
        start: Rows = {}
        right = {n: self.tape.steps[n].pulled(self._cotangents[n]) for edit in edits for n in edit.numbers}
        for k, edit in enumerate(edits):
            for (n, p), share in () if edit.chained else edit.shares.items():
                source = self.tape.steps[n].sources.get(p)
                if source is not None:
                    own = right[n][p]
                    rows = start.setdefault(source, own.new_zeros(len(edits), *own.shape[1:]))
                    rows[k] += (share(self._cotangents[n]) - own)[0]
        changes = self.tape.cotangents(start)
        for k, edit in enumerate(edits):
            if edit.chained:
                for n, g in self.tape.changed(edit.shares).items():
                    changes.setdefault(n, g.new_zeros(len(edits), *g.shape[1:]))[k] = (g - self._cotangents[n])[0]
        return {n: self._cotangents[n] + d for n, d in changes.items() if n in self._cotangents}, changes


def _scales(sizes: Sequence[float]) -> list[float]:
    """Return what gradients are measured by: their sizes, or of one that is all rounding a part of the largest's."""
    least = LEAST * max(sizes, default=0.0)
    return [max(size, least) or 1.0 for size in sizes]


def _as_far_as_made(edits: Iterator[Edit]) -> Iterator[Edit]:
    """Yield edits until one cannot be made: a function may refuse the arguments that an edit would give it."""
    try:
        yield from edits
    except UNMADE:
        return


def factors(edited: Tensor, wanted: Tensor, reach: Tensor) -> Tensor:
    """Return the factor that makes of what comes back what is wanted, row by row; NaN where none does."""
    c = (edited * wanted).sum(-1) / (edited * edited).sum(-1)
    good = ((c[..., None] * edited - wanted).abs() <= reach).all(-1) & (edited.abs().amax(-1) > DIGITS)
    return torch.where(good, c, math.nan)


def _total(some: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, of which there is one mostly."""
    first, *others = some
    return sum(others, start=first)


def _matrix(x: Tensor) -> Tensor:
    """Return rows of tensors as rows of real numbers."""
    return real(x).reshape(len(x), -1)
