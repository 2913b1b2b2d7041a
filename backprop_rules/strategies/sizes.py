"""Which sizes of an example can vary, and which of them together."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

# Kernels read blocks of up to 256 elements: past that, and no multiple of any block. What is even stays even.
PAST_A_BLOCK, PAST_A_BLOCK_EVEN = 259, 260
# A whole number of all of these: kernels read such rows by a path of their own, several numbers at a time.
WHOLE_BLOCKS = 256
# Where all axes are longer than a tile at once, each is at most so long, and all together have so many elements.
PAST_A_TILE, ELEMENTS = 131, 1 << 19
BLOCKS = (16, 64)  # of which kernels take multiples alone
DISTINCT = 6  # sizes that are varied one by one

Label = int | tuple[str, int]
Shape = tuple[int, ...]
Axis = tuple[int, int]  # the number of a leaf, and that of one of its axes
Outcome = tuple[Shape, ...] | None  # the shapes of the outputs, None where forward does not take it


@dataclass(frozen=True)
class Family:
    """A size that can vary, and those that vary with it: its multiples, where forward takes it no other way."""

    label: Label
    size: int
    ratios: tuple[tuple[Label, int], ...]

    def at(self, n: int) -> dict[Label, int]:
        """Return the sizes where this one is n."""
        return {label: n * ratio for label, ratio in self.ratios}

    @property
    def past_a_block(self) -> int:
        """A size that no kernel reads as a whole number of blocks, nor in one."""
        return PAST_A_BLOCK if self.size % 2 and self.size > 1 else PAST_A_BLOCK_EVEN

    @property
    def others(self) -> tuple[int, ...]:
        """Sizes to try, the plainest first: what is even stays even, but for one and nothing."""
        own = (2, 3, 5, 1, 0) if self.size % 2 else (2, 4, 6, 10, 1, 0)
        return tuple(n for n in own if n != self.size)


@dataclass(frozen=True)
class Sizes:
    """The axes of the example by label: equal sizes have one label, and so have ones at the same place."""

    labels: tuple[tuple[Label, ...] | None, ...]
    base: Mapping[Label, int]
    families: tuple[Family, ...]

    def shapes(self, changed: Mapping[Label, int]) -> list[Shape | None]:
        """Return the shapes of the leaves where some sizes are changed."""
        sizes = {**self.base, **changed}
        return [None if own is None else tuple(sizes[label] for label in own) for own in self.labels]

    def beside(self, family: Family, n: int) -> dict[Label, int]:
        """Return the sizes where that of a family is n, and the others are small where they are free."""
        small = {
            label: two
            for other in self.families
            if other.label != family.label and other.size > 2 and len(other.ratios) == 1
            for label, two in other.at(2).items()
        }
        return {**small, **family.at(n)}

    @property
    def all_past_a_tile(self) -> dict[Label, int]:
        """The sizes where all that vary are longer than a kernel's tiles, and none as long as another; none of one."""
        free = [family for family in self.families if family.size > 1]
        longest = min(PAST_A_TILE, int(ELEMENTS ** (1 / len(free)))) if len(free) > 1 else 0
        found: dict[Label, int] = {}
        for k, family in enumerate(free if longest else ()):
            n = longest - 2 * k
            found.update(family.at(n - (n - family.size) % 2))
        return found


def _fixed(example: Sequence[Any]) -> Sizes:
    """Return the axes of an example, none of which varies: labelled by size, ones by the place from the right."""
    labels = tuple(
        tuple(n if n != 1 else ("one", x.dim() - d) for d, n in enumerate(x.shape)) if isinstance(x, Tensor) else None
        for x in example
    )
    pairs = [(own, x.shape) for own, x in zip(labels, example, strict=True) if own is not None]
    return Sizes(labels, {label: n for own, shape in pairs for label, n in zip(own, shape, strict=True)}, ())


def sizes_of(example: Sequence[Any], runs: Callable[[list[Shape | None]], Outcome]) -> Sizes:
    """Return which sizes vary: `runs` says what forward makes of leaves of some shapes.

    An axis varies only where forward takes twice its size. Axes of one vary only where they are no broadcast ones:
    where forward takes any size there.
    """
    fixed = _fixed(example)
    base = fixed.base
    families: list[Family] = []
    for size in sorted(s for s in base if isinstance(s, int) and s > 1)[:DISTINCT]:
        families += _family(fixed, size, runs)
    if base.get(0) == 0 and runs(fixed.shapes({0: 2})) is not None:
        families.append(Family(0, 0, ((0, 1),)))
    for label in [s for s in base if isinstance(s, tuple)][:DISTINCT]:
        # Against an axis of another size it could not take both of these.
        if all(runs(fixed.shapes({label: n})) is not None for n in (2, 3, 5)):
            families.append(Family(label, 1, ((label, 1),)))
    return replace(fixed, families=tuple(families))


def _family(sizes: Sizes, label: Label, runs: Callable[[list[Shape | None]], Outcome]) -> list[Family]:
    size = sizes.base[label]
    multiples = [
        (other, n // size) for other, n in sizes.base.items() if isinstance(other, int) and n and n % size == 0
    ]
    for ratios in ([(label, 1)], multiples):
        family = Family(label, size, tuple(ratios))
        if runs(sizes.shapes(family.at(2 * size))) is not None:
            return [family]
    return []


def together_longer(shapes: Sequence[Shape | None]) -> dict[Axis, list[frozenset[Axis]]]:
    """Return for each axis that others equal which are to be longer than the rest of these: fewest first.

    Itself alone; with those in its place, from the right or the left, as arguments have that are broadcast; and with
    one other, as two that are summed over together.
    """
    every = {(k, d): n for k, shape in enumerate(shapes) for d, n in enumerate(shape or ()) if n > 1}
    found = {}
    for (k, d), n in every.items():
        equal = [axis for axis, m in every.items() if m == n]
        if len(equal) < 2:
            continue
        place, there = d - len(shapes[k] or ()), {(j, e): e - len(shapes[j] or ()) for j, e in equal}
        from_right = frozenset(axis for axis in equal if there[axis] == place)
        from_left = frozenset((j, e) for j, e in equal if e == d)
        pairs = [frozenset({(k, d), other}) for other in equal]
        several = [frozenset({(k, d)}), from_right, from_left, *pairs]
        found[k, d] = [axes for axes in dict.fromkeys(several) if len(axes) < len(equal)]
    return found


def lengthened(shapes: Sequence[Shape | None], axes: Collection[Axis], times: int) -> list[Shape | None]:
    """Return the shapes with these axes so many times as long."""
    return [
        None if shape is None else tuple(n * times if (k, d) in axes else n for d, n in enumerate(shape))
        for k, shape in enumerate(shapes)
    ]


def small_shapes(example: Sequence[Any]) -> Iterator[tuple[list[Shape | None], bool]]:
    """Yield small shapes like the example's, with all sizes apart as there; and whether they are of any sizes.

    What is at most 4 stays: a width of three, or a pair. If forward or backward takes no odd sizes, even ones follow,
    multiples of a block, and what keeps the proportions; and one size alone, where others are those of a constant.
    """
    sizes = _fixed(example)
    long = sorted(n for n in sizes.base if isinstance(n, int) and n > 4)
    yield sizes.shapes({n: k + 5 for k, n in enumerate(long)}), True
    yield sizes.shapes({n: 2 * k + 6 for k, n in enumerate(long)}), True
    for block in BLOCKS:
        yield sizes.shapes({n: min(n, block * (k + 1)) for k, n in enumerate(long)}), False
    shift = max(0, max(long, default=1).bit_length() - BLOCKS[0].bit_length())
    yield sizes.shapes({n: max(n >> shift, 2) for n in long}), False
    for n in reversed(long):
        yield sizes.shapes({n: 5}), True
