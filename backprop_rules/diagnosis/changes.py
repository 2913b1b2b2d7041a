"""What a step of somebody's backward may be instead: with another factor, term, argument or function."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.followed import Followed, Site, in_words, is_a_step, is_readable
from backprop_rules.diagnosis.tape import Step
from backprop_rules.subject.ambient import inexact

AT_HAND, MASKS = 60, 20  # tensors that may be a factor, a term or an argument, and signs of these
# What a step may be instead, by the function that it takes.
OTHERS = {
    "sin": "cos", "cos": "sin", "tanh": "sigmoid", "sigmoid": "tanh", "sum": "mean", "mean": "sum", "amax": "amin",
    "exp": "log", "log": "exp", "sqrt": "rsqrt", "rsqrt": "sqrt", "add": "sub", "sub": "add", "mul": "div",
    "div": "mul", "truediv": "mul", "scatter": "scatter_add", "index_copy": "index_add",
}  # fmt: skip
CALLED = {"add": "a sum", "sub": "a difference"}  # where an operator stands
# What an argument may be instead, of itself.
OF_ITSELF: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT, "squared": torch.square, "inverted": torch.reciprocal,
    "taken from 1": lambda x: 1 - x, "1 more": lambda x: x + 1, "1 less": lambda x: x - 1,
}  # fmt: skip
OF_AN_INDEX: dict[str, Callable[[Tensor], Tensor]] = {"inverted, as a permutation": lambda x: x.argsort(-1)}
# What is done to a result that should have been done, along each axis.
ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "{step} is to be summed up along axis {d}": lambda x, d: x.cumsum(d),
    "{step} is to be summed up along axis {d}, from its end": lambda x, d: x.flip(d).cumsum(d).flip(d),
    "{step} is to be turned round along axis {d}": lambda x, d: x.flip(d),
    "{step} is to be moved on by one along axis {d}": lambda x, d: _moved(x, d, 1),
    "{step} is to be moved back by one along axis {d}": lambda x, d: _moved(x, d, -1),
}  # fmt: skip
# Which round of a loop another tensor is of, in the k-th: of so many n.
ROUNDS: dict[str, Callable[[int, int], int]] = {
    "": lambda k, n: k, " of the round before": lambda k, n: k - 1, " of the round after": lambda k, n: k + 1,
    ", from its last round on": lambda k, n: n - 1 - k, ", from its last round on, one later": lambda k, n: n - k,
}  # fmt: skip

# What a step makes at a point, in one of the rounds of a loop.
Make = Callable[[Followed, Step, int], Tensor]


@dataclass(frozen=True)
class Source:
    """Where a tensor is at hand: its words, its name or the site of the step that makes it, and in which round."""

    words: str
    site: Site
    round: str = ""
    mask: bool = False

    def at(self, call: Followed, k: int, like: Tensor) -> Tensor | None:
        """Return it at a point, None in a round that has none; one number for each row beside rows."""
        if self.site in call.named:
            found = call.named[self.site]
        else:
            rounds = call.by_site.get(self.site, [])
            n = ROUNDS[self.round](k, len(rounds)) if len(rounds) > 1 else 0
            if not 0 <= n < len(rounds):
                return None
            found = rounds[n].result
        found = (found > 0 if self.mask else found).to(like.dtype)
        return found[..., None] if found.ndim and found.shape == like.shape[:-1] else found

    def is_like(self, call: Followed, x: Tensor) -> bool:
        """Say whether it has a tensor's shape, and numbers of its kind, in the first round that has it."""
        found = call.named[self.site] if self.site in call.named else call.by_site[self.site][0].result
        return found.shape == x.shape and (inexact(found), found.dtype == torch.bool) == (
            inexact(x),
            x.dtype == torch.bool,
        )


@dataclass(frozen=True)
class Form:
    """A result that has another tensor w in it: c a w + b, or c a / w + b, of some a and b of the step."""

    rank: int
    name: str
    words: str
    parts: Callable[[Step], tuple[Any, Any]]
    inverse: bool = False

    def factor(self, w: Tensor) -> Tensor:
        """Return what a is multiplied by."""
        return 1 / w if self.inverse else w


@dataclass(frozen=True, eq=False)
class Change:
    """What a step may be instead: how plain it is, a name, words, and what it makes of the number beside it."""

    rank: int
    name: str
    words: str
    make: Callable[[float, Followed, Step, int], Tensor]


def with_another_tensor(form: Form, source: Source) -> Change:
    """Return the change of a form and a tensor that is at hand."""

    def make(c: float, call: Followed, step: Step, k: int) -> Tensor:
        a, b = form.parts(step)
        w = source.at(call, k, step.result)
        return step.result if w is None else c * a * form.factor(w) + b

    return Change(form.rank, form.name, form.words.replace("{w}", source.words), make)


def forms(step: Step) -> Iterator[Form]:
    """Yield the forms that a step may have with another tensor."""
    yield Form(1, "missing factor", "{step} lacks the factor {w}", lambda step: (step.result, 0))
    yield Form(1, "factor too many", "{step} has the factor {w} too many", lambda step: (step.result, 0), inverse=True)
    yield Form(2, "missing term", "{step} lacks the term {w}", lambda step: (1, step.result))
    name, (args, named) = step.name, step.given
    if step.mutates or len(args) != 2 or named or not any(map(is_readable, args)):
        return
    for p in (0, 1):
        place = f"argument {p + 1} of {{step}}"
        if name in ("mul", "multiply") or (name == "truediv" and p == 0):
            other = partial(_other_factor, p, name == "truediv")
            yield Form(2, "other value", f"{place} is to be {{w}}", other)
        if name in ("add", "sub"):
            sign = -1 if name == "sub" and p else 1
            yield Form(2, "other value", f"{place} is to be {{w}}", partial(_other_term, p, sign, False))
            yield Form(1, "missing factor", f"{place} lacks the factor {{w}}", partial(_other_term, p, sign, True))


def _other_factor(p: int, divides: bool, step: Step) -> tuple[Any, Any]:
    other = step.given[0][1 - p]
    return 1 / other if divides else other, 0


def _other_term(p: int, sign: int, stays: bool, step: Step) -> tuple[Any, Any]:
    own = sign * step.given[0][p]
    return own if stays else sign, step.result - own


def sources(call: Followed) -> list[Source]:
    """Return what may be a factor, a term or an argument: of equal numbers the first; signs at last."""
    found: list[Source] = []
    seen: list[Tensor] = []
    steps = [(in_words(those[0]), site, those[0].result) for site, those in call.by_site.items() if those[0].line]
    for words, site, x in (*((name, name, x) for name, x in call.named.items()), *steps):
        trivial = bool((x == 1).all() or (x == 0).all())
        if len(found) < AT_HAND and not (trivial or any(x.shape == y.shape and torch.equal(x, y) for y in seen)):
            found.append(Source(words, site))
            seen.append(x)
    signed = [s for s, x in zip(found, seen, strict=True) if x.dtype != torch.bool and bool((x < 0).any())]
    return found + [Source(f"[{source.words} > 0]", source.site, mask=True) for source in signed[:MASKS]]


def of_rounds(call: Followed, source: Source) -> Iterator[Source]:
    """Yield what is at hand in a loop, of each of its rounds that it may be of."""
    several = not source.mask and len(call.by_site.get(source.site, ())) > 1
    for told in ROUNDS if several else ("",):
        yield Source(f"{source.words}{told}", source.site, told, source.mask)


def alone(call: Followed, step: Step, at_hand: Sequence[Source]) -> Iterator[tuple[int, str, str, Make]]:
    """Yield what a step may be instead as a whole: its rank, a name, words, and what it makes."""
    for words, along in ALONG.items():
        for d in range(step.result.ndim):
            yield 3, "along an axis", words.replace("{d}", str(d)), partial(_along, along, d)
    written, (args, _) = step.mutates, step.given
    own = sum(map(is_a_step, args)) == 1
    for p, x in enumerate(args):
        if (written and p == 0) or not (is_a_step(x) or (written and isinstance(x, int | float) and p > 1)):
            continue
        place = "the argument of {step}" if own else f"argument {p + 1} of {{step}}"
        of_itself = {} if not isinstance(x, Tensor) else OF_ITSELF if is_readable(x) else OF_AN_INDEX
        for what, other in of_itself.items():
            yield 2, "other value", f"{place} is to be {what}", partial(_of_another, p, partial(_of_itself, other))
        for source in at_hand if not _has_forms(step) else ():
            if isinstance(x, Tensor) and not source.is_like(call, x):
                continue
            words = f"{place} is to be {source.words}"
            yield 2, "other value", words, partial(_of_another, p, partial(_in_place_of, source))
    yield from _of_another_function(step)


def product(one: Source, two: Source) -> Change:
    """Return the change of a gradient that lacks a term, the product of two tensors that are at hand."""

    def make(c: float, call: Followed, step: Step, k: int) -> Tensor:
        a, b = (source.at(call, k, step.result) for source in (one, two))
        assert a is not None and b is not None
        return c * a * b + step.result

    return Change(3, "missing term", f"{{step}} lacks the term {one.words} times {two.words}", make)


def _has_forms(step: Step) -> bool:
    args, named = step.given
    return step.name in ("mul", "multiply", "add", "sub", "truediv") and len(args) == 2 and not named


def _of_another_function(step: Step) -> Iterator[tuple[int, str, str, Make]]:
    name, (args, named) = step.name, step.given
    if name == "setitem":
        yield 1, "overwritten", "{step} is to be added to what is there", _added
    if name in ("cumsum", "cumprod") and len(args) + len(named) == 2:
        yield 1, "direction", "{step} is to run from the end", _from_the_end
    other = getattr(torch, OTHERS.get(name, ""), None)
    if other is not None:
        yield (
            1,
            "other function",
            f"{{step}} is to be {CALLED.get(OTHERS[name], OTHERS[name])} in the place of {CALLED.get(name, name)}",
            partial(_by_another, other),
        )


def _along(along: Callable[[Tensor, int], Tensor], d: int, call: Followed, step: Step, k: int) -> Tensor:
    return along(step.result, d)


def _moved(x: Tensor, d: int, by: int) -> Tensor:
    """Return x moved along an axis, zeros where nothing is moved to."""
    n = x.shape[d]
    zeros = torch.zeros_like(x.narrow(d, 0, 1))
    return torch.cat([zeros, x.narrow(d, 0, n - 1)] if by > 0 else [x.narrow(d, 1, n - 1), zeros], d)


def _of_itself(other: Callable[[Tensor], Tensor], call: Followed, x: Tensor, k: int) -> Tensor:
    return other(x)


def _in_place_of(source: Source, call: Followed, x: Any, k: int) -> Any:
    w = source.at(call, k, x if isinstance(x, Tensor) else torch.zeros((), dtype=torch.float64))
    if w is not None and isinstance(x, Tensor) and w.shape != x.shape:
        raise RuntimeError("of another shape")
    return x if w is None else w


def _of_another(p: int, other: Callable[..., Any], call: Followed, step: Step, k: int) -> Tensor:
    """Return the result of the same step of another argument."""
    args = step.given[0]
    return step.again([*args[:p], other(call, args[p], k), *args[p + 1 :]])


def _added(call: Followed, step: Step, k: int) -> Tensor:
    """Return a tensor into which numbers are added in the place of being written, also where two meet."""
    into, where, value = step.given[0]
    found: Tensor = into.clone()
    index = where if isinstance(where, tuple) else (where,)
    if all(isinstance(i, Tensor) for i in index) and isinstance(value, Tensor):
        found.index_put_(index, value, accumulate=True)
    else:
        found[where] += value
    return found


def _from_the_end(call: Followed, step: Step, k: int) -> Tensor:
    x, *rest = step.given[0]
    (d,) = step.axes
    return step.again([x.flip(d), *rest]).flip(d)


def _by_another(other: Any, call: Followed, step: Step, k: int) -> Tensor:
    made: Tensor = other(*step.given[0], **step.given[1])
    return made
