"""From a subject to its points: the example, what is like it, other sizes, and what is drawn."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.domain import precision
from backprop_rules.strategies.point import FULL, NOTHING_KEPT, TORN_APART, Point
from backprop_rules.strategies.recipes import LAID_OUT, OUT_OF_ORDER, PLAN, ROWS, SOME, Recipe, recipes
from backprop_rules.strategies.sizes import (
    WHOLE_BLOCKS,
    Axis,
    Family,
    Label,
    Shape,
    Sizes,
    lengthened,
    sizes_of,
    small_shapes,
    together_longer,
)
from backprop_rules.strategies.values import (
    ALIKE,
    RANGES,
    SIGNED,
    cast_like,
    cotangents,
    drawn,
    have_a_meaning,
    is_ordered,
    keeps_all,
    laid_out,
    numbers_from,
)
from backprop_rules.subject.ambient import F32, F64, all_finite, inexact
from backprop_rules.subject.constants import constants_of
from backprop_rules.subject.function import NoAnswer, NoPoint, Outputs, cloned
from backprop_rules.subject.subject import Subject

PAST, BLOCKS = "larger than a block", "whole blocks"
TRIES = 4  # draws of values with zeros and ties, until all outputs are finite
BYTE = 256  # places that a byte tells apart
MANY = 1 << 16  # elements in one primal: more are no test of sizes
TORN = 8  # axes that are tried alone
LARGE = 20_000  # elements of an example, from which it is asked at few points, and at its own sizes alone


@dataclass(frozen=True, eq=False)
class Points:
    """The points of a subject: those of the plan, and those drawn, `count` of them, from a seed."""

    subject: Subject
    count: int
    seed: int
    asked: Mapping[int, Sequence[int]] = field(default_factory=dict)  # sizes to put in the place of the example's
    _outputs: dict[tuple[Shape | None, ...], Outputs] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Point]:
        """Yield the points on the own sizes, on others, past a kernel's blocks, and drawn.

        A large example is made small for most; where these pass, it is asked as it is, and in every layout.
        """
        subject = self.subject
        if subject.small is None:
            yield from self._planned(3 if subject.heavy else 8 if self.large else None)
            yield from self._others() if not self.large and not subject.heavy else ()
            return
        like = Points(
            replace(subject, example=subject.small, small=None), self.count, self.seed, self._asked_of_the_small
        )
        yield from like._planned(None)
        yield from like._others() if subject.any_sizes or self.asked else ()
        for full in self._at(PLAN[0], {}, FULL, self.seed):
            yield full
            for how in LAID_OUT:
                there = replace(full.mapped(partial(laid_out, how=how)), made=f"example, {how}", relaid=full)
                yield from [there] if there.out_of_order else ()

    @property
    def _asked_of_the_small(self) -> dict[int, Sequence[int]]:
        """What is asked for by the sizes of the example made small."""
        pairs = zip(self.subject.example, self.subject.small or (), strict=True)
        became = {n: m for x, y in pairs if isinstance(x, Tensor) for n, m in zip(x.shape, y.shape, strict=True)}
        return {became[n]: others for n, others in self.asked.items()}

    def _planned(self, count: int | None) -> Iterator[Point]:
        for k, recipe in enumerate(PLAN):
            if recipe.values == SOME and not any(map(keeps_all, self.subject.example)):
                continue
            if count is None or k < count or recipe.layout in ROWS:
                made = self._at(recipe, {}, "own", self.seed + k)
                # Of few axes some layouts are no others.
                yield from made if recipe not in OUT_OF_ORDER else (point for point in made if point.out_of_order)

    @property
    def large(self) -> bool:
        """Whether the example is too large to be asked at many points."""
        return sum(x.numel() for x in self.subject.example if isinstance(x, Tensor)) > LARGE

    def with_a_small_example(self) -> "Points":
        """Return the points of the subject with its example made small beside it, if it is large and both take that."""
        example, constants = self.subject.example, self.subject.constants
        # Numbers of the leaves that may be indices are made small as well, those of constants are not.
        mine = {int(x.max()) for x in example if isinstance(x, Tensor) and not inexact(x) and x.numel()}
        kept = replace(constants, largest=constants.largest - mine)
        others = Points(replace(self.subject, constants=kept), 0, self.seed)
        first: tuple[tuple[Any, ...], bool] | None = None
        for shapes, any_sizes in small_shapes(example) if self.large else ():
            if not others._allows(shapes):
                continue
            least = min(n for shape in shapes if shape for n in shape)
            made = self.leaves(Recipe((), "near"), shapes, self.seed)
            small = tuple(_like(x, e, least) for x, e in zip(made, example, strict=True))
            agrees = self._agrees(small)
            if agrees:
                return self._beside(small, any_sizes)
            first = first or ((small, any_sizes) if agrees is not None else None)
        # What is wrong at all of these is wrong at its own size as well, or meant for that alone.
        return self if first is None or self._agrees(example) else self._beside(*first)

    @property
    def _has_all_digits(self) -> bool:
        """Whether every primal may have numbers that no narrow dtype has: so may a cotangent."""
        return all(precision(x.dtype) >= precision(F32) for x in self.subject.example if inexact(x))

    def _beside(self, small: tuple[Any, ...], any_sizes: bool) -> "Points":
        there, constants = constants_of(self.subject.function, small), self.subject.constants
        both = replace(constants, read=there.read, largest=constants.largest | there.largest)
        return replace(self, subject=replace(self.subject, small=small, any_sizes=any_sizes, constants=both))

    def _agrees(self, leaves: Sequence[Any]) -> bool | None:
        """Say whether the backward roughly agrees with torch at these leaves, in their dtypes; None if one raises."""
        function, own = self.subject.function, tuple(cloned(leaves))

        try:
            run, grads = function.run(own, lambda y: tuple(map(cast_like, cotangents(y, "normal", self.seed), y)), None)
            found = self.subject.backward(function, grads, None, own, None)
        except NoAnswer:
            return None
        return all(t is None or is_near(g, t) for g, t in zip(found, run.gradients, strict=True))

    def _others(self) -> Iterator[Point]:
        """Yield the points of other sizes than the example's."""
        # Which sizes vary, a few runs of the forward tell.
        subject, sizes = self.subject, sizes_of(self.subject.example, self._runs)
        for size, n in ((size, n) for size, others in self.asked.items() for n in others):
            for values in ("normal", "integers"):
                yield from self._at(Recipe((), values), {size: n}, "asked for", self.seed + n, sizes)
        if subject.backward.bridge.compiles:
            yield from self._few(sizes)
            return
        yield from self._varied(sizes)
        for family in sizes.families:
            past = sizes.beside(family, family.past_a_block)
            strides = ("normal", "constant") if family is sizes.families[0] else ("normal",)  # the latter of stride 0
            for cotangent in strides:
                yield from self._at(Recipe((), "normal", "", cotangent), past, PAST, self.seed, sizes)
            yield from self._at(Recipe((), "normal"), sizes.beside(family, WHOLE_BLOCKS), BLOCKS, self.seed, sizes)
        for drawn_up in recipes(self.count, self.seed):
            changed = _of(sizes.families, drawn_up.sizes)
            # Of no elements a norm of 0, or the like, would show nowhere but in a gradient.
            recipe = replace(drawn_up, values="normal") if 0 in changed.values() else drawn_up
            yield from self._at(recipe, changed, _class_of(changed, sizes.base), recipe.seed, sizes)
        past = sizes.all_past_a_tile
        yield from self._at(Recipe((), "normal"), past, PAST, self.seed, sizes) if past else ()

    def _few(self, sizes: Sizes) -> Iterator[Point]:
        """Yield the points of two other shapes along the first size that varies: nothing, and past a block."""
        for family in sizes.families[:1]:
            yield from self._at(Recipe((), "normal"), family.at(0), "size 0", self.seed, sizes)
            yield from self._at(Recipe((), "normal"), sizes.beside(family, family.past_a_block), PAST, self.seed, sizes)

    def _runs(self, shapes: list[Shape | None]) -> tuple[Shape, ...] | None:
        if not self._allows(shapes):
            return None
        try:
            leaves = self.leaves(Recipe((), "near"), shapes, self.seed)
            return tuple(tuple(y.shape) for y in self.subject.function.y(leaves, F64))
        except NoPoint:
            return None

    @property
    def _own(self) -> list[Shape | None]:
        """The shapes of the example."""
        return [tuple(x.shape) if isinstance(x, Tensor) else None for x in self.subject.example]

    def _allows(self, shapes: Sequence[Shape | None]) -> bool:
        """Say whether these shapes may be tried: by what was asked for, forward's constants, and their elements."""
        if any(math.prod(max(n, 1) for n in shape or ()) > MANY for shape in shapes):
            return False
        pairs = ((a, b) for a, b in zip(self._own, shapes, strict=True) if a is not None and b is not None)
        sizes = {(m, n) for a, b in pairs for m, n in zip(a, b, strict=True)}
        asked = all(n == m or n in self.asked.get(m, (n,)) for m, n in sizes)
        return asked and all(self.subject.constants.allow(m, n) for m, n in sizes)

    def _comes_to_nothing(self, shapes: Sequence[Shape | None]) -> bool:
        """Say whether forward would make nothing there, too, if no axis were empty: it broadcasts one against none."""
        y = self._runs([None if shape is None else tuple(n or 1 for n in shape) for shape in shapes])
        return y is not None and all(0 in shape for shape in y)

    def _varied(self, sizes: Sizes) -> Iterator[Point]:
        """Yield the points where one size differs, where all are doubled, and where all that vary are equal."""
        every: dict[Label, int] = {label: 2 * n for label, n in sizes.base.items() if isinstance(label, int)}
        free = [family for family in sizes.families if family.size > 1]
        if every and free:
            yield from self._at(Recipe((), "normal"), every, "larger", self.seed, sizes)
        for k, family in enumerate(sizes.families):
            for n in (2 * family.size or 2, 3, 1, 0):
                if n == family.size or (n == 3 and family.size > 1):
                    continue
                where = {1: "size 1", 0: "size 0"}.get(n, "larger")
                for values in ("normal", "integers") if n else ("normal",):
                    recipe = Recipe((), values, "", values)
                    yield from self._at(recipe, family.at(n), where, self.seed + 31 * k + n, sizes)
        yield from self._torn_apart(sizes)
        if len(free) > 1:
            middle = sorted(family.size for family in free)[len(free) // 2]
            square = {label: n for family in free for label, n in family.at(middle).items()}
            yield from self._at(Recipe((), "normal"), square, "square", self.seed, sizes)

    def _torn_apart(self, sizes: Sizes) -> Iterator[Point]:
        """Yield points where an axis is longer than those that it equals, alone or with few others."""
        own = sizes.shapes({})
        torn: set[Axis] = set()
        tried: set[frozenset[Axis]] = set()
        for axis, groups in list(together_longer(own).items())[:TORN]:
            for axes in groups if axis not in torn else groups[:1]:  # one that is longer with others may be so alone
                longer = [] if axes in tried else [lengthened(own, axes, times) for times in (2, 3)]
                tried.add(axes)
                if longer and all(self._runs(shapes) is not None for shapes in longer):
                    torn |= axes
                    yield from self._at(Recipe((), "normal"), {}, TORN_APART, self.seed + axis[0], None, longer[0])
                    break

    def leaves(self, recipe: Recipe, shapes: Sequence[Shape | None], seed: int, within: str = RANGES[-1]) -> list[Any]:
        """Return leaves of these shapes, of the recipe's kind of values and layout, within a range."""
        numbers = numbers_from(seed)
        found = []
        constants = self.subject.constants
        for k, (like, shape) in enumerate(zip(self.subject.example, shapes, strict=True)):
            kept = k in constants.kept
            x = drawn(numbers, like, shape or (), recipe.values, within, constants.checked, kept)
            x = self._ending(x, like, shapes)
            x = x if kept else _with_extremes_past_a_byte(x, like)
            means = recipe.layout in ALIKE and (kept or not inexact(like) or have_a_meaning(like))
            x = x if means else laid_out(x, recipe.layout)
            found.append(x.to(like.device) if isinstance(x, Tensor) and like.device.type == "cuda" else x)
        return found

    def _ending(self, x: Any, like: Any, shapes: Sequence[Shape | None]) -> Any:
        """Return whole numbers in order that end at the size of an axis, as offsets do, where that is another one."""
        if not isinstance(x, Tensor) or inexact(x) or x.dtype == torch.bool or min(x.numel(), like.numel()) < 2:
            return x
        end = int(like.reshape(-1)[-1])
        pairs = ((a, b) for a, b in zip(self._own, shapes, strict=True) if a is not None and b is not None)
        became = {m for a, b in pairs for n, m in zip(a, b, strict=True) if n == end}
        if not is_ordered(like) or int(x[-1]) != end or end <= 0 or became == {end} or len(became) != 1:
            return x
        moved = x.long() * became.pop() // end
        if int(moved[-1]) > torch.iinfo(x.dtype).max:
            raise NoPoint("offsets that end at this size do not fit into their dtype")
        return moved.to(x.dtype)

    def _at(
        self,
        recipe: Recipe,
        changed: Mapping[Label, int],
        where: str,
        seed: int,
        sizes: Sizes | None = None,
        given: Sequence[Shape | None] | None = None,
    ) -> Iterator[Point]:
        """Yield the point of a recipe at some sizes, unless forward does not take it."""
        own = self._own
        shapes: Sequence[Shape | None] = given or (own if sizes is None or not changed else sizes.shapes(changed))
        if shapes != own and not self._allows(shapes):
            return
        found = self._taken(recipe, shapes, seed)
        if found is None:
            return
        leaves, y = found
        if shapes != own and not any(out.numel() for out in y) and self._comes_to_nothing(shapes):
            return
        if any(map(_are_others, leaves, self.subject.example)):
            where = NOTHING_KEPT
        words = [recipe.values, recipe.layout, where if where != "own" else ""]
        yield Point(
            tuple(leaves),
            cotangents(y, recipe.cotangent, seed, self._has_all_digits and recipe.values in ("example", "near")),
            self.subject.function.params,
            ", ".join(filter(None, words)),
            recipe.values,
            shapes == own and where != NOTHING_KEPT,
            where,
        )

    def _taken(self, recipe: Recipe, shapes: Sequence[Shape | None], seed: int) -> tuple[list[Any], Outputs] | None:
        """Return leaves that forward takes, and its outputs; of either sign, and finite, where that can be had."""
        key = tuple(shapes)
        known = self._outputs.get(key, ())
        if recipe.values not in SIGNED and known and all_finite(*known):  # their shapes alone count: no run is needed
            return self.leaves(recipe, shapes, seed), self._outputs[key]
        found = None
        for again in range(TRIES if recipe.values in SIGNED else 1):
            for within in RANGES if recipe.values in SIGNED else RANGES[-1:]:
                try:
                    leaves = self.leaves(recipe, shapes, seed + again * 7919, within)
                    y = self.subject.function.y(leaves, F64)
                except NoPoint:
                    continue
                self._outputs[key] = y
                if all_finite(*y):
                    return leaves, y
                found = found or ((leaves, y) if within == RANGES[-1] else None)
        return found


@dataclass(frozen=True, eq=False)
class InOrder:
    """The same points, with all arrays contiguous: of a backward that says so of its domain."""

    points: Iterable[Point]

    def __iter__(self) -> Iterator[Point]:
        """Yield the points that differ in more than how they lie in memory."""
        for point in self.points:
            if point.relaid is None:
                yield point.mapped(Tensor.contiguous)


def _are_others(x: Any, own: Any) -> bool:
    """Say whether whole numbers of the example's shape are others than these, in whatever order."""
    if not isinstance(x, Tensor) or inexact(x) or x.shape != own.shape:
        return False
    return not torch.equal(*(t.cpu().reshape(-1).sort().values for t in (x, own)))


def _like(x: Any, own: Any, count: int) -> Any:
    """Return values in the dtype of the example's; whole numbers as indices into so many."""
    if not isinstance(x, Tensor):
        return x
    if not inexact(x) and x.dtype != torch.bool and x.numel() and int(x.min()) >= 0:
        x = x.clamp(max=count - 1) if is_ordered(x) else x % count
    return x.to(own.dtype)


def is_near(got: Any, truth: Tensor) -> bool:
    """Say whether a gradient has the first half of its dtype's digits."""
    if not isinstance(got, Tensor) or got.shape != truth.shape or not truth.numel():
        return isinstance(got, Tensor) and got.shape == truth.shape
    return bool((got - truth).abs().amax() <= 2.0 ** (-precision(truth.dtype) / 2) * truth.abs().amax())


def _of(families: Sequence[Family], numbers: Sequence[int]) -> dict[Label, int]:
    """Return the sizes that a recipe's numbers stand for: most keep the example's."""
    changed: dict[Label, int] = {}
    for family, k in zip(families, numbers, strict=False):
        if k < len(family.others):
            changed.update(family.at(family.others[k]))
    return changed


def _class_of(changed: Mapping[Label, int], base: Mapping[Label, int]) -> str:
    if not any(n != base[label] for label, n in changed.items()):
        return "own"
    return "size 0" if 0 in changed.values() else "size 1" if 1 in changed.values() else "other sizes"


def _with_extremes_past_a_byte(x: Any, like: Any) -> Any:
    """Return numbers whose largest and smallest along an axis that became long lie where no byte counts to."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    long = [d for d, (n, own) in enumerate(zip(x.shape, like.shape, strict=True)) if own <= BYTE < n]
    if not long or have_a_meaning(like):
        return x
    for d in long:
        for place, extreme in ((-1, torch.max), (-2, torch.min)):
            most, where = extreme(x, d, keepdim=True)
            there = x.narrow(d, x.shape[d] + place, 1).clone()
            x = x.scatter(d, where, there)
            x.narrow(d, x.shape[d] + place, 1).copy_(most)
    return x
