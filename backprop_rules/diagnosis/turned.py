"""What people do to a cotangent, or a gradient, on its way through a step: ignore, mask, move, transpose, cut it."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backprop_rules.diagnosis.edits import (
    COPIES,
    KINKED,
    MOVES,
    REPEATS,
    SCANS,
    SUMS,
    Edit,
    Key,
    Made,
    Turn,
    summed,
    told_of,
)
from backprop_rules.diagnosis.tape import Step
from backprop_rules.layout import reaches


def turned(step: Step, last: bool) -> Iterator[Edit]:
    """Yield what is done to the cotangent of a step, for one argument or for all; and to each argument's gradient."""
    for p in step.live:
        for key, what, words, share in _of_one(step, p):
            yield told_of(step, (p,), key, what, words, {p: share})
    for by in dict.fromkeys([*((p,) for p in step.live), step.live]):
        read = [FIRST] if last and by == step.live and step.result.numel() > 1 else []
        for key, what, words, turn in (*read, *_turns(step, by)):
            shares = {p: partial(_turned, step, p, turn) for p in by}
            yield told_of(step, by, key, what, f"{words} where {{}} is differentiated", shares, turn)
        if step.result.is_complex():
            shares = {p: partial(_not_conjugated, step, p) for p in by}
            words = "the derivative of {} is not conjugated"
            yield told_of(step, by, ("not conjugated",), "missing conjugate", words, shares)


def _turned(step: Step, p: int, turn: Turn, g: Tensor) -> Tensor:
    return step.pulled(turn(g))[p]


def _of_one(step: Step, p: int) -> Iterator[Made]:
    x, y = step.args[p], step.result
    if step.name not in (*SUMS, *COPIES) and reaches(x, y):
        yield ("unchanged",), "unchanged", "as if the cotangent passed {} unchanged", partial(summed, x)
        passes = step.pulled(torch.ones_like(y)[None])[p][0] != 0
        if x.shape == y.shape and not bool(passes.all()):
            words = "as if the cotangent passed {} unchanged where it passes"
            yield ("unchanged where",), "unchanged", words, lambda g: g * passes
    if step.name in KINKED and x.shape == y.shape:
        words = "the cotangent is clamped at 0 where {} should mask it by its input (the pre-activation)"
        yield ("by the cotangent",), "masked by the cotangent", words, partial(torch.clamp, min=0)
        words = "as if {} passed the cotangent where it blocks it, and blocked it where it passes"
        yield ("side",), "side", words, lambda g: g - step.pulled(g)[p]
    if step.name in SCANS:
        axis = step.axes[0] if step.axes else -1
        along = axis if axis < 0 else axis + 1
        words = "as if {} left out the element itself: off by one"
        yield ("exclusive",), "index", words, lambda g: step.pulled(g)[p] - g
        words = "the sum from the end is taken from the start at {}"
        yield ("forward",), "transposed", words, lambda g: g.cumsum(along)
    if step.name in MOVES and _only_moves(step, p):
        words = "what comes back is moved by {} once more, and not back"
        yield ("moved",), "index", words, lambda g: torch.stack([step.function(step.at(p, one).args) for one in g])
    yield from _grouped(step, x, y)
    for axis in (d for d in range(-x.ndim, 0) if x.ndim > 1 and x.shape[d] > 1):
        words = f"what comes back at {{}} is summed over axis {axis}, too"
        yield ("summed", axis), "axis", words, partial(_summed_too, step, p, axis)
    if x.ndim > 1 and x.shape[-1] > 1 and x.shape[-2] > 1:
        words = "the gradient at {} is laid out as that of the transpose"
        yield ("laid out",), "transposed", words, partial(_laid_out, step, p)


def _only_moves(step: Step, p: int) -> bool:
    """Say whether a step only puts its argument's elements in another order."""
    x = step.args[p]
    order = torch.arange(x.numel()).to(x.dtype)
    moved = step.function(step.at(p, order.reshape(x.shape)).args)
    return torch.equal(moved.real.flatten().sort().values, order.real)


def _grouped(step: Step, x: Tensor, y: Tensor) -> Iterator[Made]:
    """Yield the copies of an axis, or two axes that become one, taken for those of the other order."""
    for d in range(min(y.ndim, x.ndim)):
        rest, n, own = y.shape[:d] + y.shape[d + 1 :], y.shape[d], x.shape[d]
        if step.name in REPEATS and rest == x.shape[:d] + x.shape[d + 1 :] and n > own > 1 and n % own == 0:
            beside = step.name == "repeat_interleave"
            words = f"as if {{}} laid its copies {'one after another' if beside else 'beside each other'}"
            sizes = (n // own, own) if beside else (own, n // own)
            yield ("copies", d - y.ndim), "index", words, partial(_added, d + 1, sizes, 1 - beside)
        elif step.name in COPIES and x.ndim == y.ndim + 1 and rest == x.shape[:d] + x.shape[d + 2 :]:
            words = f"axis {d - y.ndim} of the cotangent of {{}} is split in the other order"
            if min(x.shape[d : d + 2]) > 1:
                yield ("split", d - y.ndim), "index", words, partial(_split, d + 1, (x.shape[d + 1], own))


def _added(axis: int, sizes: tuple[int, int], which: int, g: Tensor) -> Tensor:
    return torch.unflatten(g, axis, sizes).sum(axis + which)


def _split(axis: int, sizes: tuple[int, int], g: Tensor) -> Tensor:
    return torch.unflatten(g, axis, sizes).transpose(axis, axis + 1)


def _not_conjugated(step: Step, p: int, g: Tensor) -> Tensor:
    if not step.args[p].is_complex():  # which takes the real part
        return step.pulled(g)[p]
    return step.pulled(g.conj_physical())[p].conj_physical()


def _summed_too(step: Step, p: int, axis: int, g: Tensor) -> Tensor:
    found = step.pulled(g)[p]
    return found.sum(axis, keepdim=True).expand_as(found)


def _laid_out(step: Step, p: int, g: Tensor) -> Tensor:
    found = step.pulled(g)[p]
    return found.mT.reshape(found.shape)


def _turns(step: Step, by: tuple[int, ...]) -> Iterator[tuple[Key, str, str, Turn]]:
    """Yield what is done to the cotangent on its way to some arguments."""
    y, every = step.result, by == step.live
    if y.is_complex():
        yield ("conjugate",), "conjugate", "a conjugate is missing, or too many,", torch.Tensor.conj_physical
    if step.name in COPIES or (step.name in SUMS and not every and step.args[by[0]].shape == y.shape):
        return
    yield ("ones",), "cotangent ignored", "the cotangent is left out", torch.ones_like
    if not y.is_complex():
        yield ("clamp",), "mask", "the cotangent is clamped at 0", partial(torch.clamp, min=0)
    if every and not y.is_complex():
        for p, x in enumerate(step.args):
            if isinstance(x, Tensor) and x.shape == y.shape and x.is_floating_point():
                words = f"nothing passes where argument {p + 1} is {'not positive' if (x == 0).any() else 'negative'}"
                yield ("positive", p), "mask", words, partial(torch.mul, x > 0)
    if step.name == "linalg_solve" and step.given[1].get("left", True):
        words = "the system is solved with the matrix as it is, not with its transpose,"
        yield (
            ("matrix as it is",),
            "transposed",
            words,
            partial(_solved_with, step.args[0], y.shape == step.args[0].shape[:-1]),
        )
    if y.ndim > 1 and y.shape[-1] == y.shape[-2] > 1:
        yield ("transposed",), "transposed", "the cotangent is transposed", partial(torch.transpose, dim0=-1, dim1=-2)
    if y.ndim > 2 and y.shape[:-1].numel() > 1:
        yield ("but", "rows"), "index", "the last row of all is left out", _but_the_last_row
    for axis in range(-min(y.ndim, 3), 0):
        if y.shape[axis] > 1:
            yield from _along(axis)


def _solved_with(a: Tensor, vectors: bool, g: Tensor) -> Tensor:
    """Return the cotangents of which the transpose makes what the matrix itself makes of these."""
    found: Tensor = a.mH @ torch.linalg.solve(a, g.unsqueeze(-1) if vectors else g)
    return found.squeeze(-1) if vectors else found


def _its_first(g: Tensor) -> Tensor:
    return g.flatten(1)[:, :1].reshape(-1, *[1] * (g.ndim - 1)).expand_as(g)


FIRST = ("first",), "first element of the cotangent", "only the cotangent's first element is read", _its_first


def _but_the_last_row(g: Tensor) -> Tensor:
    kept = g.clone()
    kept.flatten(1, -2)[:, -1] = 0
    return kept


def _along(axis: int) -> Iterator[tuple[Key, str, str, Turn]]:
    yield ("only", -1, axis), "overwritten", f"only the last of axis {axis} counts", partial(_only, -1, axis)
    yield ("only", 0, axis), "not summed", f"only the first of axis {axis} counts", partial(_only, 0, axis)
    yield ("but", -1, axis), "index", f"the last of axis {axis} is left out", partial(_but, -1, axis)
    yield ("but", 0, axis), "index", f"the first of axis {axis} is left out", partial(_but, 0, axis)
    for by in (1, -1):
        words = f"the index along axis {axis} is off by one"
        yield ("roll", by, axis), "index", words, partial(torch.roll, shifts=by, dims=axis)
        yield ("shift", by, axis), "index", words, partial(_shifted, by, axis)
    yield ("flip", axis), "index", f"axis {axis} is reversed", partial(torch.flip, dims=(axis,))


def _only(k: int, axis: int, g: Tensor) -> Tensor:
    return g - _but(k, axis, g)


def _but(k: int, axis: int, g: Tensor) -> Tensor:
    kept = g.clone()
    kept.select(axis, k).zero_()
    return kept


def _shifted(by: int, axis: int, g: Tensor) -> Tensor:
    return _but(0 if by > 0 else -1, axis, g.roll(by, axis))


CLIPPED = "clipped"


def clipped(step: Step, bound: float) -> Edit:
    """Return the edit that clips the cotangent of a step."""
    turn = partial(torch.clamp, min=-bound, max=bound)
    shares = {p: partial(_turned, step, p, turn) for p in step.live}
    words = f"the cotangent is clipped at {bound:.6g} where {{}} is differentiated"
    return told_of(step, step.live, (CLIPPED, bound), "mask", words, shares, turn)


def clippings(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what stays of a cotangent, and the signs of what is clipped, for bounds between each two magnitudes.

    clamp(g, -c, c) = stays + c signs, for each c from one of the magnitudes up to the next, which are returned as well.
    """
    sizes = torch.unique(g.abs())
    above = g.abs()[None] > sizes.reshape(-1, *[1] * g.ndim)
    return g * ~above, g.sign() * above, sizes
