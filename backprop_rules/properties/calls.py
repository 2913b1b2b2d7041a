"""What a backward does with memory and between calls: of its arguments alone, whatever lies beside or came before."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backprop_rules.evidence.evidence import Evidence
from backprop_rules.properties import effort
from backprop_rules.properties.finding import Finding, Kind, first, unequal
from backprop_rules.properties.form import but_for_last_bits, first_other, same_numbers
from backprop_rules.properties.turns import LetsOthers
from backprop_rules.strategies.point import Point
from backprop_rules.subject.ambient import SEED, Ambient, all_finite, inexact, running
from backprop_rules.subject.function import NoAnswer, cloned

MARGIN = 64  # elements on each side of an argument: a kernel's block, and a line of the processor's cache

Question = Callable[[Evidence], Iterator[Finding]]


@dataclass(frozen=True, eq=False)
class Answered:
    """What a backward answered at a point, to be compared with what it answers later."""

    evidence: Evidence
    gradients: tuple[Any, ...]

    @classmethod
    def now(cls, evidence: Evidence) -> "Answered":
        """Remember the answer at a point."""
        return cls(evidence, tuple(cloned(evidence.user)))

    def again(self) -> Iterator[Finding]:
        """The same question is answered now as it was then."""
        return answers_as_before(self.evidence, self.gradients, Kind.LATER)

    def replayed(self, evidence: Evidence) -> Iterator[Finding]:
        """Yield where a wrong answer is, bit for bit, the one that was right then, though the truth is another now."""
        for i, (then, now) in enumerate(zip(self.gradients, evidence.user, strict=True)):
            before, truth = self.evidence.gradients_here[i], evidence.gradients_here[i]
            if before is None or truth is None or before.shape != truth.shape or not isinstance(then, Tensor):
                continue
            if bool(then.any()) and same_numbers(then, now) and not same_numbers(before, truth):
                at = first(before != truth)
                yield Finding(Kind.REPLAYED, evidence.point, i, at, truth[at].item(), now[at].item())


def asked_of_calls(evidence: Evidence, several: bool, deterministic: bool) -> Iterator[Finding]:
    """Yield the first that is wrong between calls, at a point; with `several`, ask what takes several calls too.

    Of what is not deterministic no bits are compared.
    """
    questions: tuple[Question, ...] = (keeps_nothing_between_calls,)
    if not deterministic:
        questions = overwrites_no_result, stays_inside_its_arguments
    elif several:
        questions += draws_nothing, answers_its_arguments, stays_inside_its_arguments
    for question in questions:
        found = list(question(evidence))
        if found:
            yield from found
            return


def writes_every_element(evidence: Evidence) -> Iterator[Finding]:
    """No NaN comes in that is none when memory from the allocator holds another number."""
    point = evidence.point
    for i, g in enumerate(evidence.user):
        truth = evidence.gradients_here[i]
        if not inexact(g) or truth is None or truth.shape != g.shape or all_finite(g) or g.device.type == "meta":
            continue
        astray = g.isnan() & ~truth.isnan()
        if not bool(astray.any()):
            continue
        try:
            again = evidence.asked(*evidence.given, y=evidence.y, fill=0.0)[i]
        except NoAnswer:
            return
        never = astray & ~again.isnan()
        if bool(never.any()):
            # Sizes that whole numbers tell, as lengths do, are kept by who calls.
            told = not point.own and any(isinstance(x, Tensor) and not inexact(x) for x in point.leaves)
            if told:
                yield Finding(Kind.SIZES, point, detail="some of the gradient is never written")
                return
            yield unequal(Kind.UNWRITTEN, point, i, truth, g, never)
            return


def keeps_nothing_between_calls(evidence: Evidence) -> Iterator[Finding]:
    """A call in between, at other values, changes neither the result before nor the next one."""
    once = cloned(evidence.user)
    overwritten = list(overwrites_no_result(evidence))
    yield from overwritten or answers_as_before(evidence, once, Kind.FORGETFUL)


def overwrites_no_result(evidence: Evidence) -> Iterator[Finding]:
    """A call in between, at other values, leaves the result before as it is."""
    point = evidence.point
    once = cloned(evidence.user)
    with suppress(NoAnswer):  # of that, other points tell
        evidence.asked(*_halved(evidence), remembers=True)
    other = first_other(once, evidence.user)
    if other is not None:
        yield Finding(Kind.OVERWRITTEN, point, other)


def answers_as_before(evidence: Evidence, before: Sequence[Any], kind: Kind, **how: Any) -> Iterator[Finding]:
    """It answers the same question with the same bits as before."""
    point = evidence.point
    try:
        again = evidence.asked(*evidence.given, remembers=True, **how)
    except NoAnswer:
        return
    i = first_other(before, again)
    if i is not None:
        yield Finding(_unless_rounding(kind, before[i], again[i]), point, i, expected="the same", got="another")


def draws_nothing(evidence: Evidence) -> Iterator[Finding]:
    """The result does not depend on the state of the random numbers, nor does forward's."""
    for found in answers_as_before(evidence, evidence.user, Kind.RANDOM, seed=SEED + 1):
        yield replace(found, kind=Kind.RANDOM)  # drawn, however little that changes


def answers_its_arguments(evidence: Evidence) -> Iterator[Finding]:
    """Other numbers that come to lie in the same memory, in a new tensor, are answered as they are elsewhere."""
    for k, place in _places(evidence.point):
        leaves, grads = _own(evidence)
        mine = [*leaves, *grads]
        changed = _one_changed(mine[k], place)
        memory = mine[k].cpu().numpy()

        def answer(x: Tensor, mine: list[Any] = mine, k: int = k, count: int = len(leaves)) -> list[Any]:
            every = [*mine[:k], x, *mine[k + 1 :]]
            return cloned(_called(evidence, every[:count], every[count:]))

        try:
            expected = answer(changed)
            earlier = answer(torch.from_numpy(memory))
            memory[...] = changed.cpu().numpy()
            got = answer(torch.from_numpy(memory))
            off = first_other(expected, got)
            if off is None:
                continue
            same = first_other(expected, answer(changed.clone())) is None
            # Memory that was given back comes again: what was expected may itself be what an earlier call left there.
            by_place = not same and first_other(expected, answer(changed)) is None
        except NoAnswer:
            return
        replayed = by_place or (same and same_numbers(earlier[off], got[off]))
        kind = Kind.REPLAYED if replayed else Kind.FORGETFUL if same else Kind.LATER
        kind, own = _unless_rounding(kind, expected[off], got[off]), kind is Kind.REPLAYED
        yield Finding(kind, evidence.point, off, expected="those of its own" if own else "the same", got="others")
        return


def stays_inside_its_arguments(evidence: Evidence) -> Iterator[Finding]:
    """It neither writes what lies beside its arguments in memory, nor reads it: there is NaN."""
    names, point = evidence.subject.names, evidence.point
    if evidence.subject.backward.framework == "jax":
        return  # whose arrays are copies
    leaves, grads = ([_with_margins(x) for x in some] for some in _own(evidence))
    try:
        y = [_with_margins(out.detach()) for out in evidence.y or ()]
        every = (*leaves, *grads, *y)
        around = [(n, m[1]) for n, m in zip((*names, *["grad_y"] * len(grads), *["y"] * len(y)), every, strict=True)]
        before = [None if whole is None else whole.clone() for _, whole in around]
        own = tuple(out for out, _ in y) or None
        got = _called(evidence, [x for x, _ in leaves], tuple(x for x, _ in grads), y=own)
    except NoAnswer:
        return
    for (name, whole), was in zip(around, before, strict=True):
        if whole is not None and not same_numbers(whole, was):
            yield Finding(Kind.OUTSIDE, point, detail=f", beside {name}")
            return
    for i, (inside, now) in enumerate(zip(evidence.user, got, strict=True)):
        if inexact(inside) and inexact(now) and inside.shape == now.shape:
            comes_in = now.isnan() & ~inside.isnan()
            if bool(comes_in.any()):
                yield unequal(Kind.READS_OUTSIDE, point, i, inside, now, comes_in)
                return


def answers_in_two_threads(evidence: Evidence) -> Iterator[Finding]:
    """Two calls at the same time, with other values each, give what they give one after the other.

    Not asked of what draws random numbers, whose state all threads share, nor of what puts a module's parameters in
    their places for the call, as functional_call does, nor of what answers in the main thread alone, nor of a kernel
    that Triton interprets, in one grid for all threads: these cannot be called twice at once.
    """
    if evidence.subject.backward.framework == "jax":
        return
    asked, grid = [_own(evidence), _own(evidence, _halved(evidence))], _interpreted_grid()
    try:
        expected = [cloned(_called(evidence, *one)) for one in asked]
    except NoAnswer:
        return
    if _interpreted_grid() is not grid:
        return
    ((alone, shares),) = _in_threads(evidence, asked[:1])
    if shares or alone is None or first_other(expected[0], alone) is not None:
        return
    for _ in range(effort.AT_ONCE):
        for right, (got, _) in zip(expected, _in_threads(evidence, asked), strict=True):
            off = first_other(right, got or ())
            if got is None or off is not None:
                # A sum in another order is not what two threads do to each other.
                kind = (
                    Kind.THREADS if got is None or off is None else _unless_rounding(Kind.THREADS, right[off], got[off])
                )
                yield Finding(kind, evidence.point, off, expected="what each gives alone", got="another")
                return


def _interpreted_grid() -> Any:
    """Return the grid of the kernel that Triton's interpreter ran last, None before the first: a new one each time."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    return getattr(getattr(interpreter, "interpreter_builder", None), "grid_dim", None)


def _in_threads(evidence: Evidence, asked: Sequence[Any]) -> list[tuple[list[Any] | None, bool]]:
    """Return what calls in a thread each give, None where one raises, and whether they use what all threads share."""
    start = threading.Barrier(len(asked))
    got: list[tuple[list[Any] | None, bool]] = [(None, False)] * len(asked)
    errors: list[BaseException] = []

    def ask(k: int) -> None:
        lets = LetsOthers(looks=len(asked) == 1)
        try:
            ambient = evidence.subject.precision_of_backward(evidence.pair.high).apart()
            start.wait()
            leaves, grads = asked[k]
            # Memory is poisoned for all threads alike: what warns of it in one, as torch does, would be heard in both.
            with lets:
                got[k] = list(_called(evidence, leaves, grads, ambient, fill=None)), lets.shares
        except (NoAnswer, threading.BrokenBarrierError):
            pass
        except BaseException as error:  # nobody may be left waiting
            errors.append(error)
            start.abort()

    # What is set for all threads, as the default dtype, is set around both; warnings are as they were after both.
    with running(evidence.subject.precision_of_backward(evidence.pair.high)), warnings.catch_warnings():
        threads = [threading.Thread(target=ask, args=(k,), daemon=True) for k in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return got


def shared_memory(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield the pairs of names among gradients and cotangents that share memory: torch allows it."""
    names = evidence.subject.names
    named = [(f"the gradient of {names[i]}", g) for i, g in enumerate(evidence.user) if isinstance(g, Tensor)]
    places = {
        g.untyped_storage().data_ptr(): "the cotangent" for g in evidence.point.grads if g is not None and g.numel()
    }
    for name, g in named:
        if not g.numel():
            continue
        place = g.untyped_storage().data_ptr()
        if place in places:
            yield name, places[place]
        places.setdefault(place, name)


def one_changed(point: Point, kept: frozenset[int]) -> Iterator[Point]:
    """Yield the point with one number of each primal changed but those kept, with one of each cotangent, or two there.

    The last are exchanged, which leaves what is summed up over all as it is.
    """
    leaves = tuple(
        _one_changed(x, "middle") if inexact(x) and x.numel() and k not in kept else x
        for k, x in enumerate(point.leaves)
    )
    grads = tuple(_one_changed(g, "last") if g is not None and g.numel() else g for g in point.grads)
    made = f"{point.made}, one number changed"
    yield replace(point, leaves=leaves, made=made)
    yield replace(point, grads=grads, made=made)
    exchanged = tuple(None if g is None else _two_exchanged(g) for g in point.grads)
    yield replace(point, grads=exchanged, made=f"{point.made}, two numbers exchanged")


def _places(point: Point) -> list[tuple[int, str]]:
    """Return which arguments are changed, and where."""
    every = enumerate((*point.leaves, *point.grads))
    live = [k for k, x in every if inexact(x) and x.numel() and x.device.type == "cpu"]
    return [(k, place) for place in ("last", "middle") for k in live][: effort.CHANGED]


def _one_changed(x: Any, place: str) -> Any:
    """Return x with half of its first number in the last or the middle place: in its range, and most often no tie."""
    found = x.clone(memory_format=torch.contiguous_format)
    flat = found.view(-1)
    at = len(flat) - 1 if place == "last" else len(flat) // 2
    half = flat[0] / 2
    flat[at] = half / 2 if bool(half == flat[at]) else half
    return found


def _two_exchanged(x: Tensor) -> Tensor:
    """Return x with its first number in the place of the first other one, and that in its place."""
    found = x.clone(memory_format=torch.contiguous_format)
    flat = found.view(-1)
    others = torch.nonzero(flat != flat[:1]).reshape(-1)
    if len(others):
        flat[others[0]], flat[0] = flat[0].clone(), flat[others[0]].clone()
    return found


def _halved(evidence: Evidence) -> tuple[list[Any], tuple[Tensor | None, ...]]:
    leaves, grads = evidence.given
    others = [x / 2 + 0.25 if inexact(x) else x for x in leaves]
    return others, tuple(None if g is None else -g + 0.5 for g in grads)


def _own(evidence: Evidence, at: tuple[Any, Any] | None = None) -> tuple[list[Any], tuple[Any, ...]]:
    """Return arguments in memory of their own, where they lie in order."""
    in_order = torch.contiguous_format
    own, cotangents = (
        [x.detach().clone(memory_format=in_order) if isinstance(x, Tensor) else x for x in some]
        for some in at or evidence.given
    )
    return own, tuple(cotangents)


def _called(
    evidence: Evidence,
    leaves: Sequence[Any],
    grads: Sequence[Any],
    ambient: Ambient | None = None,
    y: Any = None,
    **how: Any,
) -> tuple[Any, ...]:
    """Return what the backward gives for these very tensors."""
    inside = ambient or evidence.ambient
    return evidence.subject.backward(evidence.function, tuple(grads), y, tuple(leaves), inside, **how)


def _with_margins(x: Any) -> tuple[Any, Tensor | None]:
    """Return x within a larger memory, and that memory: around it is NaN, or where it is an index one that is valid."""
    if not isinstance(x, Tensor) or x.device.type == "meta" or not (inexact(x) or x.numel()):
        return x, None
    around = torch.nan if inexact(x) else x.reshape(-1)[0].item()
    whole = x.new_full((x.numel() + 2 * MARGIN,), around)
    inside = whole[MARGIN : MARGIN + x.numel()].view(x.shape)
    inside.copy_(x)
    return inside, whole


def _unless_rounding(kind: Kind, a: Any, b: Any) -> Kind:
    """Return the kind of what came otherwise, or ORDER where half of the digits are the same."""
    alike = isinstance(a, Tensor) and isinstance(b, Tensor) and but_for_last_bits(a, b)
    return Kind.ORDER if alike else kind
