"""What people do wrong to several steps at once: to all uses of a tensor, all rounds of a loop, or a sum's axis."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import DROPPED, SIGN, Edit, Way, is_trivial, nothing, pulled, told_of
from backprop_rules.diagnosis.tape import UNMADE, Rows, Share, Shares, Step, Tape
from backprop_rules.layout import reaches

EXCHANGED = "the gradients at {} are exchanged"
OF_A_NAME = 4  # results of one function that may be taken for each other
ROUNDS = ("rounds", "round")  # the ends of keys of what is done in loops
IN_LOOPS = (DROPPED, SIGN, ("unchanged",), ("not conjugated",))  # what is done in every round, by the end of the key


def ways_to_primals(tape: Tape) -> Iterator[Way]:
    """Yield the ways back to each primal that several steps use."""
    for n, uses in _uses(tape).items():
        if n < 0 and len(uses) > 1:
            words = f"the gradient of {tape.names[n]}, at {{}},"
            yield Way(uses, ("uses", n), words, f"nothing comes back to {tape.names[n]} at {{}}")


def several(tape: Tape, cotangents: Rows) -> Iterator[Edit]:
    """Yield what is done to several steps, but for loops."""
    uses = _uses(tape)
    yield from _exchanged(tape, cotangents, uses)
    for n, every in uses.items():
        if len(every) > 2:
            yield from _only_one_use(tape, n, every)


def other_sums(step: Step, tape: Tape, cotangents: Rows) -> Iterator[Edit]:
    """Yield sums and reductions over another axis than a step's, and what takes a gradient for the cotangent."""
    if step.number in cotangents:
        for p in step.live:
            yield from _summed_otherwise(step, p, tape, cotangents)
            yield from _written_over(step, p, tape, cotangents)
        yield from _along_another_axis(step)


def _written_over(step: Step, p: int, tape: Tape, cotangents: Rows) -> Iterator[Edit]:
    """Yield what comes of a cotangent that a primal's gradient was written over."""
    for n, name in tape.names.items():
        if n in cotangents and n != step.sources.get(p) and cotangents[n].shape == cotangents[step.number].shape:
            words = f"with the gradient of {name} in the place of the cotangent of {{}}"
            share = partial(_constant, step.pulled(cotangents[n])[p])
            yield told_of(step, (p,), ("written over", n), "other value", words, {p: share})


def in_loops(tape: Tape, edits: Mapping[Any, Edit]) -> Iterator[Edit]:
    """Yield what is done in every round of a loop: to all steps of one expression."""
    rounds: dict[Any, list[Step]] = defaultdict(list)
    for step in tape.steps:
        if step.line:
            rounds[step.line, step.told, step.live].append(step)
    for steps in rounds.values():
        if len(steps) > 1:
            tails = [key[1:] for key in edits if key[0] == steps[0].number and key[-1] in IN_LOOPS]
            for tail in tails:
                same = [edits[step.number, *tail] for step in steps if (step.number, *tail) in edits]
                if len(same) == len(steps):
                    yield _together(same)
            yield from _of_another_round(steps, tape)


def _together(same: Sequence[Edit]) -> Edit:
    shares = {at: share for edit in same for at, share in edit.shares.items()}
    first = same[0]
    words = f"{first.words}, in every round"
    return Edit(first.step, first.what, words, shares, (*first.key, ("rounds",)), chained=True)


def _of_another_round(steps: Sequence[Step], tape: Tape) -> Iterator[Edit]:
    """Yield products whose other factor is that of another round."""
    for p in steps[0].live:
        tensors = [k for k, a in enumerate(steps[0].args) if isinstance(a, Tensor)]
        if len(tensors) != 2:
            return
        (other,) = (k for k in tensors if k != p)
        made = steps[-1].sources.get(other)
        if made is None or made < 0:
            continue
        of = tape.steps[made]
        values = [s.result for s in tape.steps if (s.line, s.told) == (of.line, of.told)]
        if len(values) < len(steps):
            continue
        rounds = range(len(steps))
        for told, which in (
            ("the first round", [0 for _ in rounds]),
            ("the round before", [max(t - 1, 0) for t in rounds]),
            ("the round itself", [*rounds]),
            ("the round after", [min(t + 1, len(values) - 1) for t in rounds]),
        ):
            others = [values[t] for t in which]
            own = [step.args[other] for step in steps]
            if any(a.shape != b.shape for a, b in zip(others, own, strict=True)):
                continue
            if not all(torch.equal(a, b) for a, b in zip(others, own, strict=True)):
                shares: Shares = {
                    (step.number, p): partial(pulled, step.at(other, value), p)
                    for step, value in zip(steps, others, strict=True)
                }
                words = f"with {of.told} of {told} in the place of the other one at {{}}, for its argument {p + 1}"
                key = steps[0].number, (p,), ("round", told)
                yield Edit(steps[0], "index", words, shares, key, chained=True)


def _uses(tape: Tape) -> dict[int, list[tuple[Step, int]]]:
    found: dict[int, list[tuple[Step, int]]] = defaultdict(list)
    for step in tape.steps:
        for p, n in step.sources.items():
            found[n].append((step, p))
    return found


def _constant(value: Tensor, g: Tensor) -> Tensor:
    return value.expand(len(g), *value.shape[1:])


def _only_one_use(tape: Tape, n: int, uses: Sequence[tuple[Step, int]]) -> Iterator[Edit]:
    """Yield a tensor's uses of which one alone counts: the last that comes back overwrites the others."""
    for kept, which in ((0, "first"), (-1, "last")):
        shares = {(step.number, p): partial(nothing, step, p) for step, p in uses if (step, p) != uses[kept]}
        name = tape.names[n] if n < 0 else tape.steps[n].told
        words = f"of all uses of {name} only the {which} counts, {{}}"
        yield Edit(uses[kept][0], "overwritten", words, shares, ("one use", n, which))


def _exchanged(tape: Tape, cotangents: Rows, uses: Mapping[int, Any]) -> Iterator[Edit]:
    """Yield tensors of one shape whose gradients stand in each other's place: primals, and results of one name."""
    leaves = [n for n in tape.leaves if n in cotangents]
    by_name: dict[str, list[int]] = defaultdict(list)
    for step in tape.steps:
        if step.number in cotangents and (not is_trivial(step) or step.text.endswith("]")):
            by_name[step.name].append(step.number)
    for nodes in (leaves, *(some[:OF_A_NAME] for some in by_name.values())):
        for a, b in combinations(nodes, 2):
            if cotangents[a].shape == cotangents[b].shape:
                ways = [_instead(tape, uses, n, cotangents[m]) for n, m in ((a, b), (b, a))]
                steps = [step for _, some in ways for step in some]
                if len({*steps}) == len(steps):
                    shares = {at: share for shares, _ in ways for at, share in shares.items()}
                    key = "exchanged", (a, b), "exchanged"
                    yield Edit(steps[0], "other value", EXCHANGED, shares, key, tuple(steps[1:]))


def _instead(tape: Tape, uses: Mapping[int, Any], n: int, g: Tensor) -> tuple[Shares, list[Step]]:
    """Return the shares by which a tensor gets another cotangent, and the steps of them."""
    if n >= 0:
        step = tape.steps[n]
        return {(n, p): partial(_constant, share) for p, share in step.pulled(g).items()}, [step]
    shares: Shares = {
        (step.number, p): partial(_constant, g) if k == 0 else partial(nothing, step, p)
        for k, (step, p) in enumerate(uses[n])
    }
    return shares, [step for step, _ in uses[n]]


def _summed_otherwise(step: Step, p: int, tape: Tape, cotangents: Rows) -> Iterator[Edit]:
    """Yield what comes back to an argument that was broadcast, summed over another axis, over all, or not at all."""
    x, y = step.args[p], step.result
    if x.shape == y.shape or not reaches(x, y) or not x.is_floating_point():
        return
    try:
        wide = step.at(p, x.expand(y.shape).contiguous()).pulled(cotangents[step.number])[p]
    except UNMADE:  # it is no broadcast: a stack, say
        return
    square = [d for d in range(-y.ndim, -1) if y.shape[d] == y.shape[d + 1] > 1]
    for d in square:
        turned = wide.transpose(d, d + 1)[0].sum_to_size(x.shape)[None]
        words = f"the sum at {{}} is over another axis than {d} or {d + 1}"
        yield told_of(step, (p,), ("axis", d), "axis", words, {p: partial(_constant, turned)})
    if x.ndim < y.ndim:
        return
    ways: list[tuple[tuple[int, ...], str, str]] = [((), "not summed", "what comes back at {} is not summed")]
    ways += [((d,), "axis", f"the sum at {{}} is over axis {d}") for d in range(-y.ndim, 0) if y.shape[d] > 1]
    ways += [(tuple(range(1 - wide.ndim, 0)), "axis", "the sum at {} is over all axes")]
    for axes, what, words in ways:
        found = wide.sum(axes, keepdim=True) if axes else wide
        shares = _spread(step, p, found, tape)
        if shares is not None:
            told = f"{words}, for its argument {p + 1}"
            yield Edit(step, what, told, shares, (step.number, (p,), ("summed", axes)))


def _spread(step: Step, p: int, wide: Tensor, tape: Tape) -> Shares | None:
    """Return the shares by which something broadcast goes on where it was to be summed; None where it never fits."""
    n = step.sources.get(p)
    while n is not None and n >= 0:
        up = tape.steps[n]
        if len(up.live) != 1:
            return None
        (q,) = up.live
        slope = up.pulled(torch.ones_like(up.result)[None])[q]
        if up.result.ndim != up.args[q].ndim:
            return None
        try:
            wide = wide * slope
        except RuntimeError:  # it is not broadcast against what comes before
            return None
        if wide.shape[1:] == up.args[q].shape:
            return {(step.number, p): partial(nothing, step, p), (n, q): partial(_and_more, up, q, wide)}
        n = up.sources.get(q)
    return None


def _and_more(step: Step, p: int, more: Tensor, g: Tensor) -> Tensor:
    return step.pulled(g)[p] + more


def _along_another_axis(step: Step) -> Iterator[Edit]:
    """Yield the derivative of a reduction, or of a softmax and its kind, along another axis."""
    positions = [p for p, a in enumerate(step.args) if p and type(a) is int and step.axes == (a,)]
    if len(positions) != 1 or len(step.live) != 1:
        return
    (p,), x = step.live, step.args[step.live[0]]
    for axis in range(-x.ndim, 0):
        if (axis - step.axes[0]) % x.ndim == 0 or x.shape[axis] < 2:
            continue
        other = step.at(positions[0], axis)
        try:
            share = _along(step, other, p, axis)
        except UNMADE:
            continue
        words = f"the derivative of {{}} is taken along axis {axis}"
        yield told_of(step, (p,), ("along", axis), "axis", words, {p: share})


def _along(step: Step, other: Step, p: int, axis: int) -> Share:
    y = other.function(other.args)
    if y.shape == step.result.shape:
        return partial(pulled, other, p)
    slope = other.pulled(torch.ones_like(y)[None])[p]
    if y.ndim < slope.ndim - 1:
        return lambda g: g.unsqueeze(step.axes[0] if step.axes[0] < 0 else step.axes[0] + 1) * slope
    return lambda g: g * slope
