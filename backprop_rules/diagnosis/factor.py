"""What a factor is that a derivative is off by: a number, or a size, by its value at points of several sizes."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, permutations

from backprop_rules.diagnosis.edited import DIGITS, Edited
from backprop_rules.diagnosis.tape import Step
from backprop_rules.diagnosis.wanted import Factor

SUMS = ("mean", "sum", "var", "std")
SIGN = "sign", "the sign of {way} is wrong", "-1"
SIMPLE = {2.0: "2", 0.5: "1/2", -2.0: "-2"}
FEW = 4  # up to which a factor is a number, where it may be a size as well


def factor_in_words(
    scales: Sequence[float], places: Sequence[Edited], steps: Sequence[Step]
) -> tuple[str, str, str] | None:
    """Return what a factor is, by its value at every point: a number, or a size; None for one that is 1, or nothing."""
    if not scales or all(abs(c - 1) <= DIGITS for c in scales):
        return None
    if all(abs(c + 1) <= DIGITS for c in scales):
        return SIGN
    c = scales[0]
    if max(scales) - min(scales) <= DIGITS * abs(c):
        value = Fraction(c).limit_denominator(64)
        if abs(float(value) - c) <= DIGITS * abs(c):
            # Sizes that are the same everywhere look like a number, and few people write a large one.
            large = value != 0 and max(abs(value), 1 / abs(value)) > FEW
            size = of_a_size(scales, places, steps) if large else None
            told = f"{value}, {size[2]}," if size else str(value)
            what = size[0] if size and steps and steps[0].name in SUMS else "factor"
            return what, f"{{way}} is {told} times what it should be", str(value)
    return of_a_size(scales, places, steps)


def roughly_in_words(found: Factor, places: Sequence[Edited], steps: Sequence[Step]) -> tuple[str, str, str] | None:
    """Return the same within how far it may be off: a simple number, what is made of a size, or its digits."""
    c, off, numbers = found
    if min(abs(c - 1), abs(c + 1)) <= off:
        return None if c > 0 else SIGN
    simple = next((words for value, words in SIMPLE.items() if abs(c - value) <= off), "")
    if not simple and (size := of_a_size([c], places[:1], steps, off / abs(c))):
        return size
    digits = max(4, 2 + math.ceil(-math.log10(abs(c - 1))))  # so many that it is no 1
    told = simple or (f"{c:.{digits}g}" if numbers > 1 else "")
    return ("factor", f"{{way}} is off by the factor {told}", told) if told else None


def of_a_size(
    scales: Sequence[float], places: Sequence[Edited], steps: Sequence[Step], within: float = DIGITS
) -> tuple[str, str, str] | None:
    """Return the same for what is made of a size, but for a share of it; None for a factor that is not."""
    for name, sizes, forms in _sizes(places, steps):
        for what, words, of in forms:
            if all(abs(c - of(n)) <= within * abs(c) for c, n in zip(scales, sizes, strict=True)):
                size = words.replace("{n}", name)
                return what, f"{{way}} is off by the factor {size}", size
    return None


# What a factor may be of a size, or of the ratio of two, which come both ways.
Form = tuple[str, str, Callable[[float], float]]
OF_A_RATIO: tuple[Form, ...] = (("sum for mean", "{n}", lambda n: n), ("factor", "the root of ({n})", lambda n: n**0.5))
OF_A_SIZE: tuple[Form, ...] = (
    OF_A_RATIO[0],
    ("mean for sum", "1 / {n}", lambda n: 1 / n),
    ("factor", "the root of {n}", lambda n: n**0.5),
    ("factor", "1 / the root of {n}", lambda n: n**-0.5),
    ("factor", "n / (n - 1), n being {n}", lambda n: n / (n - 1) if n > 1 else math.inf),
    ("factor", "(n - 1) / n, n being {n}", lambda n: (n - 1) / n),
)


def _sizes(places: Sequence[Edited], steps: Sequence[Step]) -> Iterator[tuple[str, list[float], tuple[Form, ...]]]:
    """Yield the sizes that a factor may be, by name: of axes, of all but one, and of their products and ratios."""
    named = [(name, [at.tape.leaves[n] for at in places]) for n, name in places[0].tape.names.items()]
    named += [(step.told, [at.tape.steps[step.number].result for at in places]) for step in steps]
    named = [(name, these) for name, these in named if len({x.ndim for x in these}) == 1]
    axes = [
        (f"the size of axis {d} of {name}", [float(x.shape[d]) for x in these])
        for name, these in named
        for d in range(these[0].ndim)
    ]
    yield from ((name, sizes, OF_A_SIZE) for name, sizes in axes)
    for name, these in named:
        yield f"the number of elements of {name}", [float(x.numel()) for x in these], OF_A_SIZE
    for (a, m), (b, k) in combinations(axes, 2):
        yield f"the product of {a} and {b}", [x * y for x, y in zip(m, k, strict=True)], OF_A_SIZE
    for (a, m), (b, k) in permutations(axes, 2):
        yield f"({a}) / ({b})", [x / y for x, y in zip(m, k, strict=True)], OF_A_RATIO
    for name, these in named:
        for d in range(these[0].ndim):
            sizes = [x.numel() / x.shape[d] for x in these]
            yield f"the number of elements of {name} but for axis {d}", sizes, OF_A_SIZE
